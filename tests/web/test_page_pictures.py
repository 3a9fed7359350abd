"""Pictures beside the text: patches light up for words, and words for patches."""

import json
import re

import numpy as np
import pytest
from coloured_shapes import draw_scene
from conftest import make_maps, wait_until
from test_page import read_page
from test_viewer import count_painted, list_colors

from attn_viewer import capture_generation, export_html
from attn_viewer.cli import main
from attn_viewer.errors import OptionError, PromptError, UnsuitableMapsError
from attn_viewer.inputs.pictures import ask_about
from attn_viewer.spans import Span

# The colours in the middle of each patch of the observer's picture, and whether its square is drawn there.
READ_SQUARES = """(pane) => {
    const box = document.querySelector(`[data-pane="${pane}"] .av-tokens`);
    const canvas = box.querySelector("canvas");
    const ratio = canvas.width / parseFloat(canvas.style.width);
    const drawing = canvas.getContext("2d");
    return [...box.querySelectorAll(".av-patch")].map((patch) => {
        const [x, y] = [patch.offsetLeft + patch.offsetWidth / 2, patch.offsetTop + patch.offsetHeight / 2];
        return [Number(patch.dataset.token), ...drawing.getImageData(x * ratio, y * ratio, 1, 1).data];
    });
}"""


@pytest.fixture(scope="module")
def scene():
    return draw_scene(1_000_003, 3)[0]


@pytest.fixture(scope="module")
def maps(demo_vision, scene):
    asked = ask_about(scene, "what colour is the star ?")
    return capture_generation(*demo_vision, asked, max_new_tokens=4, model_id="sees")


@pytest.fixture(scope="module")
def path(maps, scene, tmp_path_factory):
    return export_html(maps, tmp_path_factory.mktemp("pictures") / "sees.html", image=scene)[0]


def read_squares(page, pane):
    """Return the colour on each patch by its token; a patch without a square is left out."""
    found = page.evaluate(READ_SQUARES, pane)
    return {token: colour for token, *colour, alpha in found if alpha == 255}


def test_patches_light_up_for_a_generated_word(open_page, path, maps):
    page = open_page(path, "view=text&layer=2&scale=linear", allow_data=True)
    page.wait_for_selector('.av-text[data-ready="2"]')
    pane = page.locator('[data-pane="observer"]')
    word = maps.prompt_length
    assert pane.locator(".av-token").all_inner_texts() == [
        token for i, token in enumerate(maps.tokens_key) if not 1 <= i <= 64
    ]
    assert pane.locator(".av-picture").count() == 1
    assert pane.locator(".av-picture").get_attribute("aria-label") == "image 0: 8 × 8 patches"
    assert read_squares(page, "observer") == {}
    pane.locator(f'[data-token="{word}"]').hover()
    wait_until(page, "document.querySelector('[data-pane=\"observer\"] .av-status').textContent.includes('patches')")
    mean = maps.get_layer(2).mean(0)
    weights, top = mean[word - 1], mean[:, 1:65].max()
    expected = {
        token: list_colors(read_page(path)[0])[round(255 * weights[token] / top)].tolist()
        for token in range(1, 65)
        if weights[token] >= 0.01 * top
    }
    seen = read_squares(page, "observer")
    assert seen.keys() == expected.keys()
    np.testing.assert_allclose([seen[token] for token in expected], list(expected.values()), atol=3)
    assert f"{weights[1:65].sum():.0%}".replace("%", " %") in pane.locator(".av-status").inner_text()
    page.get_by_role("button", name="Head 0", exact=True).dblclick()
    wait_until(page, 'location.hash.includes("on=0")')
    page.wait_for_timeout(200)
    pane.locator(f'[data-token="{word}"]').hover()
    page.wait_for_timeout(200)
    alone = maps.get_layer(2)[0]
    lit = {t for t in range(1, 65) if alone[word - 1, t] >= 0.01 * alone[:, 1:65].max()}
    assert set(read_squares(page, "observer")) == lit != set(seen)


def test_the_picture_is_grey_below_weights(open_page, path, scene):
    page = open_page(path, "view=text&layer=2", allow_data=True)
    page.wait_for_selector('.av-text[data-ready="2"]')
    read = """() => {
        const canvas = document.querySelector('[data-pane="observer"] .av-picture canvas');
        return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
    }"""
    wait_until(page, "document.querySelector('[data-pane=\"observer\"] .av-picture canvas').width === 128")
    page.wait_for_timeout(200)
    pixels = np.reshape(page.evaluate(read), (128, 128, 4))
    np.testing.assert_array_equal(pixels[..., :3], np.asarray(scene))
    page.locator('[data-pane="observer"] [data-token="70"]').hover()
    page.wait_for_timeout(200)
    grey = np.reshape(page.evaluate(read), (128, 128, 4))[..., :3]
    assert (grey == grey[..., :1]).all()
    luminance = np.asarray(scene) @ [0.2126, 0.7152, 0.0722]
    np.testing.assert_allclose(grey[..., 0], 255 * 0.35 + 0.65 * luminance, atol=1)


def test_words_light_up_for_a_patch_by_pointer_keys_and_touch(open_page, path, maps):
    page = open_page(path, "view=text&layer=2&on=3", width=390, height=844, has_touch=True, allow_data=True)
    page.wait_for_selector('.av-text[data-ready="2"]')
    strongest = 1 + int(maps.get_layer(2)[3, maps.prompt_length - 1, 1:65].argmax())
    patch = page.locator(f'[data-pane="observed"] [data-token="{strongest}"]')
    patch.tap()
    wait_until(page, f'location.hash.includes("observed={strongest}")')
    page.wait_for_timeout(200)
    painted = count_painted(
        page, "observed"
    )  # in the order of the document: the picture stands where its first patch is
    tokens = page.locator('[data-pane="observed"] [data-token]').evaluate_all(
        "all => all.map((one) => +one.dataset.token)"
    )
    lit = dict(zip(tokens, painted, strict=True))
    assert lit[maps.prompt_length - 1]  # the row that chose the answer
    assert not lit[0]
    name = f"patch {(strongest - 1) // 8},{(strongest - 1) % 8}"
    assert name in page.locator('[data-pane="observed"] .av-status').inner_text()
    page.locator('[data-pane="observer"] [role="listbox"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".av-live").inner_text().startswith("token 1, patch 0,0; strongest: ")
    page.keyboard.press("Enter")
    wait_until(page, 'location.hash.includes("observer=1")')


def test_the_view_is_kept_with_its_picture(open_page, path):
    page = open_page(path, "view=text&layer=2&observer=71", allow_data=True)
    page.wait_for_selector('.av-text[data-ready="2"]')
    page.wait_for_timeout(300)
    page.get_by_text("Save").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="View as SVG").click()
    svg = download.value.path().read_text("utf-8")
    squares = set(re.findall(r'<rect [^>]*width="2\d[^>]*fill="(rgb\([^)]*\))"', svg))
    assert len(squares) > 1
    assert "&lt;image" not in svg


def test_tiles_make_one_picture_and_sounds_stand_in_rows(open_page, tmp_path):
    spans = [
        *(Span("image", 0, f"tile 0,{n}", 1 + 4 * n, 2, 2, 2, 0.0) for n in range(2)),
        Span("image", 0, "thumbnail", 9, 2, 2, 2, 0.0),
        Span("audio", 0, "whole", 13, 1, 60, 60, 0.02),
    ]
    maps = make_maps(n_tokens=80, tokens=["t"] * 80, spans=spans)
    page = open_page(export_html(maps, tmp_path / "tiles.html")[0], "view=text")
    page.wait_for_selector(".av-text[data-ready]")
    box = page.locator('[data-pane="observer"] .av-tokens')
    labels = box.locator(".av-picture").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert labels == ["image 0: 2 × 4 patches", "image 0, thumbnail: 2 × 2 patches", "audio 0: 60 frames"]
    lefts = [box.locator(f'[data-token="{token}"]').bounding_box()["x"] for token in (1, 2, 5, 6)]
    assert lefts == sorted(lefts)
    tops = [box.locator(f'[data-token="{token}"]').bounding_box()["y"] for token in (1, 5, 3, 7)]
    assert tops[0] == tops[1] < tops[2] == tops[3]
    assert box.locator('[data-token="72"]').get_attribute("aria-label") == "1.18 s"
    assert box.locator(".av-token").count() == 80 - 72
    assert box.locator('[data-token="73"]').is_visible()


def test_a_page_shows_what_the_model_saw(tmp_path):
    spans = [Span("image", number, "whole", 1 + number, 1, 1, 1, 0.0) for number in range(2)]
    maps = make_maps(n_tokens=9, spans=spans, crops=[(0.25, 0, 0.75, 1), (0, -1, 1, 2)])
    photo = np.zeros((40, 80, 3), np.uint8)
    (path,) = export_html(maps, tmp_path / "p.html", image=[photo, photo])
    assert [(one["width"], one["height"]) for one in read_page(path)[0]["pictures"]] == [(40, 40), (80, 120)]


def test_pictures_are_bounded_and_told(tmp_path):
    spans = [Span("image", 0, "whole", 1, 2, 3, 3, 0.0)]
    maps = make_maps(n_tokens=9, tokens=list("abcdefghi"), spans=spans)
    photo = np.random.default_rng(0).integers(0, 256, (1500, 3000, 3)).astype(np.uint8)
    (path,) = export_html(maps, tmp_path / "p.html", image=photo)
    (shown,) = read_page(path)[0]["pictures"]
    assert (shown["width"], shown["height"]) == (512, 256)
    assert shown["href"].startswith("data:image/jpeg;base64,")
    assert "img-src data:" in path.read_text("ascii")
    for image, used, error in (
        (photo, make_maps(), UnsuitableMapsError),
        ([photo, photo], maps, OptionError),
        ("nothing.png", maps, PromptError),
        (photo / 255, maps, PromptError),
    ):
        with pytest.raises(error):
            export_html(used, tmp_path / "bad.html", image=image)
    assert not (tmp_path / "bad.html").exists()


def test_the_command_writes_the_picture(tmp_path, monkeypatch, scene):
    monkeypatch.chdir(tmp_path)
    scene.save("scene.png")
    words = ["--image", "scene.png", "--prompt", "what colour is the star ?", "--max_new_tokens", "2"]
    assert main(["html", *words, "--output", "page.html", "--quiet"]) == 0
    text = (tmp_path / "page.html").read_text("ascii")
    (shown,) = json.loads(re.search(r'id="meta">(.*?)</script>', text)[1])["pictures"]
    assert (shown["width"], shown["height"]) == scene.size
