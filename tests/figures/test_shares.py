import dataclasses

import numpy as np
import pytest
from conftest import make_maps
from test_overlay import ROWS, make_seeing_maps

from attn_viewer import group_attention
from attn_viewer.analysis import measure_modality_share
from attn_viewer.errors import UnsuitableMapsError
from attn_viewer.figures import plot_modality_share


def test_shares_are_those_of_the_queries_that_chose_the_words():
    maps = make_seeing_maps([ROWS])
    shares = measure_modality_share(maps)
    assert shares.names == ("image", "prompt", "completion")
    assert shares.words == ("␣red", "␣circle")
    np.testing.assert_allclose(shares.values.sum(0), 1, rtol=1e-5)
    mean = maps.weights[1].mean(0)
    image = mean[:, ROWS.positions.ravel()].sum(1)
    np.testing.assert_allclose(shares.values[0, 1], [image[20], image[21:23].mean()], rtol=1e-5)
    np.testing.assert_allclose(shares.values[2, 1], [0, mean[21:23, 21:].sum(1).mean()], rtol=1e-5)


def test_a_panel_shows_each_share_layer_by_layer():
    maps = make_seeing_maps([ROWS], n_layers=3)
    figure = plot_modality_share(maps, title="shares", width=4)
    panels = {ax.get_label(): ax for ax in figure.axes}
    for name, values in zip(*measure_modality_share(maps)[::2], strict=True):
        (image,) = panels[name].images
        np.testing.assert_array_equal(image.get_array(), values)
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)
        bars = [bar.get_width() for bar in panels[f"{name} means"].patches]
        np.testing.assert_allclose(bars, values.mean(1), rtol=1e-6)
    assert [label.get_text() for label in panels["completion"].get_xticklabels()] == ["␣red", "␣circle"]
    assert [label.get_text() for label in panels["image"].get_yticklabels()] == ["0", "1", "2"]


def test_segments_are_parts_of_the_prompt():
    maps = make_maps(2, 2, 6, segments=[("document 1", 0, 2), ("question", 2, 5)])
    shares = measure_modality_share(maps)
    assert shares.names == ("document 1", "question", "prompt")
    np.testing.assert_allclose(shares.values[1, 0], maps.weights[0].mean(0)[:, 2:5].sum(1), rtol=1e-5)


def test_without_completion_every_query_has_its_share():
    shares = measure_modality_share(make_maps())
    assert (shares.names, shares.words) == (("prompt",), ("t0", "t1", "t2", "t3", "t4"))
    with pytest.raises(UnsuitableMapsError, match="pooled"):
        measure_modality_share(make_maps(reduction="pooled", cell=(1, 1), pooling="max"))
    with pytest.raises(UnsuitableMapsError, match="groups"):
        measure_modality_share(group_attention(make_seeing_maps([ROWS]), "words"))
    with pytest.raises(UnsuitableMapsError, match="signed"):
        measure_modality_share(make_maps(signed=True))


def test_shares_of_weights_times_norms_sum_to_1():
    maps = make_seeing_maps([ROWS])
    attention = measure_modality_share(maps).values
    larger = dataclasses.replace(maps, weights=[7 * layer for layer in maps.weights], weighting="value_norm")
    np.testing.assert_allclose(measure_modality_share(larger).values, attention, rtol=1e-5)
    nothing = dataclasses.replace(larger, weights=[0 * layer for layer in maps.weights])
    assert not measure_modality_share(nothing).values.any()
