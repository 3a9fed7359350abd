"""The browser page in a real Chromium."""

import json
import urllib.parse

import pytest
from conftest import PROMPT, wait_until
from data_folder import EVIL, HOSTILE, make_data_folder, name_prompt, run_server, write_model

from attn_viewer import score_heads

pytestmark = pytest.mark.slow
FIRST = name_prompt(PROMPT)


@pytest.fixture(scope="module")
def data(tmp_path_factory, demo):
    folder = tmp_path_factory.mktemp("browsed") / "attn_data"
    return folder, make_data_folder(folder, demo)


@pytest.fixture(scope="module")
def url(data):
    with run_server(data[0]) as address:
        yield address


@pytest.fixture
def page(browser, url):
    """A page on which every error counts and nothing but the server may be asked."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else problems.append(request.url))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    yield page
    context.close()
    assert problems == []


def open_page(page, url, hash_=""):
    page.goto(f"{url}/#{hash_}" if hash_ else url)
    page.wait_for_selector(".ab-row input")


def names(page):
    return [" ".join(text.split()) for text in page.locator(".ab-card .ab-name").all_inner_texts()]


def test_the_first_prompt_of_the_first_model_is_shown(page, url):
    open_page(page, url)
    wait_until(page, "document.querySelectorAll('.ab-card img').length > 8")
    assert page.locator("h2", has_text="32 figures").count() == 1
    assert names(page)[:2] == ["L0 H0 pattern", "L0 H1 pattern"]
    wait_until(page, "[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_heads_are_chosen_by_name_and_by_grid(page, url):
    open_page(page, url)
    field = page.get_by_label("Heads, such as")
    field.fill("L1-2H0,3")
    field.press("Enter")
    wait_until(page, "document.querySelectorAll('.ab-card').length === 4")
    assert names(page) == [f"L{layer} H{head} pattern" for layer in (1, 2) for head in (0, 3)]
    assert page.locator(".ab-cell[aria-pressed=true]").count() == 4
    page.get_by_label("L3 H7").click()
    page.get_by_title("All heads of layer 1").click()
    assert field.input_value() == "L1H* L2H0,3 L3H7"
    page.wait_for_selector("h2:has-text('11 figures')")
    field.fill("L9H1")
    field.press("Enter")
    assert "names no head" in page.get_by_role("alert").first.inner_text()


def test_sorting_is_by_any_axis_and_lives_in_the_link(page, url):
    open_page(page, url)
    page.get_by_label("Sort by").select_option("head")
    wait_until(page, "document.querySelector('.ab-name').innerText.includes('L0')")
    assert names(page)[:3] == ["L0 H0 pattern", "L1 H0 pattern", "L2 H0 pattern"]
    page.get_by_text("Ascending").click()
    assert names(page)[0] == "L3 H7 pattern"
    address = page.url
    assert "sort=-head" in address
    page.reload()
    page.wait_for_selector(".ab-card")
    assert names(page)[0] == "L3 H7 pattern"
    assert page.url == address


def test_prompts_are_searched(page, url):
    open_page(page, url)
    wait_until(page, "document.querySelectorAll('.ab-row input').length === 3")
    page.get_by_label("Search prompts").fill("winter")
    wait_until(page, "document.querySelectorAll('.ab-row input').length === 1")
    assert page.locator(".ab-row").inner_text().split("\n")[0] == PROMPT.strip()
    page.locator(".ab-row input").check()
    wait_until(page, f"location.hash.includes('{FIRST}')")
    assert page.locator("h2", has_text="64 figures").count() == 1


def test_all_prompts_and_both_models_at_once(page, url):
    open_page(page, url, "models=demo&prompts=*&heads=L0H0")
    wait_until(page, "document.querySelectorAll('.ab-card').length === 3")
    page.locator(".ab-chip", has_text="stacked").click()
    wait_until(page, "document.querySelectorAll('.ab-card').length === 6")
    assert page.get_by_text("not of this model").count() == 2


def test_links_to_what_is_not_there(page, url, data):
    open_page(page, url, f"prompts={FIRST}&heads=L0H0-3&page=999999&models=none&sort=--x&size=huge&table=-zzz")
    wait_until(page, "document.querySelectorAll('.ab-card').length === 4")
    page.goto(f"{url}/#open=99.99.{FIRST}.demo&view=layer%3D-3%26head%3Dx%26view%3Dfoo%26amp%3D1e999")
    page.wait_for_selector(".ab-single .av-overview[data-ready]")
    page.wait_for_selector(".ab-strip figcaption")
    assert set(page.locator(".ab-strip b").all_inner_texts()) == {"L0 H0"}  # a figure of L99 H99 would be an error
    wait_until(page, "[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_folders_without_models_or_prompts(tmp_path, browser):
    (tmp_path / "none").mkdir()
    (tmp_path / "bare" / "empty").mkdir(parents=True)
    write_model(tmp_path / "bare", "empty", 2, 3, [])
    shown = {}
    for name in ("none", "bare"):
        with run_server(tmp_path / name) as address:
            other = browser.new_page()
            problems = []
            other.on("console", lambda message, problems=problems: problems.append(message.text))
            other.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            other.goto(f"{address}/#heads=L7H9" if name == "bare" else address)
            other.wait_for_selector(".ab-empty:not(:empty)")
            other.wait_for_timeout(300)
            shown[name] = other.locator("body").inner_text()
            other.close()
            assert problems == []
    assert "Attention Viewer" in shown["none"]
    assert "This folder holds no model yet. Make one with attn-viewer activations." in shown["none"]
    assert "No prompts here yet." in shown["bare"]
    assert "“L7H9” names no head that is there." in shown["bare"]
    assert "Choose a prompt and a head." in shown["bare"]


def test_hostile_prompts_are_text(page, url):
    open_page(page, url, f"prompts={name_prompt(HOSTILE)}&heads=L0H0")
    wait_until(page, "document.querySelector('.ab-where')?.innerText.includes('script')")
    assert page.locator(".ab-where").inner_text() == HOSTILE
    page.locator(".ab-card").click()
    page.wait_for_selector(".av-heatmap")
    assert page.locator(".ab-prompt").inner_text() == HOSTILE


def test_scripts_in_figures_do_not_run(page, url):
    open_page(page, url, f"prompts={FIRST}&heads=L0H0&figures=evil&figures=packed")
    wait_until(page, "[...document.images].filter(i => i.complete && i.naturalWidth === 40).length === 2")
    assert page.title() == "Attention Viewer"
    for name in ("evil", "packed"):
        words = urllib.parse.urlencode({"model": "demo", "prompt": FIRST, "layer": 0, "head": 0, "name": name})
        figure = page.context.new_page()  # as a page of its own; that a script is blocked is an error there
        figure.goto(f"{url}/figure?{words}")
        figure.wait_for_timeout(100)
        assert figure.title() != "owned"
        figure.close()


def test_functions_show_docstring_and_source(page, url):
    open_page(page, url)
    page.get_by_label("About evil").click()
    assert page.locator(".ab-doc > *").all_inner_texts() == ["Draw <b>green</b>.", "", "More."]
    assert page.locator(".ab-dialog pre").inner_text() == "def evil(): ..."
    page.keyboard.press("Escape")
    assert not page.locator(".ab-dialog").is_visible()


def test_docstrings_of_any_shape_fit_a_narrow_window(tmp_path, browser):
    doc = f"Draw.\n\n{' ' * 400}Deep words, more than a line of them.\n{'long' * 400}\n  near"
    write_model(tmp_path, "m", 1, 1, [{"text": "a", "tokens": ["a"]}])
    (tmp_path / "figures.jsonl").write_text(json.dumps({"name": "f", "doc": doc, "code": doc}) + "\n")
    with run_server(tmp_path) as address:
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.goto(address)
        page.locator("summary").click()
        page.get_by_label("About f").click()
        dialog, text = page.locator(".ab-dialog"), page.locator(".ab-doc")
        assert dialog.evaluate("(e) => e.scrollWidth <= e.clientWidth && e.getBoundingClientRect().right <= innerWidth")
        insets = text.locator("span").evaluate_all(
            "(lines) => lines.map((e) => parseFloat(getComputedStyle(e).paddingLeft))"
        )
        assert insets[1] == pytest.approx(text.bounding_box()["width"] / 4, abs=1)
        assert 8 < insets[3] < 24
        page.close()


def test_a_figure_that_failed_says_why(tmp_path, browser):
    (place,) = write_model(tmp_path, "m", 1, 3, [{"text": "a", "tokens": ["a"]}])
    for head, (name, content) in enumerate((("f.error.txt", "ValueError: <b>no</b>\nmore"), ("f.svg", EVIL))):
        (place / "L0" / f"H{head}").mkdir(parents=True)
        (place / "L0" / f"H{head}" / name).write_text(content)
    (tmp_path / "figures.jsonl").write_text('{"name": "f"}\n')
    with run_server(tmp_path) as address:
        page = browser.new_page()
        page.goto(f"{address}/#prompts={place.name}&heads=L*H*&figures=f")
        wait_until(page, "document.querySelectorAll('.ab-none:not(:empty)').length === 2")
        assert page.locator(".ab-none").all_inner_texts() == ["failed: ValueError: <b>no</b>", "not made yet"]
        page.locator(".ab-card").first.click()  # its weights are not there either
        wait_until(page, "document.querySelectorAll('.ab-strip .ab-none:not(:empty)').length === 1")
        assert page.locator(".ab-strip .ab-none").inner_text() == "failed: ValueError: <b>no</b>"
        assert "is not there; compute it with attn-viewer activations" in page.locator(".ab-viewer").inner_text()
        page.close()


def test_what_is_missing_is_said_once_and_in_words(browser, url):
    page = browser.new_page()
    alert = page.locator(".ab-alert")
    no_prompt, no_model = "A" * 22, "no"
    for place, what in (
        (f"0.0.{no_prompt}.demo", f"prompt '{no_prompt}' of model 'demo'"),
        (f"0.0.{FIRST}.{no_model}", f"model '{no_model}'"),
    ):
        page.goto("about:blank")
        page.goto(f"{url}/#open={place}")
        alert.wait_for()
        said = alert.inner_text()
        assert said.startswith(f"There is no {what} in the data folder; ")
        assert ("demo" in said.partition(";")[2]) == ("model 'no'" in said)  # a model that is missed: which are there
        assert page.locator(".ab-viewer").inner_text() == ""
        page.get_by_text("← All figures").click()
        wait_until(page, "document.querySelectorAll('.ab-row input').length > 0")
        assert not alert.is_visible()
    page.goto(f"{url}/#open=0.0.{FIRST}.demo")
    page.wait_for_selector('.av-plot[data-ready="0.0"]')
    page.route("**/api/**", lambda route: route.abort())
    page.get_by_role("button", name="Next head").click()
    page.wait_for_selector(".av-message:not([hidden])")
    assert page.locator(".av-message").inner_text() == "The server does not answer. Is it still running?"
    page.unroute("**/api/**")
    page.get_by_role("button", name="Next head").click()
    page.wait_for_selector('.av-plot[data-ready="0.2"]')
    page.close()


def test_choices_by_keyboard(page, url):
    open_page(page, url, f"prompts={FIRST}&heads=L1H2&models=demo&models=org--stacked")
    focus = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
    page.locator(".ab-chip").first.focus()
    page.keyboard.press("Space")
    wait_until(page, "location.hash.includes('models=org--stacked') && !location.hash.includes('models=demo')")
    assert page.evaluate(focus).startswith("demo")
    page.get_by_label("pattern", exact=True).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    assert page.get_by_label("pattern", exact=True).is_checked()
    assert page.evaluate("document.activeElement.type") == "checkbox"
    page.get_by_label("Heads, such as").focus()
    page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.evaluate(focus) == "L1 H1"
    page.keyboard.press("Enter")
    wait_until(page, "location.hash.includes('L1H1-2')")
    page.keyboard.press("Tab")  # the grid is one stop
    assert page.evaluate("document.activeElement.closest('.ab-function') !== null")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(focus) == "L1 H1"


@pytest.mark.parametrize("model", ["demo", "org--stacked"])
def test_a_click_opens_the_pattern_with_its_numbers(page, url, data, model):
    open_page(page, url, f"models={model}&prompts={FIRST}&heads=L1H2")
    page.locator(".ab-card").click()
    page.wait_for_selector(".av-heatmap canvas")
    assert "Layer 1, head 2" in page.locator(".ab-single:not(.ab-heads)").inner_text()
    box = page.locator(".av-plot").bounding_box()
    weights = data[1][0].get_layer(1)[2]
    seen = set()
    for step in range(12, 300, 12):
        page.mouse.move(box["x"] + 60 + step, box["y"] + 40 + 1.2 * step)
        text = page.locator(".ab-viewer .av-tooltip").inner_text()
        seen.update(word for word in text.replace("\n", " ").split() if word.startswith("0.") and len(word) == 5)
    shown = {f"{w:.3f}" for w in weights[weights >= 0.1]}
    assert seen
    assert {s for s in seen if float(s) >= 0.1} <= shown
    address = page.url
    page.get_by_role("tab", name="Lines").click()
    wait_until(page, "location.hash.includes('view%3Dlines')")
    page.reload()
    page.wait_for_selector(".av-lines-plot")
    page.get_by_text("← All figures").click()
    page.wait_for_selector(".ab-card")
    page.go_back()
    page.wait_for_selector(".ab-single .attn-viewer")
    assert "open=1.2." in address


def test_heads_of_a_prompt_are_sorted_by_scores_that_the_server_measures(page, url, data):
    page.goto(f"{url}/#models=demo&open=0.0.{FIRST}.demo&view=view%3Doverview")
    page.wait_for_selector(".ab-single .av-overview")
    page.get_by_label("Sort by").last.select_option("sink_mass")
    page.get_by_label("Colour by").select_option("sink_mass")
    best = score_heads(data[1][0], ["sink_mass"]).top("sink_mass", 4)
    order = [f"{head.layer}.{head.head}" for head in best]
    first = "[...document.querySelectorAll('.av-grid button')].slice(0, 4).map((b) => b.dataset.key).join()"
    wait_until(page, f"{first} === '{','.join(order)}'")
    page.wait_for_selector(".av-tinted")
    assert page.locator(".av-key span").all_inner_texts()[2] == f"{best[0].value:.2f}"


def test_one_switch_of_the_theme(page, url):
    page.goto(f"{url}/#models=demo&open=0.0.{FIRST}.demo")
    page.wait_for_selector(".av-heatmap")
    assert not page.get_by_role("button", name="Dark mode").is_visible()
    page.get_by_role("button", name="Theme: auto").click()
    page.get_by_role("button", name="Theme: light").click()
    wait_until(page, "[...document.querySelectorAll('.attn-viewer')].every((e) => e.dataset.theme === 'dark')")


def test_a_long_list_makes_only_what_is_seen(page, url):
    open_page(page, url, "models=demo&prompts=*&heads=L*H*&row=6")
    wait_until(page, "document.querySelectorAll('.ab-card').length > 20")
    assert page.locator("h2", has_text="96 figures").count() == 1
    assert page.locator(".ab-card").count() < 96
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    wait_until(page, "[...document.querySelectorAll('.ab-name')].some(n => n.innerText.includes('L3 H7'))")


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(page, url, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{url}/#prompts={FIRST}&heads=L*H*")
    page.wait_for_selector(".ab-card")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("details.ab-side").evaluate("e => e.open") == (width > 760)
