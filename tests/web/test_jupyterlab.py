"""The widget in a real JupyterLab, and where no widget can run."""

import base64
import contextlib
import importlib.metadata
import io
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import make_maps
from PIL import Image

import attn_viewer
from attn_viewer import export_html, show_attention

pytestmark = pytest.mark.slow
ROOT = Path(attn_viewer.__file__).parent.parent
CELL = """
import numpy as np
from attn_viewer import AttentionMaps, show_attention
weights = np.tril(np.arange(1, 65, dtype=np.float32).reshape(1, 8, 8)); weights /= weights.sum(-1, keepdims=True)
show_attention(AttentionMaps([weights], [f"token{i}" for i in range(8)], model_id="lab"), state="view=heatmap")
"""


def find_share(name):
    """Return the folder share/jupyter that a package was installed into, which may be another than this Python's."""
    files = importlib.metadata.files(name) or ()
    found = (Path(file.locate()).resolve() for file in files if "share/jupyter" in file.as_posix())
    path = next(found)
    return next(parent for parent in path.parents if parent.name == "jupyter" and parent.parent.name == "share")


@contextlib.contextmanager
def run_lab(folder):
    share = find_share("jupyterlab")
    words = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--IdentityProvider.token=t",
        f"--app-dir={share / 'lab'}",
    ]
    paths = os.pathsep.join(str(find_share(name)) for name in ("jupyterlab", "anywidget", "jupyterlab_widgets"))
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = os.environ | own | {"JUPYTER_PATH": paths, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *words], cwd=folder, env=environment, stderr=file, stdout=file
        )
    try:
        for _ in range(600):
            found = [word for word in log.read_text().split() if word.startswith("http://") and "/lab?token=" in word]
            with contextlib.suppress(urllib.error.URLError, OSError):
                if found and urllib.request.urlopen(found[0], timeout=5):
                    yield found[0].partition("/lab")[0]
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            pytest.fail(log.read_text())
    finally:
        process.terminate()
        process.wait(30)


def test_the_tooltip_is_at_the_pointer_in_jupyterlab(browser, tmp_path):
    for name in ("jupyterlab", "anywidget"):
        pytest.importorskip(name, reason=f"needs JupyterLab with anywidget: pip install {name}")
    nbformat = pytest.importorskip("nbformat")  # takes two seconds of processor to import
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "nb.ipynb")
    with run_lab(tmp_path) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}/lab/tree/nb.ipynb?token=t")
        page.locator(".jp-CodeCell .cm-content").first.click(timeout=90_000)
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(timeout=90_000)
        page.keyboard.press("Shift+Enter")
        page.wait_for_selector('.av-plot[data-ready="0.0"]', timeout=90_000)
        page.locator(".av-plot").scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        left, top, cell, *_ = map(float, page.locator(".av-plot").get_attribute("data-place").split())
        box = page.locator(".av-plot").bounding_box()
        at = box["x"] + left + 1.5 * cell, box["y"] + top + 4.5 * cell
        page.mouse.move(*at)
        tooltip = page.locator(".av-tooltip")
        assert tooltip.inner_text().split("\n") == ["query 4  token4", "key 1  token1", "weight 0.194"]
        place = tooltip.bounding_box()
        assert min(abs(place["x"] - at[0]), abs(place["x"] + place["width"] - at[0])) < 30
        assert min(abs(place["y"] - at[1]), abs(place["y"] + place["height"] - at[1])) < 30
        if folder := os.environ.get("ATTN_VIEWER_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / "lab.png")
        page.close()


def test_a_picture_stands_for_the_widget_where_none_runs():
    data, _ = show_attention(make_maps(3, 4, 9, model_id="still"))._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert min(image.size) > 200
    assert len(image.convert("RGB").getcolors(2**24)) > 50


def test_nbconvert_shows_the_picture(monkeypatch):
    nbconvert = pytest.importorskip("nbconvert", reason="needs nbconvert: pip install nbconvert")
    nbformat = pytest.importorskip("nbformat")
    data, metadata = show_attention(make_maps(3, 4, 9))._repr_mimebundle_()
    output = nbformat.v4.new_output("execute_result", data, metadata=metadata, execution_count=1)
    cell = nbformat.v4.new_code_cell("show_attention(maps)", outputs=[output])
    monkeypatch.setenv("JUPYTER_PATH", str(find_share("nbconvert")))  # templates
    html, _ = nbconvert.HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert data["image/png"][:200] in html.replace("\n", "")


@pytest.mark.parametrize("sandbox", ["allow-scripts", "allow-scripts allow-forms allow-downloads"])
@pytest.mark.parametrize(
    "policy", ["", "default-src 'none'; script-src 'unsafe-inline' blob: data:; style-src 'unsafe-inline'"]
)
def test_sandboxes_such_as_those_of_editors_and_hosts(open_page, tmp_path, sandbox, policy):
    """Outputs of VS Code and Colab stand in frames of another origin, some under a policy: no storage, no clipboard."""
    maps = make_maps(3, 4, 9)
    (inner,) = export_html(maps, tmp_path / "inner.html")
    text = inner.read_text("ascii").replace("&", "&amp;").replace('"', "&quot;")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!doctype html>{meta}<iframe srcdoc="{text}" sandbox="{sandbox}" width="1000" height="800"></iframe>'
    )
    frame = open_page(outer).frame_locator("iframe")
    frame.locator(".av-overview[data-ready]").wait_for()
    frame.get_by_role("tab", name="Heatmap").click()
    frame.locator('.av-plot[data-ready="0.0"]').wait_for()
    frame.locator(".av-plot").hover(position={"x": 120, "y": 120})
    assert "weight" in frame.locator(".av-tooltip").inner_text()
