import numpy as np
import pytest
from conftest import make_maps

from attn_viewer import draw_heatmap, plot_panels
from attn_viewer.errors import OptionError, PageSizeError
from attn_viewer.figures.heatmap import LEAST_FRAME
from attn_viewer.figures.labels import TokenStamps
from attn_viewer.figures.scales import round_end

HEADS = [(0, 1), (5, 2), (8, 0), (5, 0), (0, 0), (8, 2)]


def make_layers():
    return make_maps(3, 3, 6, layers=[0, 5, 8])


def get_words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_heads_of_any_layers_stand_in_the_order_asked_for():
    maps = make_layers()
    figure = plot_panels(maps, HEADS, columns=3)
    images = figure.axes[0].images
    for image, (layer, head) in zip(images, HEADS, strict=True):
        np.testing.assert_array_equal(image.get_array().data, maps.get_layer(layer)[head])
        np.testing.assert_array_equal(image.get_array().mask, maps.future)
        assert image.norm is images[0].norm
    largest = max(maps.get_layer(layer)[head][1:].max() for layer, head in HEADS)
    assert images[0].norm.vmax == round_end(largest)
    words = get_words(figure)
    titles = [f"({letter}) layer {layer}, head {head}" for letter, (layer, head) in zip("abcdef", HEADS, strict=True)]
    assert [word for word in words if word.startswith("(")] == titles
    assert len({image.get_extent()[0] for image in images}) == 3
    assert len([ax for ax in figure.axes if ax.get_label() == "colour bar"]) == 1
    assert "layer 0, head 1" in get_words(plot_panels(maps, HEADS, letters=False))


def test_a_mean_and_what_is_not_there():
    maps = make_layers()
    (image,) = plot_panels(maps, [(5, None)]).axes[0].images
    np.testing.assert_allclose(image.get_array().data, maps.get_layer(5).mean(0), rtol=1e-6)
    for heads in ([], [(1, 0)], [(0, 3)], [5], "5.2", [(0, 0, 0, 0)], [(1, 0, 0)], [(None, 0)]):
        with pytest.raises(OptionError):
            plot_panels(maps, heads)
    with pytest.raises(OptionError, match="columns has no use beside num_figs_per_row"):
        plot_panels(maps, HEADS, columns=2, num_figs_per_row=2)
    with pytest.raises(OptionError, match="no option 'leters'"):
        plot_panels(maps, HEADS, leters=False)
    with pytest.raises(PageSizeError):
        plot_panels(maps, HEADS, figsize=(2, 1))


def test_several_models_keep_their_own_tokens():
    one, other = make_maps(2, 2, 5, model_id="one"), make_maps(2, 2, 8, model_id="other", tokens=list("abcdefgh"))
    figure = plot_panels([one, other], [(0, 1), (1, 0, 0)])
    shapes = [image.get_array().shape for image in figure.axes[0].images]
    assert shapes == [(5, 5), (8, 8), (8, 8)]
    texts = {stamps.keys.texts for stamps in figure.findobj(TokenStamps)}
    assert texts == {one.tokens_key, other.tokens_key}
    assert {"(a) one, layer 0, head 1", "(b) other, layer 0, head 1", "(c) other, layer 0, head 0"} < set(
        get_words(figure)
    )


def test_rows_columns_and_cells_are_framed():
    maps = make_layers()
    figure = plot_panels(maps, HEADS[:2], highlight={"rows": [2], "columns": [1], "cells": [(4, 3)]})
    image = figure.axes[0].images[1]
    left, right, bottom, top = image.get_extent()
    cell = (right - left) / 6
    frames = [path.get_extents().extents for path in figure.axes[0].collections[-1].get_paths()]
    expected = [
        (left, top - 3 * cell, right, top - 2 * cell),
        (left + cell, bottom, left + 2 * cell, top),
        (left + 3 * cell, top - 5 * cell, left + 4 * cell, top - 4 * cell),
    ]
    np.testing.assert_allclose(frames, expected)
    only = plot_panels(maps, HEADS[:2], highlight=[None, {"rows": [0]}])
    assert len(only.axes[0].collections) == 2
    for wrong in ({"row": [1]}, {"rows": [9]}, {"cells": [3]}, [{"rows": [1]}]):
        with pytest.raises(OptionError, match="highlight"):
            plot_panels(maps, HEADS[:2], highlight=wrong)
    with pytest.raises(OptionError, match="cannot highlight query 0"):
        plot_panels(maps, HEADS[:2], highlight={"rows": [0]}, sink="hide")


def test_diagonals_and_segments_are_framed():
    maps = make_maps(1, 2, 6, segments=[("one", 0, 2), ("two", 2, 5)])
    image = (figure := plot_panels(maps, [(0, 1)], highlight={"diagonals": [2], "segments": ["two"]})).axes[0].images[0]
    left, right, _, top = image.get_extent()
    cell = (right - left) / 6
    diagonal, block = (
        (path.vertices[:-1] - (left, top)) / (cell, -cell) for path in figure.axes[0].collections[-1].get_paths()
    )
    np.testing.assert_allclose(diagonal, [(0, 3), (0, 2), (1, 2), (4, 5), (4, 6), (3, 6)], atol=1e-9)
    np.testing.assert_allclose(block, [(2, 2), (5, 2), (5, 5), (2, 5)], atol=1e-9)
    drawn = draw_heatmap(maps, 0, 1, highlight={"diagonals": [2]}, sink="hide").patches[0].get_xy()
    np.testing.assert_allclose(drawn[:-1], np.array([(1, 4), (1, 3), (2, 3), (4, 5), (4, 6), (3, 6)]) - 0.5)
    for wrong, message in (({"diagonals": [6]}, "keys 6 before"), ({"segments": ["three"]}, "there are one, two")):
        with pytest.raises(OptionError, match=message):
            plot_panels(maps, [(0, 1)], highlight=wrong)
    with pytest.raises(OptionError, match="query less key for diagonals"):
        plot_panels(maps, [(0, 1)], highlight={"diagonals": ["x"]})


def test_a_frame_leaves_thin_cells_to_be_seen():
    maps = make_maps(1, 1, 400)
    figure = plot_panels(maps, [(0, 0)], width=3.25, highlight={"rows": [200], "diagonals": [100]})
    row, diagonal = (path.get_extents() for path in figure.axes[0].collections[-1].get_paths())
    assert row.height == pytest.approx(LEAST_FRAME)
    corners = figure.axes[0].collections[-1].get_paths()[1].vertices
    assert np.ptp(corners[:3, 0]) == pytest.approx(LEAST_FRAME)
    assert diagonal.width > 100
