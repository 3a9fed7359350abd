import base64
import json
from pathlib import Path

import numpy as np
import pytest

from attn_viewer import show_attention
from attn_viewer.errors import OptionError
from attn_viewer.web.encode import decode_head

NOTEBOOKS = sorted((Path(__file__).parent.parent.parent / "examples").glob("*.ipynb"))


def ask(widget, monkeypatch, content):
    sent = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=(): sent.append((content, list(buffers))))
    widget._answer(widget, content, [])
    return sent


def test_the_widget_answers_with_the_weights(demo_maps, monkeypatch):
    widget = show_attention(demo_maps, state="view=heatmap")
    assert widget.state == "view=heatmap"
    ((content, (data,)),) = ask(widget, monkeypatch, {"id": 7, "layer": 2, "head": 3})
    assert content == {"id": 7}
    np.testing.assert_array_equal(decode_head(data, widget.meta), demo_maps.get_layer(2)[3])


@pytest.mark.parametrize("content", [{"id": 1, "layer": 99, "head": 0}, {"id": 1}, {"id": 1, "layer": [], "head": {}}])
def test_questions_that_make_no_sense(demo_maps, monkeypatch, content):
    (((answer, buffers)),) = ask(show_attention(demo_maps), monkeypatch, content)
    assert answer["id"] == 1
    assert "no such head" in answer["error"]
    assert buffers == []


def test_wrong_options(demo_maps):
    with pytest.raises(OptionError, match="theme"):
        show_attention(demo_maps, theme="blue")
    with pytest.raises(OptionError, match="state"):
        show_attention(demo_maps, state=3)


def test_the_widget_in_a_browser(demo_maps, tmp_path, open_page, monkeypatch):
    """The widget's module against a model such as anywidget gives it, with answers that Python made."""
    widget = show_attention(demo_maps, state="view=heatmap&layer=1&head=2")
    ((_, (data,)),) = ask(widget, monkeypatch, {"id": 1, "layer": 1, "head": 2})
    state = {"meta": widget.meta, "state": widget.state, "theme": "light"}
    module = base64.b64encode(widget._esm.encode()).decode()
    page = tmp_path / "widget.html"
    page.write_text(
        f"""<!doctype html><meta charset="utf-8"><style>{widget._css}</style><body><div id="el"></div>
<script type="module">
const bytes = Uint8Array.from(atob("{base64.b64encode(data).decode()}"), (c) => c.charCodeAt(0));
const values = {json.dumps(state)};
const handlers = {{}};
const model = {{
  get: (name) => values[name],
  set: (name, value) => (values[name] = value),
  save_changes: () => (document.body.dataset.state = values.state),
  on: (name, handler) => (handlers[name] = handler),
  off: (name) => delete handlers[name],
  send(message) {{
    (window.asked ??= []).push(message.id);
    const isHere = message.layer === 1 && message.head === 2;
    const answer = isHere ? {{ id: message.id }} : {{ id: message.id, error: "no such head" }};
    setTimeout(() => handlers["msg:custom"]?.(answer, isHere ? [new DataView(bytes.buffer)] : []));
  }},
}};
const url = "data:text/javascript;base64,{module}";
const {{ default: widget }} = await import(url);
window.show = () => widget.render({{ model, el: document.getElementById("el") }});
window.stop = window.show();
</script>""",
        encoding="utf-8",
    )
    shown = open_page(page, allow_data=True)
    shown.wait_for_selector('.av-plot[data-ready="1.2"]')
    shown.get_by_role("button", name="Next head").click()
    shown.get_by_text("no such head").wait_for()
    assert shown.locator("body").get_attribute("data-state") == "view=heatmap&layer=1&head=3"
    shown.evaluate("() => void (window.stopOther = window.show())")  # answers reach every view, which must know its own
    shown.locator(".attn-viewer").nth(1).get_by_text("no such head").wait_for()
    asked = shown.evaluate("window.asked")
    assert len(asked) >= 3
    assert len(set(asked)) == len(asked)
    shown.evaluate("window.stopOther()")
    shown.evaluate("window.stop()")
    assert shown.locator(".attn-viewer").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_and_hold_no_outputs(path, tmp_path):
    import nbclient  # two seconds of processor in every worker, were it at the top
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/html", "application/vnd.jupyter.widget-view+json"} <= kinds
