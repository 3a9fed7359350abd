"""Heatmaps in anybody's axes: what layout engines, styles and people do to any other axes, they do to these."""

import inspect
import itertools

import matplotlib as mpl
import numpy as np
import pytest
import torch
from conftest import make_maps, try_examples
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from test_venues import check_boxes, list_venues, make_words

from attn_viewer import AttentionMaps, draw_heatmap, plot_heads, plot_panels
from attn_viewer.errors import OptionError
from attn_viewer.figures import draw_atlas
from attn_viewer.figures.labels import TokenStamps
from attn_viewer.figures.scales import round_end
from attn_viewer.figures.style import DARK, LIGHT
from attn_viewer.figures.venues import find_venue
from attn_viewer.tokens import show_text

TOKENS = ["<s>", "␣Summer", "␣is", "␣warm", ".", "␣Winter", "␣is", "␣cold"]


def draw(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def get_texts(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


HEADS = list(itertools.product(range(2), range(3)))
FRAMED = {"rows": [3]}


def compose_constrained(maps):
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots(2, 3)
    for letter, ax, head in zip("abcdef", axes.flat, HEADS, strict=True):
        draw_heatmap(maps, *head, ax=ax, vmax=1, highlight=FRAMED).set_title(f"({letter}) {head}", loc="left")
    figure.colorbar(axes[0, 0].images[-1], ax=axes, label="attention weight")
    return figure


def compose_tight(maps):
    figure = Figure(figsize=(7, 5))
    axes = figure.subplot_mosaic("abcx;defx", width_ratios=[1, 1, 1, 0.06])
    for letter, head in zip("abcdef", HEADS, strict=True):
        ax = draw_heatmap(maps, *head, ax=axes[letter], vmax=1, highlight=FRAMED, cbar=letter == "f" and axes["x"])
        ax.set_title(f"({letter}) {head}", loc="left")
    return figure.tight_layout() or figure


def compose_mosaic(maps):
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplot_mosaic("abc;def")
    for (letter, ax), head in zip(axes.items(), HEADS, strict=True):
        draw_heatmap(maps, *head, ax=ax, vmax=1, highlight=FRAMED).set_title(f"({letter}) {head}", loc="left")
    figure.colorbar(axes["a"].images[-1], ax=list(axes.values()), label="attention weight")
    return figure


def check_axes(figure):
    """Check that no axes overlap with their labels, all lie on the page, and no label touches the next."""
    renderer = draw(figure)
    boxes = np.array([ax.get_tightbbox(renderer).extents for ax in figure.axes])
    check_boxes(boxes, figure.bbox)
    for ax in figure.axes:
        for side, axis in enumerate((ax.xaxis, ax.yaxis)):
            texts = [label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()]
            ends = sorted((box.min[side], box.max[side]) for box in (t.get_window_extent(renderer) for t in texts))
            assert all(one[1] <= other[0] + 1.5 for one, other in itertools.pairwise(ends))


@pytest.mark.parametrize("compose", [compose_constrained, compose_tight, compose_mosaic])
def test_six_panels_with_letters_one_bar_and_a_framed_row_in_six_lines(compose):
    assert len(inspect.getsource(compose).splitlines()) - 1 <= 6
    figure = compose(make_maps(2, 3, 8, tokens=TOKENS))
    check_axes(figure)
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_ylabel() for ax in figure.axes if ax not in panels] == ["attention weight"]
    for letter, ax in zip("abcdef", panels, strict=True):
        assert ax.get_title("left").startswith(f"({letter})")
        assert get_texts(ax.xaxis) == get_texts(ax.yaxis) == TOKENS
        (frame,) = ax.patches
        assert frame.get_path().get_extents().extents.tolist() == [-0.5, 2.5, 7.5, 3.5]


def test_six_panels_in_one_call():
    figure = plot_panels(make_maps(2, 3, 8, tokens=TOKENS), HEADS, columns=3, highlight=FRAMED)
    renderer = draw(figure)
    page = figure.axes[0]
    words = [text.get_window_extent(renderer) for text in page.texts if text.get_text()]
    labels = [box for stamps in figure.findobj(TokenStamps) for box in stamps.label_boxes()]
    check_boxes(np.array([box.extents for box in (*words, *labels)]), figure.bbox)
    titles = [text.get_text() for text in page.texts if text.get_text().startswith("(")]
    assert titles == [
        f"({letter}) layer {layer}, head {head}" for letter, (layer, head) in zip("abcdef", HEADS, strict=True)
    ]
    assert [ax.get_label() for ax in figure.axes] == ["page", "colour bar"]
    assert len({image.get_extent()[0] for image in page.images}) == 3


def draw_for_a_venue(venue, n_tokens, n_heads, layout):
    """Return a figure as large as a page of the venue allows, with a heatmap a head in axes of one's own."""
    style, maps = find_venue(venue[0], columns=venue[1]), make_words(n_heads, n_tokens)
    across = {1: 1, 9: 3, 32: 4 if style.width < 360 else 8}[n_heads]
    down, width = -(-n_heads // across), style.width / 72
    look = style.make_rc() | {"xtick.labelsize": style.label, "ytick.labelsize": style.label}
    with mpl.rc_context(look):
        size = width, min(down * width / across * 1.1 + 0.3, style.height / 72)
        figure = Figure(figsize=size, layout="constrained" if layout == "constrained" else None)
        axes = figure.subplots(down, across, squeeze=False)
        for head, ax in enumerate(axes.flat):
            draw_heatmap(maps, 0, head, ax=ax, vmax=1).set_title(f"({head})", loc="left")
        if layout == "tight":
            figure.tight_layout()
        else:
            figure.colorbar(axes[0, 0].images[-1], ax=axes, label="attention weight")
        check_axes(figure)
        assert all(get_texts(axis) for ax in axes.flat for axis in (ax.xaxis, ax.yaxis))


@try_examples(0.1)
@given(
    st.sampled_from([venue for venue in list_venues() if "beamer" not in venue[0]]),
    st.sampled_from([5, 35, 300]),
    st.sampled_from([1, 9]),
    st.sampled_from(["constrained", "tight"]),
)
@example(("icml2024", 1), 35, 9, "constrained")  # numbers or words, each where there is room for the other
@example(("icml2024", 2), 300, 1, "tight")
def test_axes_for_any_venue_hold_their_labels(venue, n_tokens, n_heads, layout):
    draw_for_a_venue(venue, n_tokens, n_heads, layout)


@pytest.mark.slow
@pytest.mark.parametrize("n_tokens", [5, 35, 300])
@pytest.mark.parametrize("venue", [("icml2024", 1), ("icml2024", 2), ("neurips2024", 1)])
def test_thirty_two_axes_for_a_venue_hold_their_labels(venue, n_tokens):
    draw_for_a_venue(venue, n_tokens, 32, "constrained")


@pytest.mark.parametrize("layout", ["constrained", "compressed"])
@pytest.mark.parametrize("size", [(9, 6), (12, 8), (7, 5)])
def test_labels_that_fit_while_a_layout_engine_measures_are_those_that_are_drawn(size, layout):
    widths = [3, 4, 5, 7, 6, 17, 16, 5, 4, 24, 9, 2, 1, 8, 8, 24]  # every fourth is short, every second is not
    tokens = [chr(97 + i) * width for i, width in enumerate(widths)]
    figure = Figure(figsize=size, layout=layout)
    for i, ax in enumerate(figure.subplots(2, 3).flat):
        draw_heatmap(make_maps(1, 6, 16, tokens=tokens), 0, i, ax=ax)
    check_axes(figure)


def test_labels_have_fonts_of_the_family_that_is_set_now():
    tokens = ["a", "\N{HEBREW LETTER ALEF}"]
    for names in ["DejaVu Sans"], ["STIXGeneral"]:  # the second has no Hebrew
        with mpl.rc_context({"font.family": "sans-serif", "font.sans-serif": names}):
            draw(draw_heatmap(np.eye(2), tokens, ax=Figure().add_subplot()).figure)


def test_tight_layout_leaves_room_for_labels():
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots(1, 3)
    for ax in axes:
        draw_heatmap(np.tri(6), [f"a-long-token-{i}" for i in range(6)], ax=ax)
    figure.tight_layout()
    renderer = draw(figure)
    boxes = [ax.get_tightbbox(renderer) for ax in axes]
    assert all(one.x1 <= other.x0 + 1 for one, other in itertools.pairwise(boxes))
    assert boxes[0].x0 >= -1
    assert boxes[-1].x1 <= figure.bbox.x1 + 1


def test_what_people_do_to_axes():
    figure = Figure(figsize=(4, 4))
    ax = draw_heatmap(np.tri(8), TOKENS, ax=figure.add_subplot())
    ax.set_xlabel("keys")
    draw(figure)
    assert get_texts(ax.xaxis) == get_texts(ax.yaxis) == TOKENS
    ax.tick_params(labelsize=4, labelcolor="red", axis="y")
    ax.tick_params(axis="x", labelrotation=30)
    draw(figure)
    assert {label.get_fontsize() for label in ax.get_yticklabels()} == {4}
    assert {label.get_color() for label in ax.get_yticklabels()} == {"red"}
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {30}
    ax.set_xlim(1.5, 4.5)  # zoom
    draw(figure)
    assert get_texts(ax.xaxis) == TOKENS[2:5]
    assert ax.format_xdata(3) == "␣warm"
    ax.set_visible(False)
    assert ax.get_tightbbox(draw(figure)) is None
    ax.set_visible(True)
    ax.clear()
    draw(figure)
    assert not set(get_texts(ax.xaxis)) & set(TOKENS)


def test_shared_and_inset_axes():
    figure = Figure(figsize=(6, 3))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax in (left, right):
        draw_heatmap(np.tri(8), TOKENS, ax=ax)
    right.label_outer()
    inset = draw_heatmap(np.tri(2), ["a", "b"], ax=left.inset_axes((0.6, 0.6, 0.35, 0.35)))
    draw(figure)
    assert get_texts(left.yaxis) == TOKENS
    assert not any(label.get_visible() for label in right.get_yticklabels())
    assert get_texts(inset.xaxis) == ["a", "b"]


def test_labels_give_way_as_axes_shrink_and_come_back():
    figure = Figure(figsize=(8, 8), dpi=72)
    ax = draw_heatmap(np.tri(40), [f"word{i}" for i in range(40)], ax=figure.add_axes((0.2, 0.2, 0.75, 0.75)))
    draw(figure)
    assert len(get_texts(ax.yaxis)) == 40
    figure.set_size_inches(3, 3)
    draw(figure)
    some = get_texts(ax.yaxis)
    assert 4 <= len(some) <= 20
    assert some[0] == "word0"
    figure.set_size_inches(0.8, 0.8)
    draw(figure)
    assert all(text.isdigit() for text in get_texts(ax.yaxis))
    figure.set_size_inches(8, 8)
    draw(figure)
    assert len(get_texts(ax.yaxis)) == 40


def test_style_sheets_act():
    with pyplot.style.context("dark_background"):
        figure = Figure()
        ax = draw_heatmap(np.tri(3), list("abc"), ax=figure.add_subplot(), causal=True)
        draw(figure)
    assert mpl.colors.to_hex(ax.images[0].cmap(np.ma.masked)) == DARK.masked
    assert {label.get_color() for label in ax.get_xticklabels()} == {"white"}
    with mpl.rc_context({"ytick.labelsize": 3, "font.family": "serif"}):
        ax = draw_heatmap(np.tri(3), list("abc"), ax=Figure().add_subplot())
        draw(ax.figure)
        assert {label.get_fontsize() for label in ax.get_yticklabels()} == {3}
        assert {tuple(label.get_fontfamily()) for label in ax.get_yticklabels()} == {("serif",)}
    assert mpl.colors.to_hex(ax.images[0].cmap(np.ma.masked)) == LIGHT.masked


def test_maps_bring_their_mask_segments_sink_and_completion():
    maps = make_maps(1, 2, 6, segments=[("system", 0, 2), ("user", 2, 5)], prompt_length=4)
    ax = draw_heatmap(maps, 0, 1, ax=Figure().add_subplot(), sink="hide")
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(shown.mask, maps.future[1:, 1:])
    np.testing.assert_array_equal(shown.data, maps.weights[0][1, 1:, 1:])
    assert ax.images[0].get_extent() == [0.5, 5.5, 5.5, 0.5]
    draw(ax.figure)
    assert get_texts(ax.xaxis) == [f"t{i}" for i in range(1, 6)]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in dashed] == [(3.5, 0), (0, 3.5)]
    bands = sorted((*line.get_xdata(), *line.get_ydata()) for line in ax.lines if line not in dashed)
    assert bands == sorted([(0.5, 1.5, 0, 0), (1.5, 4.5, 0, 0), (0, 0, 0.5, 1.5), (0, 0, 1.5, 4.5)])
    mean = draw_heatmap(maps, ax=Figure().add_subplot())
    np.testing.assert_allclose(mean.images[0].get_array().data, maps.weights[0].mean(0), rtol=1e-6)
    with pytest.raises(OptionError, match="say which to draw"):
        draw_heatmap(make_maps(2))


def test_scales_and_bars():
    weights = np.tril(np.full((30, 30), 0.03)) + np.eye(30) * 0.2
    weights[0, 0] = 1
    figure = Figure()
    ax = draw_heatmap(weights, causal=True, ax=figure.add_subplot(), cbar=True, cmap=mpl.colormaps["viridis"])
    (bar,) = [one for one in figure.axes if one is not ax]
    assert ax.images[0].norm.vmax == round_end(0.23) == 0.25
    assert ax.images[0].colorbar.extend == "max"
    assert (bar.get_yticks()[0], bar.get_yticks()[-1]) == (0, 0.25)
    own, place = LogNorm(1e-3, 1), Figure().add_subplot()
    ax = draw_heatmap(weights, ax=Figure().add_subplot(), norm=own, cbar=place)
    assert ax.images[0].norm is own
    assert ax.images[0].colorbar.ax is place
    signed = draw_heatmap(weights - 0.1, ax=Figure().add_subplot())
    assert (signed.images[0].norm.vmin, signed.images[0].norm.vmax) == pytest.approx((-0.15, 0.15))
    assert draw_heatmap(np.tri(3), list("abc")).figure._repr_png_().startswith(b"\x89PNG")
    assert draw_atlas(np.eye(3)).figure._repr_png_().startswith(b"\x89PNG")


def test_wrong_options_are_named():
    for wrong in ({"layer": 0}, {"sink": "hide"}):
        with pytest.raises(OptionError, match="of a matrix, draw_heatmap takes"):
            draw_heatmap(np.tri(3), **wrong)
    with pytest.raises(OptionError, match="no option 'kausal'; did you mean 'causal'"):
        draw_heatmap(np.tri(3), kausal=True)
    with pytest.raises(OptionError, match="of maps, draw_heatmap takes layer, head, sink; got causal"):
        draw_heatmap(make_maps(), 0, causal=True)
    with pytest.raises(OptionError, match="queries of a causal map"):
        draw_heatmap(np.ones((4, 3)), causal=True)
    with pytest.raises(OptionError, match="real numbers"):
        draw_heatmap([["a"]])
    with pytest.raises(OptionError, match=r"but 3 of them hold weight: query 0 gives key 1 0\.333"):
        draw_heatmap(np.full((3, 3), 1 / 3), causal=True)


@try_examples(0.33)
@given(
    st.floats(0.6, 6),
    st.floats(0.6, 6),
    st.integers(1, 300),
    st.lists(st.text(max_size=12) | st.sampled_from(["", "$x_{", "\\frac", "%", "中文", "😀"]), min_size=1, max_size=9),
)
def test_any_tokens_are_labelled_without_overlap(width, height, n_tokens, tokens):
    tokens = [show_text(tokens[i % len(tokens)]) for i in range(n_tokens)]
    figure = Figure(figsize=(width + 1, height + 1), dpi=72)
    ax = figure.add_axes((1 / (width + 1), 1 / (height + 1), 0.98 - 1 / (width + 1), 0.98 - 1 / (height + 1)))
    weights = np.tri(n_tokens, dtype=np.float32)
    weights[:, ::7] *= 9  # which are named where numbers take the place of others
    draw_heatmap(weights, tokens, ax=ax, causal=True)
    ax.set_aspect("auto")
    renderer = draw(figure)
    for axis in (ax.xaxis, ax.yaxis):
        boxes = [label.get_window_extent(renderer) for label in axis.get_ticklabels() if label.get_text()]
        if not boxes:
            assert not any(tokens)
            continue
        side = 0 if axis is ax.xaxis else 1
        ends = sorted((box.min[side], box.max[side]) for box in boxes)
        assert all(one[1] <= other[0] + 1.5 for one, other in itertools.pairwise(ends))
        assert sum(ends[0]) / 2 >= ax.bbox.min[side] - 3
        assert sum(ends[-1]) / 2 <= ax.bbox.max[side] + 3


def test_tokens_that_stand_out_are_named_among_numbers():
    weights = np.tril(np.full((90, 90), 0.01))
    weights[:, 31] = weights[:, 0] = 0.4
    weights[60] *= 9
    ax = draw_heatmap(weights, [f"w{i}" for i in range(90)], ax=Figure(figsize=(2, 2)).add_subplot(), vmax=1)
    draw(ax.figure)
    keys, queries = get_texts(ax.xaxis), get_texts(ax.yaxis)
    assert {"0 w0", "31 w31"} <= set(keys)
    assert all(text.isdigit() for text in {*keys} - {"0 w0", "31 w31"})
    assert [text for text in queries if not text.isdigit()] == ["60 w60"]
    assert ax.format_xdata(31) == "31 w31"
    figure = plot_heads(AttentionMaps([weights[None].astype(np.float32)], [f"w{i}" for i in range(90)]), 0, width=2.5)
    said = {text.get_text() for text in figure.axes[0].texts}
    assert {"queries with much weight: 60 w60", "keys with much weight: 0 w0, 31 w31"} <= said
    few = plot_heads(AttentionMaps([weights[None, :9, :9].astype(np.float32)], list("abcdefghi")), 0)
    assert not any("much weight" in text.get_text() for text in few.axes[0].texts)


@pytest.mark.parametrize("kind", ["polar", "3d", "log"])
def test_axes_that_would_bend_the_cells_are_refused(kind):
    ax = Figure().add_subplot(projection=None if kind == "log" else kind)
    if kind == "log":
        ax.set_xscale("log")
    with pytest.raises(OptionError, match="axes of two linear scales"):
        draw_heatmap(np.eye(4), ax=ax)


def test_no_grid_of_a_style_sheet_crosses_out_cells():
    with pyplot.style.context("ggplot"):
        ax = draw_heatmap(np.eye(4), ax=Figure().subplots())
        assert not any(line.get_visible() for line in (*ax.get_xgridlines(), *ax.get_ygridlines()))


def test_nothing_is_ticked_between_tokens():
    with mpl.rc_context({"xtick.minor.visible": True, "ytick.minor.visible": True}):
        for ax in (draw_heatmap(np.eye(4), list("abcd")), draw_atlas(np.eye(4))):
            draw(ax.figure)
            assert not len(ax.xaxis.get_minorticklocs()) + len(ax.yaxis.get_minorticklocs())


def test_a_tensor_is_drawn_as_its_numbers():
    weights = torch.tensor([[1.0, 0.0], [0.25, 0.75]], dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(draw_heatmap(weights).images[-1].get_array(), [[1.0, 0.0], [0.25, 0.75]])


def test_ends_that_a_scale_of_ones_own_has_stay_and_others_are_found():
    for norm, ends in ((LogNorm(), (1e-4, 1.0)), (LogNorm(vmin=0.1), (0.1, 1.0)), (LogNorm(0.1, 0.5), (0.1, 0.5))):
        drawn = draw_heatmap(np.eye(4), norm=norm).images[-1].norm
        assert (drawn.vmin, drawn.vmax) == pytest.approx(ends)
    with pytest.raises(OptionError, match=r"ends at 0\.5, as norm= has it, and vmax=0\.2"):
        draw_heatmap(np.eye(4), norm=LogNorm(0.1, 0.5), vmax=0.2)
    with pytest.raises(OptionError, match="causal must be True or False, got 'x'"):
        draw_heatmap(np.eye(4), causal="x")


@pytest.mark.parametrize("name", ["rotation", "labelrotation"])
def test_labels_turned_before_the_first_drawing_stay_so(name):
    for is_before in (True, False):
        ax = Figure(figsize=(4, 4)).add_subplot()
        if is_before:
            ax.tick_params(axis="x", **{name: 45})
        draw_heatmap(np.tri(8), TOKENS, ax=ax)
        if not is_before:
            ax.tick_params(axis="x", **{name: 45})
        draw(ax.figure)
        assert {label.get_rotation() for label in ax.get_xticklabels()} == {45}


def test_what_was_chosen_for_other_labels_is_no_wish():
    ax = Figure(figsize=(4, 4)).add_subplot()
    many = [f"word {i}" for i in range(24)]
    draw_heatmap(np.tri(24), many, ax=ax)
    draw(ax.figure)
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {90}
    small = ax.get_xticklabels()[0].get_fontsize()
    draw_heatmap(np.tri(3), list("abc"), ax=ax)
    draw(ax.figure)
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {0}
    assert ax.get_xticklabels()[0].get_fontsize() > small


def test_axes_that_share_labels_show_the_same_tokens():
    figure = Figure()
    left, right = figure.subplots(1, 2, sharex=True)
    draw_heatmap(make_maps(1, 1, 3, tokens=["a", "b", "c"]), ax=left)
    before = right.get_children()
    with pytest.raises(OptionError, match="share their keys with others, which show other tokens"):
        draw_heatmap(make_maps(1, 1, 3, tokens=["d", "e", "f"]), ax=right)
    assert right.get_children() == before
    draw_heatmap(make_maps(1, 1, 3, seed=1, tokens=["a", "b", "c"]), ax=right)
    left.clear()
    right.clear()
    draw_heatmap(make_maps(1, 1, 2, tokens=["d", "e"]), ax=left)
    draw_heatmap(make_maps(1, 1, 2, tokens=["d", "e"]), ax=right)
    figure.draw_without_rendering()
    assert [[label.get_text() for label in ax.get_xticklabels()] for ax in (left, right)] == [["d", "e"]] * 2


def test_cleared_axes_take_labels_of_any_length():
    figure = Figure((4, 4))
    ax = figure.add_subplot()
    draw_heatmap(make_maps(1, 1, 60), ax=ax)  # numbers, upright
    figure.draw_without_rendering()
    ax.clear()
    draw_heatmap(make_maps(1, 1, 8, tokens=["a long word"] * 8), ax=ax)
    figure.draw_without_rendering()
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {90}
