import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from conftest import PROMPT
from data_folder import (
    EVIL,
    HOSTILE,
    TEXTS,
    make_data_folder,
    name_prompt,
    run_server,
    send_raw,
    start_server,
    write_model,
)
from PIL import Image
from starlette.testclient import TestClient

from attn_viewer import capture_attention, score_heads
from attn_viewer.cli import main
from attn_viewer.errors import OptionError
from attn_viewer.figures.style import DARK, LIGHT
from attn_viewer.web.encode import decode_head
from attn_viewer.web.server import make_app, serve

SECRET = b"a secret outside of the folder"


@pytest.fixture(scope="module")
def data(tmp_path_factory, demo):
    folder = tmp_path_factory.mktemp("served") / "attn_data"
    return folder, make_data_folder(folder, demo)


@pytest.fixture(scope="module")
def url(data):
    with run_server(data[0]) as address:
        yield address


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data folder that ``attn-viewer activations`` and ``figures`` made of the demo model."""
    folder = tmp_path_factory.mktemp("written") / "attn_data"
    prompts = folder.parent / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in (PROMPT, HOSTILE)))
    words = ["--model-id", "m", "--save-path", str(folder), "--quiet"]
    assert main(["activations", "--prompts", str(prompts), "--stacked-heads", *words]) == 0
    words = ["--model", "m", "--save-path", str(folder), "--figure-funcs", "column_mass", "--quiet"]
    assert main(["figures", *words, "--n-samples", "1", "--parallel", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def get(url):
    with httpx.Client(base_url=url) as client:
        yield lambda path, **words: client.get(path, params=words or None)


HEAD = {"model": "demo", "prompt": name_prompt(PROMPT), "layer": 1, "head": 2}


def test_the_folder_is_described(get):
    content = get("/api/folder").json()
    assert [(m["name"], m["heads"], m["n_prompts"]) for m in content["models"]] == [
        ("demo", [[layer, 8] for layer in range(4)], 3),
        ("org--stacked", [[layer, 8] for layer in range(4)], 1),
    ]
    assert content["functions"] == [
        {"name": "evil", "func_name": "evil", "doc": "Draw <b>green</b>.\n\nMore.", "code": "def evil(): ..."}
    ]


def test_prompts_are_searched_sorted_and_paged(get):
    found = get("/api/prompts", models="demo", sort="-n_tokens").json()
    assert [row["text"] for row in found["prompts"]] == [HOSTILE, PROMPT, "In the beginning"]
    assert [row["n_tokens"] for row in found["prompts"]] == sorted(
        (r["n_tokens"] for r in found["prompts"]), reverse=True
    )
    found = get("/api/prompts", models="demo", q="WARM winter").json()
    assert (found["total"], found["of"], found["prompts"][0]["hash"]) == (1, 3, name_prompt(PROMPT))
    page = get("/api/prompts", models="demo", offset=1, limit=1).json()
    assert [row["text"] for row in page["prompts"]] == [sorted(TEXTS)[1]]
    both = get("/api/prompts", models=["demo", "org--stacked"]).json()
    assert both["total"] == 3
    assert [r["models"] for r in both["prompts"] if r["text"] == PROMPT] == [["demo", "org--stacked"]]


@pytest.mark.parametrize("model", ["demo", "org--stacked"])
def test_weights_are_those_of_the_model(get, data, model):
    meta = get("/api/prompt", model=model, prompt=HEAD["prompt"]).json()["meta"]
    maps = data[1][0]
    assert meta["tokens_key"] == list(maps.tokens_key)
    assert meta["causal"] is True
    for layer in maps.layers:
        for head in (0, 7):
            reply = get("/api/weights", **HEAD | {"model": model, "layer": layer, "head": head})
            assert reply.headers["content-type"] == "application/octet-stream"
            np.testing.assert_array_equal(decode_head(reply.content, meta), maps.get_layer(layer)[head])


@pytest.mark.parametrize("model", ["demo", "org--stacked"])
def test_scores_are_measured_a_layer_at_a_time(get, data, model):
    maps = data[1][0]
    words = {"model": model, "prompt": HEAD["prompt"]}
    names = [score["name"] for score in get("/api/prompt", **words).json()["meta"]["scores"]]
    scores = get("/api/scores", **words, layer=2).json()
    assert list(scores) == names
    table = score_heads(maps.select(layers=[2]), ["previous_token"])["previous_token"]
    np.testing.assert_allclose(scores["previous_token"], table, rtol=1e-5)
    assert get("/api/scores", **words, layer=4).status_code == 404


def test_thumbnails_are_pictures_of_the_weights(get, data):
    reply = get("/thumbnail", **HEAD)
    n = len(data[1][0].tokens_key)
    assert reply.content[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(reply.content[i : i + 4], "big") for i in (16, 20)] == [n, n]
    packed = reply.content[reply.content.index(b"IDAT") + 4 :]
    rows = np.frombuffer(zlib.decompressobj().decompress(packed), np.uint8).reshape(n, n + 1)[:, 1:]
    assert (rows[np.triu_indices(n, 1)] == 255).all()  # what no query sees
    roots = np.sqrt(data[1][0].get_layer(1)[2])
    np.testing.assert_allclose(
        rows[np.tril_indices(n)] / 254, (roots / roots.max())[np.tril_indices(n)], atol=0.5 / 254
    )


def test_thumbnails_for_a_dark_page_turn_the_colours_round(get):
    light, dark = (get("/thumbnail", **HEAD, theme=theme).content for theme in ("light", "dark"))
    start = light.index(b"PLTE") + 4
    palettes = [np.frombuffer(data[start : start + 768], np.uint8).reshape(256, 3) for data in (light, dark)]
    np.testing.assert_allclose(palettes[0][:255].astype(int), palettes[1][254::-1], atol=3)
    assert palettes[0][255].min() > 200 > 60 > palettes[1][255].max()  # what no query sees
    assert light[start + 772 :] == dark[start + 772 :]
    assert light == get("/thumbnail", **HEAD).content
    assert get("/thumbnail", **HEAD, theme="x").status_code == 400


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_thumbnails_of_signed_maps_have_zero_in_the_middle(tmp_path, theme):
    (place,) = write_model(tmp_path, "m", 1, 1, [{"text": "x", "tokens": ["a", "b"], "attn_viewer": {"signed": True}}])
    np.savez(place / "activations.npz", **{"blocks.0.attn.hook_pattern": np.float32([[[[-1, 0.25], [0, 1]]]])})
    client = TestClient(make_app(tmp_path), base_url="http://127.0.0.1")
    words = {"model": "m", "prompt": name_prompt("x"), "layer": 0, "head": 0, "theme": theme}
    reply = client.get("/thumbnail", params=words)
    pixels = np.asarray(Image.open(io.BytesIO(reply.content)).convert("RGB")).astype(int)
    (low, quarter), (zero, high) = pixels
    ground = LIGHT.ground if theme == "light" else DARK.ground
    assert low[0] - low[2] > 20 < high[2] - high[0]
    np.testing.assert_allclose(zero, list(bytes.fromhex(ground[1:])), atol=12)
    assert quarter[2] - quarter[0] > 20


@pytest.mark.parametrize("name", ["evil", "packed"])
def test_figures_of_strangers_cannot_run(get, name):
    reply = get("/figure", **HEAD | {"layer": 0, "head": 0, "name": name})
    assert reply.text == EVIL
    assert reply.headers["content-type"] == "image/svg+xml"
    assert reply.headers.get("content-encoding") == ("gzip" if name == "packed" else None)
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(reply.url, headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_pages_run_only_their_own_scripts(get):
    page = get("/")
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert "'unsafe" not in page.headers["content-security-policy"]
    for path in ("browser.js", "browser.css", "viewer.js", "icon.svg"):
        assert get(f"/static/{path}").status_code == 200
    assert get("/static/browser.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("10.0.0.7:8000", 200),
        ("lab.example", 200),
        ("", 421),
    ],
)
def test_names_that_a_stranger_points_here_are_refused(data, host, status):
    transport = httpx.ASGITransport(make_app(data[0], allowed_hosts=["lab.example"]))

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/", headers={"Host": host})).status_code

    # In a thread of its own: playwright's loop runs in this one from the first browser test on.
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: asyncio.run(ask())).result() == status


def make_requests(place, outside):
    """Return 200 and more requests that ask for what is not served, or cannot be read."""
    dots = ["../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "..\\", "%252e%252e%252f", "....//", "..%c0%af", "..;/"]
    targets = ["etc/passwd", "etc%2fpasswd", outside.name, "attn_data/figures.jsonl", "%00etc/passwd"]
    paths = [f"/{start}{d * 3}{t}" for start in ("", "static/") for d in dots for t in targets]
    quote = urllib.parse.quote
    q = "prompt=" + place.name
    model = place.parent.parent.name
    bad = [f"{d * 4}etc/passwd" for d in dots] + [
        "/etc/passwd",
        "file:///etc/passwd",
        "C:%5cwindows",
        "%00",
        ".",
        "..",
        "~",
    ]
    for value in bad:
        paths.append(f"/figure?model={value}&{q}&layer=0&head=0&name=evil")
        paths.append(f"/figure?model={model}&prompt={value}&layer=0&head=0&name=evil")
        paths.append(f"/figure?model={model}&{q}&layer=0&head=0&name={value}")
        paths.append(f"/api/prompt?model={value}&{q}")
    paths += [f"/figure?model={model}&{q}&layer=0&head=0&name={n}" for n in ("leak", "pipe", "evil.svg", "activations")]
    paths += [f"/figure?model={model}&{q}&layer=0&head=1&name=secret", f"/api/prompt?model={model}&prompt=linked"]
    for number in (
        "-1",
        "1e3",
        "0x1",
        "99999999999999999999",
        "9999999",
        "",
        "%D9%A3",
        "0-9999999999",
        "*",
        " 1",
        "+1",
        "1.0",
    ):
        paths.append(f"/api/weights?model={model}&{q}&layer={number}&head=0")
        paths.append(f"/thumbnail?model={model}&{q}&layer=0&head={number}")
        paths.append(f"/api/prompts?models={model}&limit={number}")
    paths += [
        "/api",
        "/api/",
        "/static",
        "/static/",
        "/static/browser.html/",
        "/static/browser.js?x=1",
        "//",
        "/index.html",
    ]
    paths += [
        f"/{model}/model_cfg.json",
        "/models.jsonl",
        "/.git/config",
        "/api/prompts?sort=x",
        "/api/prompts?limit=0",
    ]
    paths += [
        "/api/prompts?models=none",
        "/api/prompts?q=a&q=b",
        "/api/folder?x=1",
        f"/api/prompt?model={'a' * 5000}&{q}",
    ]
    requests = [f"GET {p} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" for p in paths]
    fine = f"/figure?model={model}&{q}&layer=0&head=0&name=evil"
    methods = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "EVIL"]
    requests += [f"{m} {fine} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" for m in methods]
    ranges = ["bytes=0-99999999999999999999", "bytes=-1", "bytes=0-,1-,2-", "lines=1-2"]
    requests += [f"GET {fine} HTTP/1.1\r\nHost: localhost\r\nRange: {r}\r\nConnection: close\r\n\r\n" for r in ranges]
    requests += [
        "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /\r\n\r\n",
        "\x00\x01\x02\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {'a' * 100_000}\r\n\r\n",
        f"GET /{quote('é')}{'a' * 70_000} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ]
    return [request.encode("latin-1") for request in requests]


def test_no_request_gets_out_of_the_folder(url, data):
    attack(url, data[0], data[0] / "demo" / "prompts" / name_prompt(PROMPT))


def test_a_folder_that_the_commands_wrote(written, demo):
    """The whole way on a real model: weights and figures."""
    with run_server(written) as url, httpx.Client(base_url=url) as client:
        (model,) = client.get("/api/folder").json()["models"]
        assert (model["name"], len(model["heads"]), model["n_prompts"]) == ("m", 4, 2)
        rows = {row["hash"]: row for row in client.get("/api/prompts?models=m").json()["prompts"]}
        assert set(rows) == {name_prompt(PROMPT), name_prompt(HOSTILE)}
        head = {"model": "m", "prompt": name_prompt(PROMPT), "layer": 1, "head": 2}
        meta = client.get("/api/prompt", params={k: head[k] for k in ("model", "prompt")}).json()["meta"]
        maps = capture_attention(*demo, PROMPT)
        assert meta["tokens_key"] == list(maps.tokens_key)
        assert rows[name_prompt(PROMPT)]["n_tokens"] == len(maps.tokens_key)
        (written / "m" / "prompts.jsonl").unlink()  # then each prompt.json is read
        assert client.get("/api/prompts?models=m").json()["prompts"] == list(rows.values())
        shown = decode_head(client.get("/api/weights", params=head).content, meta)
        np.testing.assert_allclose(shown, maps.get_layer(1)[2], atol=1e-3)
        drawn = [p for p in (written / "m" / "prompts").iterdir() if (p / "L1" / "H2").is_dir()]
        figure = client.get("/figure", params=head | {"prompt": drawn[0].name, "name": "column_mass"})
        assert (figure.status_code, figure.headers["content-type"]) == (200, "image/svg+xml")


@pytest.mark.slow
def test_requests_for_a_folder_that_the_commands_wrote(written):
    """200 that are refused, and 1,000 that are not."""
    drawn = next(p for p in (written / "m" / "prompts").iterdir() if (p / "L1" / "H2").is_dir())
    with run_server(written) as url:
        attack(url, written, drawn)
        ask_a_thousand_times(url, HEAD | {"model": "m"})


def attack(url, folder, place):
    """Ask for what is not served in more than 200 ways, some of them by way of links that lead out of the folder."""
    outside = folder.parent / "secret.svg"
    outside.write_bytes(SECRET)
    made = [place / "L0" / "H0" / "leak.svg", place / "L0" / "H1", place.parent / "linked"]
    aside = place / "H1"
    if made[1].is_dir():
        made[1].rename(aside)
    made[0].symlink_to(outside)
    made[1].symlink_to(folder.parent)
    made[2].symlink_to(folder.parent)
    (folder.parent / "prompt.json").write_text(json.dumps({"text": SECRET.decode()}))
    pipe = place / "L0" / "H0" / "pipe.png"
    os.mkfifo(pipe)
    try:
        requests = make_requests(place, outside)
        assert len(requests) >= 200
        for request in requests:
            reply = send_raw(url, request)
            assert reply[:10] == b"HTTP/1.1 4", (request[:200], reply[:300])
            for word in (SECRET, b"root:", b"Traceback", b'File "', str(folder.parent).encode(), b"model_name"):
                assert word not in reply, request[:200]
    finally:
        for path in (*made, pipe):
            path.unlink()
        if aside.is_dir():
            aside.rename(made[1])


@pytest.mark.slow
def test_a_thousand_requests_twenty_at_a_time(url):
    ask_a_thousand_times(url, HEAD)


def ask_a_thousand_times(url, head):
    words = urllib.parse.urlencode(head)
    paths = ["/", "/api/folder", f"/api/prompts?models={head['model']}", f"/api/weights?{words}", f"/thumbnail?{words}"]
    statuses = []

    def work():
        with httpx.Client(base_url=url, timeout=60) as client:
            statuses.extend(client.get(paths[i % len(paths)]).status_code for i in range(50))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 1000


def test_a_head_costs_no_more_than_a_head(url):
    reply = httpx.head(f"{url}/thumbnail", params=HEAD)
    assert (reply.status_code, reply.content) == (200, b"")


def start_hasty_server(folder):
    """Start a server that has half a second, and room for 20."""
    code = (
        "import sys\nfrom attn_viewer.web import connections\nfrom attn_viewer.web.server import serve\n"
        "connections.REQUEST_SECONDS, connections.MOST_CONNECTIONS = 0.5, 20\n"
        "serve(sys.argv[1], port=0, ready=lambda url: print(url, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_unfinished_requests_are_let_go_and_make_room(data):
    process, url = start_hasty_server(data[0])
    try:
        place = urllib.parse.urlsplit(url)
        with contextlib.ExitStack() as stack:
            started = []
            for start in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ") * 30:
                started.append(stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=20)))
                with contextlib.suppress(ConnectionError):
                    started[-1].sendall(start)
            assert httpx.get(f"{url}/api/folder").status_code == 200
            for connection in started:
                with contextlib.suppress(ConnectionError):
                    assert connection.recv(100) == b""
        with httpx.Client(base_url=url) as client:  # one that is kept and used is not let go
            for _ in range(8):
                assert client.get("/api/folder").status_code == 200
                time.sleep(0.1)
    finally:
        process.terminate()
        process.communicate()


def test_folders_in_the_place_of_files_cost_nothing(data):
    process, url = start_server("--path", str(data[0]))
    place = data[0] / "demo" / "prompts" / name_prompt(PROMPT) / "L0" / "H0" / "folder.png"
    place.mkdir()
    try:
        with httpx.Client(base_url=url) as client:
            statuses = {client.get("/figure", params=HEAD | {"layer": 0, "head": 0, "name": "folder"}).status_code
                        for _ in range(50)}  # fmt: skip
        assert statuses == {404}
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 40
    finally:
        place.rmdir()
        process.terminate()
        process.communicate()


@pytest.mark.parametrize(("value", "stacked"), [(np.nan, False), (np.inf, True), (-0.5, True), (np.nan, True)])
def test_numbers_that_are_no_weights_are_refused(tmp_path, demo_maps, value, stacked):
    (place,) = write_model(tmp_path, "m", 4, 8, [{"text": "t", "tokens": list(demo_maps.tokens_key)}])
    weights = np.stack(demo_maps.weights)
    weights[1, 2, 3, 1] = value
    if stacked:
        np.save(place / "activations-blocks.-.attn.hook_pattern.npy", weights)
    else:
        np.savez(place / "activations.npz", **{f"blocks.{n}.attn.hook_pattern": w[None] for n, w in enumerate(weights)})
    client = TestClient(make_app(tmp_path), base_url="http://localhost")
    words = f"model=m&prompt={place.name}"
    for name in ("/api/weights", "/thumbnail"):
        assert client.get(f"{name}?{words}&layer=1&head=2").status_code == 422
        assert client.get(f"{name}?{words}&layer=1&head=3").status_code == 200
    reply = client.get(f"/api/scores?{words}&layer=1")
    assert reply.status_code == 422
    assert "are no attention weights" in reply.json()["error"]
    assert client.get(f"/api/scores?{words}&layer=0").status_code == 200


def test_what_cannot_be_served(tmp_path, capsys):
    assert main(["serve", "--path", str(tmp_path / "none")]) == 2
    assert "none' does not exist; give one that" in capsys.readouterr().err
    with pytest.raises(OptionError, match="port must be"):
        serve(tmp_path, port=70_000)
    with pytest.raises(OptionError, match="cannot listen on"):
        serve(tmp_path, host="192.0.2.1", port=0)
    with pytest.raises(OptionError, match="plain name"):
        serve(tmp_path, allowed_hosts=["*"])


def test_ctrl_c_ends_the_server(tmp_path):
    process, address = start_server("--path", str(tmp_path))
    assert address.startswith("http://127.0.0.1:")
    assert httpx.get(f"{address}/api/folder").json()["models"] == []
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert "Traceback" not in err
    assert process.returncode in (0, 130)
