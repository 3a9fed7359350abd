"""What a reader takes along from a page: pictures, numbers, paper."""

import csv
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from conftest import make_maps
from PIL import Image
from test_viewer import list_colors, wait_for_head

from attn_viewer import AttentionMaps, export_html
from attn_viewer.web.encode import describe_maps

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def maps():
    return make_maps(3, 4, 9, tokens=["<s>", "a&b", "=1+1", 'q"', "]]>", "\x01x", "g", "h", "i"])


@pytest.fixture(scope="module")
def path(maps, tmp_path_factory):
    return export_html(maps, tmp_path_factory.mktemp("keep") / "keep.html")[0]


def keep(page, choice, path):
    page.locator(".av-menu summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=choice).click()
    download.value.save_as(path)
    return download.value.suggested_filename


def read_cells(svg, n):
    """Return the colour of each cell of the first picture in an SVG, axes ``(n, n, 3)``."""
    cells = np.full((n, n, 3), -1)
    group = next(g for g in svg.iter(f"{SVG}g") if g.get("shape-rendering"))
    for path in group:
        color = [int(part) for part in re.findall(r"\d+", path.get("fill"))]
        for column, row, width in re.findall(r"M(\d+) (\d+)h(\d+)", path.get("d")):
            cells[int(row), int(column) : int(column) + int(width)] = color
    return cells


def test_the_heatmap_as_svg_has_the_weights_and_the_labels(open_page, path, maps, tmp_path):
    page = open_page(path, "view=heatmap&layer=1&head=2&scale=linear")
    wait_for_head(page, 1, 2)
    assert keep(page, "View as SVG", tmp_path / "h.svg") == "random-heatmap-L1-H2.svg"
    svg = ET.parse(tmp_path / "h.svg").getroot()
    weights = maps.get_layer(1)[2]
    colors = list_colors(describe_maps(maps)).astype(int)
    expected = colors[np.rint(255 * weights / weights.max()).astype(int)]
    lower = ~maps.future
    assert np.abs(read_cells(svg, len(weights)) - expected)[lower].max() <= 3
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert texts[:2] == ["random", "layer 1, head 2"]
    for token in ("<s>", "a&b", "]]>", "i"):
        assert texts.count(token) == 2
    assert any("linear scale" in text for text in texts)


@pytest.mark.parametrize("view", ["text", "lines", "overview"])
def test_other_views_as_svg(open_page, path, maps, tmp_path, view):
    page = open_page(path, f"view={view}&layer=2&observer=6&line=6", height=300)
    page.wait_for_selector(f".av-{view}[data-ready]")
    keep(page, "View as SVG", tmp_path / "v.svg")
    svg = ET.parse(tmp_path / "v.svg").getroot()
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    paths = list(svg.iter(f"{SVG}path"))
    if view == "overview":
        assert {"H3", "L0", "L2"} <= set(texts)
        assert paths or list(svg.iter(f"{SVG}image"))
    elif view == "lines":
        assert texts.count("a&b") == 2
        count = sum(path.get("d").count("C") for path in paths)
        assert count == int(page.locator(".av-lines-plot canvas").get_attribute("data-lines")) > 0
    else:
        assert texts.count("a&b") == 2
        assert len(list(svg.iter(f"{SVG}rect"))) > 10


def test_a_picture_as_png(open_page, path, tmp_path):
    page = open_page(path, "view=heatmap&layer=1&head=2", scheme="dark")
    wait_for_head(page, 1, 2)
    keep(page, "View as PNG", tmp_path / "h.png")
    with Image.open(tmp_path / "h.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert min(image.size) > 600
    assert tuple(pixels[0]) == (0x14, 0x17, 0x1D)
    assert len(np.unique(pixels, axis=0)) > 20


def test_numbers_as_csv(open_page, path, maps, tmp_path):
    page = open_page(path, "view=heatmap&layer=1&head=2&pin=6.3")
    wait_for_head(page, 1, 2)
    keep(page, "Numbers as CSV", tmp_path / "head.csv")
    keep(page, "Row as CSV", tmp_path / "row.csv")
    weights = maps.get_layer(1)[2]
    for name, cells in (("head", np.argwhere(~maps.future)), ("row", [(6, column) for column in range(7)])):
        rows = list(csv.DictReader(io.StringIO((tmp_path / f"{name}.csv").read_text("utf-8"))))
        assert [(int(row["query"]), int(row["key"])) for row in rows] == [tuple(cell) for cell in cells]
        np.testing.assert_allclose(
            [float(row["weight"]) for row in rows], [weights[tuple(cell)] for cell in cells], rtol=1e-5
        )
        assert {row["layer"] + row["head"] for row in rows} == {"12"}
    assert [row["key_token"] for row in rows][:4] == ["<s>", "a&b", "'=1+1", 'q"']  # no spreadsheet's formula


def test_a_cell_is_copied(open_page, path, maps):
    page = open_page(path, "view=heatmap&layer=1&head=2&pin=6.3")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    wait_for_head(page, 1, 2)
    page.locator(".av-menu summary").click()
    page.get_by_role("button", name="Copy cell").click()
    page.get_by_text("Copied: query 6").wait_for(state="attached")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert float(copied.rsplit(" ", 1)[1]) == pytest.approx(maps.get_layer(1)[2][6, 3], rel=0.05)


def test_what_is_not_pinned_has_no_row_to_keep(open_page, path):
    page = open_page(path, "view=lines&layer=1")
    page.wait_for_selector(".av-lines[data-ready]")
    page.locator(".av-menu summary").click()
    assert page.get_by_role("button", name="Numbers as CSV").is_visible()
    assert not page.get_by_role("button", name="Copy cell").is_visible()


def test_paper_has_every_tile_and_no_control(open_page, tmp_path):
    weights = np.ones((1, 1, 1), np.float32)
    maps = AttentionMaps([np.repeat(weights, 4, 0)] * 30, ["a"], model_id="m")
    (path,) = export_html(maps, tmp_path / "tall.html")
    page = open_page(path, "view=overview", width=700, height=300)
    page.wait_for_selector(".av-overview[data-ready]")
    page.wait_for_timeout(500)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    for name in (".av-bar", ".av-tabs", ".av-menu", ".av-grid"):
        assert not page.locator(name).is_visible()
    sheets = page.locator(".av-printed canvas")
    assert sheets.first.is_visible()
    dark = page.evaluate(
        """() => [...document.querySelectorAll(".av-printed canvas")].map((sheet) => {
            const { data } = sheet.getContext("2d").getImageData(0, 0, sheet.width, sheet.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) count += data[i] + data[i + 1] + data[i + 2] < 200;
            return [count, sheet.width];
        })"""
    )
    tile = page.evaluate("parseFloat(document.querySelector('.av-sheet').style.width)")
    # Each of the 120 tiles is one dark cell of about the fourth part of the width.
    side = 2 * (tile - 26) / 4
    assert 0.8 < sum(count for count, _ in dark) / (120 * side * side) < 1.05
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert sheets.count() == 0


@pytest.mark.parametrize("view", ["heatmap", "text", "lines"])
def test_paper_has_the_whole_of_a_view(view, open_page, tmp_path):
    maps = make_maps(1, 2, 90, model_id="m")
    (path,) = export_html(maps, tmp_path / "long.html")
    page = open_page(path, f"view={view}&layer=0&head=0", width=700, height=300)
    page.wait_for_selector(f".av-{view}")
    page.wait_for_timeout(500)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    for name in (".av-bar", ".av-tabs", ".av-menu", ".av-hint"):
        assert page.locator(name).count() == 0 or not page.locator(name).first.is_visible()
    ends = page.evaluate(
        """() => [...document.querySelectorAll(".av-printed canvas, [data-position]")].filter((e) => e.offsetParent)
        .map((e) => e.getBoundingClientRect()).map(({ right, bottom }) => [right, bottom])"""
    )
    size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert ends
    assert max(right for right, _ in ends) <= size[0] + 1  # sizes are whole numbers
    assert 300 < max(bottom for _, bottom in ends) <= size[1] + 1
