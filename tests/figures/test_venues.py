import builtins
import gzip
import inspect
import threading

import matplotlib as mpl
import numpy as np
import pytest
from conftest import make_maps, try_examples
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from tueplots import bundles

from attn_viewer import (
    AttentionMaps,
    plot_atlas,
    plot_birds_eye,
    plot_comparison,
    plot_heads,
    plot_layer_averages,
    plot_lines,
    plot_overview,
    plot_panels,
    plot_running_text,
)
from attn_viewer.errors import OptionError, PageSizeError
from attn_viewer.figures import plot_similarity
from attn_viewer.figures.formats import render_figure
from attn_viewer.figures.labels import TokenStamps
from attn_viewer.figures.style import DARK, SMALLEST_LABEL, STIX, PageStyle
from attn_viewer.figures.venues import find_venue, get_style, use_preset, use_style
from attn_viewer.tokens import show_text

WIDTHS = {("icml2024", 1): 3.25, ("icml2024", 2): 6.75, ("neurips2024", 1): 5.5, ("aaai2024", 1): 3.3}
VENUES = [pytest.param(*venue, marks=[] if venue[0] == "icml2024" else [pytest.mark.slow]) for venue in WIDTHS]


def get_sizes(figure):
    return {text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()}


@pytest.mark.parametrize(("preset", "columns"), VENUES)
def test_figures_are_as_wide_as_the_columns(preset, columns, demo):
    from attn_viewer import capture_attention

    maps = capture_attention(*demo, "In the beginning God created the heaven and the earth", model_id="demo")
    with use_preset(preset, columns=columns):
        sizes = get_style()
        figures = [
            plot_layer_averages(maps),
            plot_heads(maps, 1, scale="panel"),
            plot_atlas(np.eye(4, 8), model_id="demo", layer_means=True),
            plot_comparison(maps, maps),
            *(plot_overview(maps, kind) for kind in ("birds_eye", "last_token", "sinks", "similarity")),
        ]
    for figure in figures:
        assert figure.get_figwidth() == pytest.approx(WIDTHS[preset, columns])
        assert figure.dpi == 300
        said = get_sizes(figure)
        assert said <= {sizes.label, sizes.axis, sizes.note, sizes.title, sizes.heading}
        assert sizes.heading in said
    for stamps in figures[0].findobj(TokenStamps):
        assert {stamps.queries.size, stamps.keys.size} == {sizes.label}
    assert get_style() == PageStyle()


def test_a_page_for_a_venue_says_the_sizes_that_the_venue_wants():
    icml = find_venue("icml2024")
    assert (icml.label, icml.axis, icml.note, icml.title, icml.heading) == (6, 8, 6, 8, 8)
    assert icml.width == 3.25 * 72
    assert icml.family[0] in {font.name for font in mpl.font_manager.fontManager.ttflist}
    # A venue whose fonts only TeX has.
    assert find_venue("aistats2023").family == (STIX,)


@pytest.mark.parametrize(("preset", "columns"), VENUES)
@pytest.mark.parametrize("n_tokens", [3, 9, 40, 700])
def test_a_comparison_keeps_three_panels_a_row(preset, columns, n_tokens):
    maps = make_maps(2, 2, n_tokens, layers=[8, 29])
    with use_preset(preset, columns=columns):
        figure = plot_comparison(maps, maps)
        words, labels = collect_boxes(figure)
    boxes = np.array([box.extents for box in (*words, *labels)])
    assert len({image.get_extent()[0] for image in figure.axes[0].images}) == 3
    assert len({image.get_extent()[3] for image in figure.axes[0].images}) == 2
    check_boxes(boxes, figure.bbox)


@pytest.mark.parametrize(("preset", "columns"), VENUES)
@pytest.mark.parametrize("n_tokens", [4, 90])
def test_an_effect_fits_a_column(preset, columns, n_tokens, demo):
    from attn_viewer import ablate_heads, measure_effect, plot_effect

    model, _ = demo
    effect = measure_effect(model, demo[1], list(range(5, 5 + n_tokens)), ablate_heads(model, [(1, 2)]))
    with use_preset(preset, columns=columns):
        figure = plot_effect(effect)
        words, _ = collect_boxes(figure)
    assert figure.get_figwidth() == pytest.approx(WIDTHS[preset, columns])
    renderer = FigureCanvasAgg(figure).get_renderer()
    parts = [ax for ax in figure.axes if ax.get_label() in ("divergence", "tokens", "next", "heads")]
    assert len(parts) == 4
    sides = [axis.get_tightbbox(renderer) for ax in parts for axis in (ax.xaxis, ax.yaxis)]
    check_boxes(np.array([box.extents for box in (*words, *filter(None, sides))]), figure.bbox)


def collect_boxes(figure):
    data = render_figure(figure, "png")
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    assert width == round(figure.get_figwidth() * figure.dpi)
    assert height == pytest.approx(figure.get_figheight() * figure.dpi, abs=1)
    renderer = FigureCanvasAgg(figure).get_renderer()
    words = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text()]
    return words, [box for stamps in figure.findobj(TokenStamps) for box in stamps.label_boxes()]


@try_examples(0.4)
@given(
    st.sampled_from(list(WIDTHS)),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(1, 120),
    st.lists(st.text(max_size=12) | st.sampled_from(["$x_{", "中文", "😀", "\n"]), min_size=1, max_size=20),
    st.sampled_from(["shared", "panel"]),
)
def test_nothing_overlaps_or_leaves_a_column(venue, n_panels, columns, n_tokens, tokens, scale):
    tokens = [show_text(tokens[i % len(tokens)]) for i in range(n_tokens)]
    weights = np.broadcast_to(np.tri(n_tokens, dtype=np.float32), (n_panels, n_tokens, n_tokens))
    maps = AttentionMaps([weights], tokens, model_id="a model of some name")
    with use_preset(venue[0], columns=venue[1]):
        try:
            figure = plot_heads(maps, 0, num_figs_per_row=columns, scale=scale)
        except PageSizeError:
            assert n_panels > columns  # one row fits any page
            return
        words, labels = collect_boxes(figure)
    check_boxes(np.array([box.extents for box in (*words, *labels)]), figure.bbox)


def check_boxes(boxes, page):
    assert (boxes[:, :2] >= -1.5).all()
    assert (boxes[:, 2:] <= [page.x1 + 1.5, page.y1 + 1.5]).all()
    wide = np.minimum(boxes[:, None, 2], boxes[:, 2]) - np.maximum(boxes[:, None, 0], boxes[:, 0])
    high = np.minimum(boxes[:, None, 3], boxes[:, 3]) - np.maximum(boxes[:, None, 1], boxes[:, 1])
    overlaps = (wide > 1.5) & (high > 1.5)
    np.fill_diagonal(overlaps, False)
    assert not overlaps.any()


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (3, 40), (40, 3)])
def test_thin_panels_are_no_hairlines_and_no_towers(shape):
    maps = AttentionMaps(
        [np.ones((2, *shape), np.float32)], ["k"] * shape[1], tokens_query=["q"] * shape[0], kind="cross", causal=False
    )
    with use_preset("icml2024"):
        figure = plot_heads(maps, 0)
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert 5.9 <= top - bottom <= 648
    assert right - left >= 30


def test_a_preset_that_cannot_be_used(monkeypatch):
    with (
        pytest.raises(OptionError, match=r"did you mean 'icml2024'\? there are aaai2024, .*uai2023"),
        use_preset("icml24"),
    ):
        pass
    for columns in (0, 3, True, "1"):
        with pytest.raises(OptionError, match="columns must be 1 or 2"), use_preset("icml2024", columns=columns):
            pass
    with pytest.raises(OptionError, match="columns must be 1 for neurips2024"), use_preset("neurips2024", columns=2):
        pass
    with (
        use_style(PageStyle(width=108.0)),
        pytest.raises(OptionError, match=r"at least .* wide and the preset has 1\.50"),
    ):
        plot_atlas(np.eye(2))
    whole = builtins.__import__

    def without_tueplots(name, *args, **kwargs):
        if name.startswith("tueplots"):
            raise ImportError(name)
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tueplots)
    with pytest.raises(OptionError, match=r"pip install 'attn-viewer\[venues\]'"), use_preset("icml2024"):
        pass


def test_a_preset_leaves_matplotlib_and_other_threads_alone():
    before, seen = dict(mpl.rcParams), []
    with use_preset("icml2024"):
        thread = threading.Thread(target=lambda: seen.append(get_style()))
        thread.start()
        thread.join()
        plot_layer_averages(make_maps())
    assert seen == [PageStyle()]
    assert dict(mpl.rcParams) == before


def test_figure_functions_are_for_the_venue_too(tmp_path):
    from attn_viewer.figures.builtin import svd_spectra

    pattern = np.tri(12, dtype=np.float32)
    pattern /= pattern.sum(1, keepdims=True)
    with use_preset("neurips2024"):
        svd_spectra(pattern, tmp_path)
    text = gzip.decompress((tmp_path / "svd_spectra.svgz").read_bytes()).decode()
    assert 'width="396pt"' in text
    assert "7px" in text
    assert "9px" in text


def list_venues():
    """Return every venue of tueplots with one and two columns, where its page has them."""
    known = inspect.getmembers(bundles, inspect.isfunction)
    known = [(name, made) for name, made in known if made.__module__ == bundles.__name__ and name[0] != "_"]
    return [
        (name, n) for name, made in known for n in (1, 2) if n == 1 or "column" in inspect.signature(made).parameters
    ]


def make_words(n_heads, n_tokens):
    weights = np.broadcast_to(np.tri(n_tokens, dtype=np.float32), (n_heads, n_tokens, n_tokens))
    return AttentionMaps([weights], [f"token{i}"[: 3 + i % 6] for i in range(n_tokens)], causal=True)


@given(
    st.sampled_from(list_venues()),
    st.sampled_from([5, 35, 300]),
    st.sampled_from([1, 9, 32]),
    st.sampled_from([None, True]),
)
@example(("probnum2025", 1), 5, 32, None)  # of all venues, that whose titles have the least room
def test_pages_are_no_higher_than_the_venues_and_nothing_overlaps(venue, n_tokens, n_heads, dark):
    preset, columns = venue
    maps, page = make_words(n_heads, n_tokens), find_venue(preset, columns=columns)
    try:
        figure = plot_heads(maps, 0, preset=preset, columns=columns, dark=bool(dark))
    except PageSizeError:
        assert "beamer" in preset
        assert n_heads > 1
        return
    assert figure.get_figheight() * 72 <= page.height + 1
    if n_heads == 9 and "beamer" not in preset:
        assert len({image.get_extent()[0] for image in figure.axes[0].images}) == 3
    is_dark = dark or "dark" in preset
    assert (mpl.colors.to_hex(figure.get_facecolor()) == DARK.ground) == is_dark
    assert (mpl.colors.to_hex(figure.axes[0].images[0].cmap(np.ma.masked)) == DARK.masked) == is_dark
    renderer = FigureCanvasAgg(figure).get_renderer()
    words = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text()]
    labels = [box for stamps in figure.findobj(TokenStamps) for box in stamps.label_boxes()]
    assert labels
    check_boxes(np.array([box.extents for box in (*words, *labels)]), figure.bbox)


@pytest.mark.parametrize(
    ("n_heads", "n_tokens", "columns", "wish", "across"),
    [(4, 120, 1, None, 2), (2, 12, 1, None, 2), (2, 35, 2, None, 2), (3, 19, 2, None, 3), (4, 19, 1, 4, 4)],
)
def test_a_page_is_rather_flat_than_a_tower_that_labels_more_tokens(n_heads, n_tokens, columns, wish, across):
    look = {"preset": "icml2024", "columns": columns, "num_figs_per_row": wish}
    figure = plot_heads(make_words(n_heads, n_tokens), 0, **look)
    assert len({image.get_extent()[0] for image in figure.axes[0].images}) == across
    assert figure.get_figheight() < 5


def list_pages(maps):
    return [
        lambda **options: plot_layer_averages(maps.select(layers=range(4)), **options),
        lambda **options: plot_heads(maps, 0, **options),
        lambda **options: plot_atlas(np.eye(40, 12), **options),
        lambda **options: plot_comparison(maps.select(layers=[0, 1]), maps.select(layers=[0, 1]), **options),
        lambda **options: plot_birds_eye(maps, **options),
        lambda **options: plot_running_text(maps, **options),
        lambda **options: plot_similarity(np.eye(20), names=[str(i) for i in range(20)], **options),
        lambda **options: plot_panels(maps, [(0, 1), (3, 2)], highlight={"rows": [3]}, **options),
        lambda **options: plot_lines(maps, 0, **options),
    ]


def test_every_page_function_fits_hides_and_turns_dark():
    for draw in list_pages(make_maps(40, 3, 12)):
        figure = draw(figsize=(5, 8), title="a name", dark=True)
        assert figure.get_size_inches().tolist() == [5, 8]
        assert mpl.colors.to_hex(figure.get_facecolor()) == DARK.ground
        assert any("a name" in text.get_text() for text in figure.axes[0].texts)
        plain = draw(heading=False, notes=False, fontsize=4)
        said = [text.get_text() for text in plain.axes[0].texts]
        assert not any("a name" in word or "tokens" in word for word in said)
        assert get_sizes(plain) <= {4.0, *(size * 4 / 6.5 for size in (7, 7.5, 9.5))} | {SMALLEST_LABEL}
        assert draw(width=6).get_figwidth() == pytest.approx(6)
    with pytest.raises(PageSizeError, match="high and the page has"):
        plot_lines(make_maps(1, 1, 60), 0, preset="beamer_moml")
