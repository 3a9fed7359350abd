"""What is left out of a view, and that the page says so: pairs of texts, hidden tokens, cells in a pixel."""

import numpy as np
import pytest
from conftest import make_maps
from test_viewer import count_painted, point_at, read_pixels, read_place, wait_for_head

from attn_viewer import export_html, group_attention
from attn_viewer.cells import pool_maps
from attn_viewer.web.encode import describe_maps

WORDS = ["[CLS]", "the", "cat", "sat", "[SEP]", "a", "dog", "lay", "down", "[SEP]"]
START = 5
PARTS = {"A": slice(0, START), "B": slice(START, None)}


@pytest.fixture(scope="module")
def maps():
    spans = [("sentence A", 0, START), ("sentence B", START, len(WORDS))]
    return make_maps(2, 3, len(WORDS), tokens=WORDS, causal=False, segments=spans, model_id="pair")


@pytest.fixture(scope="module")
def path(maps, tmp_path_factory):
    return export_html(maps, tmp_path_factory.mktemp("pair") / "pair.html")[0]


@pytest.mark.parametrize("pair", ["AA", "AB", "BA", "BB"])
def test_only_the_queries_and_keys_of_a_pair_are_shown(open_page, path, maps, pair):
    query, key = pair
    page = open_page(path, "view=heatmap&layer=1&head=2")
    wait_for_head(page, 1, 2)
    page.get_by_role("button", name=f"{query} → {key}").click()
    page.get_by_text(f"Only queries of {query} and keys of {key}.").wait_for()
    n = len(WORDS)
    grey = list(bytes.fromhex(describe_maps(maps)["masked"][0][1:]))
    masked = (read_pixels(page, range(n), range(n)) == grey).all(-1)
    expected = np.ones((n, n), bool)
    expected[PARTS[query], PARTS[key]] = False
    np.testing.assert_array_equal(masked, expected)
    page.keyboard.press("4")
    page.wait_for_selector(".av-lines[data-ready]")
    shown = np.sqrt(maps.get_layer(1) / maps.get_layer(1).max((1, 2), keepdims=True))[:, PARTS[query], PARTS[key]]
    assert int(page.locator(".av-lines-plot canvas").get_attribute("data-lines")) == (shown >= 0.03).sum()
    page.keyboard.press("3")
    page.wait_for_selector(".av-text[data-ready]")
    page.locator('[data-pane="observer"] [data-token="6"]').hover()
    painted = np.flatnonzero(count_painted(page, "observer"))
    assert set(painted) == (set(range(n)[PARTS[key]]) if query == "B" else set())


def test_a_cell_of_both_texts_belongs_to_either(open_page, tmp_path, maps):
    page = open_page(export_html(pool_maps(maps, 3), tmp_path / "p.html")[0], "view=heatmap&layer=1&head=2&pair=AB")
    wait_for_head(page, 1, 2)
    grey = list(bytes.fromhex(describe_maps(maps)["masked"][0][1:]))
    masked = (read_pixels(page, range(4), range(4)) == grey).all(-1)
    expected = np.ones((4, 4), bool)
    expected[:2, 1:] = False
    np.testing.assert_array_equal(masked, expected)


def test_maps_that_are_no_pair_have_no_such_choice(open_page, tmp_path):
    (path,) = export_html(make_maps(), tmp_path / "one.html")
    page = open_page(path, "view=heatmap&pair=AB")
    wait_for_head(page, 0, 0)
    assert page.get_by_role("group", name="Pairs").count() == 0
    assert not page.locator(".av-cuts").is_visible()


def test_segments_are_named_on_axes_and_tokens(open_page, path, tmp_path):
    page = open_page(path, "view=heatmap&layer=1&head=2&zoom=2")
    wait_for_head(page, 1, 2)
    assert point_at(page, 1, 2)[:2] == ["query 1  the  (sentence A)", "key 2  cat  (sentence A)"]
    page.get_by_text("Save").click()
    with page.expect_download() as download:
        page.get_by_text("View as SVG").click()
    assert "sentence A" in download.value.path().read_text("utf-8")


def test_counts_name_words(open_page, tmp_path):
    maps = group_attention(make_maps(2, 3, 4, tokens=["one", " two", "s", " three"]), "words")
    page = open_page(export_html(maps, tmp_path / "w.html")[0])
    assert "3 words" in page.locator(".av-title").inner_text()


def test_what_is_sorted_pooled_and_left_out_is_said(open_page, tmp_path):
    maps = make_maps(2, 3, 700)
    page = open_page(export_html(maps, tmp_path / "many.html")[0], "view=overview&sort=sink_mass&first=hide&min=0_05")
    page.wait_for_selector(".av-overview[data-ready]")
    words = page.locator(".av-cuts").inner_text()
    assert words.startswith("First token hidden; weights under 0.05 left out; 6 heads by sink mass, largest first; ")
    side = page.locator(".av-tile").first.evaluate("tile => tile.clientWidth")
    assert f"a pixel is the largest of {-(-700 // side)} × {-(-700 // side)} cells" in words
    page.keyboard.press("2")
    page.wait_for_selector(".av-plot[data-ready]:not([data-ready=false])")
    page.wait_for_timeout(100)
    factor = int(np.ceil(1 / read_place(page)[2]))
    words = page.locator(".av-cuts").inner_text()
    assert words.endswith(f"a pixel is the largest of {factor} × {factor} cells.") == (factor > 1)


def test_tooltips_say_how_many_heads_more_there_are(open_page, tmp_path):
    path = export_html(make_maps(1, 15, 6), tmp_path / "h.html")[0]
    page = open_page(path, "view=text&layer=0&observer=5&rows=own")
    page.wait_for_selector(".av-text[data-ready]")
    page.locator('[data-pane="observer"] [data-token="2"]').hover()
    lines = page.locator(".av-tooltip").inner_text().split("\n")
    assert len(lines) == 1 + 12 + 1
    assert lines[-1] == "and 3 more heads"
