"""Heads over a data set: what server and site hand out, and the page of it in a real Chromium."""

import json

import pytest
from conftest import wait_until
from data_folder import run_server
from starlette.testclient import TestClient
from test_site import run_host

from attn_viewer import write_site
from attn_viewer.pipeline.activations import activations_main
from attn_viewer.pipeline.atlas import atlas_main
from attn_viewer.web.server import make_app

TEXTS = ("The sea is deep and the sky is high. The sea is deep.", "<b>One</b> day a dog came home.", "Winter is cold.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("over") / "attn_data"
    prompts = folder.parent / "p.jsonl"
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    activations_main("demo", folder, prompts, progress=False)
    atlas_main("demo", folder, scores=["previous_token", "induction", "entropy"], progress=False)
    atlas_main("demo", folder, prompts_path=prompts, model_id="alone", scores=["entropy"], progress=False)
    return folder


def test_server_and_site_hand_out_the_same(folder, tmp_path):
    client = TestClient(make_app(folder), base_url="http://127.0.0.1")
    assert [model["atlas"] for model in client.get("/api/folder").json()["models"]] == [True, True]
    write_site(folder, tmp_path / "site", progress=False)
    names = ["atlas", "L3H7", "prompts-0"]
    assert len(list((tmp_path / "site" / "data" / "demo" / "atlas").iterdir())) == 32 + 2
    for name in names:
        reply = client.get("/api/atlas", params={"model": "demo", "name": name})
        assert reply.json() == json.loads((tmp_path / "site" / "data" / "demo" / "atlas" / f"{name}.json").read_text())
        assert reply.json() == json.loads((folder / "demo" / "atlas" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["../demo/model_cfg", "census", "L0H99", "L0H0.json", "atlas\n", "prompts-1", "%00"])
def test_nothing_else_is_handed_out(folder, name):
    client = TestClient(make_app(folder), base_url="http://127.0.0.1")
    reply = client.get("/api/atlas", params={"model": "demo", "name": name})
    assert reply.status_code in (400, 404)
    assert client.get("/api/atlas", params={"model": "../demo", "name": "atlas"}).status_code == 404


def test_an_atlas_that_lies(folder):
    path = folder / "alone" / "atlas" / "L0H0.json"
    before = path.read_text()
    outside = folder.parent / "secret.json"
    outside.write_text(before)
    client = TestClient(make_app(folder), base_url="http://127.0.0.1")
    for content in ("[]", "{}", before.replace('"remark": "', '"remark": 5, "x": "'), "[" * 10_000):
        path.write_text(content)
        assert client.get("/api/atlas", params={"model": "alone", "name": "L0H0"}).status_code == 422
    path.unlink()
    path.symlink_to(outside)
    assert client.get("/api/atlas", params={"model": "alone", "name": "L0H0"}).status_code == 404
    path.unlink()
    path.write_text(before)


@pytest.fixture(scope="module", params=["server", pytest.param("site", marks=pytest.mark.slow)])
def address(request, folder, tmp_path_factory):
    if request.param == "server":
        with run_server(folder) as url:
            yield url + "/"
    else:
        site = tmp_path_factory.mktemp("host")
        write_site(folder, site / "site", progress=False)
        with run_host(site / "site") as url:
            yield url + "/"


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 860}, bypass_csp=False)
    page = context.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []


def test_from_all_heads_to_one_by_keyboard(page, address):
    page.goto(address)
    page.get_by_role("button", name="Heads over all prompts").press("Enter")
    page.get_by_text("32 of 32 heads over 3 prompts, highest entropy (nats) first").wait_for()
    page.get_by_label("Model", exact=True).select_option("demo")
    page.get_by_text("highest induction first").wait_for()
    page.get_by_label("Score on the axis y").select_option("entropy")
    page.get_by_label("Score on the axis x").select_option("induction")
    page.get_by_label("y from").fill("1.2")
    page.get_by_label("y from").press("Enter")
    wait_until(page, "document.querySelectorAll('.ab-heads tbody tr').length < 32")
    rows = page.locator(".ab-heads tbody tr")
    values = [float(row.locator("td").nth(1).inner_text()) for row in rows.all()]
    assert values == sorted(values, reverse=True)
    assert min(values) >= 1.2
    page.get_by_role("button", name="All heads").click()
    wait_until(page, "document.querySelectorAll('.ab-heads tbody tr').length === 32")
    page.get_by_role("link", name="L1 H0").press("Enter")
    page.get_by_role("heading", name="Layer 1, head 0").wait_for()
    page.get_by_role("button", name="entropy (nats)").press("Enter")
    page.get_by_role("heading", name="Examples by entropy (nats)").wait_for()
    page.set_viewport_size({"width": 420, "height": 860})
    assert page.evaluate("document.documentElement.scrollWidth") == 420  # nothing stands out of a phone's screen
    page.go_back()
    page.get_by_text("32 of 32 heads").wait_for()


def test_a_box_that_is_drawn_chooses(page, address):
    page.goto(f"{address}#atlas=demo")
    page.get_by_text("32 of 32 heads").wait_for()
    box = page.locator(".ab-scatter").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + box["height"] - 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + box["height"] - 200)
    page.mouse.up()
    wait_until(page, "document.querySelectorAll('.ab-heads tbody tr').length < 32")
    low, high = (float(page.get_by_label(f"x {end}").input_value()) for end in ("from", "to"))
    values = [float(text) for text in page.locator(".ab-heads tbody td:nth-child(2)").all_inner_texts()]
    assert all(low - 1e-3 <= value <= high + 1e-3 for value in values)
    page.reload()
    wait_until(page, "document.querySelectorAll('.ab-heads tbody tr').length < 32")  # the link says what was chosen


def test_examples_are_text_and_lead_to_the_bird_s_eye(page, address):
    page.goto(f"{address}#atlas=demo&profile=1.0&score=induction")
    example = page.locator(".ab-examples li").first
    example.locator("mark.ab-query").wait_for()
    entry = page.evaluate("document.querySelector('.ab-examples mark.ab-key').title")
    assert entry.startswith(("key, weight", "query, key, weight"))
    assert page.locator(".ab-running b").count() == 0  # markup of a prompt is text
    page.goto(f"{address}#atlas=demo&profile=1.0&score=entropy")
    page.reload()
    page.locator(".ab-running", has_text=">").first.wait_for()
    page.get_by_role("link", name="bird's eye").first.click()
    page.locator(".av-overview[data-ready=true]").wait_for()
    page.get_by_role("button", name="This head over all prompts").click()
    page.get_by_role("heading", name="Layer 1, head 0").wait_for()


def test_weights_alone(page, address):
    page.goto(f"{address}#atlas=alone&profile=2.3")
    page.get_by_text("Query–key product: 32 singular values").wait_for()
    assert page.locator(".ab-profile details tbody tr").count() == 2 * 8 * 2
    assert page.get_by_role("link", name="bird's eye").count() == 0  # the weights of these prompts were not kept


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, address, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": 1280, "height": 860})
    page = context.new_page()
    for state, words in (("atlas=alone", "32 of 32 heads"), ("atlas=alone&profile=2.3", "Query–key product")):
        page.goto("about:blank")
        page.goto(f"{address}#{state}")
        page.get_by_text(words).wait_for()
        found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        assert (state, [(one["id"], one["nodes"][0]["html"]) for one in found]) == (state, [])
    context.close()
