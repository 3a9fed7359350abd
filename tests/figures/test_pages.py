import subprocess
import sys

import joblib
import matplotlib as mpl
import pytest
from conftest import make_maps

from attn_viewer.figures import pages
from attn_viewer.figures.formats import FORMATS
from attn_viewer.figures.options import PanelLook
from attn_viewer.figures.venues import use_preset


def list_modules():
    return {"torch", "transformers"} & set(sys.modules)


@pytest.mark.parametrize("fmt", FORMATS)
def test_processes_write_the_bytes_that_one_writes(fmt, monkeypatch):
    maps, look = make_maps(9, 3, 6), PanelLook(norm="quantile", sink="hide")
    with mpl.rc_context({"axes.edgecolor": "red", "image.cmap": "magma"}), use_preset("icml2024"):
        alone = list(pages.render_pages(maps, look, fmt, has_heads=True))
        monkeypatch.setattr(pages, "START", 0.0)
        together = list(pages.render_pages(maps, look, fmt, has_heads=True, parallel=2))
    assert [name for name, _ in alone] == [pages.AVERAGES, *(f"layer_{i}" for i in range(9))]
    assert together == alone
    # The same worker processes answer.
    assert joblib.Parallel(2)(joblib.delayed(list_modules)() for _ in range(4)) == [set()] * 4


def test_little_work_is_not_shared(monkeypatch):
    monkeypatch.setattr(pages.joblib, "Parallel", None)
    assert len(list(pages.render_pages(make_maps(3, 2, 4), PanelLook(), "jpg", has_heads=True, parallel=8))) == 4


def test_what_workers_import_loads_no_model_library():
    code = "import attn_viewer.figures.pages, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
