import functools

import numpy as np
import pytest
import torch
from families import FAMILIES, MLLAMA_TILES, make_image_processor, make_llava
from PIL import Image

from attn_viewer import capture_attention, capture_generation
from attn_viewer.errors import PromptError
from attn_viewer.inputs import pictures
from attn_viewer.inputs.pictures import MOST_PIXELS, WHOLE, ask_about, crop_pixels, find_crops, read_picture
from attn_viewer.spans import Span

TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'text' %} {{ part['text'] }}"
    "{% elif part['type'] == 'image' %} <image>{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def family():
    made = make_llava()
    made.processor.chat_template = made.processor.tokenizer.chat_template = TEMPLATE
    return made


def ask(*pictures, text="what is this ?"):
    parts = [{"type": "image", **({} if one is None else {"image": one})} for one in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("form", ["PIL", "array", "path", "str", "grey", "transparent"])
def test_pictures_come_in_any_form(form, family, tmp_path):
    picture = Image.new("RGB", (24, 24), "red")
    picture.save(tmp_path / "red.png")
    source = {
        "PIL": picture, "array": np.asarray(picture), "path": tmp_path / "red.png", "str": str(tmp_path / "red.png"),
        "grey": picture.convert("L"), "transparent": picture.convert("RGBA"),
    }[form]  # fmt: skip
    maps = capture_attention(family.model, family.processor, ask(source))
    assert [(span.part, span.rows, span.columns) for span in maps.spans] == [("whole", 4, 4)]
    assert len(capture_attention(family.model, family.processor, ask(source, source)).spans) == 2


def test_a_picture_of_one_pixel_is_seen_or_refused(family):
    messages = ask(Image.new("RGB", (1, 1)))
    try:
        (span,) = capture_attention(family.model, family.processor, messages).spans
    except PromptError as error:  # before transformers 5, its processor takes the one row for a channel
        outcome = str(error)
    else:
        outcome = f"{span.rows} × {span.columns}"
    assert outcome == "4 × 4" or "mean must have 1 elements" in outcome


def test_transparency_is_white():
    assert read_picture(Image.new("RGBA", (2, 2), (9, 9, 9, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_photos_are_upright(tmp_path):
    photo = Image.new("RGB", (4, 2), "red")
    photo.getexif()[0x112] = 6
    photo.save(tmp_path / "photo.jpg", exif=photo.getexif())
    assert read_picture(tmp_path / "photo.jpg").size == read_picture(photo).size == (2, 4)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_pictures_of_more_than_8_bits_are_refused(kind):
    with pytest.raises(PromptError, match="8 bits a channel"):
        read_picture(Image.fromarray(np.full((2, 2), 300, kind)))


def test_what_is_no_picture_is_refused(family, tmp_path):
    damaged, text = tmp_path / "damaged.png", tmp_path / "text.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:3000])
    text.write_text("no picture")
    for source, reason in (
        (damaged, "cannot read image"), (text, "cannot read image"), (tmp_path / "none.png", "cannot read image"),
        (np.ones(3), "cannot read a ndarray"), (np.zeros((0, 5, 3), np.uint8), "5 × 0 pixels has none"),
        (7, "cannot read a int"), (None, "has no image, path or url"),
    ):  # fmt: skip
        with pytest.raises(PromptError, match=reason):
            capture_attention(family.model, family.processor, ask(source))


def test_a_large_picture_is_refused_before_it_is_decoded(family, tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 10_000)).save(path)
    for source in (path, Image.new("1", (10_000, 10_000))):
        with pytest.raises(PromptError, match=f"10,000 × 10,000 pixels is more than {MOST_PIXELS:,}"):
            capture_attention(family.model, family.processor, ask(source))


def test_pictures_go_with_a_processor(family):
    picture = Image.new("RGB", (24, 24), "red")
    with pytest.raises(PromptError, match="for text alone; give the model's processor"):
        capture_attention(family.model, family.processor.tokenizer, ask(picture))
    with pytest.raises(PromptError, match=r"stands for image input|no images were passed"):
        capture_generation(family.model, family.processor, "<image> what is this ?", max_new_tokens=1)
    inputs = family.encode(picture)
    with pytest.raises(PromptError, match=r"16 placeholders .* make 32 image tokens"):
        capture_attention(
            family.model, family.processor, inputs | {"pixel_values": torch.cat([inputs["pixel_values"]] * 2)}
        )


SIDES = {"height": 32, "width": 32}
# As families cut borders off, add some, or stretch all of a picture.
PROCESSORS = {
    "crops": ("clip", {"size": {"shortest_edge": 32}, "crop_size": SIDES}),
    "crops all sides": ("clip", {"size": {"shortest_edge": 40}, "crop_size": SIDES}),
    "crops what was stretched": ("deit", {"size": {"height": 40, "width": 40}, "crop_size": SIDES}),
    "crops as it is": ("clip", {"do_resize": False, "crop_size": SIDES}),
    "pads": ("deepseek_vl", {"size": SIDES, "min_size": 2}),
    "stretches": ("siglip", {"size": SIDES}),
    "pads tiles": ("mllama", {"size": SIDES, "max_image_tiles": 4}),
}


def paint(size):
    """Return a picture that differs everywhere, and whose blue tells it from borders."""
    red, green = np.meshgrid(*(np.linspace(40, 250, side) for side in size))
    return Image.fromarray(np.dstack([red, green, np.full_like(red, 99)]).astype(np.uint8))


@pytest.mark.parametrize("size", [(120, 40), (60, 90), (50, 50), (33, 30)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_what_is_cut_out_is_what_the_model_saw(name, size):
    """Cut out and made as large, a picture is what the processor makes of it."""
    kind, options = PROCESSORS[name]
    processor, picture = make_image_processor(kind, **options), paint(size)

    def show(turn, **more):
        return processor(images=turn(picture), return_tensors="pt", **more)

    plain = show(lambda same: same, do_normalize=False, do_rescale=False)
    seen, tiles = plain["pixel_values"], [(0, 0)]
    if kind == "mllama":
        down, across = MLLAMA_TILES[int(plain["aspect_ratio_ids"]) - 1]
        tiles = [(row, column) for row in range(down) for column in range(across)]
        lines = seen[0, 0, : len(tiles)].unflatten(0, (down, across))
        seen = lines.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[None]
    spans = [Span("image", 0, f"tile {row},{column}", 0, 4, 4, 4, 0.0) for row, column in tiles]
    found = find_crops(spans, plain, show)
    if name == "stretches" or (name in ("crops", "pads") and size == (50, 50)):
        assert found == []
    seen = seen[0].numpy().transpose(1, 2, 0)
    cut = crop_pixels(np.asarray(picture), found[0] if found else WHOLE)
    scaled = np.asarray(Image.fromarray(cut).resize(seen.shape[1::-1], Image.Resampling.BICUBIC), float)
    here, there = (np.abs(pixels[..., 2] - 99) < 5 for pixels in (seen, scaled))
    assert (here == there).mean() > 0.9
    assert np.abs(scaled - seen)[here & there].max() < 14


# Of what a model without chat template is asked: what stands for the picture, if its processor does not write that.
PLAIN_PROMPTS = {"llava": "<image>", "paligemma": "", "gemma3": "<start_of_image>", "smolvlm": "<image>",
                 "deepseek_vl": "<image_placeholder>", "mllama": "<|image|>"}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN_PROMPTS)
def test_a_plain_prompt_says_where_the_picture_stands(name, capsys):
    made, token = FAMILIES[name](), PLAIN_PROMPTS[name]
    picture, text = paint(made.size[::-1]), f"{token} what is this ?".strip()
    maps = capture_attention(made.model, made.processor, ask_about(picture, text))
    inputs = dict(made.processor(text=[f"{made.image_token} what is this ?"], images=[picture], return_tensors="pt"))
    expected = capture_attention(made.model, made.processor, inputs)
    assert maps.tokens_key == expected.tokens_key
    np.testing.assert_array_equal(np.stack(maps.weights), np.stack(expected.weights))
    assert (maps.spans, maps.segments) == (expected.spans, ())
    assert "infer" not in capsys.readouterr().err
    for refused in [f"{made.image_token} {made.image_token} what"] + ["what is this ?"] * bool(token):
        with pytest.raises(PromptError, match=r"refuses this prompt|placeholders .* where its pixel_values"):
            capture_attention(made.model, made.processor, ask_about(picture, refused))


def test_a_prompt_with_a_placeholder_goes_in_as_it_is(demo_vision):
    model, processor = demo_vision
    picture = paint((96, 96))
    text = f"{processor.image_token} what colour is the star ?"
    expected = dict(processor(text=[text], images=[picture], return_tensors="pt"))
    for own in (capture_attention, functools.partial(capture_generation, max_new_tokens=1)):
        assert own(model, processor, ask_about(picture, text)).ids_key[: expected["input_ids"].shape[1]] == tuple(
            expected["input_ids"][0].tolist()
        )


def test_pictures_are_cut_alone(family):
    """Maps say of each picture what was cut off, also behind a completion."""
    messages = ask(paint((96, 48)), paint((24, 24)), paint((24, 96)))
    expected = [(0.25, 0, 0.75, 1), (0, 0, 1, 1), (0, 0.375, 1, 0.625)]
    words = {"suppress_tokens": [*range(len(family.processor.tokenizer), 96)]}
    maps = capture_generation(family.model, family.processor, messages, max_new_tokens=2, generate_options=words)
    np.testing.assert_allclose(maps.crops, expected, atol=0.01)
    assert capture_attention(family.model, family.processor, ask(paint((24, 24)))).crops == ()


def test_what_lies_beyond_a_picture_is_black_and_bounded(monkeypatch):
    pixels = np.full((2, 4, 3), 7, np.uint8)
    cut = crop_pixels(pixels, (0.5, -1, 1.5, 2))
    assert cut.shape == (6, 4, 3)
    assert np.argwhere(cut[..., 0]).tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
    monkeypatch.setattr(pictures, "MOST_PIXELS", 1000)
    small = crop_pixels(np.full((60, 60), 7, np.uint8), (-9, -9, 10, 10))
    assert small.size < 4000
    assert np.argwhere(small).mean(0) == pytest.approx((np.array(small.shape) - 1) / 2)
