import functools
import itertools

import numpy as np
import pytest
import torch
import transformers
from families import FAMILIES, TEXT, WORDS, make_clip
from PIL import Image

from attn_viewer import ablate_heads, capture_attention, capture_generation
from attn_viewer.errors import CaptureError, PromptError
from attn_viewer.inputs.placeholders import find_spans
from attn_viewer.spans import Span

# A change of scores of less than this share of the largest is the blur of a picture made smaller.
BLUR = 0.2


@functools.cache
def make(name):
    try:
        return FAMILIES[name]()
    except (ImportError, AttributeError) as reason:
        pytest.skip(f"not in transformers {transformers.__version__}: {reason}")


def draw(height, width, mark=None):
    """Return a smooth picture, with a marked rectangle (top, left, bottom, right)."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([60 + 80 * y / height, 60 + 80 * x / width, 90 + 0 * y], -1)
    if mark is not None:
        top, left, bottom, right = mark
        pixels[top:bottom, left:right] = 250, 10, 250
    return Image.fromarray(pixels.astype(np.uint8))


def capture(name, inputs):
    family = make(name)
    return capture_attention(
        family.model, family.processor.tokenizer, inputs, kind="cross" if name == "mllama" else None
    )


def find_changed(before, after, span):
    """Return the patches of a span at which a head of the first layer looks more or less, the most changed first."""
    rows = [np.log(maps.weights[0][:, -1][:, span.positions]) for maps in (before, after)]
    change = rows[1] - rows[0]
    change = abs(change - np.median(change, (1, 2), keepdims=True)).max(0)
    places = map(tuple, np.argwhere(change > max(BLUR * change.max(), 1e-3)).tolist())
    return sorted(places, key=lambda place: -change[place])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_right_patch_of_the_right_tile_is_looked_at(name):
    family = make(name)
    height, width = family.size
    before = capture(name, family.encode(draw(height, width)))
    finest = max(before.spans, key=lambda span: (span.part != "thumbnail", span.rows * span.columns))
    rows, columns = finest.rows * family.tiles[0], finest.columns * family.tiles[1]
    assert len(before.spans) == (1 if family.tiles == (1, 1) else np.prod(family.tiles)) + (
        "thumbnail" in [s.part for s in before.spans]
    )
    for row, column in ((0, 0), (rows - 1, columns - 2), (rows // 2, columns - 1)):
        mark = (
            row * height // rows,
            column * width // columns,
            (row + 1) * height // rows,
            (column + 1) * width // columns,
        )
        after = capture(name, family.encode(draw(height, width, mark)))
        assert after.spans == before.spans
        for span in after.spans:
            changed = find_changed(before, after, span)
            if span.part == "thumbnail":  # a patch beside may hold a blurred edge
                assert changed[0] in overlap((row, column), (rows, columns), (span.rows, span.columns))
                continue
            down, across = span.tile or (0, 0)
            own = row - down * span.rows, column - across * span.columns
            is_there = 0 <= own[0] < span.rows and 0 <= own[1] < span.columns
            assert changed == ([own] if is_there else [])


def overlap(place, fine, coarse):
    """Return the patches of a coarse grid that a patch of a fine one lies on."""
    ranges = [range(i * m // n, -(-(i + 1) * m // n)) for i, n, m in zip(place, fine, coarse, strict=True)]
    return list(itertools.product(*ranges))


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_those_of_eager_attention(name):
    family = make(name)
    inputs = family.encode(draw(*family.size))
    maps = capture(name, inputs)
    family.model.set_attn_implementation("eager")
    with torch.no_grad():
        output = family.model(**{key: part for key, part in inputs.items() if key != "labels"}, output_attentions=True)
    family.model.set_attn_implementation("sdpa")
    layers = output.attentions if hasattr(output, "attentions") else output[-1]
    for layer, weights in zip(maps.layers, maps.weights, strict=True):
        np.testing.assert_allclose(weights, layers[layer][0].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_of_a_generation_are_rows_of_one_pass(name):
    family = make(name)
    inputs = {key: part for key, part in family.encode(draw(*family.size)).items() if key != "labels"}
    words = range(3, len(WORDS))
    arguments = {"min_new_tokens": 4, "suppress_tokens": [token for token in range(96) if token not in words]}
    capture = functools.partial(capture_generation, family.model, family.processor.tokenizer, dict(inputs),
                                max_new_tokens=4, kind="cross" if name == "mllama" else None,
                                generate_options=arguments)  # fmt: skip
    steps = capture(when="steps")
    if name == "paligemma":
        assert not any(weights[:, : steps.prompt_length, steps.prompt_length :].any() for weights in steps.weights)
        with pytest.raises(CaptureError, match="when='steps'"):
            capture()
        return
    whole = capture()
    assert steps.spans == whole.spans != ()
    for ours, theirs in zip(steps.weights, whole.weights, strict=True):
        n_query, n_key = ours.shape[1:]
        np.testing.assert_allclose(ours, theirs[:, :n_query, :n_key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "internvl", "idefics3", "mistral3"])
def test_pictures_are_counted(name):
    family = make(name)
    height, width = family.size
    maps = capture(name, family.encode(draw(height, width), draw(height, width)))
    one = capture(name, family.encode(draw(height, width))).spans
    assert [(s.number, *s[2:3], *s[4:]) for s in maps.spans] == [(n, *s[2:3], *s[4:]) for n in (0, 1) for s in one]
    assert {maps.tokens_key[key] for span in maps.spans for key in span.positions.ravel()} == {
        maps.tokens_key[one[0].start]
    }


def test_padding_and_what_is_generated_move_no_patch():
    family = make("llava")
    single = family.encode(draw(24, 24))
    pad = torch.zeros(1, 3, dtype=torch.long)
    inputs = {key: torch.cat([pad, part], 1) for key, part in single.items() if part.ndim == 2}
    batch = {key: torch.cat([part, torch.cat([single[key], pad], 1)]) for key, part in inputs.items()}
    batch["pixel_values"] = single["pixel_values"].expand(2, -1, -1, -1)
    (expected,) = capture("llava", single).spans
    maps = capture_attention(family.model, None, batch, batch_index="all")
    assert [one.spans for one in maps] == [(expected,), (expected._replace(number=1),)]
    said = capture_generation(family.model, None, single, max_new_tokens=2)
    assert said.spans == (expected,)
    assert len(said.tokens_key) == len(single["input_ids"][0]) + 2


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl", "mistral3", "idefics3", "internvl"])
@pytest.mark.parametrize("change", [-1, 1])
def test_more_or_fewer_placeholders_than_patches_are_refused(name, change):
    family = make(name)
    inputs = family.encode(draw(*family.size))
    ids = inputs["input_ids"][0]
    place = int((ids == family.model.config.image_token_id).nonzero()[0])
    kept = (
        [*range(place), *[place] * change, *range(place, len(ids))]
        if change > 0
        else [i for i in range(len(ids)) if i != place]
    )
    cut = {key: part[:, kept] if part.shape == (1, len(ids)) else part for key, part in inputs.items()}
    with pytest.raises(PromptError, match=r"placeholders .* make"):
        capture(name, cut)


def test_placeholders_that_lie_elsewhere_are_refused():
    family = make("mistral3")
    inputs = family.encode(draw(24, 48))
    ids = inputs["input_ids"].clone()
    ids[0, 3], ids[0, -1] = ids[0, -1].clone(), ids[0, 3].clone()
    with pytest.raises(PromptError, match="not laid out as 2 rows of 4"):
        capture("mistral3", inputs | {"input_ids": ids})


def test_tiles_of_a_picture_of_one_colour_have_no_places():
    family = make("internvl")
    plain = Image.new("RGB", (72, 48), "red")
    assert [span.part for span in capture("internvl", family.encode(plain)).spans] == [
        *(f"tile {number}" for number in range(6)), "thumbnail"
    ]  # fmt: skip


def test_frames_of_videos():
    family = make("qwen2_5_vl")
    config = family.model.config
    ids = torch.tensor([[1, *[config.video_token_id] * 12, 5, 6]])
    grid = torch.tensor([[2, 4, 6]])
    pixels = torch.rand(48, 216)
    inputs = {"input_ids": ids, "pixel_values_videos": pixels, "video_grid_thw": grid,
              "second_per_grid_ts": torch.tensor([0.5]),
              "mm_token_type_ids": 2 * (ids == config.video_token_id).long()}  # fmt: skip
    maps = capture("qwen2_5_vl", inputs)
    assert maps.spans == (
        Span("video", 0, "frame 0", 1, 2, 3, 3, 0.5),
        Span("video", 0, "frame 1", 7, 2, 3, 3, 0.5),
    )
    family = make("llava_onevision")
    ids = torch.tensor([[1, *[family.model.config.video_token_id] * 9, 5, 6]])
    maps = capture("llava_onevision", {"input_ids": ids, "pixel_values_videos": torch.rand(1, 2, 3, 24, 24)})
    assert [(span.part, span.start, span.rows, span.columns) for span in maps.spans] == [
        ("frame 0", 1, 2, 2), ("frame 1", 5, 2, 2)
    ]  # fmt: skip


def keep_own_frame(model):
    """Let every frame of a sound say what is in it alone."""
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.Conv1d):
                part.weight.normal_()
                part.weight[..., [0, 2]] = 0
        for name, parameter in model.named_parameters():
            if ("encoder" in name or "audio_tower" in name) and "out_proj" in name:
                parameter.zero_()


def test_whisper_looks_at_the_frame_that_is_marked():
    config = transformers.WhisperConfig(
        vocab_size=32, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8, max_source_positions=20,
        max_target_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    keep_own_frame(model)
    sound = torch.zeros(1, 8, 40)
    marked = sound.clone()
    marked[..., 14] = 5
    before, after = (
        capture_attention(model, None, {"input_features": one}, decoder_prompt=[1, 5, 6], kind="cross")
        for one in (sound, marked)
    )
    (span,) = before.spans
    assert span == Span("audio", 0, "whole", 0, 1, 20, 20, 0.02)
    assert find_changed(before, after, span) == [(0, 7)]
    assert capture_attention(model, None, {"input_features": sound}).spans == (span,)
    assert capture_attention(model, None, {"input_features": sound}, kind="decoder").spans == ()


def test_qwen2_audio_looks_at_the_frame_that_is_marked():
    audio = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 32,
             "num_mel_bins": 8, "max_source_positions": 20}  # fmt: skip
    config = transformers.Qwen2AudioConfig(
        audio_config={**audio, "model_type": "qwen2_audio_encoder"}, text_config={**TEXT, "model_type": "qwen2"},
        audio_token_index=9,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2AudioForConditionalGeneration(config).eval()
    keep_own_frame(model)
    mask = torch.zeros(1, 40, dtype=torch.long)
    mask[:, :32] = 1
    ids = torch.tensor([[1, *[9] * 8, 5, 6]])
    sound = torch.zeros(1, 8, 40)
    marked = sound.clone()
    marked[..., 14] = 5
    shared = {"input_ids": ids, "feature_attention_mask": mask, "attention_mask": torch.ones_like(ids)}
    before, after = (capture_attention(model, None, {**shared, "input_features": one}) for one in (sound, marked))
    (span,) = before.spans
    assert span == Span("audio", 0, "whole", 1, 1, 8, 8, 0.04)
    assert find_changed(before, after, span) == [(0, 3)]


def make_odd(depth, attention=None):
    """Return a LLaVA with a tower deeper than its language model, and what goes in."""
    vision = make_clip(24)
    vision.num_hidden_layers = depth
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_index=9
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    if attention is not None:
        for layer in (
            model.model.vision_tower.encoder.layers
            if hasattr(model.model.vision_tower, "encoder")
            else model.model.vision_tower.vision_model.encoder.layers
        ):
            layer.self_attn = attention
    ids = torch.tensor([[1, *[9] * 16, 5, 6]])
    return model, {"input_ids": ids, "pixel_values": torch.rand(1, 3, 24, 24)}


class OddAttention(torch.nn.Module):
    def forward(self, hidden_states, *args, **options):
        return torch.sin(hidden_states), None


def test_a_tower_hides_no_language_model():
    model, inputs = make_odd(5)
    maps = capture_attention(model, None, inputs)
    assert (maps.layers, maps.not_shown) == ((0, 1), ())
    model, inputs = make_odd(2, OddAttention())
    maps = capture_attention(model, None, inputs)
    assert maps.layers == (0, 1)
    assert "OddAttention" in maps.not_shown[0]


def test_a_family_without_a_rule_has_labels_and_no_spans():
    class Config:
        model_type, image_token_id = "unheard_of", 3

    ids = torch.tensor([[1, 3, 3]])
    assert find_spans(Config, {"input_ids": ids, "pixel_values": torch.rand(1, 3, 8, 8)}, list) == [()]


def test_heads_that_look_at_pictures_from_beside_the_text_can_be_taken_out():
    family = make("mllama")
    inputs = family.encode(draw(*family.size))
    with ablate_heads(family.model, [(1, 0)], kind="cross"):
        maps = capture_attention(family.model, family.processor.tokenizer, inputs, kind="cross")
    plain = capture("mllama", inputs)
    assert not maps.weights[0][0].any()
    np.testing.assert_allclose(maps.weights[0][1:], plain.weights[0][1:], atol=1e-6)
