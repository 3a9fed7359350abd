"""Sums and means over chosen heads, layers and tokens."""

import numpy as np
import pytest
from conftest import wait_until
from test_viewer import point_at, wait_for_head

from attn_viewer import capture_attention, export_html

TEXT = "In the beginning God created the heaven and the earth."


@pytest.fixture(scope="module")
def maps(demo):
    return capture_attention(*demo, TEXT, model_id="demo")


@pytest.fixture(scope="module")
def path(maps, tmp_path_factory):
    return export_html(maps, tmp_path_factory.mktemp("sums") / "demo.html")[0]


def read_weight(page, row, column):
    return float(point_at(page, row, column)[2].split()[-1])


def test_the_mean_of_chosen_heads_and_of_all_layers(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=1&head=mean")
    wait_for_head(page, 1, "mean")
    row, column = 9, 3
    assert read_weight(page, row, column) == pytest.approx(maps.get_layer(1).mean(0)[row, column], abs=6e-4)
    for head in range(8):
        if head not in (2, 5):
            page.get_by_role("button", name=f"Head {head}", exact=True).click()
    page.get_by_role("heading", name="Layer 1, mean of heads 2, 5", exact=True).wait_for()
    wait_for_head(page, 1, "mean")
    chosen = maps.get_layer(1)[[2, 5]].mean(0)
    assert read_weight(page, row, column) == pytest.approx(chosen[row, column], abs=6e-4)
    assert "2 of 8 heads shown" in page.locator(".av-heads").inner_text()
    page.get_by_role("group", name="Mean over").get_by_role("button", name="all layers").click()
    page.get_by_role("heading", name="Mean of heads 2, 5 of all layers", exact=True).wait_for()
    wait_for_head(page, 1, "mean")
    every = np.mean([layer[[2, 5]].mean(0) for layer in maps.weights], axis=0)
    assert read_weight(page, row, column) == pytest.approx(every[row, column], abs=6e-4)
    page.get_by_text("Save").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Numbers as CSV").click()
    line = download.value.path().read_text("utf-8").splitlines()[1].split(",")
    assert line[:3] == ["all", "mean layers 2 5", "0"]
    page.reload()
    page.get_by_role("heading", name="Mean of heads 2, 5 of all layers", exact=True).wait_for()
    page.get_by_role("button", name="Head 2", exact=True).click()
    page.get_by_role("button", name="Head 5", exact=True).click()  # none is left, so all are meant
    page.get_by_role("heading", name="Mean of heads of all layers", exact=True).wait_for()
    page.get_by_label("Head", exact=True).select_option("3")
    wait_for_head(page, 1, "3")
    assert not page.locator(".av-heads").is_visible()
    assert not page.get_by_role("group", name="Mean over").is_visible()


def read_strengths(page, pane, tokens):
    """Return the largest opacity of the strips under tokens."""
    return page.evaluate(
        """([pane, tokens]) => {
        const root = document.querySelector(`[data-pane="${pane}"]`);
        const canvas = root.querySelector("canvas");
        const ratio = canvas.width / parseFloat(canvas.style.width);
        const drawing = canvas.getContext("2d");
        return tokens.map((token) => {
            const box = root.querySelector(`[data-token="${token}"]`);
            const [x, y, w, h] = [box.offsetLeft, box.offsetTop, box.offsetWidth, box.offsetHeight];
            const { data } = drawing.getImageData(x * ratio, y * ratio, w * ratio, h * ratio);
            return Math.max(...data.filter((_, i) => i % 4 === 3)) / 255;
        });
    }""",
        [pane, list(tokens)],
    )


def test_several_tokens_in_the_text(open_page, path, maps):
    page = open_page(path, "view=text&layer=2&on=1&scale=linear&rows=own")
    page.wait_for_selector('.av-text[data-ready="2"]')
    weights, n = maps.get_layer(2)[1], len(maps.tokens_key)
    observer = page.locator('[data-pane="observer"]')
    observer.locator('[data-token="6"]').click()
    observer.locator('[data-token="9"]').click(modifiers=["Shift"])
    wait_until(page, 'location.hash.includes("observer=6-9")')
    observer.locator('[data-token="12"]').click(modifiers=["Control"])
    wait_until(page, 'location.hash.includes("observer=6-9.12")')
    page.wait_for_timeout(200)
    rows = [6, 7, 8, 9, 12]
    mean = weights[rows].mean(0)
    top = max(weights.max(), mean.max())
    np.testing.assert_allclose(
        read_strengths(page, "observer", range(n)), np.where(mean / top < 0.01, 0, mean / top), atol=0.01
    )
    assert "5 tokens, 6  " in observer.locator(".av-status").inner_text()
    assert "mean over these queries" in observer.locator(".av-status").inner_text()
    assert observer.locator(".av-focus").count() == 5
    observed = page.locator('[data-pane="observed"] [role="listbox"]')
    page.mouse.move(2, 2)  # keys go on from what is pointed at
    observed.focus()
    for key in ("ArrowRight", "Enter", "ArrowRight", "ArrowRight", "Shift+Enter"):
        page.keyboard.press(key)
    wait_until(page, 'location.hash.includes("observed=0-2")')
    page.wait_for_timeout(200)
    total = weights[:, :3].sum(1)
    top = max(weights.max(), total.max())
    np.testing.assert_allclose(
        read_strengths(page, "observed", range(n)), np.where(total / top < 0.01, 0, total / top), atol=0.01
    )
    assert "sum over these keys" in page.locator('[data-pane="observed"] .av-status').inner_text()
    page.reload()
    page.wait_for_selector('.av-text[data-ready="2"]')
    assert page.locator('[data-pane="observer"] .av-focus').count() == 5
    page.locator('[data-pane="observer"] [data-token="12"]').click(modifiers=["Control"])
    wait_until(page, 'location.hash.includes("observer=6-9&") || location.hash.endsWith("observer=6-9")')
    page.keyboard.press("Escape")
    wait_until(page, '!location.hash.includes("observer")')
    assert page.locator(".av-frozen").count() == 0
