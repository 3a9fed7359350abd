import base64
import http.server
import json
import re
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import make_maps

from attn_viewer import AttentionMaps, capture_attention, export_html, save_scores
from attn_viewer.cells import pool_maps
from attn_viewer.cli import main
from attn_viewer.errors import OptionError, OutputError
from attn_viewer.web.encode import decode_head
from attn_viewer.web.page import render_frame
from attn_viewer.web.scripts import join_modules, read_style

ROOT = Path(__file__).parent.parent.parent
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<!--",
    "\u202eevil\u2066",
    "a\0b",
    "x" * 10_000,
    "\ud800",
    "&lt;b&gt;",
    "${alert(3)}",
    "javascript:alert(4)",
    "\u0301",
    "",
]


def read_page(path):
    """Return what a page holds: its description, and the weights of each head by (layer, head)."""
    text = Path(path).read_text("ascii")
    meta = json.loads(re.search(r'id="meta">(.*?)</script>', text)[1])
    heads = {}
    for layer, code in re.findall(r'id="l(\d+)">(.*?)</script>', text):
        data, numbers = zlib.decompress(base64.b64decode(code)), meta["heads"][meta["layers"].index(int(layer))]
        size = len(data) // len(numbers)
        for i, head in enumerate(numbers):
            heads[int(layer), head] = decode_head(data[i * size : (i + 1) * size], meta)
    return meta, heads


def test_a_page_holds_every_weight(demo_maps, tmp_path):
    (path,) = export_html(demo_maps, tmp_path / "new" / "demo.html")
    meta, heads = read_page(path)
    assert meta["encoding"] == {"type": "float32"}
    assert len(heads) == sum(demo_maps.n_heads)
    for layer, weights in zip(demo_maps.layers, demo_maps.weights, strict=True):
        for head, expected in enumerate(weights):
            np.testing.assert_array_equal(heads[layer, head], expected)
    assert export_html(demo_maps, tmp_path / "again.html")[0].read_bytes() == path.read_bytes()


def test_large_maps_are_pooled_into_the_budget(tmp_path):
    maps = make_maps(4, 6, 150)
    (whole,) = export_html(maps, tmp_path / "whole.html")
    limit = whole.stat().st_size / 2 / 1e6
    (path,) = export_html(maps, tmp_path / "pooled.html", max_mb=limit)
    assert path.stat().st_size <= limit * 1e6
    meta, heads = read_page(path)
    side = meta["cell"][0]
    assert side > 1
    assert meta["notes"] == [f"Pooled by {side} × {side} to fit into {limit:g} MB."]
    expected = pool_maps(maps, side)
    for (layer, head), shown in heads.items():
        assert np.abs(shown - expected.weights[layer][head]).max() <= 1 / 255


def test_large_maps_are_split_by_layers(tmp_path, open_page):
    maps = make_maps(5, 6, 220)
    limit = export_html(maps, tmp_path / "whole.html")[0].stat().st_size / 2 / 1e6
    index, *parts = export_html(maps, tmp_path / "a b#.html", max_mb=limit, fit="split")
    assert len(parts) >= 2
    assert all(path.stat().st_size <= limit * 1e6 for path in (index, *parts))
    heads = {}
    for part in parts:
        meta, held = read_page(part)
        assert meta["cell"] == [1, 1]
        assert part.name == f"a b#.layers-{meta['layers'][0]}-{meta['layers'][-1]}.html"
        heads |= held
    assert set(heads) == {(layer, head) for layer in range(5) for head in range(6)}
    for (layer, head), shown in heads.items():
        assert np.abs(shown - maps.weights[layer][head]).max() <= 1 / 255
    page = open_page(index)
    links = page.locator(".av-notes a")
    assert links.evaluate_all("(all) => all.map((link) => decodeURIComponent(new URL(link.href).pathname))") == [
        str(path) for path in parts
    ]


def test_nothing_fits(tmp_path):
    maps = make_maps(2, 3, 40)
    with pytest.raises(OptionError, match="not even as one cell"):
        export_html(maps, tmp_path / "x.html", max_mb=0.01)
    with pytest.raises(OptionError, match="layer 0 alone"):
        export_html(maps, tmp_path / "x.html", max_mb=0.06, fit="split")
    assert list(tmp_path.iterdir()) == []


def test_a_real_prompt_past_two_thousand_tokens(open_page, tmp_path, demo):
    """Pooled as `view_attention` does it, and once more to fit; the page's numbers are the maps'."""
    model, tokenizer = demo
    ids = tokenizer((ROOT / "docs" / "guide.md").read_text("utf-8"))["input_ids"][:2300]
    maps = capture_attention(model, tokenizer, ids, model_id="s", layers=[0, 1], reduction="pooled", max_cells=512)
    assert (maps.cell, maps.shape) == ((5, 5), (460, 460))
    (path,) = export_html(maps, tmp_path / "long.html", max_mb=0.5)
    assert path.stat().st_size <= 500_000
    page = open_page(path, "view=heatmap&layer=1&head=2")
    page.wait_for_selector('.av-plot[data-ready="1.2"]')
    notes = page.locator(".av-notes").inner_text()
    side = int(re.search(r"Pooled by (\d+) ×", notes)[1])
    assert f"A cell is the max over {5 * side} × {5 * side} tokens." in notes
    expected = pool_maps(maps, side).get_layer(1)[2]
    left, top, cell, *_ = (float(word) for word in page.locator(".av-plot").get_attribute("data-place").split())
    box = page.locator(".av-plot").bounding_box()
    for row, column in ((len(expected) - 1, 0), (len(expected) // 2, 3), (2, 2)):
        page.mouse.move(box["x"] + left + (column + 0.5) * cell, box["y"] + top + (row + 0.5) * cell)
        query, _, weight = page.locator(".av-tooltip").inner_text().split("\n")
        assert query.split()[1] == str(row * 5 * side)
        shown = float(re.sub(r"^weight [≈<] ", "", weight).replace("·10⁻⁵", "e-5"))
        assert abs(shown - expected[row, column]) <= 1 / 255
    for key in "134":
        page.keyboard.press(key)
        page.wait_for_timeout(200)
    assert page.locator(".av-lines-plot canvas").is_visible()


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_pooling_twice_is_pooling_once(pooling):
    maps = make_maps(1, 2, 23, causal=False)

    def pool(side):
        cells = [
            np.add.reduceat(np.add.reduceat(w, range(0, 23, side), 1), range(0, 23, side), 2) for w in maps.weights
        ]
        sizes = np.diff([*range(0, 23, side), 23])
        if pooling == "mean":
            weights = [(c / np.multiply.outer(sizes, sizes)).astype(np.float32) for c in cells]
        else:
            weights = [np.array([[[h[r : r + side, c : c + side].max() for c in range(0, 23, side)]
                                  for r in range(0, 23, side)] for h in w]) for w in maps.weights]  # fmt: skip
        return AttentionMaps(
            weights, maps.tokens_key, reduction="pooled", cell=(side, side), pooling=pooling, causal=False
        )

    twice = pool_maps(pool(2), 3)
    assert twice.cell == (6, 6)
    np.testing.assert_allclose(twice.weights[0], pool(6).weights[0], atol=1e-6)


def test_hostile_tokens_are_text(tmp_path, open_page):
    name = "</title><script>alert(5)</script>\0"
    maps = make_maps(n_tokens=len(HOSTILE), tokens=HOSTILE, model_id=name, prompt_length=4)
    (path,) = export_html(maps, tmp_path / "hostile.html")
    page = open_page(path)
    for number in "1234":
        page.keyboard.press(number)
        page.wait_for_timeout(150)
    page.keyboard.press("3")
    page.wait_for_selector(".av-text[data-ready]")
    assert (
        page.locator("script, img, b[onerror], iframe").evaluate_all(
            "(all) => all.filter((one) => one.closest('#viewer')).length"
        )
        == 0
    )
    shown = page.locator('[data-pane="observer"] [data-token]').all_inner_texts()
    assert shown[:3] == ["</script><script>alert(1)</script>", "<img␣src=x␣onerror=alert(2)>", "<!--"]
    assert shown[3:5] == ["<U+202E>evil<U+2066>", "a<U+0000>b"]
    assert len(shown[5]) == 60
    assert shown[6:10] == ["<U+D800>", "&lt;b&gt;", "${alert(3)}", "javascript:alert(4)"]
    assert page.locator("h1").inner_text().startswith("</title><script>")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_one_token(tmp_path, open_page):
    (path,) = export_html(make_maps(1, 1, 1), tmp_path / "one.html")
    page = open_page(path, "view=heatmap&head=mean&on=mean")
    page.wait_for_selector('.av-plot[data-ready="0.0"]')
    assert page.locator("select[aria-label=Head]").input_value() == "0"  # one head has no mean
    for number in "1234":
        page.keyboard.press(number)
        page.wait_for_timeout(100)


def test_only_some_queries(tmp_path, open_page):
    whole = make_maps(1, 2, 30)
    maps = AttentionMaps(
        [whole.weights[0][:, 20:]], whole.tokens_key, tokens_query=whole.tokens_key[20:], first_query=20
    )
    page = open_page(export_html(maps, tmp_path / "some.html")[0], "view=text&observer=25")
    page.wait_for_selector(".av-text[data-ready]")
    page.locator('[data-pane="observer"] [data-token="3"]').hover()
    lines = page.locator(".av-tooltip").inner_text().split("\n")
    np.testing.assert_allclose(
        float(lines[1].split()[2].replace("·10⁻⁵", "e-5")), whole.weights[0][0, 25, 3], rtol=0.05
    )


def test_damaged_weights_are_told(demo_maps, tmp_path, open_page):
    (path,) = export_html(demo_maps, tmp_path / "demo.html")
    path.write_text(re.sub(r'(id="l0">).*?<', r"\1AAAA<", path.read_text("ascii")), "ascii")
    page = open_page(path, "view=heatmap&layer=0&head=0")
    page.get_by_text("The weights of layer 0 are damaged in this file; make it again.").wait_for()


def test_a_notebook_shows_maps_in_a_frame(demo_maps, tmp_path, open_page):
    frame = demo_maps._repr_html_()
    assert frame == render_frame(demo_maps)
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{frame}", encoding="utf-8")
    page = open_page(path)
    inner = page.frame_locator("iframe")
    inner.locator(".av-overview[data-ready]").wait_for()
    inner.get_by_role("tab", name="Heatmap").click()
    inner.locator('.av-plot[data-ready="0.0"]').wait_for()


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("x.txt", {}, OptionError),
        ("x.html", {"max_mb": 0}, OptionError),
        ("x.html", {"max_mb": float("nan")}, OptionError),
        ("x.html", {"max_mb": "1"}, OptionError),
        ("x.html", {"fit": "crop"}, OptionError),
        ("x.html", {"theme": "blue"}, OptionError),
        ("x.html", {"state": 3}, OptionError),
        ("folder.html", {}, OptionError),
        ("file/x.html", {}, OutputError),
        ("/proc/none/x.html", {}, OutputError),
    ],
)
def test_wrong_options_write_nothing(demo_maps, tmp_path, name, options, error):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        export_html(demo_maps, tmp_path / name, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cache = str(save_scores(make_maps(), "."))
    assert main(["html", "--load_attention_scores_path", cache, "--output", "o/p.html", "--layers", "1"]) == 0
    assert capsys.readouterr().out == "o/p.html\n"
    assert read_page("o/p.html")[0]["layers"] == [1]
    assert main(["view", "--load_attention_scores_path", cache, "--html", "v.html"]) == 0
    assert capsys.readouterr().out == "v.html\nvis/random/all_layers_avg.jpg\n"
    assert main(["html", "--max_mb", "-1"]) == 2
    assert "max_mb must be" in capsys.readouterr().err


def test_modules_share_no_name_and_ask_for_nothing():
    for entry in ("file.js", "widget.js"):
        text = join_modules(entry)
        names = re.findall(r"^(?:async )?(?:function|const|class|let) (\w+)", text, re.MULTILINE)
        assert len(names) == len(set(names)) > 40
        assert not re.search(r"^(import|export) ", text, re.MULTILINE)
    words = ("fetch(", "XMLHttpRequest", "innerHTML", "insertAdjacentHTML", "eval(", "http:", "https:", "@import")
    for text in (join_modules("file.js"), join_modules("widget.js"), read_style()):
        text = text.replace("http://www.w3.org/2000/svg", "")  # the name of SVG, which nothing asks for
    assert [word for word in words if word in text] == []


def test_a_page_that_comes_in_pieces_waits_for_the_whole_of_a_layer(browser, tmp_path):
    (path,) = export_html(make_maps(2, 2, 60), tmp_path / "slow.html")
    content = path.read_bytes()
    middle = content.index(b'id="l0"') + 2_000

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content[:middle])
            self.wfile.flush()
            time.sleep(1.0)
            self.wfile.write(content[middle:])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/#view=overview")
        page.wait_for_selector(".av-overview[data-ready]")
        assert page.locator("[data-error]").count() == 0
        page.close()
        server.shutdown()
