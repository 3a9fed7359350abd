"""A page over a model: what it answers equals the library, what is hostile is refused, and a browser drives it."""

import base64
import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from conftest import try_examples
from data_folder import start_server
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attn_viewer import ablate_heads, capture_attention, capture_generation, measure_effect, merge_heads
from attn_viewer.cli import main
from attn_viewer.declarations import list_choices
from attn_viewer.errors import OptionError
from attn_viewer.inputs.pictures import ask_about, read_picture
from attn_viewer.storage.folder import DataFolder
from attn_viewer.tokens import label_tokens, show_text
from attn_viewer.web.encode import decode_head
from attn_viewer.web.guard import MAX_BODY
from attn_viewer.web.jobs import MOST_KEPT, MOST_WAITING, JobQueue
from attn_viewer.web.live import make_live_app, serve_live
from attn_viewer.web.live_options import LiveOptions, Wanted

SCENES = Path(__file__).parents[2] / "examples" / "scenes"
TEXT = "In the beginning God created the heaven and the earth."
LIMITS = LiveOptions(max_tokens=400, max_new_tokens=300)


@contextlib.contextmanager
def run_live(demo, **options):
    """Yield the URL of a live page over the demo model, served from a thread."""
    app, queue = make_live_app(*demo, **{"model_id": "demo", "limits": LIMITS, **options})
    server = uvicorn.Server(uvicorn.Config(app, ws="none", lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            queue.close()
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url(demo):
    with run_live(demo) as address:
        yield address


@contextlib.contextmanager
def slow_down(demo):
    """Make the model slower than any browser, so that a job runs as long as a test wants."""
    handle = demo[0].register_forward_pre_hook(lambda *_: time.sleep(0.05))
    try:
        yield
    finally:
        handle.remove()


def read_facts(client, path="/"):
    page = client.get(path).text
    return json.loads(page.split('data-facts="')[1].split('"')[0].replace("&quot;", '"'))


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, headers={"origin": url}, timeout=60) as client:
        client.headers["x-secret"] = read_facts(client)["secret"]
        yield client


def ask(client, what="capture", prompt=TEXT, **words):
    reply = client.post("/live/jobs", json={"what": what, "prompt": prompt, **words})
    assert reply.status_code == 202, reply.text
    return reply.json()["job"]


def iterate_events(client, job, start=0):
    with client.stream("GET", "/live/events", params={"job": job, "from": start}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line:
                yield json.loads(line.removeprefix("data: "))


def finish(client, job):
    return {"job": job} | list(iterate_events(client, job))[-1]


def read_maps(client, end, index=0):
    meta = end["maps"][index]
    layers = []
    for first in range(0, len(meta["layers"]), 3):
        data = client.get("/live/weights", params={"job": end["job"], "map": index, "first": first, "count": 3}).content
        heads = [decode_head(part, meta) for part in split(data, sum(map(len, meta["heads"][first : first + 3])))]
        layers += np.array_split(heads, len(meta["heads"][first : first + 3]))
    return np.array(layers)


def split(data, count):
    size = len(data) // count
    return [data[i * size : (i + 1) * size] for i in range(count)]


def test_a_capture_is_that_of_the_library(client, demo):
    job = ask(client)
    events = list(iterate_events(client, job))
    maps = capture_attention(*demo, TEXT)
    assert [event["state"] for event in events] == ["waiting", "running", "running", "done"]
    assert events[2]["tokens"] == len(maps.tokens_key)
    assert events[-1]["maps"][0]["tokens_key"] == list(maps.tokens_key)
    assert events[-1]["maps"][0]["model_id"] == "demo"
    np.testing.assert_array_equal(read_maps(client, {"job": job} | events[-1]), np.stack(maps.weights))
    assert list(iterate_events(client, job, 3)) == events[3:]


def test_a_generation_tells_each_token_with_where_it_looks(client, demo):
    job = ask(client, "generate", new_tokens=5)
    events = list(iterate_events(client, job))
    steps = [event for event in events if event["state"] == "step"]
    maps = capture_generation(*demo, TEXT, max_new_tokens=5, generate_options={"do_sample": False}, when="steps")
    n = maps.prompt_length
    assert len(steps) == 5
    assert [step["text"] for step in steps[:-1]] == list(maps.tokens_key[n:])  # nobody saw the last
    for i, step in enumerate(steps):
        row = np.stack(maps.weights)[:, :, n - 1 + i, : n + i].mean((0, 1))
        np.testing.assert_allclose(step["weights"], row, atol=1e-4)
    np.testing.assert_allclose(read_maps(client, {"job": job} | events[-1]), np.stack(maps.weights), atol=1e-6)
    assert events[-1]["maps"][0]["prompt_length"] == n


def test_heads_that_are_changed_are_shown_with_their_effect(client, demo):
    job = ask(client, "change", heads="1.3,2.0", new_tokens=4)
    *events, end = iterate_events(client, job)
    end["job"] = job
    change = ablate_heads(demo[0], [(1, 3), (2, 0)])
    effect = measure_effect(*demo, TEXT, change)
    with change:
        changed = capture_attention(*demo, TEXT)
        answer = capture_generation(*demo, TEXT, max_new_tokens=4, generate_options={"do_sample": False})
    told = [event["text"] for event in events if event.get("answer") == 1]
    assert told == list(answer.tokens_key[answer.prompt_length :])
    assert [meta["name"] for meta in end["maps"]] == ["A", "B", "B − A"]
    np.testing.assert_array_equal(read_maps(client, end, 0), np.stack(capture_attention(*demo, TEXT).weights))
    np.testing.assert_array_equal(read_maps(client, end, 1), np.stack(changed.weights))
    np.testing.assert_allclose(end["effect"]["loss"], [effect.loss_before.mean(), effect.loss_after.mean()], rtol=1e-5)
    for name, rows in (("before", effect.top_before), ("after", effect.top_after)):
        np.testing.assert_allclose([row[1:] for row in end["effect"][name]], [row[1:] for row in rows], rtol=1e-4)


@pytest.mark.parametrize("mode", ["mean", "uniform", "bos"])
def test_each_way_to_take_a_head_out(client, demo, mode):
    *events, end = iterate_events(client, ask(client, "change", heads="1.3", mode=mode, new_tokens=3))
    change = ablate_heads(demo[0], [(1, 3)], mode)
    effect = measure_effect(*demo, TEXT, change)
    ids = demo[1](TEXT, return_tensors="pt")["input_ids"]
    with change, torch.no_grad():  # from the beginning for each token
        for _ in range(3):
            ids = torch.cat([ids, demo[0](ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    told = [event["text"] for event in events if event.get("answer") == 1]
    assert told == [show_text(label) for label in label_tokens(ids[0, -3:].tolist(), demo[1])]
    np.testing.assert_allclose(end["effect"]["loss"], [effect.loss_before.mean(), effect.loss_after.mean()], rtol=1e-5)
    assert end["effect"]["description"] == effect.description


def test_the_page_says_what_each_way_to_change_heads_means(client):
    assert tuple(read_facts(client)["modes"]) == list_choices(Wanted._fields["mode"])


def test_two_heads_are_merged(client, demo):
    end = finish(client, ask(client, "change", heads="1.0,1.2", mode="merge", new_tokens=2))
    change = merge_heads(demo[0], 1, 0, 2)
    with change:
        changed = capture_attention(*demo, TEXT)
    np.testing.assert_array_equal(read_maps(client, end, 1), np.stack(changed.weights))
    assert end["effect"]["description"] == change.description


def test_the_likeliest_next_tokens_of_every_position(client, demo):
    model, tokenizer = demo
    end = finish(client, ask(client, "predict"))
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        shares, best = model(ids).logits[0].softmax(-1).topk(5)
    assert end["ids"] == ids[0].tolist()
    assert [[i for i, _, _ in row] for row in end["next"]] == best.tolist()
    np.testing.assert_allclose([[share for _, _, share in row] for row in end["next"]], shares, rtol=1e-4)
    np.testing.assert_array_equal(read_maps(client, end), np.stack(capture_attention(*demo, TEXT).weights))
    tried = [*end["ids"][:6], end["next"][5][1][0]]  # the second likeliest
    again = finish(client, ask(client, "predict", prompt="", ids=tried))
    assert (again["ids"], again["text"]) == (tried, tokenizer.decode(tried, skip_special_tokens=True))
    np.testing.assert_allclose([row[2] for row in again["next"][2]], shares[2], rtol=1e-4)


def test_two_prompts_are_compared(client, demo):
    other = TEXT.replace("God", "man")
    end = finish(client, ask(client, "compare", other=other))
    pair = [capture_attention(*demo, text) for text in (other, TEXT)]
    for index, maps in enumerate(pair):
        np.testing.assert_array_equal(read_maps(client, end, index), np.stack(maps.weights))
    shift = [np.abs(a - b).sum(-1).mean(-1) / 2 for a, b in zip(*(maps.weights for maps in pair), strict=True)]
    np.testing.assert_allclose(end["distances"], shift, rtol=1e-5)
    assert end["changed"] == 1
    end = finish(client, ask(client, "compare", prompt=TEXT + " And", other=TEXT))
    assert end["changed"] == len(capture_attention(*demo, TEXT + " And").tokens_key) - len(pair[1].tokens_key)
    np.testing.assert_allclose(end["distances"], 0, atol=1e-6)  # later tokens change nothing before them


def test_prompts_are_saved_to_the_data_folder(demo, tmp_path):
    folder = tmp_path / "kept"
    with (
        run_live(demo, folder=folder) as url,
        httpx.Client(base_url=url, headers={"origin": url}, timeout=60) as client,
    ):
        client.headers["x-secret"] = read_facts(client)["secret"]
        for words, count in (
            ({"what": "compare", "other": "a b"}, 2),
            ({"what": "change", "heads": "1.0"}, 1),
            ({"what": "generate", "new_tokens": 4}, 1),
        ):
            job = ask(client, **words)
            finish(client, job)
            reply = client.post("/live/keep", json={"job": job}).json()
            assert [place.rpartition("/")[0] for place in reply["saved"]] == ["demo/prompts"] * count
            assert all((folder / place).is_dir() for place in reply["saved"])
            assert reply["folder"] == "kept"
        job = ask(client, "predict", ids=[5, 17])
        finish(client, job)
        assert client.post("/live/keep", json={"job": job}).status_code == 404
    model = DataFolder(folder).get_model("demo")
    answer = capture_generation(*demo, TEXT, max_new_tokens=4, generate_options={"do_sample": False}, when="steps")
    ids = answer.ids_key[answer.prompt_length :]
    whole = TEXT + demo[1].decode(ids)  # weights of an answer are not those of the prompt alone
    assert {prompt["text"] for prompt in model.list_prompts()[0]} == {TEXT, "a b", whole}
    assert model.get_prompt({"text": whole}).read_maps().tokens_key == answer.tokens_key
    maps = model.get_prompt({"text": TEXT}).read_maps()
    np.testing.assert_array_equal(np.stack(maps.weights), np.stack(capture_attention(*demo, TEXT).weights))


def test_a_model_of_the_list_is_loaded_when_it_is_asked_for_and_sees_a_picture(demo, demo_vision):
    data = (SCENES / "scene_1.png").read_bytes()
    question = "what is in the picture?"
    words = {"model": 1, "prompt": question, "picture": base64.b64encode(data).decode()}
    loads = []

    def load():
        loads.append(1)
        return demo_vision

    with (
        run_live(demo, others={"eyes": load}) as url,
        httpx.Client(base_url=url, headers={"origin": url}, timeout=60) as client,
    ):
        facts = read_facts(client)
        assert (facts["models"], facts["sees"], loads) == (["demo", "eyes"], False, [])
        client.headers["x-secret"] = facts["secret"]
        events = list(iterate_events(client, ask(client, "load", model=1)))
        assert {"state": "running", "loads": "eyes"} in events
        assert events[-1]["facts"]["sees"]
        end = finish(client, ask(client, **words))
        maps = capture_attention(*demo_vision, ask_about(read_picture(SCENES / "scene_1.png"), question))
        np.testing.assert_allclose(read_maps(client, end), np.stack(maps.weights), atol=2e-3)  # 8-bit codes
        (picture,) = end["maps"][0]["pictures"]
        shown = client.get(picture["href"])
        assert Image.open(io.BytesIO(shown.content)).size == (picture["width"], picture["height"])
        assert client.get("/live/picture", params={"job": "forged"}).status_code == 404
        job = ask(client, "generate", new_tokens=12, **words)
        told = "".join(event["text"] for event in iterate_events(client, job) if event["state"] == "step")
        assert told.startswith("redsquareandgreencircle")
        assert client.post("/live/keep", json={"job": job}).status_code == 404
        turns = "user: where is it?\nassistant: left\nuser: what is it?"
        end = finish(client, ask(client, model=1, prompt=turns, chat=True))
        said = [("user", "where is it?"), ("assistant", "left"), ("user", "what is it?")]
        maps = capture_attention(*demo_vision, [{"role": role, "content": text} for role, text in said])
        assert end["maps"][0]["tokens_key"] == list(maps.tokens_key)
        for wrong, error in ((b"%!PS-Adobe-3.0 EPSF-3.0", "cannot identify"), (data[:300], "cannot read")):
            picture = base64.b64encode(wrong).decode()
            assert error in finish(client, ask(client, **words | {"picture": picture}))["error"]
        assert "did not come whole" in finish(client, ask(client, **words | {"picture": "é"}))["error"]
        assert "no model 2" in finish(client, ask(client, model=2))["error"]
        assert finish(client, ask(client))["maps"][0]["model_id"] == "demo"
    assert loads == [1]


def test_what_is_running_is_cancelled_and_the_next_goes_on(client, demo):
    with slow_down(demo):
        cancel_what_runs(client)


def cancel_what_runs(client):
    job = ask(client, "generate", new_tokens=300)
    behind = ask(client)
    idle = ask(client)
    assert next(iterate_events(client, idle)) == {"state": "waiting", "before": 2}
    client.post("/live/cancel", json={"job": idle})
    assert finish(client, idle)["state"] == "cancelled"
    states = []
    for event in iterate_events(client, job):
        states.append(event["state"])
        if states.count("step") == 3 and states[-1] == "step":
            assert client.post("/live/cancel", json={"job": job}).status_code == 200
    assert states[-1] == "cancelled"
    assert 3 <= states.count("step") < 300
    assert finish(client, behind)["state"] == "done"
    assert client.get("/live/weights", params={"job": job, "map": 0, "first": 0, "count": 1}).status_code == 404


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"prompt": "word " * 500}, "where 400 are allowed"),
        ({"prompt": ""}, "nothing is written; give at least one token"),
        ({"what": "generate", "new_tokens": 301}, "300 new ones are allowed"),
        ({"what": "generate", "new_tokens": 300, "prompt": "word " * 150}, "400 together"),
        ({"what": "change"}, "which heads"),
        ({"what": "change", "heads": "9.9"}, "9"),
        ({"what": "change", "heads": "a"}, "'a'"),
        ({"what": "change", "heads": "1.0", "new_tokens": 301}, "300 new ones are allowed"),
    ],
)
def test_a_job_that_fails_is_a_message(client, words, error):
    end = finish(client, ask(client, **words))
    assert end["state"] == "failed"
    assert error in end["error"]


def test_the_limit_by_memory_is_said_beforehand(demo):
    with run_live(demo, limits=LiveOptions(max_maps_mb=1)) as url, httpx.Client(base_url=url) as client:
        most = read_facts(client)["tokens"]
    n_words = demo[0].get_output_embeddings().out_features
    needed = [4 * 4 * (32 * n**2 + n_words * n) for n in (most, most + 1)]  # weights and predictions, four times
    assert needed[0] <= 10**6 < needed[1]
    with pytest.raises(OptionError, match="a token"):
        make_live_app(*demo, token="short")


def test_too_many_jobs_are_refused_and_old_ones_forgotten(demo):
    with run_live(demo) as url, httpx.Client(base_url=url, headers={"origin": url}, timeout=60) as client:
        client.headers["x-secret"] = read_facts(client)["secret"]
        with slow_down(demo):
            jobs = [ask(client, "generate", new_tokens=300) for _ in range(MOST_WAITING)]
            assert client.post("/live/jobs", json={"prompt": TEXT}).status_code == 503
            for job in reversed(jobs):
                client.post("/live/cancel", json={"job": job})
        finish(client, jobs[0])
        for _ in range(MOST_KEPT + 1):
            last = ask(client)
            assert finish(client, last)["state"] == "done"
        assert client.get("/live/events", params={"job": jobs[0], "from": 0}).status_code == 404


FORGED = [
    ({"origin": "http://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": None}, 403),
    ({"host": "evil.example"}, 421),
    ({"host": "evil.example", "origin": "http://evil.example"}, 421),
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"content-type": "text/plain"}, 415),
    ({"x-secret": "forged"}, 403),
    ({"x-secret": None}, 403),
]


@pytest.mark.parametrize("path", ["/live/jobs", "/live/cancel", "/live/keep"])
@pytest.mark.parametrize(("headers", "status"), FORGED)
def test_other_sites_are_refused(url, client, path, headers, status):
    own = {"origin": url, "x-secret": client.headers["x-secret"], "content-type": "application/json"} | headers
    own = {name: value for name, value in own.items() if value is not None}
    reply = httpx.post(f"{url}{path}", content=b'{"prompt": "a"}', headers=own)
    assert (reply.status_code, set(reply.json())) == (status, {"error"})


def test_readers_need_the_secret_too(url, client):
    job = ask(client)
    finish(client, job)
    for path in (f"/live/events?job={job}&from=0", f"/live/weights?job={job}&map=0&first=0&count=1"):
        assert client.get(path).status_code == 200
        assert httpx.get(f"{url}{path}").status_code == 403
        assert httpx.post(f"{url}{path}", headers={"origin": url}, json={}).status_code == 405
    assert client.get("/live/jobs").status_code == 405


def test_bodies_are_bounded(url, client, monkeypatch):
    monkeypatch.setattr("attn_viewer.web.live.BODY_SECONDS", 0.2)
    head = {"content-type": "application/json"}
    assert client.post("/live/jobs", content=b" " * (MAX_BODY + 1), headers=head).status_code == 413
    assert client.post("/live/jobs", content=iter([b"{}"]), headers=head).status_code == 400  # of no known length
    host = url.removeprefix("http://").partition(":")
    with socket.create_connection((host[0], int(host[2]))) as peer:
        lines = [f"POST /live/jobs HTTP/1.1\r\nHost: {host[0]}:{host[2]}\r\nOrigin: {url}\r\n"]
        lines += [
            f"x-secret: {client.headers['x-secret']}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        ]
        peer.sendall("".join(lines).encode() + b"{")
        assert b" 408 " in peer.recv(4096)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys([*Wanted._fields, "path", "__class__"], HOSTILE),
)

# Jobs that exist, with words that may not go with them.
NEARLY = st.fixed_dictionaries(
    {"what": st.sampled_from(list_choices(Wanted._fields["what"])), "prompt": st.text(max_size=20)},
    optional={
        "ids": st.lists(st.integers(-2, 70_000), max_size=4),
        "other": st.text(max_size=8),
        "picture": st.text(max_size=8) | st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode()),
        "mode": st.sampled_from(list_choices(Wanted._fields["mode"])),
        "heads": st.sampled_from(["", "0.0", "1.0,1.1", "1.0,2.0", "9.9", "a"]),
        "model": st.integers(0, 3),
    },
)


@try_examples(2)
@given(body=HOSTILE.map(json.dumps) | WORDS.map(json.dumps) | NEARLY.map(json.dumps) | st.text(max_size=40))
def test_what_is_no_request_is_refused_and_what_is_one_ends(client, body):
    reply = client.post("/live/jobs", content=body.encode("utf-8"), headers={"content-type": "application/json"})
    assert reply.status_code in (202, 400)
    if reply.status_code == 202:
        assert finish(client, reply.json()["job"])["state"] in ("done", "failed")
    else:
        assert isinstance(reply.json()["error"], str)


@try_examples(3)
@given(path=st.sampled_from(["/live/cancel", "/live/keep"]), body=HOSTILE.map(json.dumps) | st.text(max_size=40))
def test_jobs_that_are_not_there_are_not_cancelled_and_not_kept(client, path, body):
    reply = client.post(path, content=body.encode("utf-8"), headers={"content-type": "application/json"})
    assert reply.status_code in (400, 404)
    assert isinstance(reply.json()["error"], str)


def test_other_machines_need_a_token(demo):
    with pytest.raises(OptionError, match="--token"):
        serve_live(*demo, host="0.0.0.0", port=0)
    token = "0123456789abcdef&"
    with run_live(demo, token=token) as url, httpx.Client(base_url=url) as client:
        assert client.get("/").status_code == 403
        assert client.get("/", params={"token": token[:-1]}).status_code == 403
        assert client.get("/", params={"token": token}).status_code == 200


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--more_models m", "more_models has no use without model_path"),
        ("--model_id m --dtype float16", "model_id, model_dtype has no use without model_path"),
        ("--token 0123456789abcdef", "token has no use without model_path"),
        ("--model_path --host 0.0.0.0", "--token"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, error, capsys):
    assert main(["serve", *words.split()]) == 2
    assert error in capsys.readouterr().err


@pytest.fixture
def open_live(browser):
    """Open a page on which every error counts and nothing but the server may be asked."""
    problems = []
    with contextlib.ExitStack() as stack:

        def open_live(url):
            context = browser.new_context(viewport={"width": 1280, "height": 1000})
            stack.callback(context.close)
            page = context.new_page()
            page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda request: None if request.url.startswith(url) else problems.append(request.url))
            page.goto(url)
            return page

        yield open_live
    assert problems == []


def start_job(page, what, prompt=TEXT, new_tokens=20):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("new tokens").fill(str(new_tokens))
    page.get_by_role("button", name=what).click()


# How dark each weight of each row of a streamed answer is, of 255.
READ_ROWS = """canvas => {
    const side = 6, { width, height } = canvas, { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const shade = (x, y) => data[4 * (side * (y + 0.5) * width + side * (x + 0.5)) + 3];
    return Array.from({ length: height / side }, (_, y) => Array.from({ length: width / side }, (_, x) => shade(x, y)));
}"""


def wait_for_views(page):
    page.wait_for_selector("#live[data-state=ready] .av-stage [data-ready]:not([data-ready=false])")


def test_a_browser_captures_generates_and_cancels(open_live, url, demo, monkeypatch):
    monkeypatch.setattr("attn_viewer.web.live.STREAM_SECONDS", 0.02)  # the page asks again where a reply ends
    page = open_live(url)
    start_job(page, "Capture", "<b>In the beginning</b> God created")
    wait_for_views(page)
    for number in "2341":
        page.locator("h1").first.click()
        page.keyboard.press(number)
        wait_for_views(page)
    start_job(page, "Generate", TEXT, 6)
    page.wait_for_selector("#live[data-state=ready] .al-answer span:nth-child(6)")
    told = page.locator(".al-answer span").all_inner_texts()
    maps = capture_generation(*demo, TEXT, max_new_tokens=6, generate_options={"do_sample": False})
    assert told == list(maps.tokens_key[maps.prompt_length :])
    drawn = page.locator(".al-answers canvas").evaluate(READ_ROWS)
    for i, shades in enumerate(drawn):  # each token's row came with it
        row = np.stack(maps.weights)[:, :, maps.prompt_length - 1 + i, : maps.prompt_length + i].mean((0, 1))
        row[0] = 0
        np.testing.assert_allclose(shades[: len(row)], 255 * np.sqrt(row / row.max()), atol=1)
        assert not any(shades[len(row) :])
    with slow_down(demo):
        start_job(page, "Generate", TEXT, 300)
        page.wait_for_selector(".al-answer span:nth-child(3)")
        page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled").wait_for()
    start_job(page, "Generate", TEXT, 301)
    page.get_by_text("300 new ones are allowed").wait_for()
    page.get_by_role("button", name="In the beginning God").click()
    assert page.get_by_label("Prompt", exact=True).input_value() == TEXT


def test_without_induction_heads_the_page_says_that_the_word_does_not_come_back(open_live, url):
    page = open_live(url)
    prompt = "the cat sat on a blue stone, and the cat sat on a blue"
    start_job(page, "Generate", prompt, 2)
    page.wait_for_selector("#live[data-state=ready] .al-answer")
    assert page.locator(".al-answer span").first.inner_text() == "␣stone"
    wait_for_views(page)
    page.get_by_role("tab", name="Heatmap").click()
    page.get_by_role("button", name="Pick heads").click()
    page.get_by_role("grid").wait_for()  # picking is done there
    for head in ("1.0", "0.0", "1.2", "0.0"):  # a second click leaves it out
        page.locator(f'[data-key="{head}"]').click()
    assert page.get_by_label("layer.head").input_value() == "1.0,1.2"
    looks = {head: page.locator(f'[data-key="{head}"]') for head in ("1.0", "0.0", "1.2")}
    styles = {head: cell.evaluate("one => getComputedStyle(one).outlineStyle") for head, cell in looks.items()}
    assert styles == {"1.0": "dashed", "0.0": "none", "1.2": "dashed"}
    page.get_by_role("button", name="Pick heads").click()
    looks["1.0"].click()
    page.wait_for_selector(".av-plot[data-ready]:not([data-ready=false])")  # opened, as elsewhere
    start_job(page, "Change heads", prompt, 2)
    page.wait_for_selector("#live[data-state=ready] .al-effect table")
    assert (
        "was ␣stone and is . with the change: ␣stone is no longer predicted"
        in page.locator(".al-effect p").inner_text()
    )
    assert page.evaluate("document.activeElement.textContent") == "Change heads"  # a keyboard goes on from there
    first = [page.locator(".al-answer").nth(i).locator("span").first.inner_text() for i in range(2)]
    assert first == ["␣stone", "."]
    assert page.get_by_role("button", name="Side by side").is_visible()


@pytest.mark.slow
def test_a_tab_that_is_left_cancels_its_job(open_live, url, demo, monkeypatch):
    cancelled = threading.Event()

    def cancel(queue, job, plain=JobQueue.cancel):
        plain(queue, job)
        cancelled.set()

    monkeypatch.setattr(JobQueue, "cancel", cancel)
    page = open_live(url)
    with slow_down(demo):
        start_job(page, "Generate", TEXT, 300)
        page.wait_for_selector(".al-answer span")
        page.goto("about:blank")
        assert cancelled.wait(20)


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing_serious(browser, url, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with browser.new_context(color_scheme=scheme, bypass_csp=True) as context:
        page = context.new_page()
        page.goto(url)
        page.get_by_label("layer.head").fill("1.0")
        start_job(page, "Change heads", TEXT, 2)
        page.wait_for_selector("#live[data-state=ready] .al-effect table")
        wait_for_views(page)
        found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_two_tabs_wait_for_each_other(open_live, url, demo):
    first, second = open_live(url), open_live(url)
    with slow_down(demo):
        start_job(first, "Generate", TEXT, 300)
        first.wait_for_selector(".al-answer span")
        start_job(second, "Capture")
        second.get_by_text("Waiting: 1 job before this one").wait_for()
        first.get_by_role("button", name="Cancel").click()
    wait_for_views(second)


@pytest.mark.slow
def test_the_command_serves_the_demo_model_and_a_new_run_refuses_the_old_page(demo):
    secrets = []
    for _ in range(2):
        process, url = start_server("--model_path")
        try:
            with httpx.Client(base_url=url, headers={"origin": url}, timeout=60) as client:
                facts = read_facts(client)
                client.headers["x-secret"] = facts["secret"]
                assert finish(client, ask(client))["state"] == "done"
                secrets.append(facts["secret"])
                client.headers["x-secret"] = secrets[0]
                reply = client.post("/live/jobs", json={"prompt": TEXT})
                assert reply.status_code == (202 if len(secrets) == 1 else 403)
                ask_long = {"what": "generate", "prompt": TEXT, "new_tokens": 64}
                client.post("/live/jobs", json=ask_long)
        finally:
            process.terminate()
            _, err = process.communicate()
        assert "Traceback" not in err


def test_a_browser_tries_next_tokens_compares_and_saves(open_live, demo, tmp_path):
    with run_live(demo, folder=tmp_path / "kept", others={"same": lambda: demo}) as url:
        page = open_live(url)
        assert page.get_by_role("button", name="Compare with last").is_disabled()
        start_job(page, "Next tokens", "In the beginning God created the heaven")
        wait_for_views(page)
        page.get_by_role("group", name="Tokens").get_by_role("button").nth(3).click()
        assert page.locator(".al-effect meter").count() == 5
        page.get_by_title("Go on with").first.click()
        page.get_by_text("5 × 5 weights a head").wait_for()
        wait_for_views(page)
        assert page.get_by_label("Prompt", exact=True).input_value().startswith("In the begin")
        start_job(page, "Capture", TEXT)
        wait_for_views(page)
        start_job(page, "Compare with last", TEXT.replace("God", "man"))
        page.get_by_text("with 1 token changed").wait_for()
        wait_for_views(page)
        page.locator(".al-effect button").first.click()
        page.wait_for_selector(".av-plot[data-ready]:not([data-ready=false])")
        page.get_by_role("button", name="Save these prompts").click()
        page.get_by_text("3 prompts saved to kept; 1 not").wait_for()  # which was tried by its tokens
        page.get_by_label("Model", exact=True).select_option("same")
        page.wait_for_selector("#live[data-state=ready]")
        start_job(page, "Capture", TEXT)
        wait_for_views(page)
        start_job(page, "Compare with last", f"{TEXT} and")  # tokens of both come before the change
        page.get_by_text("Among the tokens of both, no head looks elsewhere.").wait_for()
    texts = {prompt["text"] for prompt in DataFolder(tmp_path / "kept").get_model("demo").list_prompts()[0]}
    assert texts == {"In the beginning God created the heaven", TEXT, TEXT.replace("God", "man")}


def start_slow_server():
    """Start a server of the demo model in which a token takes as long as a browser needs for several."""
    code = (
        "import time\nfrom attn_viewer import load_model\nfrom attn_viewer.web.live import serve_live\n"
        "model, tokenizer = load_model()\nmodel.register_forward_pre_hook(lambda *_: time.sleep(0.2))\n"
        "serve_live(model, tokenizer, port=0, ready=lambda url: print(url, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


@pytest.mark.slow
def test_a_page_tells_that_its_server_was_killed_and_works_again_after_a_restart(browser):
    process, url = start_slow_server()
    with browser.new_context() as context:  # a failed request is an error on the console of every page
        try:
            page = context.new_page()
            page.goto(url)
            start_job(page, "Generate", TEXT, 64)
            page.wait_for_selector(".al-answer span")
            process.kill()
            page.get_by_text("The server does not answer. Is it still running?").wait_for()
            process.communicate()
            process, again = start_server("--model_path", port=url.rpartition(":")[2])
            assert again == url
            start_job(page, "Capture")
            page.get_by_text("This page is of an earlier run of the server; reload it.").wait_for()
            page.reload()
            start_job(page, "Capture")
            wait_for_views(page)
        finally:
            process.kill()
            process.communicate()
