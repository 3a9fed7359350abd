"""A data folder's browser as files: what is written, and the page over it in a real Chromium, below any address."""

import contextlib
import functools
import http.server
import json
import shutil
import threading
import zlib

import numpy as np
import pytest
from conftest import PROMPT, make_maps, store_prompt, wait_until
from data_folder import EVIL, HOSTILE, make_data_folder, name_prompt, write_model
from test_browser import names

from attn_viewer import score_heads, write_site
from attn_viewer.cli import main
from attn_viewer.errors import OptionError, OutputError
from attn_viewer.pipeline.indexes import generate_prompts_jsonl
from attn_viewer.web.encode import count_cells, decode_head

FIRST = name_prompt(PROMPT)
PAGE = "<!doctype html><style>p { color: rgb(0, 128, 0) }</style><p>a page</p><script>parent.owned = 1</script>"


@contextlib.contextmanager
def run_host(folder):
    """Yield the address of a plain file server, which says of files no more than their names do."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def data(tmp_path_factory, demo):
    folder = tmp_path_factory.mktemp("sited") / "attn_data"
    maps = make_data_folder(folder, demo)
    head = folder / "demo" / "prompts" / FIRST / "L0" / "H1"
    head.mkdir()
    (head / "page.html").write_text(PAGE)
    (head / "evil.error.txt").write_text("ValueError: no\nmore")
    return folder, maps


@pytest.fixture(scope="module")
def host(data, tmp_path_factory):
    """A host with the site below an address of its own."""
    root = tmp_path_factory.mktemp("host")
    report = write_site(data[0], root / "of" / "mine")
    assert (report.done, report.failures) == (4, [])
    with run_host(root) as address:
        yield root / "of" / "mine", f"{address}/of/mine/"


@pytest.fixture
def page(browser, host):
    """A page on which every error counts and nothing outside of the site may be asked."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    allowed = (host[1], f"blob:{host[1].split('/of')[0]}")
    page.on("request", lambda request: None if request.url.startswith(allowed) else problems.append(request.url))
    yield page
    context.close()
    # That scripts of a figure do not run is an error for Chromium.
    assert [text for text in problems if "Blocked script execution in 'blob:" not in text] == []


def test_the_files_hold_every_weight_and_score(data, host):
    maps = data[1][0]
    place = host[0] / "data" / "demo" / FIRST
    meta = json.loads((place / "prompt.json").read_text())["meta"]
    scores = json.loads((place / "scores.json").read_text())
    table = score_heads(maps, ["sink_mass"])
    for layer in maps.layers:
        content = zlib.decompress((place / f"L{layer}.bin").read_bytes())
        size = len(content) // 8
        assert size == 4 * count_cells(meta)
        for head in range(8):
            shown = decode_head(content[head * size : (head + 1) * size], meta)
            np.testing.assert_array_equal(shown, maps.get_layer(layer)[head])
        np.testing.assert_allclose(scores[str(layer)]["sink_mass"], table["sink_mass"][table.layer == layer], rtol=1e-5)


def test_nothing_that_a_host_serves_would_run(host):
    endings = {path.suffix for path in (host[0] / "data").rglob("*") if path.is_file()}
    assert endings == {".json", ".bin"}
    head = host[0] / "data" / "demo" / FIRST / "L0" / "H0"
    for name in ("evil", "packed"):
        assert zlib.decompress((head / f"{name}.svg.bin").read_bytes()).decode() == EVIL


def test_the_gallery_is_that_of_the_server(page, host):
    page.goto(host[1])
    page.wait_for_selector(".ab-row input")
    wait_until(page, "document.querySelectorAll('.ab-card img').length > 8")
    assert page.locator("h2", has_text="32 figures").count() == 1
    assert names(page)[:2] == ["L0 H0 pattern", "L0 H1 pattern"]
    wait_until(page, "[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    page.get_by_label("Search prompts").fill("winter warm")
    wait_until(page, "document.querySelectorAll('.ab-row input').length === 1")
    assert page.locator(".ab-row").inner_text().split("\n")[0] == PROMPT.strip()


def test_a_thumbnail_is_the_pattern(page, host, data):
    page.goto(f"{host[1]}#models=demo&prompts={FIRST}&heads=L1H2&row=2")
    wait_until(page, "document.images.length === 1 && document.images[0].naturalWidth > 0")
    pixels = page.evaluate(
        """() => {
        const [image] = document.images;
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        const drawing = canvas.getContext("2d");
        drawing.drawImage(image, 0, 0);
        return [...drawing.getImageData(0, 0, canvas.width, canvas.height).data];
    }"""
    )
    weights = data[1][0].get_layer(1)[2]
    n = len(weights)
    seen = np.array(pixels).reshape(n, n, 4)[..., :3]
    meta = json.loads((host[0] / "data" / "demo" / FIRST / "prompt.json").read_text())["meta"]
    colors = np.frombuffer(bytes.fromhex(meta["palette"]), np.uint8).reshape(256, 3).astype(int)
    expected = colors[np.rint(255 * np.sqrt(weights / weights.max())).astype(int)]
    lower = np.tril(np.ones((n, n), bool))
    assert np.abs(seen - expected)[lower].max() <= 3


def test_a_pattern_opens_with_its_numbers_and_scores(page, host, data):
    page.goto(f"{host[1]}#models=demo&open=1.2.{FIRST}.demo")
    page.wait_for_selector('.av-plot[data-ready="1.2"]')
    left, top, cell, *_ = map(float, page.locator(".av-plot").get_attribute("data-place").split())
    box = page.locator(".av-plot").bounding_box()
    page.mouse.move(box["x"] + left + 2.5 * cell, box["y"] + top + 5.5 * cell)
    weight = page.locator(".ab-viewer .av-tooltip").inner_text().split("\n")[2]
    assert float(weight.split()[-1]) == pytest.approx(data[1][0].get_layer(1)[2][5, 2], abs=6e-4)
    page.get_by_role("tab", name="Bird’s eye").click()
    page.wait_for_selector(".ab-single .av-overview")
    page.get_by_label("Sort by").last.select_option("sink_mass")
    best = score_heads(data[1][0], ["sink_mass"]).top("sink_mass", 4)
    first = "[...document.querySelectorAll('.av-grid button')].slice(0, 4).map((b) => b.dataset.key).join()"
    wait_until(page, f"{first} === '{','.join(f'{head.layer}.{head.head}' for head in best)}'")


def test_figures_of_strangers_show_and_run_nothing(page, host):
    page.goto(f"{host[1]}#models=demo&prompts={FIRST}&heads=L0H0,1&figures=evil&figures=packed&figures=page")
    wait_until(page, "[...document.images].filter(i => i.naturalWidth === 40).length === 2")
    wait_until(page, "document.querySelectorAll('.ab-none').length === 3")
    assert sorted(page.locator(".ab-none").all_inner_texts()) == [
        "failed: ValueError: no",
        "not made yet",
        "not made yet",
    ]
    text = page.frame_locator(".ab-card iframe").locator("p")
    assert text.inner_text() == "a page"
    assert text.evaluate("p => getComputedStyle(p).color") == "rgb(0, 128, 0)"
    assert page.title() == "Attention Viewer"
    assert page.evaluate("window.owned") is None


def test_what_is_missing_is_said(browser, host):
    page = browser.new_page()
    for place, what in (("0.0.none.demo", "prompt 'none' of model 'demo'"), (f"0.0.{FIRST}.no", "model 'no'")):
        page.goto("about:blank")
        page.goto(f"{host[1]}#open={place}")
        page.locator(".ab-alert").wait_for()
        assert page.locator(".ab-alert").inner_text().startswith(f"There is no {what}")
    page.close()


def test_only_the_part_of_the_index_that_is_seen_is_read(tmp_path, browser):
    texts = [f"prompt {i:04}" for i in range(400)]
    write_model(tmp_path / "data", "m", 1, 1, [{"text": text, "tokens": ["a"]} for text in texts])
    assert len(write_site(tmp_path / "data", tmp_path / "site").failures) == 400  # there are no weights
    with run_host(tmp_path / "site") as address:
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
        page.goto(address)
        page.wait_for_selector(".ab-row input")
        assert page.locator(".ab-count").first.inner_text() == "400"
        assert sum(name.startswith("prompts-") for name in asked) == 1
        page.get_by_label("Search prompts").fill("0277")
        wait_until(page, "document.querySelectorAll('.ab-row input').length === 1")
        assert page.locator(".ab-text").inner_text() == "prompt 0277"
        page.get_by_label("Search prompts").fill("")
        page.locator(".ab-sort").first.click()  # from the last
        wait_until(page, "document.querySelector('.ab-text')?.innerText === 'prompt 0399'")
        page.close()


def test_long_prompts_are_kept_in_eight_bits(tmp_path):
    maps = make_maps(1, 2, 60, model_id="m")
    store_prompt(maps, {"text": "a"}, tmp_path / "data")
    generate_prompts_jsonl(tmp_path / "data" / "m")
    write_site(tmp_path / "data", tmp_path / "site")
    place = tmp_path / "site" / "data" / "m" / name_prompt("a")
    meta = json.loads((place / "prompt.json").read_text())["meta"]
    content = zlib.decompress((place / "L0.bin").read_bytes())
    assert len(content) == 2 * count_cells(meta)
    shown = decode_head(content[count_cells(meta) :], meta)
    assert np.abs(shown - maps.weights[0][1]).max() <= 0.75 / 255


def test_an_older_site_stays_until_the_new_one_is_whole(tmp_path, data, monkeypatch):
    site = tmp_path / "site"
    write_site(data[0], site)
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    monkeypatch.setattr("attn_viewer.web.site._write_json", fail)
    with pytest.raises(OutputError, match="no space"):
        write_site(data[0], site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    monkeypatch.undo()
    (site / "data" / "folder.json").write_text("{}")
    (site / "static" / "old").touch()
    write_site(data[0], site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before


def fail(path, content):
    raise OutputError("no space")


def test_what_lies_beside_an_older_site_is_not_deleted(tmp_path, data):
    output = tmp_path / "site"
    write_site(data[0], output)
    (output / ".git").mkdir()
    with pytest.raises(OutputError, match=r"holds other files than a site, '\.git'; give a new folder"):
        write_site(data[0], output)
    (output / ".git").rmdir()
    inside = output / "data" / "mine"
    shutil.copytree(data[0], inside)
    (tmp_path / "link").symlink_to(inside)
    for source in (inside, tmp_path / "link"):
        with pytest.raises(OutputError, match="which is replaced"):
            write_site(source, output)
    assert sorted(entry.name for entry in inside.iterdir()) == sorted(entry.name for entry in data[0].iterdir())


def test_what_can_be_no_site_is_refused(tmp_path, data):
    with pytest.raises(OptionError, match="does not exist; give one that"):
        write_site(tmp_path / "none", tmp_path / "site")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="holds no model"):
        write_site(tmp_path / "empty", tmp_path / "site")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        write_site(data[0], tmp_path / "file")
    with pytest.raises(OutputError, match="holds other files"):
        write_site(data[0], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_the_command_says_what_could_not_be_read(tmp_path, capsys):
    (place,) = write_model(tmp_path / "d", "m", 1, 1, [{"text": HOSTILE, "tokens": ["a"]}])
    (place / "activations.npz").write_bytes(b"no zip")
    assert main(["site", "--path", str(tmp_path / "d"), "--output", str(tmp_path / "s"), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "s"), "prompts: 0 done, 0 there already, 1 failures"]
    assert place.name in err
    reply = json.loads((tmp_path / "s" / "data" / "m" / place.name / "prompt.json").read_text())
    assert reply["text"] == HOSTILE
    assert reply["error"]
