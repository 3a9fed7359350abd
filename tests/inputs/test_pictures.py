import numpy as np
import pytest
import torch
from families import MLLAMA_TILES, make_llava, make_mllama_processor
from PIL import Image
from transformers import CLIPImageProcessor

from attn_viewer import capture_attention, capture_generation
from attn_viewer.errors import PromptError
from attn_viewer.inputs.pictures import MOST_PIXELS, crop_picture, pad_picture, read_picture

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
        (np.ones(3), "cannot read a ndarray"), (7, "cannot read a int"), (None, "has no image, path or url"),
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


@pytest.mark.parametrize("shape", [(40, 120), (90, 60), (50, 50)])
@pytest.mark.parametrize("side", [32, 24])
def test_a_cropped_picture_is_what_the_model_saw(shape, side):
    """Scaled to the crop, what is left is what the processor hands to the model; others leave all of it."""
    ramp = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape).astype(np.uint8)
    picture = Image.fromarray(np.dstack([ramp, np.linspace(0, 255, shape[1]).astype(np.uint8) + 0 * ramp, ramp]))
    plain = {"do_normalize": False, "do_rescale": False, "size": {"shortest_edge": 32}}
    processor = CLIPImageProcessor(crop_size={"height": side, "width": side}, **plain)
    seen = np.asarray(processor(picture, return_tensors="pt")["pixel_values"][0]).transpose(1, 2, 0)
    cropped = crop_picture(picture, processor)
    assert abs(cropped.width - cropped.height) <= 2
    scaled = np.asarray(cropped.resize((side, side), Image.Resampling.BICUBIC), float)
    assert np.abs(scaled - seen)[2:-2, 2:-2].mean() < 4
    stretched = CLIPImageProcessor(do_center_crop=False, size={"height": 32, "width": 32})
    assert crop_picture(picture, stretched) is crop_picture(picture, None) is picture


@pytest.mark.parametrize("size", [(30, 20), (10, 9), (20, 70), (48, 48)])
def test_a_padded_picture_is_what_the_model_saw(size):
    processor = make_mllama_processor()
    ramp = np.linspace(60, 250, size[0] * size[1]).reshape(size[::-1]).astype(np.uint8)
    picture = Image.fromarray(np.dstack([ramp] * 3))
    made = processor.image_processor(picture, do_normalize=False, do_rescale=False, return_tensors="pt")
    down, across = MLLAMA_TILES[int(made["aspect_ratio_ids"]) - 1]
    tiles = made["pixel_values"][0, 0, : down * across].unflatten(0, (down, across))
    seen = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()
    padded = np.asarray(pad_picture(picture, processor, (down, across)), float)
    np.testing.assert_array_equal(padded > 0, seen > 0)
    assert abs(padded - seen).mean() < 4
    assert pad_picture(picture, CLIPImageProcessor(), (2, 2)) is picture
