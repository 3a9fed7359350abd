"""The tour at the top of the README: a minute with `attn-viewer serve --model_path`, as an animated picture.

    python examples/make_tour.py              # assets/tour.gif; needs the program chromium and playwright

Everything is done in the page as a person does it, with the two models that come with the package.
"""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WIDTH, HEIGHT, CAPTION = 1000, 700, 44
SECONDS = 6
PROMPT = "the cat sat on a blue stone, and the cat sat on a blue"
READY = "#live[data-state=ready] .av-stage [data-ready]:not([data-ready=false])"


class Tour:
    """A page, and pictures of it with a sentence below each."""

    def __init__(self, page):
        self.page, self.frames = page, []
        self.font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 20)

    def run(self, button, text=None):
        """Click a button, with another prompt or the one that is there."""
        if text is not None:
            self.page.get_by_label("Prompt", exact=True).fill(text)
        self.page.get_by_role("button", name=button).click()
        self.page.wait_for_selector(READY)

    def open(self, view):
        """Open a view."""
        self.page.get_by_role("tab", name=view).click()
        self.page.wait_for_selector(READY)

    def keep(self, caption):
        """Add what the window shows, when all of it is drawn."""
        self.page.wait_for_timeout(400)
        frame = Image.new("RGB", (WIDTH, HEIGHT + CAPTION), "#14171d")
        frame.paste(Image.open(io.BytesIO(self.page.screenshot())))
        ImageDraw.Draw(frame).text((16, HEIGHT + CAPTION / 2), caption, "white", self.font, anchor="lm")
        self.frames.append(frame.quantize(256, dither=Image.Dither.NONE))

    def save(self, path):
        """Write what was kept."""
        first, *rest = self.frames
        first.save(path, save_all=True, append_images=rest, duration=1000 * SECONDS, loop=0, optimize=True)


def take_tour(tour):
    """Do what the tour shows."""
    page = tour.page
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    tour.keep("attn-viewer serve --model_path: a prompt box over the demo model, or over yours")
    tour.run("Capture")
    tour.keep("Capture: every head at once; 1.0 and 1.2 look like induction heads")
    page.locator('[data-key="1.0"]').click()
    page.wait_for_selector(READY)
    page.evaluate("document.querySelector('.al-viewer').scrollIntoView()")
    tour.keep("a head's weights: the second 'cat sat on a' looks at what followed the first")
    tour.open("Text")
    page.locator(".av-tokens >> nth=1").get_by_text("ue", exact=True).last.click()
    page.evaluate("scrollTo(0, 0)")
    tour.keep("the same as running text: 'blue' looks at 'stone'")
    tour.run("Next tokens")
    tour.keep("Next tokens: it expects 'stone' again, at 0.999; click any to go on with it")
    page.get_by_label("new tokens").fill("6")
    page.get_by_role("button", name="Pick heads").click()
    page.wait_for_selector(READY)
    for head in ("1.0", "1.2"):
        page.locator(f'[data-key="{head}"]').click()
    tour.keep("Pick heads: those two, to be taken out")
    page.get_by_role("button", name="Pick heads").click()
    tour.run("Change heads")
    tour.keep("without both heads 'stone' is no longer predicted, and the answer is another")
    page.get_by_role("button", name="B − A").click()
    page.locator(".av-stage").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.al-viewer').scrollIntoView()")
    tour.keep("what changed in the heads after them: without them minus with them")
    page.evaluate("scrollTo(0, 0)")
    tour.run("Compare with last", PROMPT.replace("blue stone", "red stone"))
    tour.keep("change a word: both prompts side by side, heads that changed most first")
    page.get_by_label("Model", exact=True).select_option(label="demo-vision")
    page.wait_for_selector("#live[data-state=ready]")
    page.set_input_files("input[type=file]", ROOT / "examples" / "scenes" / "scene_1.png")
    page.get_by_label("new tokens").fill("9")
    tour.run("Generate", "what is in the picture?")
    tour.keep("a model that sees: ask about a picture, the answer streams in")
    tour.open("Text")
    page.get_by_label("Layer", exact=True).select_option("1")
    page.locator(".av-tokens >> nth=1").get_by_text(re.compile("^.?green$")).last.click()
    page.evaluate("document.querySelector('.al-viewer').scrollIntoView()")
    tour.keep("which patches each word of the answer looks at")


def main():
    words = [
        sys.executable,
        "-m",
        "attn_viewer",
        "serve",
        "--model_path",
        "--more_models",
        "demo-vision",
        "--port",
        "0",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(process.stdout.readline().strip())
            tour = Tour(page)
            take_tour(tour)
            tour.save(ROOT / "assets" / "tour.gif")
            browser.close()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
