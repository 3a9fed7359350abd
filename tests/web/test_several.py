"""Several maps in one page: two side by side, their difference, and the parts of an encoder-decoder."""

import re

import numpy as np
import pytest
from conftest import make_maps, wait_until
from test_page import read_page
from test_viewer import list_colors, point_at, read_pixels, wait_for_head

from attn_viewer import AttentionMaps, ablate_heads, capture_attention, compare_attention, export_html
from attn_viewer.cells import pool_maps
from attn_viewer.errors import InvalidMapsError, MapsMismatchError, OptionError
from attn_viewer.web.encode import describe_maps
from attn_viewer.web.several import describe_several

TEXT = "In the beginning God created the heaven and the earth."


@pytest.fixture(scope="module")
def pair(demo):
    model, tokenizer = demo
    before = capture_attention(model, tokenizer, TEXT, model_id="demo")
    with ablate_heads(model, [(0, 1), (0, 2)]):
        return before, capture_attention(model, tokenizer, TEXT, model_id="demo, ablated")


@pytest.fixture(scope="module")
def path(pair, tmp_path_factory):
    return export_html(compare_attention(*pair), tmp_path_factory.mktemp("pair") / "pair.html")[0]


def test_a_page_of_one_map_in_a_list_is_that_of_the_map(demo_maps, tmp_path):
    (alone,) = export_html(demo_maps, tmp_path / "alone.html")
    (listed,) = export_html([demo_maps], tmp_path / "listed.html")
    assert alone.read_bytes() == listed.read_bytes()
    assert read_page(alone)[0].keys().isdisjoint({"name", "links", "difference"})


def test_a_comparison_is_the_page_of_both_maps(pair, path, tmp_path):
    assert export_html(list(pair), tmp_path / "list.html")[0].read_bytes() == path.read_bytes()


def test_two_maps_side_by_side_are_pointed_at_together(open_page, path, pair):
    before, after = pair
    page = open_page(path, "view=heatmap&layer=2&head=3")
    page.wait_for_selector('.av-plot[data-ready="2.3"] >> nth=1')
    a, b = (maps.get_layer(2)[3][9, 4] for maps in pair)
    query, key, *weights = point_at(page, 9, 4, plot=0)
    assert (query, key) == (f"query 9  {before.tokens_key[9]}", f"key 4  {before.tokens_key[4]}")
    assert [line.split(":")[0] for line in weights] == ["A", "B", "B − A"]
    shown = [float(re.sub("−", "-", line).split()[-1]) for line in weights]
    np.testing.assert_allclose(shown, [a, b, b - a], rtol=0.05, atol=6e-4)
    other = page.locator(".av-map").nth(1)
    told = other.locator(".av-told").inner_text()
    assert told.startswith(f"query 9  {after.tokens_key[9]} → key 4  {after.tokens_key[4]}: weight ")
    assert other.locator(".av-cell").is_visible()
    page.mouse.move(1, 1)
    assert not other.locator(".av-over").is_visible()
    # In the other direction, and what is pinned is pinned in both.
    assert point_at(page, 5, 2, plot=1)[2].startswith("B: ")
    page.mouse.down()
    page.mouse.up()
    wait_until(page, 'location.hash.includes("pin=5.2")')
    page.wait_for_timeout(100)
    assert [text.split("→")[0] for text in page.locator(".av-told").all_inner_texts()] == [
        f"pinned: query 5  {before.tokens_key[5]} "
    ] * 2


def test_colours_mean_the_same_side_by_side(open_page, path, pair):
    page = open_page(path, "view=heatmap&layer=1&head=0&scale=linear")
    page.wait_for_selector('.av-plot[data-ready="1.0"] >> nth=1')
    weights = [maps.get_layer(1)[0] for maps in pair]
    top = max(w.max() for w in weights)
    lower = np.tril(np.ones_like(weights[0], bool))
    colors = list_colors(describe_maps(pair[0])).astype(int)
    n = len(lower)
    for plot, values in enumerate(weights):
        expected = colors[np.rint(255 * values / top).astype(int)]
        seen = read_pixels(page, range(n), range(n), plot=plot)
        assert np.abs(seen - expected)[lower].max() <= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_difference_is_on_a_diverging_scale(open_page, path, pair, scheme):
    page = open_page(path, "maps=2&view=heatmap&layer=2&head=3&scale=linear", scheme=scheme)
    wait_for_head(page, 2, 3)
    values = pair[1].get_layer(2)[3] - pair[0].get_layer(2)[3]
    meta = describe_several(pair, [{}, {}])[2]
    palette = meta["palette_dark" if scheme == "dark" else "palette"]
    colors = np.frombuffer(bytes.fromhex(palette), np.uint8).reshape(256, 3).astype(int)
    expected = colors[np.rint(127.5 * (1 + values / np.abs(values).max())).astype(int)]
    n = len(values)
    lower = np.tril(np.ones((n, n), bool))
    assert np.abs(read_pixels(page, range(n), range(n)) - expected)[lower].max() <= 6
    row, column = np.unravel_index(np.argmin(values), values.shape)
    assert values[row, column] < 0
    shown = point_at(page, int(row), int(column))[2].removeprefix("weight ").replace("−", "-")
    assert float(shown) == pytest.approx(values[row, column], abs=6e-4)
    assert "demo, ablated − demo" in page.locator("h1").inner_text()


def test_any_array_with_signs_is_on_a_diverging_scale(open_page, tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 2, 5, 5)).astype(np.float32)
    maps = AttentionMaps(list(values), list("abcde"), signed=True, causal=False)
    page = open_page(export_html(maps, tmp_path / "signed.html")[0], "view=heatmap&layer=1&head=1&scale=linear")
    wait_for_head(page, 1, 1)
    colors = np.frombuffer(bytes.fromhex(read_page(tmp_path / "signed.html")[0]["palette"]), np.uint8).reshape(256, 3)
    head = values[1, 1]
    expected = colors[np.rint(127.5 * (1 + head / np.abs(head).max())).astype(int)].astype(int)
    assert np.abs(read_pixels(page, range(5), range(5)) - expected).max() <= 6
    row, column = np.argwhere(head < 0)[0]
    assert float(point_at(page, int(row), int(column))[2].split()[-1].replace("−", "-")) == pytest.approx(
        head[row, column], abs=6e-4
    )


def test_heads_are_sorted_by_how_much_they_changed(open_page, path, pair):
    page = open_page(path, "maps=2&view=overview&sort=distance")
    page.wait_for_selector(".av-overview[data-ready]")
    first = page.locator("[data-key]").first.get_attribute("data-key").split(".")
    distances = compare_attention(*pair).distances
    layer, head = max(
        ((i, j) for i, row in enumerate(distances) for j in range(len(row))), key=lambda p: distances[p[0]][p[1]]
    )
    assert [int(part) for part in first] == [layer, head]


def test_the_switch_and_back(open_page, path):
    page = open_page(path, "view=heatmap&layer=1&head=2")
    for name, count in (("A", 1), ("B − A", 1), ("Side by side", 2)):
        page.get_by_role("group", name="Maps").get_by_role("button", name=name, exact=True).click()
        page.wait_for_selector(f'.av-plot[data-ready="1.2"] >> nth={count - 1}')
        assert page.locator(".av-plot").count() == count
    page.go_back()
    page.get_by_role("heading", name="demo, ablated − demo").wait_for()
    assert page.locator(".av-plot").count() == 1


def test_two_prompts_are_linked_by_their_tokens(open_page, demo, tmp_path):
    model, tokenizer = demo
    one = capture_attention(model, tokenizer, TEXT, model_id="demo")
    other = capture_attention(model, tokenizer, TEXT.replace("God", "Godly men"), model_id="demo")
    assert len(one.tokens_key) != len(other.tokens_key)
    (path,) = export_html([one, other], tmp_path / "prompts.html")
    page = open_page(path, "view=heatmap&layer=2&head=3")
    page.wait_for_selector('.av-plot[data-ready="2.3"] >> nth=1')
    n, more = len(one.tokens_key), len(other.tokens_key)
    lines = point_at(page, n - 1, n - 2, plot=0)
    assert float(lines[3].split()[-1]) == pytest.approx(other.get_layer(2)[3][more - 1, more - 2], abs=6e-4)
    assert len(lines) == 4  # there is no difference, and the page says why
    assert "There is no difference B − A: query tokens differ" in page.locator(".av-maps").inner_text()
    new = next(i for i, token in enumerate(other.tokens_key) if token not in one.tokens_key)
    assert len(point_at(page, new, 0, plot=1)) == 3  # a token that A lacks
    for view in ("text", "lines", "overview"):
        page.keyboard.press(str(("overview", "heatmap", "text", "lines").index(view) + 1))
        page.wait_for_selector(f".av-{view}[data-ready] >> nth=1")
        if view == "text":
            page.locator(f'.av-map >> nth=0 >> [data-pane="observer"] >> [data-token="{n - 2}"]').hover()
            focused = page.locator('.av-map >> nth=1 >> [data-pane="observer"] >> .av-focus')
            assert focused.get_attribute("data-token") == str(more - 2)


def test_two_models_of_different_shape(open_page, tmp_path):
    small, large = make_maps(2, 2, 6, model_id="small"), make_maps(5, 4, 6, seed=1, model_id="large")
    (path,) = export_html([small, large], tmp_path / "models.html")
    page = open_page(path, "maps=1&view=heatmap&layer=4&head=3")
    wait_for_head(page, 4, 3)
    page.get_by_role("button", name="Side by side").click()
    page.wait_for_selector('.av-plot[data-ready="1.0"]')  # the nearest layer, and a head that is there
    assert "layers differ" in page.locator(".av-maps").inner_text()


def test_parts_of_an_encoder_decoder(open_page, tmp_path):
    source, target = [f"s{i}" for i in range(5)], [f"t{i}" for i in range(4)]
    rng = np.random.default_rng(0)

    def make(rows, columns, **facts):
        weights = rng.random((2, 3, len(rows), len(columns))).astype(np.float32)
        if facts["kind"] == "decoder":
            weights = np.tril(weights)
        weights /= weights.sum(-1, keepdims=True)
        return AttentionMaps(list(weights), columns, tokens_query=rows, model_id="t5", **facts)

    parts = [
        make(source, source, kind="encoder", causal=False),
        make(target, target, kind="decoder"),
        make(target, source, kind="cross", causal=False),
    ]
    (path,) = export_html(parts, tmp_path / "parts.html")
    page = open_page(path, "view=heatmap&layer=1&head=2")
    for index, name in enumerate(("Encoder", "Decoder", "Cross attention")):
        page.get_by_role("button", name=name, exact=True).click()
        rows, columns = parts[index].shape
        page.wait_for_selector(f'.av-plot[aria-label*="{rows} queries by {columns} keys"]')
        wait_for_head(page, 1, 2)
        query, key, weight = point_at(page, 3, 2)
        assert query == f"query 3  {parts[index].tokens_query[3]}"
        assert key == f"key 2  {parts[index].tokens_key[2]}"
        assert float(weight.split()[-1]) == pytest.approx(parts[index].get_layer(1)[2, 3, 2], abs=6e-4)
    assert page.get_by_role("button", name="Side by side").count() == 0


def test_several_maps_share_the_budget(tmp_path, open_page):
    one, other = make_maps(4, 6, 150), make_maps(4, 6, 150, seed=1)
    size = export_html([one, other], tmp_path / "whole.html")[0].stat().st_size
    (path,) = export_html([one, other], tmp_path / "pooled.html", max_mb=size / 2e6)
    assert path.stat().st_size <= size / 2
    meta = read_page(path)[0]
    assert meta["cell"][0] > 1
    page = open_page(path, "maps=2&view=heatmap&layer=1&head=2")
    wait_for_head(page, 1, 2)
    side = meta["cell"][0]
    value = pool_maps(other, side).get_layer(1)[2] - pool_maps(one, side).get_layer(1)[2]
    shown = point_at(page, 20, 7)[2].removeprefix("weight ≈ ").replace("−", "-")
    assert float(shown) == pytest.approx(value[20, 7], abs=0.01)
    notes = page.locator(".av-notes").inner_text()
    assert "difference of the max in each cell" in notes
    assert "a difference is at most" in notes


def test_what_cannot_be_compared_is_refused(tmp_path, demo_maps):
    path = tmp_path / "x.html"
    for wrong in ([], [demo_maps] * 17):
        with pytest.raises(OptionError, match="1 to 16 maps"):
            export_html(wrong, path)
    for wrong in ([demo_maps, 3], [np.ones((2, 2))], 3, {"a": demo_maps}):
        with pytest.raises(InvalidMapsError, match="AttentionMaps"):
            export_html(wrong, path)
    with pytest.raises(OptionError, match="split"):
        export_html([demo_maps, demo_maps], path, fit="split")
    with pytest.raises(OptionError, match="scores="):
        export_html([demo_maps, demo_maps], path, scores={})
    with pytest.raises(MapsMismatchError, match="tokens differ"):
        export_html(compare_attention(demo_maps, make_maps(4, 8, len(demo_maps.tokens_key))), path)
    assert not path.exists()
