import subprocess
import sys

import joblib
import matplotlib as mpl
import pytest
from conftest import make_maps
from joblib.externals.loky import get_reusable_executor

from attn_viewer import plot_heads
from attn_viewer.errors import PageSizeError
from attn_viewer.figures import pages
from attn_viewer.figures.compare import iterate_comparison_pages
from attn_viewer.figures.formats import FORMATS
from attn_viewer.figures.grids import iterate_head_pages
from attn_viewer.figures.options import PanelLook, WeightLook
from attn_viewer.figures.venues import find_venue, use_preset


def list_modules():
    return {"torch", "transformers"} & set(sys.modules)


@pytest.fixture(scope="module")
def own_workers():
    get_reusable_executor().shutdown()  # workers of another test may have loaded more


@pytest.mark.parametrize("fmt", [pytest.param(fmt, marks=[pytest.mark.slow] * (fmt == "pdf")) for fmt in FORMATS])
def test_processes_write_the_bytes_that_one_writes(fmt, own_workers, monkeypatch):
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


def test_what_does_not_fit_a_venue_is_on_numbered_pages():
    maps = make_maps(2, 32, 40)
    with use_preset("beamer_moml"):
        names = [name for name, _ in pages.render_pages(maps, PanelLook(), "png", has_heads=True)]
        several = list(iterate_head_pages(maps))
        rows = list(iterate_comparison_pages(make_maps(9, 1, 40), make_maps(9, 1, 40, seed=1), WeightLook()))
        limit = find_venue("beamer_moml").height / 72
    assert names[0] == pages.AVERAGES
    assert names[1:] == [name for name, _ in several]
    n_pages = len(several) // 2
    assert names[1:] == [f"layer_{layer}_{number}" for layer in (0, 1) for number in range(1, n_pages + 1)]
    assert len(rows) > 1
    assert len({figure.axes[0].images[0].norm.vmax for figure in rows}) == 1
    assert sum(len(figure.axes[0].images) for figure in rows) == 27
    assert all(figure.get_figheight() <= limit + 0.01 for figure in [*rows, *(figure for _, figure in several)])
    with use_preset("beamer_moml"), pytest.raises(PageSizeError):
        plot_heads(maps, 0)
