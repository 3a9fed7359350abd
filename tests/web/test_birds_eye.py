"""Heads in a plane of two scores."""

import numpy as np
import pytest
from conftest import wait_until
from test_viewer import list_colors

from attn_viewer import capture_attention, export_html, score_heads
from attn_viewer.web.encode import describe_maps

TEXT = "In the beginning God created the heaven and the earth.\nAnd the earth was without form."


@pytest.fixture(scope="module")
def maps(demo):
    return capture_attention(*demo, TEXT, model_id="demo")


@pytest.fixture(scope="module")
def path(maps, tmp_path_factory):
    return export_html(maps, tmp_path_factory.mktemp("plane") / "demo.html")[0]


def test_heads_stand_in_the_plane_of_two_scores(open_page, path, maps):
    page = open_page(path, "sort=induction")
    page.wait_for_selector(".av-overview[data-ready]")
    page.get_by_label("Against").select_option("previous_token")
    wait_until(page, "location.hash.includes('plane=previous_token')")
    page.wait_for_selector(".av-plane")
    page.wait_for_timeout(300)
    assert "32 of 32 heads in the plane of induction and previous token" in page.locator(".av-cuts").inner_text()
    boxes = page.locator("[role=gridcell]").evaluate_all(
        """(all) => all.map((one) => {
            const box = one.getBoundingClientRect();
            return [one.dataset.key, box.left + box.width / 2, box.top + box.height / 2];
        })"""
    )
    places = {key: (x, y) for key, x, y in boxes}
    table = score_heads(maps, ["induction", "previous_token"])
    keys = [f"{layer}.{head}" for layer, head in zip(table.layer, table.head, strict=True)]
    for axis, name in enumerate(("induction", "previous_token")):
        values, shown = np.array(table[name]), np.array([places[key][axis] for key in keys])
        expected = (values - values.min()) / np.ptp(values)
        found = (shown - shown.min()) / np.ptp(shown)
        np.testing.assert_allclose(1 - found if axis else found, expected, atol=0.01)
    ticks = page.locator(".av-axes span").all_inner_texts()
    assert ticks[3] == "induction →"
    assert ticks[2] == f"{max(table['induction']):.2f}"
    # The tile that lies alone at the far right has its head's weights.
    key = keys[int(np.argmax(table["induction"]))]
    corner = page.evaluate(
        """(key) => {
            const tile = document.querySelector(`[data-key="${key}"] .av-tile`).getBoundingClientRect();
            for (const sheet of document.querySelectorAll(".av-sheet")) {
                const box = sheet.getBoundingClientRect();
                if (tile.top < box.top || tile.top >= box.bottom - 1) continue;
                const drawing = sheet.getContext("2d");
                return [...drawing.getImageData(tile.left - box.left + 2, tile.top - box.top + 2, 1, 1).data];
            }
        }""",
        key,
    )
    assert np.abs(np.array(corner[:3]) - list_colors(describe_maps(maps)).astype(int)).sum(-1).min() <= 6
    assert corner[3] == 255
    page.locator(f'[data-key="{key}"]').hover()
    assert f"induction {max(table['induction']):.2f}" in page.locator(".av-tooltip").inner_text()
    page.get_by_label("Against").select_option("")
    page.wait_for_selector(".av-sorted:not(.av-plane)")


def test_arrows_in_the_plane_go_to_the_nearest(open_page, path, maps):
    page = open_page(path, "sort=induction&plane=previous_token")
    page.wait_for_selector(".av-plane")
    table = score_heads(maps, ["induction"])
    order = np.argsort(-np.array(table["induction"]))
    first = f"{table.layer[order[0]]}.{table.head[order[0]]}"
    page.locator(f'[data-key="{first}"]').focus()
    page.keyboard.press("ArrowRight")  # nothing lies there
    assert page.evaluate("document.activeElement.dataset.key") == first
    page.keyboard.press("ArrowLeft")
    left = page.evaluate("document.activeElement.dataset.key")
    assert left != first
    assert page.locator(".av-live").inner_text() == "Layer {}, head {}".format(*left.split("."))
    page.keyboard.press("Enter")
    page.wait_for_selector(f'.av-plot[data-ready="{left}"]')
