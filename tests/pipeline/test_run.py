"""The pipeline from prompts to figures with the demo model: whole runs, broken runs, bad input."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from attn_viewer import capture_attention
from attn_viewer.cli import main
from attn_viewer.errors import OptionError, OutputError, PromptError
from attn_viewer.folder_options import WorkerOptions
from attn_viewer.pipeline.activations import activations_main, compute_activations, get_activations, name_model
from attn_viewer.pipeline.atlas import atlas_main
from attn_viewer.pipeline.figures import figures_main
from attn_viewer.pipeline.indexes import (
    generate_functions_jsonl,
    generate_models_jsonl,
    generate_prompts_jsonl,
    get_func_metadata,
)
from attn_viewer.pipeline.work import run_parts
from attn_viewer.storage import folder as data_folder
from attn_viewer.storage import load_prompt_maps
from attn_viewer.storage.arrays import write_npz

ROOT = Path(__file__).parent.parent.parent
TEXTS = ("Summer is warm.", "Winter is cold.", "The sea is deep and the sky is high.", "One day a dog came home.")


def write_prompts(folder, texts=TEXTS):
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def read_tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data folder made without a disturbance."""
    folder = tmp_path_factory.mktemp("made")
    report = activations_main("demo", folder / "d", write_prompts(folder))
    assert (report.done, report.skipped, report.failures) == (4, 0, [])
    report = figures_main("demo", folder / "d", figure_funcs_select="raw", parallel=1)
    assert (report.done, report.failures) == (4, [])
    return folder / "d"


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "d"))


def test_stored_weights_are_those_of_the_model(made, demo):
    maps = load_prompt_maps("demo", {"text": TEXTS[2]}, made)
    direct = capture_attention(*demo, TEXTS[2], model_id="demo")
    assert (maps.tokens_key, maps.ids_key, maps.layers) == (direct.tokens_key, direct.ids_key, direct.layers)
    for ours, theirs in zip(maps.weights, direct.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_indexes_are_what_a_page_reads(made):
    models = [json.loads(line) for line in (made / "models.jsonl").read_text().splitlines()]
    assert [(m["model_name"], m["n_layers"], m["n_heads"]) for m in models] == [("demo", 4, 8)]
    prompts = [json.loads(line) for line in (made / "demo" / "prompts.jsonl").read_text().splitlines()]
    assert {p["text"] for p in prompts} == set(TEXTS)
    assert all({"hash", "meta", "n_tokens", "tokens"} <= p.keys() for p in prompts)
    # The demo model puts a token before the text, which pattern-lens does not count.
    assert all(p["attn_viewer"] == {"n_keys": p["n_tokens"] + 1} for p in prompts)
    figures = [json.loads(line) for line in (made / "figures.jsonl").read_text().splitlines()]
    assert [(f["name"], f["figure_save_fmt"]) for f in figures] == [("raw", "png")]
    assert len(list(made.glob("demo/prompts/*/L*/H*/raw.png"))) == 4 * 4 * 8


def test_a_second_run_does_nothing_and_force_gives_the_same_bytes(copy):
    before = read_tree(copy)
    prompts = write_prompts(copy.parent)
    assert activations_main("demo", copy, prompts).skipped == 4
    assert figures_main("demo", copy, figure_funcs_select="raw", parallel=1).skipped == 4
    assert activations_main("demo", copy, prompts, force=True).done == 4
    assert figures_main("demo", copy, force=True, figure_funcs_select="raw", parallel=1).done == 4
    assert {
        k for k, v in read_tree(copy).items() if v != before[k] and "source_fname" not in v.decode("latin1")
    } == set()
    assert set(before) == set(read_tree(copy))


def test_processes_give_the_same_folder_and_load_no_torch(copy):
    before = read_tree(copy)
    for path in copy.glob("demo/prompts/*/L*"):
        shutil.rmtree(path)
    mine = copy.parent / "mine.py"
    mine.write_text(
        "import sys\nfrom attn_viewer import register_attn_figure_func\n"
        "@register_attn_figure_func\ndef spy(matrix, folder):\n"
        "    bad = {'torch', 'transformers'} & set(sys.modules)\n"
        "    (folder / 'spy.txt').write_text(f'{sorted(bad)}')\n"
    )
    # In a process of its own, which has loaded neither.
    code = "import sys; from attn_viewer.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["figures", "--save-path", str(copy), "--figure-funcs", "raw,spy", "--figures-from", str(mine)]
    subprocess.run([sys.executable, "-c", code, *words, "--parallel", "2"], check=True, env=os.environ)
    spied = {path.read_text() for path in copy.glob("demo/prompts/*/L*/H*/spy.txt")}
    assert spied == {"[]"}
    for path in [*copy.glob("demo/prompts/*/L*/H*/spy.txt"), copy / "figures.jsonl"]:
        path.unlink()
    before.pop("figures.jsonl")
    assert read_tree(copy) == before


def test_a_failing_function_is_written_down_and_tried_again(copy):
    mine = copy.parent / "frail.py"
    source = (
        "from attn_viewer import register_attn_figure_func\n"
        "@register_attn_figure_func\ndef frail(matrix, folder):\n"
        "    (folder / 'frail.txt').write_text('half')\n    raise ValueError('no\\nluck')\n"
    )
    mine.write_text(source)
    report = figures_main("demo", copy, 1, figures_from=mine, figure_funcs_select=["frail", "raw"], parallel=1)
    assert len(report.failures) == 32
    assert "frail at L0 H0: ValueError: no luck" in report.failures[0]
    notes = list(copy.glob("demo/prompts/*/L*/H*/frail.error.txt"))
    assert {path.read_text() for path in notes} == {"ValueError: no luck\n"}
    assert not list(copy.rglob("frail.txt"))
    mine.write_text(source.replace("    raise ValueError('no\\nluck')\n", ""))
    report = figures_main("demo", copy, 1, figures_from=mine, figure_funcs_select=["frail"], parallel=1)
    assert (report.done, report.failures) == (1, [])
    assert not list(copy.rglob("*.error.txt"))
    assert len(list(copy.rglob("frail.txt"))) == 32
    assert not list(copy.rglob("*.part"))


@pytest.mark.slow
def test_workers_that_live_on_take_a_file_as_it_is_now(copy):
    mine = copy.parent / "edited.py"
    source = (
        "from attn_viewer import register_attn_figure_func\n"
        "@register_attn_figure_func\ndef edited(matrix, folder):\n    raise ValueError('not yet')\n"
    )
    for text, n_failures in (
        (source, 4 * 32),
        (source.replace("raise ValueError", "(folder / 'edited.txt').write_text"), 0),
    ):
        mine.write_text(text)
        report = figures_main("demo", copy, figures_from=mine, parallel=2)
        assert len(report.failures) == n_failures
    assert {path.read_text() for path in copy.rglob("edited.txt")} == {"not yet"}


def test_an_index_that_cannot_be_written_does_not_hide_what_was_done(copy):
    (copy / "figures.jsonl").unlink()
    (copy / "figures.jsonl").mkdir()
    report = figures_main("demo", copy, force=True, figure_funcs_select="raw", parallel=1)
    assert (report.done, len(report.failures)) == (4, 1)
    assert "figures.jsonl" in report.failures[0]


@pytest.mark.slow
def test_killed_runs_end_where_an_undisturbed_one_ends(made, tmp_path):
    folder, prompts = tmp_path / "d", write_prompts(made.parent)
    code = (
        "import sys; from attn_viewer.cli import main\n"
        "main(['activations', '--prompts', sys.argv[1], '--save-path', sys.argv[2]])\n"
        "main(['figures', '--save-path', sys.argv[2], '--figure-funcs', 'raw', '--parallel', '1'])\n"
    )
    seen, rng = 0, random.Random(0)
    for kill in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, prompts, str(folder)], stdout=subprocess.DEVNULL)
        if kill < 3:
            # At once some way into the writing, wherever that is on this machine.
            target = seen + rng.randint(1, 60)
            while process.poll() is None and seen < target:
                seen = sum(len(files) for _, _, files in os.walk(folder))  # which does not mind folders that go away
                time.sleep(0.002)
            process.kill()
        process.wait()
    ours, whole = read_tree(folder), read_tree(made)
    assert set(ours) == set(whole)
    assert [name for name in whole if ours[name] != whole[name]] == []


def test_leftovers_and_truncated_files_are_made_good(copy):
    before = read_tree(copy)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = sorted(copy.glob("demo/prompts/*/activations.npz"))[0]
    from attn_viewer.files import name_temporary

    words = name_temporary("figures")
    name = words["prefix"].replace(f"-{os.getpid()}-", f"-{dead.pid}-") + "xyz" + words["suffix"]
    for place in (copy, copy / "demo", path.parent):
        (place / name).mkdir()
        (place / name / "half").touch()
    path.write_bytes(path.read_bytes()[:-50])
    report = figures_main("demo", copy, figure_funcs_select="raw", parallel=1, force=True)
    assert len(report.failures) == 1
    assert "cannot be read" in report.failures[0]
    report = activations_main("demo", copy, write_prompts(copy.parent))
    assert (report.done, report.skipped) == (1, 3)
    assert set(read_tree(copy)) == set(before)
    assert path.read_bytes() == before[str(path.relative_to(copy))]


def test_what_is_wrong_with_a_prompt_does_not_stop_the_others(tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    lines = ['{"text": "good"}', "{", '{"meta": 1}', json.dumps({"text": "word " * 200_000})]
    lines += ['{"text": "one", "hash": "same"}', '{"text": "two", "hash": "same"}', '{"text": "good"}']
    path.write_text("\n".join(lines))
    assert main(["activations", "--prompts", str(path), "--save-path", str(tmp_path / "d"), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == "prompts: 2 done, 0 there already, 4 failures\n"
    for words in ("line 2 of", "line 3 of", "tokens are more than the", "stored with another text"):
        assert words in err
    assert len(data_folder.DataFolder(tmp_path / "d").get_model("demo").list_prompts()[0]) == 2
    assert max(map(len, err.splitlines())) < 400


def test_a_config_that_was_deleted_is_written_again(copy):
    path = copy / "demo" / "model_cfg.json"
    before = path.read_bytes()
    path.unlink()
    report = activations_main("demo", copy, write_prompts(copy.parent))
    assert (report.done, report.skipped, report.failures) == (1, 3, [])
    assert path.read_bytes() == before


def test_prompts_that_another_model_has_seen(made, tmp_path):
    lines = [json.loads(line) for line in (made / "demo" / "prompts.jsonl").read_text().splitlines()]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line | {"tokens": ["other"], "n_tokens": 1}) + "\n" for line in lines))
    assert activations_main("demo", tmp_path / "d", path).done == 4
    assert [p["tokens"] for p in data_folder.DataFolder(tmp_path / "d").get_model("demo").list_prompts()[0]] == [
        p["tokens"] for p in lines
    ]


def test_the_prompts_of_a_folder_are_shuffled_too(copy):
    hashes = [prompt["hash"] for prompt in data_folder.DataFolder(copy).get_model("demo").list_prompts()[0]]
    paths = {name: copy / "demo" / "prompts" / name / "activations.npz" for name in hashes}
    done = set()
    for seed in range(8):
        before = {name: path.stat().st_mtime_ns for name, path in paths.items()}
        assert activations_main("demo", copy, n_samples=1, shuffle=True, seed=seed, force=True).done == 1
        done |= {name for name, path in paths.items() if path.stat().st_mtime_ns != before[name]}
    assert len(done) > 1


def test_functions_known_from_an_index_of_whatever_kind(copy):
    lines = [
        b"[" * 100_000,
        b"5",
        b"null",
        b"\xff",
        b'{"name": "old", "loss": NaN}',
        (copy / "figures.jsonl").read_bytes(),
    ]
    (copy / "figures.jsonl").write_bytes(b"\n".join(lines))
    generate_functions_jsonl(copy.as_uri(), [])
    known = [json.loads(line, parse_constant=pytest.fail) for line in (copy / "figures.jsonl").read_text().splitlines()]
    assert [facts["name"] for facts in known] == ["old", "raw"]
    assert generate_models_jsonl(copy.as_uri()) == generate_prompts_jsonl((copy / "demo").as_uri()) == []


def test_weights_of_several_kinds_in_one_folder(copy, demo):
    texts = {"pooled": "A long prompt.", "value_norm": "Another one here."}
    compute_activations({"text": texts["pooled"]}, *demo, copy, model_name="demo", reduction="pooled", max_cells=4)
    compute_activations({"text": texts["value_norm"]}, *demo, copy, model_name="demo", weighting="value_norm")
    report, _ = atlas_main("demo", copy)
    assert (report.done, len(report.failures)) == (4, 2)
    assert "pooled" in report.failures[0]
    assert "its weights lack previous_token" in report.failures[1]
    report = figures_main("demo", copy, figure_funcs_select="raw", parallel=1)
    assert (report.skipped, len(report.failures)) == (4, 2)
    assert any("split its text" in failure for failure in report.failures)
    with pytest.raises(OptionError, match="there is no score 'none'"):
        atlas_main("demo", copy, scores=["none"])


def test_a_config_that_lies_stops_figures(copy, capsys):
    path = copy / "demo" / "model_cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_heads": 9}))
    assert main(["figures", "--save-path", str(copy), "--parallel", "1"]) == 2
    assert "9 heads" in capsys.readouterr().err
    assert "9 heads" in activations_main("demo", copy, write_prompts(copy.parent)).failures[0]


@pytest.mark.parametrize("words", [
    ["figures", "--model", "none"], ["atlas", "--model", "none"], ["figures", "--figure-funcs", "none"],
    ["figures", "--scheduler", "tcp:/nothing"], ["activations", "--prompts", "none"],
    ["activations", "--model", "../x"], ["activations", "--model", ".."], ["activations", "--model-id", "../x"],
    ["activations", "--model", "org/../x"], ["figures", "--model", "../x"], ["figures", "--n-samples", "0"],
    ["activations", "--n-samples", "-1"],
    ["activations", "--save-path", "s3://x"], ["figures", "--parallel", "-1"],
    ["activations", "--force", "--device", "cuda:77"],
    ["activations", "--model", "~nobody-/x"], ["figures", "--model", "x" * 300], ["figures", "--save-path", ""],
])  # fmt: skip
def test_errors_are_one_line(copy, capsys, words):
    words = words if "--save-path" in words else [*words, "--save-path", str(copy)]
    before = read_tree(copy)
    assert main([*words, "--quiet"]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert read_tree(copy) == before


def test_from_disk_or_computed(tmp_path, demo):
    prompt = {"text": "Summer."}
    path, computed = get_activations(prompt, *demo, tmp_path, model_name="demo")
    path.touch()
    stamp = path.stat().st_mtime_ns
    again = get_activations(prompt, "demo", save_path=tmp_path)
    assert again[0].stat().st_mtime_ns == stamp
    for name, array in computed.items():
        np.testing.assert_array_equal(array, again[1][name])
    assert get_activations({"text": "Winter."}, "demo", save_path=tmp_path, return_cache=None)[1] is None


def test_what_is_needed_to_compute_is_asked_for_first(tmp_path, demo):
    model, tokenizer = demo
    prompt = {"text": "Summer."}
    with pytest.raises(OptionError, match="return_cache must be"):
        get_activations(prompt, *demo, tmp_path, return_cache="jax", allow_disk_cache=False)
    with pytest.raises(OptionError, match="a model and its tokenizer"):
        get_activations(prompt, model, save_path=tmp_path)
    with pytest.raises(PromptError, match="no text that can be written"):
        compute_activations({"text": "\ud800"}, model, tokenizer, tmp_path, model_name="demo")
    for options in ({"parallel": "two"}, {"n_samples": 1.5}, {"scheduler": 5}):
        with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
            activations_main("demo", tmp_path, write_prompts(tmp_path), **options)
    with pytest.raises(OptionError, match="parallel has no use beside scheduler 'tcp://h:1'"):
        activations_main("demo", tmp_path, write_prompts(tmp_path), parallel=2, scheduler="tcp://h:1")
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_weights_that_are_not_whole_are_computed(copy):
    path, whole = get_activations({"text": TEXTS[0]}, "demo", save_path=copy)
    path.write_bytes(path.read_bytes()[:100])
    again = get_activations({"text": TEXTS[0]}, "demo", save_path=copy)[1]
    assert again.keys() == whole.keys()
    for name, array in again.items():  # by as many threads as there are, where runs use one
        np.testing.assert_allclose(array, whole[name], atol=1e-6)


@pytest.mark.parametrize("parallel", [1, 2])
def test_parts_report_what_became_of_them(parallel):
    # Inside, so that processes get its code, and import nothing of this module.
    def fail_on_two(item):
        if item == 2:
            raise RuntimeError("two")
        return item * 10

    outcomes = sorted(
        run_parts(fail_on_two, [1, 2, 3], WorkerOptions(parallel=parallel)), key=lambda outcome: outcome.item
    )
    assert [(o.item, o.value, o.error) for o in outcomes] == [
        (1, 10, None),
        (2, None, "RuntimeError: two"),
        (3, 30, None),
    ]


@pytest.mark.parametrize("parallel", [1, 2])
def test_parts_use_one_thread_of_linear_algebra(parallel):
    def count_threads(_):
        from threadpoolctl import threadpool_info

        return max(library["num_threads"] for library in threadpool_info())

    with threadpool_limits(2):
        before = count_threads(None)
        assert [outcome.value for outcome in run_parts(count_threads, [1, 2], WorkerOptions(parallel=parallel))] == [
            1,
            1,
        ]
        assert count_threads(None) == before


def test_metadata_of_a_function():
    from attn_viewer.figures.builtin import raw

    facts = get_func_metadata(raw)[0]
    assert (facts["name"], facts["figure_save_fmt"]) == ("raw", "png")
    assert "def raw" in facts["code"]
    assert facts["source"].endswith("builtin.py")


def test_names_of_models(tmp_path):
    (tmp_path / "smollm2").mkdir()
    assert name_model("org/name") == "org/name"
    assert name_model(tmp_path / "smollm2") == "smollm2"
    assert name_model("models/Small-Q8.gguf") == "Small-Q8"


def test_a_full_disk_stops_the_run_and_says_so(tmp_path, monkeypatch, capsys):
    prompts = write_prompts(tmp_path)
    written = []

    def run_out(path, arrays):
        if written:
            raise OutputError(f"cannot write {str(path)!r}: No space left on device") from OSError(errno.ENOSPC, "full")
        written.append(path)
        return write_npz(path, arrays)

    monkeypatch.setattr(data_folder, "write_npz", run_out)
    words = ["activations", "--prompts", prompts, "--save-path", str(tmp_path / "d"), "--quiet"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == "prompts: 1 done, 0 there already, 2 failures\n"
    assert "not tried: 2" in err
    assert len(data_folder.DataFolder(tmp_path / "d").get_model("demo").list_prompts()[0]) == 1
    monkeypatch.undo()
    assert main(words) == 0
    assert capsys.readouterr().out == "prompts: 3 done, 1 there already, 0 failures\n"
