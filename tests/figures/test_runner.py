import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import make_maps

from attn_viewer.errors import OptionError, OutputError
from attn_viewer.figures import run_figure_funcs, select_attn_figure_funcs
from attn_viewer.figures.registry import register_attn_figure_multifunc
from attn_viewer.figures.runner import run_on_head

RAW = select_attn_figure_funcs("raw")


def record(matrix, folder):
    np.save(folder / "record.npy", matrix)
    matrix[:] = -1  # is this function's own


def fail_on_spikes(matrix, folder):
    if matrix[1, 0] > 0.5:
        raise ValueError("a spike\nof attention")
    np.save(folder / "fail_on_spikes.npy", matrix)


def test_every_head_gets_its_own_folder_and_pattern(demo_maps, tmp_path):
    paths, failures = run_figure_funcs(demo_maps, tmp_path, [record, record, *RAW], layers=[1, 3], heads=[0, 5])
    assert failures == []
    heads = [(layer, head) for layer in (1, 3) for head in (0, 5)]
    expected = [tmp_path / f"L{la}/H{h}/{f}" for la, h in heads for f in ("record.npy", "record.npy", "raw.png")]
    assert paths == expected
    for layer, head in heads:
        matrix = np.load(tmp_path / f"L{layer}/H{head}/record.npy")
        np.testing.assert_array_equal(matrix, demo_maps.weights[layer][head])
        assert matrix.dtype == np.float32


def test_a_function_that_raises_is_reported_and_the_rest_go_on(demo_maps, tmp_path):
    paths, failures = run_figure_funcs(demo_maps, tmp_path, [fail_on_spikes, *RAW])
    spiky = [(la, h) for la, w in enumerate(demo_maps.weights) for h in range(8) if w[h, 1, 0] > 0.5]
    assert 0 < len(spiky) < 32
    assert [(f.layer, f.head) for f in failures] == spiky
    assert sum(path.name == "raw.png" for path in paths) == 32
    layer, head = spiky[0]
    assert str(failures[0]) == f"fail_on_spikes at L{layer} H{head}: ValueError: a spike of attention"
    assert "test_runner.py" in failures[0].trace
    assert pickle.loads(pickle.dumps(failures)) == failures


def test_figures_that_are_there_can_be_kept(tmp_path):
    @register_attn_figure_multifunc(["a", "b"])
    def two_of_a_test(matrix, folder):
        for name in "ab":
            (folder / f"two_of_a_test.{name}.txt").write_text("figure")

    maps, funcs = make_maps(1, 1), [record, two_of_a_test]
    (tmp_path / "L0/H0").mkdir(parents=True)
    (tmp_path / "L0/H0/two_of_a_test.a.txt").write_text("old")
    first, _ = run_figure_funcs(maps, tmp_path, funcs, overwrite=False)
    assert [path.name for path in first] == ["record.npy", "two_of_a_test.a.txt", "two_of_a_test.b.txt"]
    assert first[1].read_text() == "figure"  # half of its figures is none
    assert run_figure_funcs(maps, tmp_path, funcs, overwrite=False) == ([], [])
    assert run_figure_funcs(maps, tmp_path, funcs)[0] == first


def test_one_matrix_of_any_kind_of_numbers(tmp_path):
    pattern = np.tril(np.ones((3, 3), np.float16)) / 2
    paths, failures = run_on_head(pattern, tmp_path, [record], layer=30, head=7)
    assert (paths, failures) == ([tmp_path / "L30/H7/record.npy"], [])
    np.testing.assert_array_equal(np.load(paths[0]), pattern)
    with pytest.raises(OptionError, match=r"\(3,\)"):
        run_on_head(pattern[0], tmp_path, [record], layer=0, head=0)


class OtherStopError(BaseException):
    pass


class WordlessError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(0), "SystemExit: 0"),
        (OtherStopError("x"), "OtherStopError: x"),
        (WordlessError(), "WordlessError"),
        (ValueError("half \udc80"), "ValueError: half \\udc80"),
        (ValueError("x" * 10_000), f"ValueError: {'x' * 488}… (10,012 characters)"),
    ],
)
def test_whatever_a_function_raises_the_others_go_on(tmp_path, error, said):
    def stops(matrix, folder):
        raise error

    paths, failures = run_on_head(np.eye(3), tmp_path, [stops, record], layer=0, head=0)
    assert [path.name for path in paths] == ["record.npy"]
    assert [failure.error for failure in failures] == [said]


def test_ctrl_c_in_a_function_stops_the_run(tmp_path):
    def stops(matrix, folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_head(np.eye(3), tmp_path, [stops], layer=0, head=0)


@pytest.mark.parametrize("name", [None, "other.txt", "lazy2.png"])
def test_a_function_that_writes_no_figure_has_failed(tmp_path, name):
    def lazy(matrix, folder):
        if name is not None:
            (folder / name).write_text("no figure")

    paths, failures = run_on_head(np.eye(3), tmp_path, [lazy], layer=0, head=0)
    assert (paths, len(failures)) == ([], 1)
    assert "it wrote no lazy.* into the folder" in failures[0].error


def test_a_figure_needs_no_ending(tmp_path):
    def plain(matrix, folder):
        (folder / "plain").write_text("a figure")

    paths, failures = run_on_head(np.eye(3), tmp_path, [plain], layer=0, head=0)
    assert ([path.name for path in paths], failures) == (["plain"], [])
    assert run_on_head(np.eye(3), tmp_path, [plain], layer=0, head=0, overwrite=False) == ([], [])


def test_means_and_cells_are_no_patterns(tmp_path):
    maps = make_maps()
    pooled = dataclasses.replace(maps, weights=[w[:, :3, :3] for w in maps.weights], reduction="pooled",
                                 cell=(2, 2), pooling="max")  # fmt: skip
    for reduced in (pooled, maps.average_heads()):
        with pytest.raises(OptionError, match=f"{reduced.reduction}; capture them with reduction='full'"):
            run_figure_funcs(reduced, tmp_path / "none", RAW)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_ends_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        run_figure_funcs(make_maps(), tmp_path / "file", RAW)
    (tmp_path / "L0").write_text("")
    with pytest.raises(OutputError, match="cannot write to folder"):
        run_figure_funcs(make_maps(), tmp_path, RAW)


def test_running_loads_no_model_library():
    code = (
        "import sys, numpy, tempfile\n"
        "from attn_viewer.figures.registry import select_attn_figure_funcs\n"
        "from attn_viewer.figures.runner import run_on_head\n"
        "run_on_head(numpy.eye(3), tempfile.mkdtemp(), select_attn_figure_funcs(), layer=0, head=0)\n"
        "print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers"} & set(out.split())
