"""The atlas with the demo model: what it counts, the same from stored and from fresh weights, alone and shared out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from attn_viewer import capture_attention, load_scores, score_heads
from attn_viewer.analysis.scores import CURVES, SCORES
from attn_viewer.cli import main
from attn_viewer.errors import ActivationsDamagedError, ActivationsMissingError, OptionError
from attn_viewer.pipeline.activations import activations_main
from attn_viewer.pipeline.atlas import atlas_main
from attn_viewer.pipeline.entries import CENSUS, N_BINS, load_census
from attn_viewer.storage import load_prompt_maps
from attn_viewer.storage.atlas_files import list_entries, read_entry
from attn_viewer.storage.folder import DataFolder
from attn_viewer.storage.hashes import augment_prompt_with_hash

TEXTS = ("The sea is deep and the sky is high. The sea is deep.", "Winter is cold.", "One day a dog came home.",
         "Summer is warm, 12 days\nand summer is warm.")  # fmt: skip
HASHES = {augment_prompt_with_hash({"text": text})["hash"]: text for text in TEXTS}


def read_tree(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "p.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, prompts):
    """A folder with an atlas of captured prompts, and one with that of stored weights."""
    folder = tmp_path_factory.mktemp("atlas")
    activations_main("demo", folder / "stored", prompts, progress=False)
    for name, given in (("stored", {}), ("captured", {"prompts_path": prompts})):
        report, paths = atlas_main("demo", folder / name, progress=False, **given)
        assert (report.done, report.skipped, report.failures) == (4, 0, [])
        assert [path.name for path in paths[:3]] == ["scores.csv", "scores.json", CENSUS]
    return folder


@pytest.fixture
def copy(made, tmp_path):
    import shutil

    return Path(shutil.copytree(made / "stored", tmp_path / "d"))


def test_atlas_averages_maps_by_position(copy, capsys):
    words = ["atlas", "--save-path", str(copy), "--scores", "entropy,sink_mass", "--mean-maps", "6", "--quiet"]
    assert main([*words, "--scatter", "sink_mass,entropy"]) == 0
    target = copy / "demo" / "atlas"
    drawn = ("scatter.png", "entropy.png", "sink_mass.png", "mean_maps_attn_scores.pt", "mean_maps.png")
    assert "".join(f"{target / name}\n" for name in drawn) in capsys.readouterr().out
    assert (target / "scatter.png").stat().st_size > 5000
    mean = load_scores(target / "mean_maps_attn_scores.pt")
    maps = [load_prompt_maps("demo", {"text": text}, copy) for text in TEXTS]
    long = [one for one in maps if len(one.tokens_key) >= 6]
    assert (mean.n_prompts, mean.shape) == (len(long), (6, 6))
    for number, layer in enumerate(mean.weights):
        np.testing.assert_allclose(layer, np.mean([one.weights[number][:, :6, :6] for one in long], 0), atol=1e-6)
        np.testing.assert_allclose(layer.sum(-1), 1, atol=1e-5)
    with pytest.raises(OptionError, match="no maps to average"):
        atlas_main("demo", copy, scores=["entropy"], mean_maps=4000)


def test_an_atlas_is_the_mean_over_prompts(made, demo):
    maps = [capture_attention(*demo, text, model_id="demo") for text in TEXTS]
    table = json.loads((made / "captured" / "demo" / "atlas" / "scores.json").read_text())
    assert list(table["scores"]) == [name for name, score in SCORES.items() if not score.is_slow]
    for name in ("entropy", "induction"):
        expected = np.nanmean([score_heads(m, [name])[name] for m in maps], axis=0)
        np.testing.assert_allclose(table["scores"][name], expected, rtol=1e-5)


def test_stored_and_captured_weights_give_one_atlas(made):
    stored, captured = (read_tree(made / name / "demo" / "atlas") for name in ("stored", "captured"))
    assert stored.keys() == captured.keys()
    differ = {name for name in stored if stored[name] != captured[name]}
    assert {name for name in differ if not name.startswith("L")} == {"atlas.json"}  # which says where weights are
    for name in differ - {"atlas.json"}:
        one, other = json.loads(stored[name]), json.loads(captured[name])
        assert {key for key in one if one[key] != other[key]} == {"circuits", "remark"}


def test_what_an_entry_says_is_so(made, demo):
    model = DataFolder(made / "captured").get_model("demo")
    names = list_entries(model)
    assert len(names) == 1 + 32 + 1
    index, tokens = read_entry(model, "atlas"), read_entry(model, "prompts-0").prompts
    assert (index.n_prompts, index.is_stored, len(index.heads)) == (4, False, 32)
    maps = {key: capture_attention(*demo, text, model_id="demo") for key, text in HASHES.items()}
    assert [(key, tuple(labels)) for key, labels in tokens] == [(key, maps[key].tokens_key) for key in sorted(maps)]
    entry = read_entry(model, "L2H3")
    for name, low, high, counts, missing in entry.distributions:
        assert (low, len(counts), sum(counts) + missing) == (0, N_BINS, 4)
        assert high == (SCORES[name].upper or high)
    for name, examples in entry.strongest:
        values = {key: score_heads(maps[key], [name])[name][2 * 8 + 3] for key in maps}
        best = sorted((value for value in values.values() if not np.isnan(value)), reverse=True)
        np.testing.assert_allclose([example[1] for example in examples], best, rtol=1e-4)
        for number, value, query, keys, weights in examples:
            key = tokens[number][0]
            np.testing.assert_allclose(value, values[key], rtol=1e-4)
            row = maps[key].weights[2][3, query]
            np.testing.assert_allclose(weights, row[keys], atol=1e-5)
            np.testing.assert_allclose(weights, np.sort(row)[::-1][: len(keys)], atol=1e-5)
    deciles = dict(entry.deciles)["entropy"]
    assert [example[1] for example in deciles] == sorted(example[1] for example in deciles)
    name, count, mass = entry.looks_to[0]
    places = {key: [i for i, token in enumerate(m.tokens_key) if token == name and i] for key, m in maps.items()}
    assert count == sum(map(len, places.values()))
    received = sum(maps[key].weights[2][3][:, at].sum() for key, at in places.items())
    assert mass == pytest.approx(received, rel=1e-4)
    name, _, mass = entry.looks_from[0]
    places = {key: [i for i, token in enumerate(m.tokens_key) if token == name and i] for key, m in maps.items()}
    sent = sum((1 - maps[key].weights[2][3][at, 0]).sum() for key, at in places.items())
    assert mass == pytest.approx(sent, rel=1e-4)
    curves = {name: (step, values) for name, step, values in entry.curves}
    assert curves.keys() == CURVES.keys()
    assert curves["sink_mass"][0] == 1
    assert curves["sink_mass"][1][3] == pytest.approx(np.mean([m.weights[2][3, 3, 0] for m in maps.values()]), rel=1e-4)
    assert [kind for kind, _, _ in entry.circuits] == ["QK", "OV"]


def test_an_atlas_goes_on_and_gives_the_same_bytes(made, prompts, tmp_path):
    whole = read_tree(made / "captured" / "demo")
    report, _ = atlas_main("demo", tmp_path, prompts_path=prompts, n_samples=2, progress=False)
    assert report.done == 2
    report, _ = atlas_main("demo", tmp_path, prompts_path=prompts, progress=False)
    assert (report.done, report.skipped) == (2, 2)
    assert read_tree(tmp_path / "demo") == whole
    report, _ = atlas_main("demo", tmp_path, prompts_path=prompts, n_samples=3, progress=False)
    assert (report.done, report.skipped) == (3, 0)  # sums cannot forget a prompt
    report, _ = atlas_main("demo", tmp_path, prompts_path=prompts, n_samples=3, scores=["entropy"], progress=False)
    assert report.done == 3
    assert load_census(DataFolder(tmp_path).get_model("demo")).names == ("entropy",)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [{"parallel": 2}, {"scheduler": "local", "parallel": 2}])
@pytest.mark.filterwarnings("ignore")
def test_workers_give_the_same_bytes(made, prompts, tmp_path, workers):
    if "scheduler" in workers:
        pytest.importorskip("dask.distributed")
    report, _ = atlas_main("demo", tmp_path, prompts_path=prompts, progress=False, **workers)
    assert report.done == 4
    assert read_tree(tmp_path / "demo") == read_tree(made / "captured" / "demo")


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_it_has(made, tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"{text} {i}"}) + "\n" for i in range(40) for text in TEXTS))
    words = ["atlas", "--prompts", str(path), "--save-path", str(tmp_path / "d"), "--scores", "entropy", "--quiet"]
    code = (
        "import sys, attn_viewer.pipeline.atlas as atlas; atlas.LOSS = atlas.SHARE = 0; "
        "from attn_viewer.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *words], env=os.environ)
    census = tmp_path / "d" / "demo" / "atlas" / CENSUS
    while not census.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(load_census(DataFolder(tmp_path / "d").get_model("demo")).prompts)
    assert 0 < there < 160
    report, _ = atlas_main("demo", tmp_path / "d", prompts_path=path, scores=["entropy"], progress=False)
    assert (report.done, report.skipped) == (160 - there, there)
    atlas_main("demo", tmp_path / "e", prompts_path=path, scores=["entropy"], progress=False)
    assert read_tree(tmp_path / "d" / "demo" / "atlas") == read_tree(tmp_path / "e" / "demo" / "atlas")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", "objects", "other"])
def test_a_census_of_strangers(copy, content):
    path = copy / "demo" / "atlas" / CENSUS
    if content == "objects":
        np.savez(path, facts=np.array([{}], object))
    elif content == "other":
        np.savez(path, facts=np.zeros(3, np.uint8))
    else:
        path.write_bytes(content)
    with pytest.raises(ActivationsDamagedError, match="--force"):
        atlas_main("demo", copy, progress=False)
    if not content:
        report, _ = atlas_main("demo", copy, force=True, scores=["entropy"], progress=False)
        assert report.done == 4


def test_entries_of_strangers(copy):
    model = DataFolder(copy).get_model("demo")
    for name in ("../prompts", "L1", "census", "L٣H1"):
        with pytest.raises(ActivationsMissingError):
            read_entry(model, name)
    path = model.path / "atlas" / "L0H0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"looks_to": [["a", 1, {}]]}))
    with pytest.raises(ActivationsDamagedError, match="looks_to"):
        read_entry(model, "L0H0")


def test_a_device_is_that_of_a_model_that_runs(copy):
    with pytest.raises(OptionError, match="device has no use without prompts"):
        atlas_main("demo", save_path=copy, device="cpu", progress=False)


def test_a_mean_map_needs_stored_weights(prompts, tmp_path):
    with pytest.raises(OptionError, match="mean_maps"):
        atlas_main("demo", tmp_path, prompts_path=prompts, mean_maps=3)
