"""The gallery of the data folder's browser: rows, borders, links, its place, going through prompts, and comparing."""

import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from conftest import PROMPT, wait_until
from data_folder import TEXTS, make_data_folder, name_prompt, run_server, write_model
from test_browser import names

pytestmark = pytest.mark.slow
FIRST, _, THIRD = map(name_prompt, TEXTS)
HTML = "<!doctype html><p style='color: rgb(0, 128, 0)'>a page</p><script>parent.document.title = 'owned'</script>"


@pytest.fixture(scope="module")
def data(tmp_path_factory, demo):
    folder = tmp_path_factory.mktemp("gallery") / "attn_data"
    maps = make_data_folder(folder, demo)
    (folder / "demo" / "prompts" / FIRST / "L0" / "H0" / "page.html").write_text(HTML)
    return folder, maps


@pytest.fixture(scope="module")
def url(data):
    with run_server(data[0]) as address:
        yield address


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []


def test_as_many_images_a_row_as_asked(page, url):
    page.goto(f"{url}/#models=demo&prompts={FIRST}&heads=L*H*")
    page.wait_for_selector(".ab-card")
    page.get_by_label("Per row").fill("5")
    wait_until(page, "location.hash.includes('row=5')")
    tops = page.locator(".ab-card").evaluate_all("cards => cards.map((card) => card.getBoundingClientRect().top)")
    assert [tops.count(top) for top in sorted(set(tops))][:2] == [5, 5]
    page.get_by_label("Per row").fill("")
    wait_until(page, "!location.hash.includes('row=')")


def test_cards_stay_when_texts_arrive(page, url):
    held, are_held = [], [True]
    page.route("**/api/prompts?*", lambda route: held.append(route) if are_held else route.continue_())
    page.goto(f"{url}/#models=demo&prompts={FIRST},{THIRD}&heads=L0H0,1")
    wait_until(page, "document.querySelectorAll('.ab-card').length === 4")
    page.evaluate("() => document.querySelectorAll('.ab-card').forEach((card) => (card.isMine = true))")
    assert page.locator(".ab-where").first.text_content() == ""
    are_held.clear()
    for route in held:
        route.continue_()
    wait_until(page, "document.querySelector('.ab-where').textContent")
    assert page.locator(".ab-card").evaluate_all("(cards) => cards.every((card) => card.isMine)")
    assert page.locator(".ab-card").count() == 4


@pytest.mark.parametrize(("border", "count"), [("model", 2), ("layer", 2), ("prompt", 2), ("none", 1)])
def test_borders_tell_apart(page, url, border, count):
    page.set_viewport_size({"width": 1280, "height": 2000})  # cards leave the page with the screen
    page.goto(f"{url}/#models=demo&models=org--stacked&prompts={FIRST},{THIRD}&heads=L0-1H0,1&border={border}")
    wait_until(page, "document.querySelectorAll('.ab-card').length === 16")
    # At one moment: a locator looks for cards first, and those made anew meanwhile have no style.
    found = page.evaluate(
        """() => Array.from(document.querySelectorAll(".ab-card"),
            (card) => [getComputedStyle(card).borderTopColor, card.querySelector("a").href])"""
    )
    sort = {
        "model": lambda item: item[3],
        "layer": lambda item: item[0],
        "prompt": lambda item: item[2],
        "none": lambda item: 0,
    }[border]
    groups = {}
    for colour, href in found:
        item = re.search(r"open=([^&]*)", href)[1].split(".", 3)
        groups.setdefault(sort(item), set()).add(colour)
    assert len(groups) == count
    assert all(len(colours) == 1 for colours in groups.values())
    assert len(set.union(*groups.values())) == count


def test_next_and_previous_prompt(page, url):
    page.goto(f"{url}/#models=demo&open=1.2.{FIRST}.demo&view=view%3Dheatmap%26layer%3D1%26head%3D2")
    page.wait_for_selector('.av-plot[data-ready="1.2"]')
    turns = page.get_by_role("navigation", name="Prompts")
    texts = sorted(text.strip() for text in TEXTS)
    at = texts.index(PROMPT.strip())
    turns.get_by_text(f"prompt {at + 1} of 3").wait_for()
    by, name = (1, "Next prompt") if at < 2 else (-1, "Previous prompt")
    page.get_by_role("button", name=name).click()
    turns.get_by_text(f"prompt {at + 1 + by} of 3").wait_for()
    page.wait_for_selector('.av-plot[data-ready="1.2"]')
    assert page.locator(".ab-prompt").inner_text() == " ".join(texts[at + by].split())
    assert f"open=1.2.{name_prompt(TEXTS[[t.strip() for t in TEXTS].index(texts[at + by])])}.demo" in page.url


def test_a_figure_that_is_a_page_stands_in_a_frame_where_nothing_runs(page, url):
    page.goto(f"{url}/#models=demo&prompts={FIRST}&heads=L0H0&figures=page")
    text = page.frame_locator(".ab-card iframe").locator("p")
    assert text.inner_text() == "a page"
    assert text.evaluate("p => getComputedStyle(p).color") == "rgb(0, 128, 0)"
    assert page.title() == "Attention Viewer"
    page.locator(".ab-card a").click()
    page.frame_locator(".ab-strip iframe").get_by_text("a page").wait_for()


def test_the_gallery_keeps_its_place(page, url):
    page.goto(f"{url}/#models=demo&prompts=*&heads=L*H*&row=3")
    page.wait_for_selector(".ab-card")
    for way in ("back", "button"):
        page.evaluate("scrollTo(0, 3000)")
        wait_until(page, "document.querySelectorAll('.ab-card').length > 0 && scrollY === 3000")
        page.wait_for_timeout(150)
        page.locator(".ab-card a").nth(8).click()
        page.wait_for_selector(".ab-single .av-plot")
        if way == "back":
            page.go_back()
        else:
            page.get_by_text("← All figures").click()
        page.wait_for_selector(".ab-card")
        wait_until(page, "scrollY === 3000")


def test_escape_lets_go_of_a_pin_and_then_closes_the_single_view(page, url):
    page.goto(f"{url}/#models=demo&prompts={FIRST}&heads=L1H2")
    page.locator(".ab-card a").click()
    page.wait_for_selector('.av-plot[data-ready="1.2"]')
    point_at(page, 6, 3, 0)
    page.mouse.down()
    page.mouse.up()
    wait_until(page, "location.hash.includes('pin')")
    page.keyboard.press("Escape")
    wait_until(page, "!location.hash.includes('pin')")
    assert page.locator(".ab-single:not(.ab-heads)").is_visible()
    page.keyboard.press("Escape")
    page.locator(".ab-single:not(.ab-heads)").wait_for(state="hidden")
    page.wait_for_selector(".ab-card")


def test_links_of_many_prompts_are_bounded_and_say_so(tmp_path, browser):
    texts = [f"prompt {i:03}" for i in range(300)]
    places = write_model(tmp_path, "m", 1, 1, [{"text": text, "tokens": ["a"]} for text in texts])
    with run_server(tmp_path) as address:
        page = browser.new_page()
        page.goto(f"{address}/#models=m&heads=L*H*&prompts={','.join(place.name for place in places[:250])}")
        page.wait_for_selector(".ab-card")
        page.locator(".ab-row input >> nth=0").uncheck()  # the link is written anew
        wait_until(page, "location.hash.length <= 2001 && location.hash.length > 1900")
        page.get_by_text("249 figures").wait_for()
        kept = page.url.split("prompts=")[1].split("&")[0].count("%2C") + 1
        assert page.get_by_text(f"The link keeps the first {kept} of 249 prompts.").is_visible()
        page.reload()  # the browser keeps the rest
        page.get_by_text("249 figures").wait_for()
        page.locator(".ab-card a").first.click()
        page.wait_for_selector(".ab-single .ab-empty")
        assert len(page.url) < 2200
        page.go_back()
        page.get_by_text("249 figures").wait_for()
        page.close()


def test_links_of_many_heads_are_bounded_and_say_so(tmp_path, browser):
    rng = np.random.default_rng(0)
    heads = [sorted(rng.choice(64, 30, replace=False).tolist()) for _ in range(40)]
    places = write_model(tmp_path, "m", 40, 64, [{"text": text, "tokens": ["a"]} for text in "xy"])
    terms = [f"L{layer}H{','.join(map(str, chosen))}" for layer, chosen in enumerate(heads)]
    with run_server(tmp_path) as address:
        page = browser.new_page()
        page.goto(f"{address}/#models=m&prompts={','.join(place.name for place in places)}&heads={'+'.join(terms)}")
        page.get_by_text("2,400 figures").wait_for()
        page.locator(".ab-row input >> nth=0").uncheck()
        wait_until(page, "location.hash.length <= 2001 && location.hash.length > 1800")
        page.get_by_text("1,200 figures").wait_for()
        kept = len(parse_qs(urlsplit(page.url).fragment)["heads"][0].split(" "))
        assert page.get_by_text(f"The link keeps the heads up to {terms[kept - 1][:20]}").is_visible()
        page.reload()  # the browser keeps the rest
        page.get_by_text("1,200 figures").wait_for()
        page.close()


def compare(page, first, second):
    """Choose two cards by their places."""
    for number in (first, second):
        card = page.locator(".ab-card").nth(number)
        card.hover()
        card.get_by_role("button", name="Compare").click()
    page.wait_for_selector(".ab-single .av-pair")


def point_at(page, row, column, plot):
    left, top, cell, *_ = map(float, page.locator(".av-plot").nth(plot).get_attribute("data-place").split())
    box = page.locator(".av-plot").nth(plot).bounding_box()
    page.mouse.move(box["x"] + left + (column + 0.5) * cell, box["y"] + top + (row + 0.5) * cell)
    return [line.replace("−", "-") for line in page.locator(".ab-viewer .av-tooltip").inner_text().split("\n")]


def test_two_heads_are_compared(page, url, data):
    page.goto(f"{url}/#models=demo&prompts={FIRST}&heads=L1H2+L3H5")
    wait_until(page, "document.querySelectorAll('.ab-card').length === 2")
    compare(page, 0, 1)
    for place in ("1.2", "3.5"):
        page.wait_for_selector(f'.av-plot[data-ready="{place}"]')
    maps = data[1][0]
    a, b = maps.get_layer(1)[2][6, 3], maps.get_layer(3)[5][6, 3]
    lines = point_at(page, 6, 3, 0)
    assert [line.split(":")[0] for line in lines[2:]] == ["A", "B", "B - A"]
    assert [float(line.split()[-1]) for line in lines[2:]] == pytest.approx([a, b, b - a], abs=6e-4)
    page.get_by_role("button", name="B − A", exact=True).click()
    page.wait_for_selector('.av-plot[data-ready="1.2"]')
    assert float(point_at(page, 6, 3, 0)[2].split()[-1]) == pytest.approx(b - a, abs=6e-4)
    page.reload()
    page.wait_for_selector('.av-plot[data-ready="1.2"]')
    page.get_by_text("← All figures").click()
    wait_until(page, "document.querySelectorAll('.ab-card').length === 2")
    assert names(page) == ["L1 H2 pattern", "L3 H5 pattern"]


def test_two_prompts_are_compared(page, url, data):
    page.goto(f"{url}/#models=demo&prompts={FIRST},{THIRD}&heads=L1H2")
    wait_until(page, "document.querySelectorAll('.ab-card').length === 2")
    compare(page, 0, 1)
    page.wait_for_selector('.av-plot[data-ready="1.2"] >> nth=1')
    shown = float(point_at(page, 5, 0, 0)[2].split()[-1])
    assert shown == pytest.approx(data[1][0].get_layer(1)[2][5, 0], rel=0.05, abs=6e-4)
    assert "There is no difference B − A: tokens differ." in page.locator(".av-maps").inner_text()
    page.get_by_role("button", name="Next layer").first.click()
    page.wait_for_selector('.av-plot[data-ready="2.2"] >> nth=1')  # both go on
    assert f"open=2.2.{FIRST}.demo" in page.url
    assert f"beside=2.2.{THIRD}.demo" in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, url, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": 1280, "height": 860})
    page = context.new_page()
    for state, ready in (
        (f"models=demo&prompts={FIRST}&heads=L0H*&border=layer&figures=pattern&figures=evil&figures=page", ".ab-none"),
        (f"models=demo&prompts={FIRST}&heads=L0H0&figures=page", ".ab-card iframe"),
        ("models=demo&heads=L9", ".ab-error:not(:empty) >> visible=true"),
        (f"models=demo&open=0.0.{FIRST}.demo", ".av-plot[data-ready='0.0']"),
        (f"models=demo&open=0.0.{FIRST}.demo&beside=1.2.{FIRST}.demo", ".av-plot[data-ready='1.2']"),
    ):
        page.goto("about:blank")
        page.goto(f"{url}/#{state}")
        page.wait_for_selector(ready)
        violations = axe.run(page).response["violations"]
        found = [one for one in violations if one["impact"] in ("serious", "critical")]
        assert [(state, one["id"], one["nodes"][0]["html"]) for one in found] == []
    page.goto(f"{url}/#models=demo&prompts={FIRST}&heads=L0H*")
    page.get_by_label("About evil").click()
    found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    context.close()
