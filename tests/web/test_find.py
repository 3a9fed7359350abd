"""Finding tokens in a page: by what they say, and by their position."""

import numpy as np
import pytest
from conftest import make_maps, wait_until
from test_viewer import point_at, read_place, wait_for_head

from attn_viewer import AttentionMaps, export_html

N = 1000
SOUGHT = (200, 640, 901)


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    weights = np.tril(rng.random((1, 2, N, N)).astype(np.float32) ** 4)
    weights /= weights.sum(-1, keepdims=True)
    tokens = [f" word{i}," for i in range(N)]
    for at in SOUGHT:
        tokens[at : at + 2] = " Was", "ser"
    return AttentionMaps(list(weights), tokens, model_id="long")


@pytest.fixture(scope="module")
def path(maps, tmp_path_factory):
    return export_html(maps, tmp_path_factory.mktemp("long") / "long.html")[0]


def find(page, text, *keys):
    page.keyboard.press("/")
    page.keyboard.type(text)
    for key in keys:
        page.keyboard.press(key)


def test_the_heatmap_goes_to_what_is_found(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=0&head=1")
    wait_for_head(page, 0, 1)
    assert read_place(page)[2] < 1
    find(page, "wasser")  # it goes on in the next token
    assert page.locator(".av-find output").inner_text() == "3 found"
    for key, at in (("Enter", 200), ("Enter", 640), ("Enter", 901), ("Enter", 200), ("Shift+Enter", 901)):
        page.keyboard.press(key)
        wait_until(page, f"document.querySelector('.av-told').innerText.startsWith('query {at} ')")
        place = SOUGHT.index(at) + 1
        assert page.locator(".av-live").inner_text() == f"token {at}, ␣Was; {place} of 3"
    _, _, cell, x, y = read_place(page)
    assert cell >= 12
    assert x < 901 < x + 40
    assert y < 901
    query, key, weight = point_at(page, 903, 899)
    assert (query, key) == ("query 903  ␣word903,", "key 899  ␣word899,")
    assert float(weight.split()[-1].replace("·10⁻⁵", "e-5")) == pytest.approx(maps.weights[0][1, 903, 899], abs=1e-3)


def test_text_of_a_thousand_tokens_goes_to_a_position(open_page, path):
    page = open_page(path, "view=text&layer=0&on=1")
    page.wait_for_selector(".av-text[data-ready]")
    find(page, "903", "Enter")
    for pane in ("observed", "observer"):
        box = page.locator(f'[data-pane="{pane}"] .av-tokens').bounding_box()
        token = page.locator(f'[data-pane="{pane}"] [data-token="903"]')
        assert box["y"] < token.bounding_box()["y"] < box["y"] + box["height"]
        assert "av-focus" in token.get_attribute("class")
        height = page.locator(f'[data-pane="{pane}"] canvas').evaluate("canvas => canvas.clientHeight")
        assert height <= box["height"] + 2 * 300  # only what is in sight is drawn
    painted = page.evaluate("document.querySelector('[data-pane=observer] canvas').style.transform")
    assert painted != "translateY(0px)"
    assert any(count_painted_near(page, 903))


def count_painted_near(page, token):
    """Return for the tokens before one whether the canvas, which begins further down, has colour there."""
    return page.evaluate(
        """(token) => {
        const pane = document.querySelector('[data-pane="observer"]');
        const canvas = pane.querySelector("canvas");
        const top = parseFloat(canvas.style.transform.match(/[\\d.]+/)[0]);
        const drawing = canvas.getContext("2d");
        return [...pane.querySelectorAll("[data-token]")].slice(token - 30, token).map((span) => {
            const { offsetLeft: x, offsetTop: y, offsetWidth: w, offsetHeight: h } = span;
            const { data } = drawing.getImageData(x, y - top, w, h);
            return data.some((value, i) => i % 4 === 3 && value > 0);
        });
    }""",
        token,
    )


def test_lines_of_a_thousand_tokens_go_to_a_position(open_page, path):
    page = open_page(path, "view=lines&layer=0&on=1")
    page.wait_for_selector(".av-lines[data-ready]")
    find(page, "903", "Enter")
    wait_until(page, "scrollY > 15000")
    canvas = page.locator(".av-lines-plot canvas")
    assert canvas.evaluate("canvas => canvas.clientHeight") < 860 + 2 * 300 + 1
    wait_until(page, "document.querySelector('.av-lines-plot canvas').dataset.lines < 1000")  # of one query alone


def test_sides_of_cross_attention_are_searched_both(open_page, tmp_path):
    maps = make_maps(causal=False, kind="cross", tokens=["a", "b", "c", "d", "x"], tokens_query=list("vwxyz"))
    page = open_page(export_html(maps, tmp_path / "cross.html")[0], "view=text&layer=1")
    page.wait_for_selector('.av-text[data-ready="1"]')
    find(page, "x", "Enter")
    assert page.locator(".av-find output").inner_text() == "1 of 2"
    assert page.locator('[data-pane="observed"] .av-focus').inner_text() == "x"
    page.keyboard.press("Enter")
    assert page.locator(".av-live").inner_text() == "query 2, x; 2 of 2"
    assert page.locator('[data-pane="observer"] .av-focus').inner_text() == "x"


def test_nothing_is_found(open_page, path):
    page = open_page(path, "view=text&layer=0&on=1")
    page.wait_for_selector(".av-text[data-ready]")
    find(page, "no such", "Enter")
    assert page.locator(".av-find output").inner_text() == "0 found"
    page.get_by_role("tab", name="Bird’s eye").click()
    page.wait_for_selector(".av-overview[data-ready]")
    assert not page.locator(".av-find").is_visible()  # there are no tokens to be found
