import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import make_maps

from attn_viewer import save_scores
from attn_viewer.cli import main, run_view

ROOT = Path(__file__).parent.parent


def test_the_demo_model_is_the_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_view([]) == 0
    out, err = capsys.readouterr()
    assert out == "vis/demo/all_layers_avg.jpg\n"
    assert err.startswith("AttentionMaps('demo', self, 4 layers × 8 heads, ")
    assert err.endswith("full), 0.0 MB\n")
    assert Path(out.strip()).is_file()


def test_all_words_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("prompt.txt").write_text("In the beginning\\n", encoding="utf-8")
    words = "--prompt_file prompt.txt --model_id d --plot_figs_per_head --num_figs_per_row 2 --ignore_first_token"
    words += " --save_attention_scores --save_attention_scores_path c --fig_format svgz --layers 0,2-3 --heads 0-1"
    words += " --dtype float32 --save_fig_path v --norm log --scale panel --cmap viridis --sink renormalise --quiet"
    assert main(["view", *words.split()]) == 0
    files = capsys.readouterr().out.split()
    assert files == ["c/d_attn_scores.pt", *(f"v/d/{name}.svgz" for name in
                     ("all_layers_avg", "layer_0", "layer_2", "layer_3"))]  # fmt: skip
    tokens = torch.load(files[0], weights_only=True)["tokens_list"]
    assert "".join(tokens) == "<s>In␣the␣beginning\\n"  # a file is taken as it is
    assert main(["view", "--load_attention_scores_path", files[0], "--save_fig_path", "w"]) == 0
    assert capsys.readouterr().out == "w/d/all_layers_avg.jpg\n"


FIGURES = """
from attn_viewer import matplotlib_figure_saver, register_attn_figure_func

@register_attn_figure_func
@matplotlib_figure_saver(fmt="png")
def from_a_file(pattern, ax):
    if pattern[1, 0] > 0.5:
        raise ValueError("a spike")
    ax.matshow(pattern)
"""


def test_figure_functions_that_raise_are_listed_and_the_rest_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FIGURES)
    maps = make_maps(1, 3, seed=4)
    words = ["--load_attention_scores_path", str(save_scores(maps, tmp_path)), "--figures_from", "mine.py", "--quiet"]
    spiky = [head for head in range(3) if maps.weights[0][head, 1, 0] > 0.5]
    assert 0 < len(spiky) < 3
    assert run_view(words) == 1
    out, err = capsys.readouterr()
    good = [f"vis/random/figures/L0/H{head}/from_a_file.png" for head in range(3) if head not in spiky]
    assert out.split() == ["vis/random/all_layers_avg.jpg", *good]
    failed = [f"  from_a_file at L0 H{head}: ValueError: a spike" for head in spiky]
    assert err.splitlines() == [f"figures that failed: {len(spiky)}; all others are written:", *failed]
    assert run_view([*words, "--figures", "raw, column_mas*", "--heads", "1"]) == 0
    assert capsys.readouterr().out.split()[1:] == [
        f"vis/random/figures/L0/H1/{name}" for name in ("raw.png", "column_mass.svgz")
    ]


def test_one_picture_is_taken_and_of_other_words_the_last(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_view(["--image", "a.png", "--image", "b.png"])
    assert "--image: is given twice, with 'b.png' the second time" in capsys.readouterr().err
    words = ["--load_attention_scores_path", make_cache(tmp_path), "--quiet"]
    assert run_view([*words, "--layers", "0", "--layers", "1"]) == 0


def make_cache(tmp_path):
    return str(save_scores(make_maps(), tmp_path / "made"))


@pytest.mark.parametrize("command", ["heads --csv", "heads --json", "ablate --heads 0.0 --json"])
@pytest.mark.parametrize(("path", "message"), [("some.txt/x.csv", "is not a folder"), (".", "'.' is a folder")])
def test_a_table_that_cannot_be_written_is_found_before_a_model_is_loaded(
    tmp_path, monkeypatch, capsys, command, path, message
):
    monkeypatch.chdir(tmp_path)
    Path("some.txt").touch()
    assert main([*command.split(), path, "--prompt", "a", "--model_path", "./none"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model_path ./none", "does not exist"),
        ("--model_path none/too/deep", "does not exist"),
        ("--model_path none.gguf", "GGUF file 'none.gguf' does not exist"),
        ("--model_path empty", "config.json is missing"),
        ("--model_path some.txt", "is a file; give a model folder"),
        ("--model_path broken", "cannot load 'broken'"),
        ("--load_attention_scores_path none.pt", "does not exist"),
        ("--load_attention_scores_path some.txt", "is damaged"),
        ("--load_attention_scores_path {cache} --layers 7", "there is no layer 7"),
        ("--prompt=", "the prompt is empty"),
        ("--prompt_file none.txt", "cannot read prompt file"),
        ("--prompt_file binary", "as UTF-8 text"),
        ("--prompt_file empty.txt", "the prompt is empty"),
        ("--chat", "no chat template"),
        ("--layers 99", "there is no layer 99; there are 0-3"),
        ("--heads 8", "there is no head 8 in layer 0; there are 0-7"),
        ("--fig_format bmp", "'bmp'"),
        ("--save_fig_path some.txt", "is not a folder"),
        ("--save_fig_path some.txt/below", "is not a folder"),
        ("--save_attention_scores --save_attention_scores_path some.txt", "is not a folder"),
        ("--model_id ../x", "model_id '../x'"),
        ("--model_id /x", "model_id '/x'"),
        ("--num_figs_per_row 0", "num_figs_per_row"),
        ("--cmap none", "no colour map"),
        ("--figures svd_spectre", "did you mean 'svd_spectra'"),
        ("--figures_from none.py", "'none.py' is none"),
        ("--figures raw --load_attention_scores_path {cache} --heads 9", "there is no head"),
        ("--figures raw --reduction pooled --max_cells 4", "these maps are pooled"),
    ],
)
def test_errors_are_one_line_and_write_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    cache = make_cache(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{")
    Path("some.txt").write_text("text")
    Path("empty.txt").touch()
    Path("binary").write_bytes(b"\xff\xfe\xff")
    before = sorted(tmp_path.rglob("*"))
    assert main(["view", *words.format(cache=cache).split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("attn-viewer: ")
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words", [["--layers", "x"], ["--norm", "cubic"], ["--nothing"], ["--dtype", "int8"]])
def test_words_nobody_knows(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["view", *words])
    assert stop.value.code == 2


def test_a_folder_nobody_may_write_to(tmp_path, capsys):
    assert main(["view", "--save_fig_path", "/proc/none"]) == 2
    assert "cannot write to folder" in capsys.readouterr().err


def start(*words, **options):
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize("program", [["main.py"], ["-m", "attn_viewer", "view"]])
def test_help_names_every_word(program):
    out, _ = start(*program, "--help", cwd=ROOT).communicate()
    for word in ("--model_path", "--prompt_file", "--load_attention_scores_path", "--plot_figs_per_head", "--chat"):
        assert word in out


def test_main_parses_nothing_at_import():
    out, err = start("-c", "import sys; sys.argv = ['x', '--bad']; import main; print('fine')", cwd=ROOT).communicate()
    assert (out, err) == ("fine\n", "")


def test_help_is_spelled_as_words_are_typed(capsys):
    with pytest.raises(SystemExit):
        main(["html", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "write one interactive HTML file." in words
    assert r"(default: 'Summer is warm. Winter is cold.\n')" in words


@pytest.mark.parametrize("run", ["main", "run_view"])
def test_help_loads_nothing_heavy(run):
    code = f"import sys; from attn_viewer.cli import {run}\ntry: {run}(['--help'])\nfinally: print('|', *sys.modules)"
    out, _ = start("-c", code, cwd=ROOT).communicate()
    loaded = set(out.rpartition("|")[2].split())
    assert not {"torch", "matplotlib", "transformers", "numpy", "importlib.metadata"} & loaded
    assert not {"attn_viewer.experiments", "attn_viewer.figures", "attn_viewer.pipeline"} & loaded


@pytest.mark.slow
def test_all_names_come_without_the_extras():
    extras = "anywidget starlette uvicorn dask distributed datasets tueplots peft accelerate gguf traitlets httpx"
    code = (
        f"import sys\nfor name in {extras.split()}: sys.modules[name] = None\nfrom attn_viewer import *\nprint('fine')"
    )
    out, err = start("-c", code, cwd=ROOT).communicate()
    assert (out, err) == ("fine\n", "")


@pytest.mark.slow
def test_interruption_leaves_no_partial_file(tmp_path):
    cache = save_scores(make_maps(300, 12, 40), tmp_path)
    folder = tmp_path / "vis"
    words = ["--load_attention_scores_path", str(cache), "--save_fig_path", str(folder), "--plot_figs_per_head"]
    process = start(str(ROOT / "main.py"), *words)
    deadline = time.monotonic() + 60
    while not list(folder.rglob("layer_1.jpg")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert 2 <= len(files) < 301
    assert all(path.read_bytes().endswith(b"\xff\xd9") for path in files)  # the end marker of JPEG
    assert {path.suffix for path in files} == {".jpg"}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGHUP is posix's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_ends_its_workers(tmp_path, number):
    cache = save_scores(make_maps(300, 12, 40), tmp_path)
    folder = tmp_path / "vis"
    words = ["--load_attention_scores_path", str(cache), "--save_fig_path", str(folder), "--plot_figs_per_head"]
    process = start(str(ROOT / "main.py"), *words, "--parallel", "2", start_new_session=True)
    while process.poll() is None and not list(folder.rglob("layer_9.jpg")):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate()[1] == ""
    assert process.returncode == 128 + number
    with pytest.raises(ProcessLookupError):
        while time.sleep(0.01) is None:  # joblib's own process that counts its files goes last
            os.killpg(process.pid, 0)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".jpg"}


def test_a_closed_pipe_is_no_crash(tmp_path):
    cache = make_cache(tmp_path)
    process = start(str(ROOT / "main.py"), "--load_attention_scores_path", cache, cwd=tmp_path)
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait() == 0


def test_the_hub_is_asked_for_names(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["view", "--model_path", "org/name"]) == 2
    err = capsys.readouterr().err
    assert "cannot load 'org/name'" in err
    assert err.count("\n") == 1
