import numpy as np
import pytest
import torch
import transformers
from architectures import VISION, build_model, make_inputs
from PIL import Image

from attn_viewer import capture_attention, capture_attention_calls, capture_image_attention
from attn_viewer.errors import CaptureError, PromptError


@pytest.mark.parametrize("name", ["vit", "clip_vision_model", "dinov2", "dinov2_with_registers", "siglip_vision_model"])
def test_patches_are_tokens_in_a_grid(name):
    model, reference = (build_model(name, VISION, **o) for o in ({}, {"attn_implementation": "eager"}))
    pixels = make_inputs(VISION)["pixel_values"]
    maps = capture_image_attention(model, pixels)
    with torch.no_grad():
        expected = reference(pixels, output_attentions=True).attentions
    for ours, theirs in zip(maps.weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs[0], atol=1e-5)
    assert not maps.causal
    rows, columns = maps.spans[0].positions.shape
    n_special = len(maps.tokens_key) - rows * columns
    assert n_special == {"siglip_vision_model": 0, "dinov2_with_registers": 5}.get(name, 1)
    assert maps.tokens_key[n_special:][columns + 1] == "1,1"
    assert maps.tokens_key[:n_special][:1] == ("[CLS]",) * min(n_special, 1)


def test_the_tokens_of_a_model_that_compares_pictures_with_texts_are_the_texts():
    """Its vision tower may be deeper, and attend over as many patches as there are words."""
    part = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    text = {**part, "num_hidden_layers": 2, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**part, "num_hidden_layers": 4, "image_size": 30, "patch_size": 10}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision)
    config._attn_implementation = "eager"
    model = transformers.CLIPModel(config).eval()
    for n in (6, 10):
        inputs = {"input_ids": torch.arange(n)[None], "pixel_values": torch.rand(1, 3, 30, 30)}
        with torch.no_grad():
            expected = model(**inputs, output_attentions=True).text_model_output.attentions
        maps = capture_attention(model, None, inputs)
        assert len(maps.weights) == 2
        for ours, theirs in zip(maps.weights, expected, strict=True):
            np.testing.assert_allclose(ours, theirs[0], atol=1e-6)
    with pytest.raises(PromptError, match="cannot take these inputs"):
        capture_image_attention(model, inputs["pixel_values"])


def test_a_processor_makes_the_pixels():
    model = build_model("vit", VISION)
    pixels = make_inputs(VISION)["pixel_values"]

    def process(images, return_tensors):
        assert return_tensors == "pt"
        return {"pixel_values": images * 2}

    maps = capture_image_attention(model, pixels, process)
    np.testing.assert_array_equal(maps.weights[0], capture_image_attention(model, pixels * 2).weights[0])


def test_maps_say_what_a_processor_cut_off(tmp_path):
    model = build_model("vit", VISION)
    size = model.config.image_size
    processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)(
        size={"shortest_edge": 2 * size}, crop_size={"height": size, "width": size}
    )
    photo = Image.new("L", (40, 80))  # turned to 80 × 40 by its EXIF data
    exif = photo.getexif()
    exif[0x112] = 6
    photo.save(tmp_path / "photo.png", exif=exif)
    for image in (tmp_path / "photo.png", Image.new("RGBA", (80, 40)), np.zeros((40, 80), np.uint8)):
        maps = capture_image_attention(model, image, processor)
        np.testing.assert_allclose(maps.crops, [(0.375, 0.25, 0.625, 0.75)], atol=0.02)
    with pytest.raises(PromptError, match="cannot read a ndarray as a picture: float64"):
        capture_image_attention(model, np.zeros((40, 80, 3)), processor)


def test_what_is_no_image_or_no_grid():
    model = build_model("vit", VISION)
    with pytest.raises(PromptError, match="got str"):
        capture_image_attention(model, "cat.png")
    with pytest.raises(PromptError, match=r"got shape \(2, 3, 8, 8\)"):
        capture_image_attention(model, torch.zeros(2, 3, 8, 8))
    model.config.patch_size = 1
    with pytest.raises(CaptureError, match="patches"):
        capture_image_attention(model, make_inputs(VISION)["pixel_values"])


def test_windows_make_no_one_map():
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=16, depths=[2], num_heads=[4], window_size=4, num_labels=2
    )
    model = transformers.SwinModel(config).eval()
    with pytest.raises(CaptureError, match="windows, frames or pictures of one input"):
        capture_image_attention(model, torch.zeros(1, 3, 16, 16))


def test_frames_are_shown_one_by_one():
    config = transformers.TimesformerConfig(
        image_size=16, patch_size=8, num_frames=3, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=16, attn_implementation="eager",
    )  # fmt: skip
    model, frames = transformers.TimesformerModel(config).eval(), torch.randn(1, 3, 3, 16, 16)
    run = lambda: model(frames, output_attentions=True)  # noqa: E731
    with pytest.raises(CaptureError, match=r"shape \(4, 4, 3, .*frames or pictures .* batch_index="):
        capture_attention_calls(run, model=model)
    seen = capture_attention_calls(run, model=model, batch_index=1)["encoder.layer.*.attention.attention"]
    with torch.no_grad():
        expected = run().attentions
    for ours, theirs in zip(seen.weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs[1], atol=1e-6)
