import io

import numpy as np
import pytest
import torch
from architectures import VISION, build_model, make_inputs
from conftest import make_maps
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from attn_viewer import AttentionMaps, capture_image_attention, overlay_attention
from attn_viewer.errors import OptionError, PromptError, UnsuitableMapsError
from attn_viewer.figures.overlay import CONTRAST, DARK_CONTRAST, FAINTEST
from attn_viewer.spans import Span

GREY = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)


def make_image_maps(n_special=1):
    count = 6 + n_special
    rng = np.random.default_rng(0)
    weights = rng.random((2, 3, count, count)).astype(np.float32)
    tokens = ["[CLS]", "[REG1]"][:n_special] + [f"{r},{c}" for r in range(2) for c in range(3)]
    return AttentionMaps(
        list(weights / weights.sum(-1, keepdims=True)), tokens, causal=False, grid=(2, 3), layers=[1, 4]
    )


def get_layers(figure):
    """Return images and overlays of all panels."""
    return figure.axes[0].images, figure.axes[0].collections


@pytest.mark.parametrize(
    ("n_special", "query", "row", "patch"),
    [
        (1, None, 0, None),
        (0, None, 5, (1, 2)),
        (2, (1, 0), 5, (1, 0)),
        (1, 4, 4, (1, 0)),
        (2, -1, 7, (1, 2)),
        (2, 1, 1, None),
    ],
)
def test_patches_lie_on_their_places(n_special, query, row, patch):
    maps = make_image_maps(n_special)
    figure = overlay_attention(maps, GREY, query=query)
    pictures, overlays = get_layers(figure)
    for picture, overlay, weights in zip(pictures, overlays, maps.weights, strict=True):
        expected = weights[:, row, n_special:].mean(0).reshape(2, 3)
        np.testing.assert_allclose(overlay.get_array(), expected.ravel(), rtol=1e-6)
        left, right, bottom, top = picture.get_extent()
        for index, square in enumerate(overlay.get_paths()):
            x, y = square.get_extents().get_points().mean(axis=0)
            assert x == pytest.approx(left + (index % 3 + 0.5) * (right - left) / 3)
            assert y == pytest.approx(top - (index // 3 + 0.5) * (top - bottom) / 2)
        # Where a square is drawn it has the colour of the bar.
        overlay.update_scalarmappable()
        drawn = overlay.get_facecolor()
        np.testing.assert_allclose(drawn[:, :3], overlay.cmap(overlay.norm(expected.ravel()))[:, :3])
        np.testing.assert_array_equal(drawn[:, 3], overlay.norm(expected.ravel()) >= FAINTEST)
    frames = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert len(frames) == (0 if patch is None else 2)
    if patch:
        left, right, bottom, top = pictures[0].get_extent()
        assert frames[0].get_x() == pytest.approx(left + patch[1] * (right - left) / 3)
        assert frames[0].get_y() == pytest.approx(top - (patch[0] + 1) * (top - bottom) / 2)
    assert overlays[0].norm is overlays[1].norm


def test_a_scale_to_a_quantile_ends_there():
    maps = AttentionMaps(
        [np.full((1, 1, 100), 0.0091, np.float32) + np.eye(1, 100, 7, dtype=np.float32) * 0.09],
        [f"k{i}" for i in range(100)],
        tokens_query=["q"],
        kind="cross",
        causal=False,
        spans=[Span("image", 0, "whole", 0, 10, 10, 10, 0.0)],
    )
    (*_, (overlay,)) = get_layers(overlay_attention(maps, np.zeros((10, 10)), norm="quantile"))
    assert overlay.norm.vmax == pytest.approx(0.01)
    (*_, (overlay,)) = get_layers(overlay_attention(maps, np.zeros((10, 10))))
    assert overlay.norm.vmax == pytest.approx(0.1)


def test_one_head_and_layer():
    maps = make_image_maps()
    figure = overlay_attention(maps, GREY, layers=[4], head=2, vmax=0.5)
    ((_,), (overlay,)) = get_layers(figure)
    np.testing.assert_array_equal(overlay.get_array(), maps.weights[1][2, 0, 1:])
    assert overlay.norm.vmax == 0.5
    words = [t.get_text() for t in figure.axes[0].texts]
    assert "layer 4" in words
    assert "weights of [CLS]  ·  head 2" in " ".join(words)


def test_every_kind_of_image_becomes_light_grey():
    maps = make_image_maps()
    rgb = np.repeat(GREY[..., None], 3, axis=2)
    images = [GREY, rgb, (rgb * 255).round().astype(np.uint8), np.dstack([rgb, np.ones_like(GREY)])]
    for image in images:
        (picture, _), _ = get_layers(overlay_attention(maps, image))
        np.testing.assert_allclose(picture.get_array(), 1 - CONTRAST * (1 - GREY), atol=1 / 255)
        (picture, _), _ = get_layers(overlay_attention(maps, image, dark=True))
        np.testing.assert_allclose(picture.get_array(), DARK_CONTRAST * GREY, atol=1 / 255)
    (picture, _), _ = get_layers(overlay_attention(maps, np.dstack([rgb, np.zeros_like(GREY)])))
    np.testing.assert_allclose(picture.get_array(), 1)


def test_pil_images_and_files_are_seen_as_they_look(tmp_path):
    maps = make_image_maps()
    looks = Image.fromarray(np.dstack([(GREY * 255).round().astype(np.uint8)] * 3))
    looks.save(tmp_path / "looks.png")
    turned = looks.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x112] = 6  # shown turned back
    path = tmp_path / "looks.png"
    bytes_of = io.BytesIO(path.read_bytes())
    for image in (looks.quantize(64), looks.convert("CMYK"), looks.convert("LA"), turned, path, bytes_of):
        (picture, _), _ = get_layers(overlay_attention(maps, image))
        np.testing.assert_allclose(picture.get_array(), 1 - CONTRAST * (1 - GREY), atol=2 / 255)
    with pytest.raises(PromptError, match="8 bits"):
        overlay_attention(maps, Image.fromarray((GREY * 60000).astype(np.uint16)))


def test_a_stretched_image_is_said():
    maps = make_image_maps()
    read = [" ".join(t.get_text() for t in overlay_attention(maps, image).findobj(Text))
            for image in (GREY, GREY[:2, :3], np.tile(GREY, (1, 2)))]  # fmt: skip
    assert ["stretched" in text for text in read] == [False, False, True]
    assert "8 × 3 pixels stretched over 3 × 2 patches" in " ".join(read[2].split())


def test_a_vision_transformer_of_transformers():
    model = build_model("vit", VISION)
    pixels = make_inputs(VISION)["pixel_values"]
    maps = capture_image_attention(model, pixels)
    image = torch.sigmoid(pixels[0]).permute(1, 2, 0).numpy()
    _, overlays = get_layers(overlay_attention(maps, image, query=(0, 1)))
    rows, columns = maps.spans[0].positions.shape
    reference = build_model("vit", VISION, attn_implementation="eager")
    with torch.no_grad():
        weights = reference(pixels, output_attentions=True).attentions
    for overlay, expected in zip(overlays, weights, strict=True):
        row = expected[0].mean(0)[2, 1:].reshape(rows, columns)
        np.testing.assert_allclose(overlay.get_array(), row.ravel(), atol=1e-5)


def test_what_cannot_be_laid_over():
    maps = make_image_maps()
    with pytest.raises(UnsuitableMapsError, match="maps without any"):
        overlay_attention(make_maps(), GREY)
    for query in ((2, 0), (0, 3), (-1, 0), 7, -8, "x", (1,), 1.5):
        with pytest.raises(OptionError, match=r"there is no query|query must be a whole number"):
            overlay_attention(maps, GREY, query=query)
    for image in (
        np.ones(3),
        np.ones((2, 2, 2)),
        np.ones((2, 2)) * 7,
        np.ones((2, 2), int),
        np.full((2, 2), np.nan),
    ):
        with pytest.raises(OptionError, match="image"):
            overlay_attention(maps, image)
    with pytest.raises(PromptError, match=r"cat\.png"):
        overlay_attention(maps, "cat.png")
    with pytest.raises(UnsuitableMapsError, match="picture 1"):
        overlay_attention(maps, GREY, picture=1)
    for options in (
        {"cover": 2},
        {"cover": 0},
        {"part": "tile 0,0"},
        {"query": "completion"},
        {"query": ""},
        {"alpha": 1},
        {"num_figs_per_row": 0},
        {"layers": [0]},
        {"head": 3},
    ):
        with pytest.raises(OptionError):
            overlay_attention(maps, GREY, **options)


def make_seeing_maps(spans, n_keys=24, *, n_layers=2, crops=()):
    """Return maps of a model that read a picture and said ``red circle``, split into three tokens."""
    rng = np.random.default_rng(1)
    weights = np.tril(rng.random((n_layers, 3, n_keys, n_keys)) + 0.01).astype(np.float32)
    words = ["what", "␣is", "␣it", "?", "␣red", "␣cir", "cle"]
    tokens = ["<s>", *["<image>"] * (n_keys - 1 - len(words)), *words]
    return AttentionMaps(
        list(weights / weights.sum(-1, keepdims=True)), tokens, spans=spans, crops=crops, prompt_length=n_keys - 3,
        model_id="seer",
    )  # fmt: skip


ROWS = Span("image", 0, "whole", 2, 3, 4, 5, 0.0)  # a newline token behind each row


def test_each_word_of_a_completion_has_the_weights_that_chose_it():
    maps = make_seeing_maps([ROWS])
    figure = overlay_attention(maps, GREY, query="completion", panels=[(0, 1), (1, 2)])
    _, overlays = get_layers(figure)
    mean = (maps.weights[0][1] + maps.weights[1][2]) / 2
    keys = [2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15]
    red, circle = (overlay.get_array() for overlay in overlays)
    np.testing.assert_allclose(red, mean[20, keys], rtol=1e-5)
    np.testing.assert_allclose(circle, mean[21:23][:, keys].mean(0), rtol=1e-5)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {"␣red", "␣circle", f"{mean[20, keys].sum():.0%}"} <= set(words)
    assert "weights of the token before each word, which chose it" in " ".join(words)


@pytest.mark.parametrize(
    ("query", "rows"),
    [("is it", [18, 19]), ("circle", [22, 23]), ("?", [20]), (5, [5]), (np.int64(5), [5]), (-1, [23]), ((1, 2), [9])],
)
def test_any_text_token_or_patch_may_look(query, rows):
    maps = make_seeing_maps([ROWS])
    _, overlays = get_layers(overlay_attention(maps, GREY, query=query, panels=[(1, 0)]))
    np.testing.assert_allclose(
        overlays[0].get_array(), maps.weights[1][0][rows][:, ROWS.positions.ravel()].mean(0), rtol=1e-5
    )


def test_tiles_lie_side_by_side_and_parts_over_the_whole():
    tiles = [Span("image", 0, f"tile {i // 2},{i % 2}", 1 + 2 * i, 1, 2, 2, 0.0) for i in range(6)]
    thumbnail = Span("image", 0, "thumbnail", 13, 2, 2, 2, 0.0)
    maps = make_seeing_maps([*tiles, thumbnail])
    (picture, _), (overlay, _) = get_layers(overlay_attention(maps, GREY, query=-1))
    left, right, bottom, top = picture.get_extent()
    for place, square in enumerate(overlay.get_paths()):
        x, y = square.get_extents().get_points().mean(axis=0)
        tile, column = divmod(place, 2)
        assert x == pytest.approx(left + (tile % 2 * 2 + column + 0.5) * (right - left) / 4)
        assert y == pytest.approx(top - (tile // 2 + 0.5) * (top - bottom) / 3)
    np.testing.assert_allclose(overlay.get_array(), maps.weights[0][:, -1, 1:13].mean(0), rtol=1e-5)
    _, (overlay, _) = get_layers(overlay_attention(maps, GREY, query=-1, part="thumbnail"))
    np.testing.assert_allclose(overlay.get_array(), maps.weights[0][:, -1, 13:17].mean(0), rtol=1e-5)
    with pytest.raises(OptionError, match="there are tile 0,0"):
        overlay_attention(maps, GREY, part="tile 7,7")


def test_shown_is_what_the_model_saw_of_a_picture():
    tiles = [Span("image", 0, f"tile 0,{i}", 1 + 2 * i, 1, 2, 2, 0.0) for i in range(2)]
    thumbnail = Span("image", 0, "thumbnail", 5, 2, 2, 2, 0.0)
    maps = make_seeing_maps([*tiles, thumbnail], crops=[(0.5, 0, 1.5, 0.5)])
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, 4:] = 200
    light = 1 - CONTRAST * (1 - 200 / 255)
    for part, expected in ((None, [light, 1 - CONTRAST]), ("tile 0,0", [light]), ("tile 0,1", [1 - CONTRAST])):
        (picture, *_), _ = get_layers(overlay_attention(maps, image, query=-1, part=part))
        shown = np.asarray(picture.get_array())
        assert shown.shape == (4, 4 * len(expected))
        np.testing.assert_allclose(shown, np.repeat([expected], 4, 0).repeat(4, 1), atol=1e-6)
    (picture, *_), _ = get_layers(overlay_attention(maps, image, query=-1, part="thumbnail"))
    assert picture.get_array().shape == (8, 8)


def test_sound_and_completions_without_their_first_query_are_refused():
    with pytest.raises(UnsuitableMapsError, match="patches of picture 0"):
        overlay_attention(make_seeing_maps([ROWS._replace(sense="audio", rows=1)]), GREY)
    maps = make_seeing_maps([ROWS])
    late = AttentionMaps(
        [w[:, -2:] for w in maps.weights], maps.tokens_key, tokens_query=maps.tokens_query[-2:], first_query=22,
        prompt_length=21, spans=maps.spans,
    )  # fmt: skip
    with pytest.raises(OptionError, match="hold no completion"):
        overlay_attention(late, GREY, query="completion")


def test_a_page_of_words_begins_with_the_picture_in_its_colours():
    rgb = np.random.default_rng(0).random((6, 8, 3)).astype(np.float32)
    figure = overlay_attention(make_seeing_maps([ROWS]), rgb, query="completion")
    pictures, overlays = get_layers(figure)
    assert (len(pictures), len(overlays)) == (3, 2)
    np.testing.assert_array_equal(pictures[0].get_array(), rgb)
    assert all(picture.get_array().ndim == 2 for picture in pictures[1:])
    lefts = [picture.get_extent()[0] for picture in pictures]
    assert lefts == sorted(set(lefts))
    for picture, overlay in zip(pictures[1:], overlays, strict=True):
        corner = overlay.get_paths()[0].get_extents().x0
        assert picture.get_extent()[0] < corner < picture.get_extent()[0] + 108 / 4


def test_large_pictures_are_shown_with_fewer_pixels():
    stripes = np.zeros((3000, 5), np.uint8)
    stripes[1::2] = 255
    (picture, _), _ = get_layers(overlay_attention(make_image_maps(), stripes))
    assert picture.get_array().shape == (1500, 2)
    np.testing.assert_allclose(picture.get_array(), 1 - CONTRAST / 2, atol=1e-6)
