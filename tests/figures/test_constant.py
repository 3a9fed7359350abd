"""Weights that are all alike, through everything that draws: no exception, and no warning, which pytest makes one."""

import itertools

import numpy as np
import pytest
from conftest import make_maps

from attn_viewer import (
    AttentionMaps,
    matplotlib_figure_saver,
    overlay_attention,
    plot_atlas,
    plot_comparison,
    plot_heads,
    plot_layer_averages,
    plot_overview,
    save_matrix_wrapper,
)
from attn_viewer.figures import (
    builtin,
    get_all_figure_names,
    matplotlib_multifigure_saver,
    matrix2drgb_to_png_bytes,
    matrix_to_image_preprocess,
    run_figure_funcs,
    select_attn_figure_funcs,
)
from attn_viewer.figures.formats import render_figure
from attn_viewer.figures.savers import MATRIX_FORMATS
from attn_viewer.overview import KINDS, list_uses

MATRICES = {
    "zero": np.zeros((5, 5)),
    "equal": np.full((5, 5), 0.2),
    "sink": np.tile(np.eye(5)[:1], (5, 1)),
    "identity": np.eye(5),
    "token": np.ones((1, 1)),
    "zero-token": np.zeros((1, 1)),
}
EACH = pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(m, id=n, marks=[pytest.mark.slow] if n in ("sink", "identity", "token") else [])
        for n, m in MATRICES.items()
    ],
)
BUILT_IN = {name for name in get_all_figure_names() if hasattr(builtin, name)}


def repeat(matrix, **facts):
    weights = np.broadcast_to(matrix, (2, *matrix.shape)).astype(np.float32)
    return AttentionMaps([weights, weights], [f"t{i}" for i in range(len(matrix))], model_id="constant", **facts)


@EACH
def test_every_registered_function(tmp_path, matrix):
    paths, failures = run_figure_funcs(repeat(matrix), tmp_path, select_attn_figure_funcs(BUILT_IN), layers=[0])
    assert failures == []
    assert len(paths) == 2 * len(BUILT_IN)


@EACH
@pytest.mark.parametrize("fmt", MATRIX_FORMATS)
def test_every_option_of_saved_matrices(tmp_path, matrix, fmt):
    for normalize, diverging, least, cmap in itertools.product((0, 1), (0, 1), (None, 0, -1), (None, "viridis")):
        if (diverging and least is not None) or (least is not None and not normalize):
            continue  # these exclude each other
        options = {"normalize": bool(normalize), "diverging_colormap": bool(diverging), "normalize_min": least}

        @save_matrix_wrapper(fmt=fmt, cmap=cmap, **options)
        def same(pattern):
            return pattern

        same(matrix, tmp_path)
        assert (tmp_path / f"same.{fmt}").stat().st_size > 50
        assert matrix2drgb_to_png_bytes(matrix_to_image_preprocess(matrix, cmap=cmap, **options))


@EACH
@pytest.mark.parametrize("fmt", ["jpg", "png", "pdf", "svg", "svgz"])
def test_every_format_of_drawn_figures(tmp_path, matrix, fmt):
    @matplotlib_figure_saver(fmt=fmt)
    def drawn(pattern, ax):
        ax.imshow(pattern)
        ax.plot(pattern.sum(axis=0))

    @matplotlib_multifigure_saver(["lines", "bars"], fmt=fmt)
    def several(pattern, axes):
        axes["lines"].plot(pattern)
        axes["bars"].hist(pattern.ravel())

    for func in (drawn, several):
        func(matrix, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{n}.{fmt}" for n in ("drawn", "several.lines", "several.bars")
    }


@EACH
@pytest.mark.parametrize("norm", ["linear", "power", "log", "quantile"])
def test_every_page_of_heatmaps(matrix, norm):
    maps = repeat(matrix)
    for sink, scale in itertools.product(("keep", "hide", "renormalise"), ("shared", "panel")):
        if len(matrix) == 1 and sink != "keep":
            continue  # nothing is left, which is a typed error
        look = {"norm": norm, "sink": sink, "scale": scale}
        render_figure(plot_heads(maps, 1, **look), "png")
    render_figure(plot_layer_averages(maps, norm=norm), "png")


@EACH
@pytest.mark.parametrize("kind", KINDS)
def test_every_overview(matrix, kind):
    if len(matrix) == 1 and kind == "sinks":
        return  # a first token alone is no sink, which is a typed error
    for look in [{"norm": norm} for norm in ("linear", "power", "log")] if "norm" in list_uses(kind) else [{}]:
        render_figure(plot_overview(repeat(matrix), kind, **look), "png")


@EACH
def test_comparisons_and_overlays(matrix):
    maps = repeat(matrix)
    render_figure(plot_comparison(maps, maps), "png")
    render_figure(plot_comparison(maps, make_maps(2, 2, len(matrix), causal=False, tokens=maps.tokens_key)), "png")
    patches = repeat(matrix, grid=(len(matrix), 1), causal=False)
    for query in (None, (0, 0)):
        render_figure(overlay_attention(patches, np.zeros((10, 4)), query=query), "png")


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, np.nan])
@pytest.mark.parametrize("norm", ["linear", "power", "log", "quantile"])
@pytest.mark.parametrize("diverging", [False, True])
def test_an_atlas_of_one_value(value, norm, diverging):
    if norm != "linear" and (value < 0 or diverging):
        return  # a typed error
    values = np.full((3, 4), value)
    for layer_means in (False, True):
        render_figure(plot_atlas(values, norm=norm, diverging=diverging, layer_means=layer_means), "png")
