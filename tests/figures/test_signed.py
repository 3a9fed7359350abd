"""Maps whose numbers may be below 0 stand on a diverging scale around 0, on every figure."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import make_maps

from attn_viewer import (
    draw_heatmap,
    export_html,
    load_scores,
    overlay_attention,
    plot_birds_eye,
    plot_heads,
    plot_layer_averages,
    plot_lines,
    plot_overview,
    plot_running_text,
    roll_out_attention,
    save_scores,
    score_heads,
)
from attn_viewer.analysis import measure_similarity
from attn_viewer.errors import InvalidMapsError, OptionError, UnsuitableMapsError
from attn_viewer.figures.heatmap import limit_cells
from attn_viewer.figures.thumbnails import tile_heads
from attn_viewer.web.encode import decode_head, describe_maps, encode_head


def make_signed(n=6, **facts):
    a, b = make_maps(2, 3, n, causal=False), make_maps(2, 3, n, seed=1, causal=False)
    weights = tuple(two - one for one, two in zip(a.weights, b.weights, strict=True))
    return dataclasses.replace(a, weights=weights, signed=True, **facts)


@pytest.mark.parametrize("draw", [
    plot_layer_averages,
    lambda maps, **options: plot_heads(maps, 1, **options),
    plot_birds_eye,
    plot_running_text,
    lambda maps, **_: overlay_attention(dataclasses.replace(maps, grid=(2, 2)), np.zeros((8, 8))),
])  # fmt: skip
@pytest.mark.parametrize("scale", ["shared", "panel"])
def test_zero_is_in_the_middle(draw, scale):
    figure = draw(make_signed(), scale=scale)
    shown = [image for ax in figure.axes for image in ax.images if image.get_array().ndim == 2]
    for norm in [image.norm for image in shown if image.norm.vmax != 1 or image.norm.vmin]:
        assert norm.vmin == -norm.vmax < 0
    bars = [ax.get_xlim() for ax in figure.axes if "bar" in ax.get_label()]
    assert scale == "panel" or bars
    assert all(low == -high for low, high in bars)


def test_overviews_choose_their_scale():
    for kind in ("birds_eye", "last_token"):
        assert plot_overview(make_signed(), kind).axes


def test_one_heatmap():
    maps = make_signed()
    image = draw_heatmap(maps, 0, 1).images[-1]
    assert image.norm.vmin == -image.norm.vmax
    assert image.norm.vmax >= np.abs(maps.weights[0][1]).max()
    positive = dataclasses.replace(maps, weights=tuple(map(np.abs, maps.weights)))
    assert draw_heatmap(positive, 0, 1).images[-1].norm.vmin < 0  # what it is, not what happens to be in it
    with pytest.raises(OptionError, match="linear scale around 0"):
        plot_heads(maps, 0, norm="log")


def test_pooling_keeps_what_is_furthest_from_zero():
    matrix = np.zeros((1024, 1024), np.float32)
    matrix[0, 0], matrix[0, 1], matrix[3, 3] = 0.25, -0.5, 0.125
    cells, factors = limit_cells(matrix)
    assert factors == (2, 2)
    assert (cells[0, 0], cells[1, 1], cells.min()) == (-0.5, 0.125, -0.5)
    maps = dataclasses.replace(make_signed(4), weights=(matrix[None, :100, :100],), layers=(0,), heads=((0,),),
                               tokens_key=("t",) * 100, tokens_query=("t",) * 100, prompt_length=100)  # fmt: skip
    assert tile_heads(maps)[0].min() == -0.5


def test_pages_keep_the_sign(tmp_path, open_page):
    maps = make_signed(8)
    for exact in (False, True):
        meta = json.loads(json.dumps(describe_maps(maps, exact=exact)))
        largest = max(float(np.abs(layer).max()) for layer in maps.weights)
        for layer in maps.weights:
            for head in layer:
                back = decode_head(encode_head(head, meta), meta)
                assert np.abs(back - head).max() <= (0 if exact else 0.76 * largest / 127)
                assert (back * head >= 0).all()
    page = open_page(export_html(maps, tmp_path / "signed.html")[0], "view=heatmap&layer=0&head=1&scale=linear")
    page.wait_for_selector('[data-ready="0.1"]')
    # What is red and what is blue, on the picture and at the ends of the scale.
    count = """canvas => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const sides = [0, 0];
        for (let i = 0; i < data.length; i += 4) {
            if (data[i] > data[i + 2] + 25) sides[0]++;
            if (data[i + 2] > data[i] + 25) sides[1]++;
        }
        return sides;
    }"""
    assert min(page.locator("canvas.av-base").evaluate(count)) > 500
    left, right = page.locator("canvas.av-legend").evaluate(count)
    assert left == pytest.approx(right, rel=0.2)
    with pytest.raises(InvalidMapsError, match="weights must be from"):
        encode_head(maps.weights[0][0] * 3, describe_maps(maps))


def test_numbers_about_weights_refuse_them():
    maps = make_signed()
    for measure in (score_heads, measure_similarity, roll_out_attention, lambda m: plot_lines(m, 0)):
        with pytest.raises(UnsuitableMapsError, match="signed"):
            measure(maps)
    with pytest.raises(InvalidMapsError, match="signed=True"):
        dataclasses.replace(maps, signed=False)


def test_files_keep_them(tmp_path):
    maps = make_signed()
    again = load_scores(save_scores(maps, tmp_path))
    assert again.signed
    np.testing.assert_array_equal(again.weights[0], maps.weights[0])
