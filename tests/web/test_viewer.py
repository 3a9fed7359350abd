"""The front end in a real browser: what it shows equals the maps, and every control does what it says."""

import io
import re

import numpy as np
import pytest
from conftest import make_maps, wait_until

from attn_viewer import AttentionMaps, capture_attention, export_html
from attn_viewer.cells import pool_maps
from attn_viewer.web.encode import decode_head, describe_maps, encode_head

TEXT = "In the beginning God created the heaven and the earth.\nAnd the earth was without form."
VIEWS = ("overview", "heatmap", "text", "lines")


@pytest.fixture(scope="module")
def maps(demo):
    return capture_attention(*demo, TEXT, model_id="demo")


@pytest.fixture(scope="module")
def path(maps, tmp_path_factory):
    return export_html(maps, tmp_path_factory.mktemp("page") / "demo.html")[0]


def wait_for_head(page, layer, head):
    page.wait_for_selector(f'.av-plot[data-ready="{layer}.{head}"]')


def read_place(page, plot=0):
    return [float(word) for word in page.locator(".av-plot").nth(plot).get_attribute("data-place").split()]


def read_pixels(page, rows, columns, *, plot=0):
    """Return the colours in the middle of each cell, axes ``(rows, columns, 3)``."""
    left, top, cell, x, y = read_place(page, plot)
    xs = [left + (column + 0.5 - x) * cell for column in columns]
    ys = [top + (row + 0.5 - y) * cell for row in rows]
    script = """([xs, ys, plot]) => {
        const drawing = document.querySelectorAll(".av-base")[plot].getContext("2d");
        const read = (x, y) => [...drawing.getImageData(Math.floor(x), Math.floor(y), 1, 1).data.slice(0, 3)];
        return ys.map((y) => xs.map((x) => read(x, y)));
    }"""
    return np.array(page.evaluate(script, [xs, ys, plot]))


def list_colors(meta):
    return np.frombuffer(bytes.fromhex(meta["palette"]), np.uint8).reshape(256, 3)


def point_at(page, row, column, *, plot=0):
    left, top, cell, x, y = read_place(page, plot)
    box = page.locator(".av-plot").nth(plot).bounding_box()
    page.mouse.move(box["x"] + left + (column + 0.5 - x) * cell, box["y"] + top + (row + 0.5 - y) * cell)
    return page.locator(".av-tooltip").inner_text().split("\n")


@pytest.mark.parametrize("scale", ["linear", "power", "log"])
def test_pixels_are_the_weights(open_page, path, maps, scale):
    page = open_page(path, f"view=heatmap&layer=2&head=3&scale={scale}")
    wait_for_head(page, 2, 3)
    weights = maps.get_layer(2)[3]
    n = len(weights)
    share = weights / weights.max()
    norm = {
        "linear": lambda share: share,
        "power": np.sqrt,
        "log": lambda share: 1 - np.log(np.maximum(share, 1e-4)) / np.log(1e-4),
    }[scale]
    meta = describe_maps(maps)
    expected = list_colors(meta)[np.rint(255 * norm(share)).astype(int)].astype(int)
    expected[maps.future] = list(bytes.fromhex(meta["masked"][0][1:]))
    seen = read_pixels(page, range(n), range(n))
    assert seen.shape == expected.shape
    assert np.abs(seen - expected).max() <= 3  # half a step of the palette where a share rounds either way
    assert np.mean(seen == expected) > 0.99


def test_tooltips_are_the_weights(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=1&head=2")
    wait_for_head(page, 1, 2)
    weights = maps.get_layer(1)[2]
    for row, column in ((0, 0), (5, 3), (19, 0), (19, 18), (12, 12)):
        query, key, weight = point_at(page, row, column)
        assert query == f"query {row}  {maps.tokens_key[row]}"
        assert key == f"key {column}  {maps.tokens_key[column]}"
        shown = float(weight.removeprefix("weight ").replace("·10⁻⁵", "e-5").replace("·10⁻⁶", "e-6"))
        np.testing.assert_allclose(shown, weights[row, column], rtol=0.05, atol=5e-4)
    assert point_at(page, 3, 9)[2] == "not seen: the key comes later"
    point_at(page, 19, 4)
    listed = page.locator(".av-detail li span").all_inner_texts()
    strongest = np.argsort(-weights[19], kind="stable")[:8]
    assert [int(text.split()[0]) for text in listed] == strongest.tolist()


def test_browsers_that_cannot_decode_base64_by_themselves(browser, path, maps):
    with browser.new_context() as context:
        context.add_init_script("delete Uint8Array.fromBase64")
        page = context.new_page()
        page.goto(f"{path.as_uri()}#view=heatmap&layer=1&head=2")
        wait_for_head(page, 1, 2)
        assert page.evaluate("Uint8Array.fromBase64") is None
        np.testing.assert_allclose(
            float(point_at(page, 19, 4)[2].split()[1]), maps.get_layer(1)[2, 19, 4], rtol=0.05, atol=5e-4
        )


def test_the_mean_of_a_layer(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=1&head=mean")
    wait_for_head(page, 1, "mean")
    weight = point_at(page, 14, 14)[2]
    np.testing.assert_allclose(float(weight.split()[1]), maps.get_layer(1).mean(0)[14, 14], rtol=0.05)


def test_smollm2_in_eight_bits_and_split_into_rows_and_columns(open_page, tmp_path, smollm2):
    model, tokenizer = smollm2
    text = " ".join(f"{TEXT} {i}" for i in range(12))
    maps = capture_attention(model, tokenizer, text, model_id="s", layers=[0, 7], heads=[0, 1, 5])
    page = open_page(export_html(maps, tmp_path / "s.html")[0], "view=heatmap&layer=7&head=5&scale=linear")
    wait_for_head(page, 7, 5)
    meta = describe_maps(maps)
    assert "8 bits" in page.locator(".av-notes").inner_text()
    weights = maps.get_layer(7)[2]
    decoded = decode_head(encode_head(weights, meta), meta)
    row = len(weights) - 1
    for column in (0, 1, row // 2, row - 1):
        weight = point_at(page, row, column)[2]
        shown = float(re.sub(r"^weight [≈<] ", "", weight).replace("·10⁻⁵", "e-5"))
        assert abs(shown - decoded[row, column]) <= max(0.0006, 0.05 * shown)
        assert abs(shown - weights[row, column]) <= 1 / 255


def test_the_first_token_can_go(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=2&head=3&scale=linear&first=hide")
    wait_for_head(page, 2, 3)
    meta = describe_maps(maps)
    n = len(maps.tokens_key)
    pixels = read_pixels(page, range(n), range(n))
    masked = np.array(list(bytes.fromhex(meta["masked"][0][1:])))
    assert (pixels[:, 0] == masked).all()
    rest = maps.get_layer(2)[3][1:, 1:]
    expected = list_colors(meta)[np.rint(255 * rest / rest.max()).astype(int)].astype(int)
    lower = np.tril(np.ones_like(rest, bool))
    assert np.abs(pixels[1:, 1:][lower] - expected[lower]).max() <= 3
    page.get_by_label("First token").check()
    wait_until(page, '!location.hash.includes("first")')


def test_sliders(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=2&head=3&scale=linear")
    wait_for_head(page, 2, 3)
    weights = maps.get_layer(2)[3]
    lower = ~maps.future
    colors = list_colors(describe_maps(maps))

    def count_blank():
        page.wait_for_timeout(100)
        n = len(weights)
        return (read_pixels(page, range(n), range(n)) == colors[0]).all(-1)

    page.get_by_role("slider", name="Filter").fill("0.5")  # the track is cubic
    assert "min=0_125" in page.url
    blank = count_blank()
    assert (blank[lower] == (np.rint(255 * np.where(weights < 0.125, 0, weights / weights.max()))[lower] == 0)).all()
    page.get_by_role("slider", name="Filter").fill("0")
    page.get_by_role("slider", name="Amplify").fill("3")
    assert "amp=3" in page.url
    page.wait_for_timeout(100)
    (row,) = read_pixels(page, [len(weights) - 1], range(len(weights)))
    expected = colors[np.rint(255 * np.cbrt(weights[-1] / weights.max())).astype(int)].astype(int)
    assert np.abs(row - expected).max() <= 3


def test_keys(open_page, path):
    page = open_page(path)
    page.wait_for_selector(".av-overview[data-ready]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for_head(page, 1, 2)
    page.keyboard.press("ArrowUp")
    wait_for_head(page, 0, 2)
    page.keyboard.press("s")
    page.keyboard.press("f")
    page.keyboard.press("+")
    wait_until(page, 'location.hash.includes("zoom=2")')
    assert "scale=log" in page.url
    assert "first=hide" in page.url
    page.keyboard.press("0")
    page.locator(".av-plot").focus()
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowDown")
    assert page.locator(".av-live").inner_text().startswith("query 2")
    for number, view in enumerate(VIEWS, 1):
        page.keyboard.press(str(number))
        page.wait_for_selector(f'[data-view="{view}"][aria-selected="true"]')


def test_a_mean_alone_is_called_no_head(open_page, tmp_path, maps):
    (path,) = export_html(maps.average_heads(), tmp_path / "mean.html")
    page = open_page(path)
    for view in ("overview", "heatmap", "text", "lines"):
        page.goto("about:blank")
        page.goto(f"{path.as_uri()}#view={view}")
        page.wait_for_selector(f'[data-view="{view}"][aria-selected="true"]')
        words = page.locator("body").inner_text()
        assert f"mean over {maps.n_heads[0]} heads" in words
        assert not re.search(r"\bH0\b|head 0", words)


def test_zoom_and_pan(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=1&head=2&scale=linear&zoom=3.4.6")
    wait_for_head(page, 1, 2)
    *_, x, y = read_place(page)
    assert (x, y) == pytest.approx((4, 6), abs=0.01)
    weights = maps.get_layer(1)[2]
    expected = list_colors(describe_maps(maps))[np.rint(255 * weights[8:11, 5:8] / weights.max()).astype(int)]
    assert np.abs(read_pixels(page, range(8, 11), range(5, 8)) - expected.astype(int)).max() <= 3
    box = page.locator(".av-plot").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 300)
    page.mouse.up()
    page.wait_for_timeout(100)
    assert read_place(page)[3] > 4.5
    page.get_by_role("button", name="Whole").click()
    wait_until(page, '!location.hash.includes("zoom")')


def count_painted(page, pane):
    """Return, for each token of a pane, whether its strips hold colour."""
    return page.evaluate(
        """(pane) => {
        const root = document.querySelector(`[data-pane="${pane}"]`);
        const canvas = root.querySelector("canvas");
        const ratio = canvas.width / parseFloat(canvas.style.width);
        const drawing = canvas.getContext("2d");
        return [...root.querySelectorAll("[data-token]")].map((token) => {
            const [x, y, w, h] = [token.offsetLeft, token.offsetTop, token.offsetWidth, token.offsetHeight];
            const { data } = drawing.getImageData(x * ratio, y * ratio, Math.max(1, w * ratio), h * ratio);
            return data.some((value, i) => i % 4 === 3 && value > 0);
        });
    }""",
        pane,
    )


def test_text_shows_who_looks_and_pins(open_page, path, maps):
    page = open_page(path, "view=text&layer=2")
    page.wait_for_selector('.av-text[data-ready="2"]')
    page.locator('[data-pane="observer"] [data-token="9"]').hover()
    observer, observed = count_painted(page, "observer"), count_painted(page, "observed")
    assert any(observer[:10])
    assert not any(observer[10:])
    assert any(observed[9:])
    assert not any(observed[:9])
    page.locator('[data-pane="observer"] [data-token="9"]').click()
    wait_until(page, 'location.hash.includes("observer=9")')
    page.locator('[data-pane="observer"] [data-token="4"]').hover()
    tooltip = page.locator(".av-tooltip").inner_text().split("\n")
    assert tooltip[0] == f"4  {maps.tokens_key[4]}"
    np.testing.assert_allclose(float(tooltip[3].split()[2]), maps.get_layer(2)[2, 9, 4], rtol=0.05)
    assert count_painted(page, "observer") == observer  # pinned
    page.wait_for_timeout(50)
    assert not any(count_painted(page, "observed")[:4])  # free: it follows to token 4
    assert any(count_painted(page, "observed")[4:9])
    page.keyboard.press("Escape")
    wait_until(page, '!location.hash.includes("observer")')


def test_heads_are_switched(open_page, path):
    page = open_page(path, "view=text&layer=2&observer=9")
    page.wait_for_selector('.av-text[data-ready="2"]')
    page.get_by_role("button", name="None").click()
    wait_until(page, 'location.hash.includes("on=")')
    page.wait_for_timeout(100)
    assert not any(count_painted(page, "observer"))
    page.get_by_role("button", name="Head 3", exact=True).click()
    wait_until(page, 'location.hash.includes("on=3")')
    page.wait_for_timeout(100)
    assert any(count_painted(page, "observer"))
    page.get_by_role("button", name="All", exact=True).click()
    wait_until(page, '!location.hash.includes("on=")')


def test_tokens_by_keyboard(open_page, path):
    page = open_page(path, "view=text&layer=2")
    page.wait_for_selector('.av-text[data-ready="2"]')
    page.locator('[data-pane="observed"] [role="listbox"]').focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    wait_until(page, 'location.hash.includes("observed=2")')


def test_lines_are_the_weights_past_the_filter(open_page, path, maps):
    page = open_page(path, "view=lines&layer=2&scale=linear&range=all")
    page.wait_for_selector('.av-lines[data-ready="2"]')
    top = max(weights.max() for weights in maps.weights)
    shares = maps.get_layer(2) / top
    assert int(page.locator(".av-lines-plot canvas").get_attribute("data-lines")) == (shares >= 0.03).sum()
    page.goto(f"{path.as_uri()}#view=lines&layer=2&scale=linear&range=all&line=9&on=3.5")
    page.wait_for_timeout(200)
    shown = int(page.locator(".av-lines-plot canvas").get_attribute("data-lines"))
    assert shown == (shares[[3, 5], 9] >= 0.03).sum()


def test_cross_attention(open_page, tmp_path):
    maps = make_maps(causal=False, kind="cross", tokens=[f"k{i}" for i in range(5)], tokens_query=list("vwxyz"))
    page = open_page(export_html(maps, tmp_path / "cross.html")[0], "view=lines&layer=1&line=2&min=0_05&on=1")
    page.wait_for_selector('.av-lines[data-ready="1"]')
    weights = maps.get_layer(1)[1]
    top = weights.max()
    shown = int(page.locator(".av-lines-plot canvas").get_attribute("data-lines"))
    assert shown == ((weights[2] >= 0.05) & (np.sqrt(weights[2] / top) >= 0.03)).sum()
    page.keyboard.press("3")
    page.wait_for_selector('.av-text[data-ready="1"]')
    observer = page.locator('[data-pane="observer"]')
    assert observer.get_by_text("Queries (target)").is_visible()
    assert observer.locator("[data-token]").all_inner_texts() == [f"k{i}" for i in range(5)] + list("vwxyz")
    page.keyboard.press("2")
    wait_for_head(page, 1, 0)
    query, key, weight = point_at(page, 1, 4)
    assert (query, key) == ("query 1  w", "key 4  k4")
    np.testing.assert_allclose(float(weight.split()[1]), maps.get_layer(1)[0, 1, 4], rtol=0.05)


def test_cross_attention_between_equal_tokens(open_page, tmp_path):
    maps = make_maps(causal=False, kind="cross", tokens=list("vwxyz"), tokens_query=list("vwxyz"))
    page = open_page(export_html(maps, tmp_path / "same.html")[0], "view=text&layer=1&observer=2")
    page.wait_for_selector('.av-text[data-ready="1"]')
    observer = page.locator('[data-pane="observer"]')
    assert observer.locator("[data-token]").all_inner_texts() == list("vwxyz") * 2
    observer.locator("#av-observer-key-4").hover()
    shown = page.locator(".av-tooltip").inner_text().split("\n")
    assert shown[0] == "4  z"
    np.testing.assert_allclose(float(shown[1].split()[2]), maps.get_layer(1)[0, 2, 4], rtol=0.05)
    assert "after" not in page.locator(".av-pane header").first.inner_text()  # nothing is hidden from a query


@pytest.mark.parametrize(("line", "shown"), [(2, "query 2  c"), (7, None)])
def test_links_to_queries_that_are_fewer_than_keys(open_page, tmp_path, line, shown):
    square = make_maps(1, 2, 9, causal=False)
    maps = AttentionMaps(
        [square.weights[0][:, :3]], square.tokens_key, tokens_query=list("abc"), kind="cross", causal=False
    )
    path = export_html(maps, tmp_path / "few.html")[0]
    page = open_page(path, f"view=lines&line={line}&observer={line}")
    page.wait_for_selector(".av-lines[data-ready]")
    box = page.locator(".av-lines-plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 28 + 20 * 5.5)
    tooltip = page.locator(".av-tooltip")
    if shown:
        assert tooltip.inner_text().split("\n")[:2] == [shown, "key 5  t5"]
    else:
        assert not tooltip.is_visible()
    page.keyboard.press("3")
    page.wait_for_selector(".av-text[data-ready]")
    assert page.locator(".av-frozen").count() == bool(shown)


def test_lines_of_pooled_queries_name_true_positions(open_page, tmp_path):
    whole = make_maps(1, 2, 30)
    last = AttentionMaps(
        [whole.weights[0][:, 20:]], whole.tokens_key, tokens_query=whole.tokens_key[20:], first_query=20
    )
    page = open_page(export_html(pool_maps(last, 2), tmp_path / "pooled.html")[0], "view=lines&line=12")
    page.wait_for_selector(".av-lines[data-ready]")
    box = page.locator(".av-lines-plot").bounding_box()
    assert box["height"] == 28 + 20 * 15  # a row a cell
    page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 28 + 20 * 3.5)
    assert page.locator(".av-tooltip").inner_text().split("\n")[:2] == ["query 24 t24 …", "key 6 t6 …"]


def read_tile(page, layer, head, n):
    """Return the colours in the middle of each of n × n cells of a head in the bird's eye, axes ``(n, n, 3)``."""
    script = """([key, n]) => {
        const tile = document.querySelector(`[data-key="${key}"] .av-tile`).getBoundingClientRect();
        const sheet = document.querySelector(".av-sheet");
        const origin = sheet.getBoundingClientRect();
        const drawing = sheet.getContext("2d");
        const [left, top] = [Math.round(tile.left - origin.left), Math.round(tile.top - origin.top)];
        const at = (i) => Math.floor(((i + 0.5) * tile.width) / n);
        const all = [...Array(n).keys()];
        const read = (x, y) => [...drawing.getImageData(left + at(x), top + at(y), 1, 1).data.slice(0, 3)];
        return all.map((y) => all.map((x) => read(x, y)));
    }"""
    return np.array(page.evaluate(script, [f"{layer}.{head}", n]))


def test_bird_s_eye_draws_sorts_and_opens(open_page, path, maps):
    from attn_viewer import score_heads

    page = open_page(path)
    page.wait_for_selector(".av-overview[data-ready]")
    heads = page.locator(".av-grid [role=gridcell]")
    assert heads.count() == sum(maps.n_heads)
    meta = describe_maps(maps)
    for layer, head in ((0, 0), (2, 3), (3, 7)):
        weights = maps.get_layer(layer)[head]
        expected = list_colors(meta)[np.rint(255 * np.sqrt(weights / weights.max())).astype(int)].astype(int)
        expected[maps.future] = list(bytes.fromhex(meta["masked"][0][1:]))
        assert np.abs(read_tile(page, layer, head, len(weights)) - expected).max() <= 3
    page.get_by_label("Sort by").select_option("sink_mass")
    order = [f"{head.layer}.{head.head}" for head in score_heads(maps, ["sink_mass"]).top("sink_mass", 5)]
    assert heads.evaluate_all("(found) => found.slice(0, 5).map((head) => head.dataset.key)") == order
    heads.first.click()
    wait_for_head(page, *order[0].split("."))


def test_bird_s_eye_is_coloured_by_a_score(open_page, path, maps):
    from attn_viewer import score_heads

    page = open_page(path, "tint=previous_token")
    page.wait_for_selector(".av-tinted")
    table = score_heads(maps, ["previous_token"])
    values = table["previous_token"]
    colors = list_colors(describe_maps(maps))[np.rint(255 * (values - values.min()) / np.ptp(values)).astype(int)]
    script = "(found) => found.map((c) => getComputedStyle(c).borderTopColor.match(/\\d+/g).map(Number))"
    seen = page.locator(".av-tile").evaluate_all(script)
    assert np.abs(np.array(seen) - colors.astype(int)).max() <= 3
    legend = page.locator(".av-key span").all_inner_texts()
    assert legend == ["previous token", f"{values.min():.2f}", f"{values.max():.2f}"]
    page.get_by_label("Colour by").select_option("")
    wait_until(page, '!location.hash.includes("tint") && !document.querySelector(".av-tinted")')


def test_a_link_restores_everything(open_page, path):
    state = "view=text&layer=2&scale=log&range=all&first=hide&amp=1_5&min=0_01&on=1.2&observed=3&observer=9"
    page = open_page(path, state)
    page.wait_for_selector('.av-text[data-ready="2"]')
    assert page.locator('[aria-pressed="true"]:visible').all_inner_texts() == ["log", "shared", "auto", "1", "2"]
    assert page.locator(".av-status").all_inner_texts()[0].startswith("3  ")
    assert page.locator(".av-status").all_inner_texts()[1].startswith("9  ")
    page.keyboard.press("4")
    page.keyboard.press("3")
    wait_until(page, 'location.hash.includes("view=text")')
    assert set(page.url.split("#")[1].split("&")) == set(state.split("&"))


@pytest.mark.parametrize(
    "state", ["view=none&layer=99&head=-1&amp=9e9&min=x&zoom=a.b.c&on=999&observed=-4", "%%%", "layer=__proto__"]
)
def test_links_that_make_no_sense(open_page, path, state):
    page = open_page(path, state)
    page.wait_for_selector(".av-overview[data-ready]")


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "dark"),
        (400, "light"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1280, "light"), (400, "dark"))),
    ],
)
def test_every_view_fits_its_window(open_page, path, width, scheme):
    page = open_page(path, width=width, scheme=scheme)
    for number in "1234":
        page.keyboard.press(number)
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.locator(".attn-viewer").get_attribute("data-theme") == scheme
    page.get_by_role("button", name=re.compile("mode")).click()
    assert page.locator(".attn-viewer").get_attribute("data-theme") != scheme


def test_everything_that_is_clicked_has_a_name(open_page, path):
    page = open_page(path)
    for number in "1234":
        page.keyboard.press(number)
        page.wait_for_timeout(100)
        nameless = page.evaluate(
            """[...document.querySelectorAll("button, select, input, [tabindex='0']")].filter((element) =>
                !element.textContent.trim() && !element.getAttribute("aria-label") && !element.labels?.length
            ).map((element) => element.outerHTML)"""
        )
        assert nameless == []


def test_a_narrow_window_keeps_tooltips_inside_and_whole(open_page, path):
    page = open_page(path, width=400)
    page.wait_for_selector(".av-overview[data-ready]")
    for head in ("0.0", "0.3", "0.4", "0.7"):
        page.locator(f'.av-grid [data-key="{head}"]').hover()
        box = page.locator(".av-tooltip").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert box["y"] >= 0
        assert box["width"] > 130  # no line wraps
    page.evaluate("scrollTo(0, 9999)")
    page.set_viewport_size({"width": 400, "height": 420})
    page.locator('.av-grid [data-key="0.3"]').hover()
    assert page.locator(".av-tooltip").bounding_box()["y"] >= 0


def test_labels_that_do_not_fit_take_no_room(open_page, tmp_path):
    maps = make_maps(1, 1, 26, tokens=["a long label"] * 26)  # cells are wide enough while the labels have no room
    page = open_page(export_html(maps, tmp_path / "labels.html")[0], "view=heatmap", width=400)
    wait_for_head(page, 0, 0)
    _, top, cell, *_ = read_place(page)
    assert cell > 12
    below = page.locator(".av-plot").bounding_box()["height"] - top - cell * 26
    assert below == pytest.approx(34, abs=1)


def test_lines_of_heads_to_a_key_lie_apart(open_page, tmp_path):
    weights = np.tile(np.array([[1, 0], [1, 0]], np.float32), (3, 1, 1))
    page = open_page(export_html(AttentionMaps([weights], ["a", "b"]), tmp_path / "lines.html")[0], "view=lines&line=1")
    page.wait_for_selector(".av-lines[data-ready]")
    opaque = page.locator(".av-lines-plot canvas").evaluate(
        """(canvas) => {
            const left = canvas.width - Math.min(200, Math.max(70, canvas.width * 0.24)) - 8;
            const { data } = canvas.getContext("2d").getImageData(Math.round(left), 28, 1, 20);
            return Array.from({ length: 20 }, (_, y) => data[4 * y + 3] > 100);
        }"""
    )
    assert sum(now and not before for before, now in zip([False, *opaque], opaque, strict=False)) == 3


def test_generated_tokens_are_told_apart(open_page, tmp_path):
    path = export_html(make_maps(2, 2, 12, prompt_length=8), tmp_path / "generated.html")[0]
    page = open_page(path, "view=heatmap")
    wait_for_head(page, 0, 0)
    assert "12 tokens, 4 generated" in page.locator(".av-title").inner_text()
    left, top, cell, *_ = read_place(page)
    script = """([x, y, length]) => {
        return [...document.querySelector(".av-base").getContext("2d").getImageData(x, y, 1, length).data];
    }"""
    length = int(12 * cell)
    column = np.array(page.evaluate(script, [round(left + 8 * cell), int(top), length])).reshape(length, 4)[:, :3]
    red = (column[:, 0] - column[:, 1] > 40) & (column[:, 0] - column[:, 2] > 40)
    assert 0.3 < red.mean() < 0.8  # dashed, from top to bottom
    page.keyboard.press("3")
    assert "Bold tokens were generated." in page.locator(".av-text").inner_text()


def see_strips(page, pane, token):
    """Return the colours that a screenshot shows at the foot of a token, where its strips are."""
    from PIL import Image

    locator = page.locator(f'[data-pane="{pane}"] [data-token="{token}"]')
    box = locator.bounding_box()
    strips = float(
        page.locator(f'[data-pane="{pane}"]').evaluate("e => parseFloat(e.style.getPropertyValue('--strips'))")
    )
    clip = {
        "x": box["x"] + 3,
        "y": box["y"] + box["height"] - strips + 1,
        "width": box["width"] - 6,
        "height": strips - 2,
    }
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    return np.asarray(picture).astype(int)


def test_strips_lie_above_the_grounds_of_generated_and_focused_tokens(open_page, tmp_path):
    n = 8
    weights = np.tril(np.full((n, n), 1e-4, np.float32))
    weights[6, 6] = weights[7, 6] = 1  # the focused token itself, and a generated token
    weights[6, 5] = weights[4, 5] = 0.9
    maps = AttentionMaps([weights[None]], [f"token{i}" for i in range(n)], prompt_length=5)
    page = open_page(export_html(maps, tmp_path / "new.html")[0], "view=text&observer=6&rows=own")
    page.wait_for_selector(".av-text[data-ready]")
    for token, is_strong in ((5, True), (6, True), (3, False)):
        seen = see_strips(page, "observer", token)
        colourful = np.mean(seen.max(-1) - seen.min(-1) > 90)
        assert (colourful > 0.5) == is_strong, (token, colourful)


@pytest.mark.parametrize("view", ["overview", "heatmap"])
def test_a_hidden_first_token_is_hidden_where_cells_are_pooled_for_display(open_page, tmp_path, view):
    n = 700
    weights = np.tril(np.full((n, n), 0.001, np.float32))
    weights[:, 0] = 0.9
    weights[50:, 50] = 0.1
    maps = AttentionMaps([np.stack([weights, weights])], [str(i) for i in range(n)])
    state = f"view={view}&layer=0&head=0&first=hide&scale=linear"
    page = open_page(export_html(maps, tmp_path / "sink.html")[0], state, width=500)
    if view == "overview":
        page.wait_for_selector('.av-overview[data-ready="true"]')
        seen = read_tile(page, 0, 0, 20)[-1, 0]
    else:
        wait_for_head(page, 0, 0)
        assert read_place(page)[2] < 1  # less than a pixel a cell
        seen = read_pixels(page, [600], [0])[0, 0]
    # The first cell shows the largest of its weights but the first token's; without that the scale ends at 0.1.
    assert np.abs(list_colors(describe_maps(maps))[round(255 * 0.01)].astype(int) - seen).max() <= 3


def test_a_hidden_first_token_takes_its_cell_from_pooled_text(open_page, tmp_path):
    n = 36
    weights = np.tril(np.full((n, n), 0.02, np.float32))
    weights[:, 0] = 0.9
    maps = pool_maps(AttentionMaps([weights[None]], [f"t{i}" for i in range(n)]), 6)
    page = open_page(export_html(maps, tmp_path / "cells.html")[0], "view=text&first=hide&observer=30&scale=log")
    page.wait_for_selector(".av-text[data-ready]")
    assert maps.cell == (6, 6)
    painted = count_painted(page, "observer")
    assert not any(painted[:6])
    assert all(painted[6:30])


def test_arrows_in_the_birds_eye_go_where_they_say(open_page, path, maps):
    page = open_page(path, "view=overview")
    page.wait_for_selector('.av-overview[data-ready="true"]')
    page.locator('[role="gridcell"][tabindex="0"]').focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.locator(".av-live").inner_text() == "Layer 1, head 2"
    assert page.evaluate("document.activeElement.dataset.key") == "1.2"
    page.keyboard.press("Enter")
    wait_for_head(page, 1, 2)
    page.go_back()
    page.wait_for_selector('.av-overview[data-ready="true"]')
    assert page.evaluate("location.hash").startswith("#layer=1")


def test_arrows_follow_the_sorted_order_and_keep_the_tile_in_sight(open_page, path, maps):
    page = open_page(path, "view=overview&sort=sink_mass", width=420, height=500)
    page.wait_for_selector(".av-sorted")
    tiles = page.locator('[role="gridcell"]')
    wait_until(page, "document.querySelectorAll('.av-sorted .av-score')[3].textContent !== ''")
    order = tiles.evaluate_all("tiles => tiles.map((tile) => tile.dataset.key)")
    tiles.first.focus()
    for _ in range(len(order) - 1):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.key") == order[-1]
    box = tiles.last.bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 501
    page.keyboard.press("ArrowUp")
    above = page.evaluate("document.activeElement.dataset.key")
    assert order.index(above) < len(order) - 2


def test_generated_tokens_show_the_row_that_produced_them(open_page, tmp_path):
    n = 6
    weights = np.eye(n, dtype=np.float32)
    weights[4] = 0
    weights[4, 1] = 1
    maps = AttentionMaps([weights[None]], list("abcdef"), prompt_length=4, causal=True)
    page = open_page(export_html(maps, tmp_path / "rows.html")[0], "view=text&observer=5")
    page.wait_for_selector(".av-text[data-ready]")
    assert count_painted(page, "observer") == [False, True, False, False, False, False]
    status = page.locator('[data-pane="observer"] .av-status')
    assert "row of 4 e, which produced it" in status.inner_text()
    page.get_by_role("button", name="the token", exact=True).click()
    wait_until(page, 'location.hash.includes("rows=own")')
    page.wait_for_timeout(60)
    assert count_painted(page, "observer") == [False] * 5 + [True]
    assert "its own row" in status.inner_text()


def test_a_click_pins_a_cell_and_the_link_keeps_it(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=1&head=2")
    wait_for_head(page, 1, 2)
    point_at(page, 12, 5)
    page.mouse.down()
    page.mouse.up()
    wait_until(page, 'location.hash.includes("pin=12.5")')
    point_at(page, 3, 1)
    told = page.locator(".av-told").inner_text()
    assert told.startswith(f"pinned: query 12  {maps.tokens_key[12]} → key 5  {maps.tokens_key[5]}: weight ")
    page.reload()
    wait_for_head(page, 1, 2)
    assert page.locator(".av-told").inner_text() == told
    page.keyboard.press("Escape")
    wait_until(page, '!location.hash.includes("pin")')


def test_lines_to_one_key(open_page, path, maps):
    page = open_page(path, "view=lines&layer=2&scale=linear&range=all")
    page.wait_for_selector('.av-lines[data-ready="2"]')
    box = page.locator(".av-lines-plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 28 + 20 * 3.5)
    shares = maps.get_layer(2) / max(weights.max() for weights in maps.weights)
    lines = page.locator(".av-lines-plot canvas")
    assert int(lines.get_attribute("data-lines")) == (shares[:, :, 3] >= 0.03).sum()
    page.mouse.down()
    page.mouse.up()
    wait_until(page, 'location.hash.includes("lineKey=3")')


def test_keys_announce_weights(open_page, path, maps):
    page = open_page(path, "view=text&layer=2&on=3&rows=own")
    page.wait_for_selector('.av-text[data-ready="2"]')
    page.locator('[data-pane="observer"] [role="listbox"]').focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    row = maps.get_layer(2)[3, 4]
    best = int(row.argmax())
    assert f"strongest: {best} {maps.tokens_key[best]}, head 3, " in page.locator(".av-live").inner_text()


def test_a_slow_double_click_leaves_one_head_on(open_page, path):
    page = open_page(path, "view=text&layer=1")
    page.wait_for_selector('.av-text[data-ready="1"]')
    box = page.get_by_role("button", name="Head 3", exact=True).bounding_box()
    place = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(*place)
    wait_until(page, "location.hash.includes('on=0.1.2.4')")
    page.mouse.move(*place)
    page.mouse.down()
    page.mouse.up()
    page.mouse.down(click_count=2)
    page.mouse.up(click_count=2)
    wait_until(page, "location.hash.endsWith('on=3')")
