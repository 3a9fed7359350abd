"""For every hand and eye: axe-core's rules, touch, and notebooks that move what is fixed."""

import numpy as np
import pytest
from conftest import make_maps
from test_viewer import read_place, wait_for_head

from attn_viewer import export_html, show_attention
from attn_viewer.spans import Span


@pytest.fixture(scope="module")
def maps():
    return make_maps(3, 4, 9, prompt_length=6)


@pytest.fixture(scope="module")
def path(maps, tmp_path_factory):
    return export_html([maps, make_maps(3, 4, 9, seed=1, prompt_length=6)], tmp_path_factory.mktemp("x") / "x.html")[0]


STATES = (
    "view=overview&sort=sink_mass&plane=previous_token&maps=0",
    "view=heatmap&pin=5.2",
    "view=text&observer=7&maps=0",
    "view=lines&line=4",
)
MORE_STATES = (
    "view=overview&sort=sink_mass&maps=0",
    "view=overview&tint=distance&maps=2",
    "view=overview",
    "view=heatmap&head=mean&on=1.2&maps=0",
    "view=heatmap&maps=2",
    "view=text&observed=2-4&maps=1",
    "view=text&on=1",
)


@pytest.mark.parametrize(
    ("scheme", "states"),
    [
        pytest.param("light", STATES, id="light"),
        pytest.param("light", MORE_STATES, id="light, more", marks=pytest.mark.slow),
        pytest.param("dark", STATES + MORE_STATES, id="dark", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_serious(open_page, path, scheme, states):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(path, scheme=scheme, bypass_csp=True)
    for state in states:
        page.goto("about:blank")
        page.goto(f"{path.as_uri()}#{state}")
        page.wait_for_selector("[data-ready]:not([data-ready=false])")
        page.locator(".av-menu summary").click()
        found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        assert (state, [(one["id"], one["nodes"][0]["html"]) for one in found]) == (state, [])


def test_a_tap_shows_and_pins(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=1&head=2&maps=0", width=400, has_touch=True)
    wait_for_head(page, 1, 2)
    left, top, cell, *_ = read_place(page)
    box = page.locator(".av-plot").bounding_box()
    page.touchscreen.tap(box["x"] + left + 2.5 * cell, box["y"] + top + 6.5 * cell)
    page.get_by_text("pinned: query 6").wait_for()
    assert "pin=6.2" in page.url
    weight = page.locator(".av-tooltip").inner_text().split("\n")[2]
    np.testing.assert_allclose(float(weight.split()[-1]), maps.get_layer(1)[2][6, 2], rtol=0.05)
    page.keyboard.press("3")
    page.wait_for_selector(".av-text[data-ready]")
    page.locator('[data-pane="observer"] [data-token="4"]').tap()
    page.get_by_role("button", name="Let go").last.wait_for()
    assert "observer=4" in page.url
    page.keyboard.press("4")
    page.wait_for_selector(".av-lines[data-ready]")
    box = page.locator(".av-lines-plot").bounding_box()
    page.touchscreen.tap(box["x"] + 20, box["y"] + 28 + 20 * 5.5)
    page.locator(".av-lines-plot").wait_for()
    page.wait_for_timeout(100)
    assert "line=5" in page.url


def test_the_tooltip_is_at_the_pointer_where_a_notebook_contains_it(open_page, maps, tmp_path):
    widget = show_attention(maps)  # its style sheet is what notebooks load
    (path,) = export_html(maps, tmp_path / "contained.html")
    page = open_page(path, "view=heatmap&layer=1&head=2", bypass_csp=True)
    wait_for_head(page, 1, 2)
    assert ".av-tooltip" in widget._css
    page.add_style_tag(content="#viewer { contain: strict; height: 800px; width: 900px; margin: 200px 0 0 300px }")
    page.wait_for_timeout(200)
    left, top, cell, *_ = read_place(page)
    box = page.locator(".av-plot").bounding_box()
    at = box["x"] + left + 1.5 * cell, box["y"] + top + 4.5 * cell
    page.mouse.move(*at)
    tooltip = page.locator(".av-tooltip").bounding_box()
    assert abs(tooltip["x"] - at[0]) < 30 or abs(tooltip["x"] + tooltip["width"] - at[0]) < 30
    assert min(abs(tooltip["y"] + tooltip["height"] - at[1]), abs(tooltip["y"] - at[1])) < 30


def test_counts_say_of_how_many(open_page, path):
    page = open_page(path, "view=lines&on=1.3&maps=0")
    page.wait_for_selector(".av-lines[data-ready]")
    assert page.get_by_text("2 of 4 heads shown").is_visible()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing_serious_beside_a_picture(open_page, tmp_path, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    maps = make_maps(3, 4, 9, spans=[Span("image", 0, "whole", 1, 2, 2, 2, 0.0)])
    picture = np.zeros((20, 20, 3), np.uint8)
    (path,) = export_html(maps, tmp_path / "x.html", image=picture)
    page = open_page(path, "view=text&observer=7", scheme=scheme, bypass_csp=True, allow_data=True)
    page.wait_for_selector(".av-text[data-ready]")
    found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_what_keys_point_at_stays_in_sight(open_page, tmp_path):
    n = 300
    maps = make_maps(1, 1, n, tokens=[f"word{i}" for i in range(n)])
    (path,) = export_html(maps, tmp_path / "long.html")
    page = open_page(path, "view=text", width=700, height=420)
    page.wait_for_selector(".av-text[data-ready]")
    box = page.locator('[data-pane="observer"] [role="listbox"]')
    box.focus()
    page.keyboard.press("ArrowLeft")  # from the end
    token, seen = page.locator(f'[data-pane="observer"] [data-token="{n - 1}"]').bounding_box(), box.bounding_box()
    assert seen["y"] <= token["y"] <= seen["y"] + seen["height"] - token["height"]
    assert 0 <= token["y"] <= 420 - token["height"]
    page.keyboard.press("4")
    page.wait_for_selector(".av-lines[data-ready]")
    page.locator(".av-lines-plot").focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    assert page.locator(".av-live").inner_text().startswith("query 39")
    anchor = page.locator(".av-anchor").bounding_box()
    assert 0 <= anchor["y"] <= 420
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator(".av-live").inner_text().startswith("key 39")
    page.keyboard.press("2")
    wait_for_head(page, 0, 0)
    page.locator(".av-plot").focus()
    for _ in range(5):
        page.keyboard.press("+")
        page.wait_for_timeout(60)
    for _ in range(30):
        page.keyboard.press("Shift+ArrowDown")
    page.wait_for_timeout(200)
    _, _, cell, _, y = read_place(page)
    assert page.locator(".av-live").inner_text().startswith("query 30")
    assert y <= 30 < y + page.locator(".av-over").bounding_box()["height"] / cell + 0.01
