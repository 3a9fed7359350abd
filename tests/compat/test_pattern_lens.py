import gzip
import runpy

from conftest import make_maps

import attn_viewer
from attn_viewer.compat import pattern_lens
from attn_viewer.figures import registry

# pattern-lens's README example with its imports changed
EXAMPLE = """
from scipy.linalg import svd
from attn_viewer.compat.pattern_lens import matplotlib_figure_saver, register_attn_figure_func


@register_attn_figure_func
@matplotlib_figure_saver(fmt="svgz")
def spectra(attn_matrix, ax):
    ax.plot(svd(attn_matrix)[1], "o-")
    ax.set_title("Singular Value Spectrum of Attention Matrix")
"""


def test_a_program_changes_its_imports_in_one_place(tmp_path, monkeypatch):
    registry.select_attn_figure_funcs()  # which registers those of this package
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))
    program = tmp_path / "program.py"
    program.write_text(EXAMPLE)
    spectra = runpy.run_path(str(program))["spectra"]
    assert "spectra" in pattern_lens.get_all_figure_names()
    spectra(make_maps(1, 1, 9).weights[0][0], tmp_path)
    assert (
        ">Singular Value Spectrum of Attention Matrix<"
        in gzip.decompress((tmp_path / "spectra.svgz").read_bytes()).decode()
    )


def test_the_names_are_those_of_this_package():
    for name in pattern_lens.__all__:
        rooms = (attn_viewer, attn_viewer.figures, attn_viewer.pipeline, attn_viewer.storage)
        assert any(getattr(pattern_lens, name) is getattr(room, name, None) for room in rooms)
