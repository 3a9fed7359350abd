import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import make_maps
from matplotlib.figure import Figure

from attn_viewer import compare_attention, save_scores
from attn_viewer.cli import main
from attn_viewer.figures import heads
from attn_viewer.figures.scales import round_end


@pytest.fixture
def caches(tmp_path):
    maps = [make_maps(model_id="a"), make_maps(seed=1, model_id="b"), make_maps(n_tokens=4, model_id="c")]
    return [str(save_scores(m, tmp_path)) for m in maps]


def test_two_figures_and_the_heads_that_changed_most(caches, tmp_path, capsys):
    words = ["compare", *caches[:2], "--save_fig_path", str(tmp_path / "v"), "--fig_format", "png", "--top", "2"]
    assert main(words) == 0
    *paths, summary, first, second = capsys.readouterr().out.splitlines()
    assert [Path(p).relative_to(tmp_path).as_posix() for p in paths] == ["v/b/compare.png", "v/b/compare_heads.png"]
    assert all(Path(p).read_bytes().startswith(b"\x89PNG") for p in paths)
    assert summary.startswith("a → b: mean total variation 0.")
    assert first.startswith("layer ")
    assert float(first.rsplit(" ", 1)[1]) >= float(second.rsplit(" ", 1)[1])


def test_a_head_that_was_zeroed_hides_no_other(tmp_path, monkeypatch):
    a = make_maps(1, 3, 8)
    zeroed, changed, same = a.weights[0] * np.float32(0), make_maps(1, 3, 8, seed=1).weights[0], a.weights[0]
    b = dataclasses.replace(a, weights=(np.stack([zeroed[0], changed[1], same[2]]),), model_id="b")
    ends = []
    monkeypatch.setattr(heads, "plot_atlas", lambda *args, vmax, **options: ends.append(vmax) or Figure())
    assert main(["compare", *(str(save_scores(m, tmp_path)) for m in (a, b)), "--save_fig_path", str(tmp_path)]) == 0
    assert ends == [round_end(compare_attention(a, b).distances[0][1])]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{0} {2}", "tokens differ"),
        ("{0} none.pt", "does not exist"),
        ("{0} {1} --layers 7", "there is no layer 7"),
        ("{0} {1} --fig_format bmp", "'bmp'"),
        ("{0} {1} --top -1", "top must be"),
        ("{0} {1} --save_fig_path {0}", "is not a folder"),
    ],
)
def test_what_cannot_be_compared_writes_nothing(caches, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["compare", *words.format(*caches).split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before
