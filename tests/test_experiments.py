import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from attn_viewer import ablate_heads, experiment, list_experiments, load_experiment, measure_effect
from attn_viewer.errors import CacheError, OptionError, OutputError


def test_a_run_is_recorded_whole(demo, tmp_path):
    @experiment(save_dir=tmp_path)
    def take_out(model, heads, mode="zero"):
        return measure_effect(*demo, "Summer is warm.", ablate_heads(model, heads, mode))

    effect = take_out(demo[0], [(1, 2)])
    (record,) = list_experiments(tmp_path)
    assert record.name == take_out.__name__ == "take_out"
    assert record.arguments["heads"] == [[1, 2]]
    assert record.arguments["mode"] == "zero"
    assert record.arguments["model"].startswith("LlamaForCausalLM")
    assert record.result["loss_after"] == pytest.approx(effect.loss_after.tolist())
    assert "measure_effect" in record.source
    assert record.error is None
    assert record.seconds > 0
    assert record.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record == load_experiment(record.path)


def test_an_error_is_recorded_and_goes_on(tmp_path):
    @experiment(save_dir=tmp_path)
    def fail(number):
        return 1 / number

    with pytest.raises(ZeroDivisionError):
        fail(0)
    assert fail(2) == 0.5
    first, second = list_experiments(tmp_path, name="fail")
    assert (first.error, first.result) == ("ZeroDivisionError: division by zero", None)
    assert (second.error, second.result) == (None, 0.5)
    assert first.version == second.version
    assert list_experiments(tmp_path, name="other") == []


def test_the_version_follows_the_source(tmp_path):
    @experiment(tmp_path)
    def one():
        return 1

    @experiment(tmp_path)
    def two():
        return {"x": np.float32(2), "y": np.nan, "z": torch.ones(2), "w": {1, 2}, "v": object()}

    one(), one(), two()
    records = list_experiments(tmp_path)
    assert len(records) == 3
    assert len({record.version for record in records}) == 2
    result = records[-1].result
    assert (result["x"], result["y"], result["z"], result["w"]) == (2.0, "nan", [1.0, 1.0], [1, 2])


def test_results_that_json_cannot_hold_do_not_spoil_a_run(tmp_path):
    @dataclasses.dataclass
    class Finding:
        head: tuple
        parts: list

    class Unspeakable:
        def __repr__(self):
            raise RuntimeError

    ring = [1]
    ring.append(ring)
    deep = []
    for _ in range(5000):
        deep = [deep]

    @experiment(tmp_path)
    def find():
        return {"finding": Finding((1, 2), [np.int64(3)]), "ring": ring, "deep": deep, "what": Unspeakable()}

    result = find()
    assert result["ring"] is ring
    (record,) = list_experiments(tmp_path)
    assert record.error is None
    assert record.result["finding"] == {"head": [1, 2], "parts": [3]}
    assert record.result["ring"][0] == 1
    assert record.result["what"] == "<Unspeakable>"


def test_functions_without_source_have_versions_of_their_own(tmp_path):
    versions = []
    for text in ("1", "2", "2"):
        names = {}
        exec(f"def typed():\n    return {text}", names)
        experiment(tmp_path)(names["typed"])()
        versions.append(list_experiments(tmp_path)[-1].version)
    assert versions[0] != versions[1] == versions[2]
    assert list_experiments(tmp_path)[0].source == ""


def test_runs_at_once_leave_a_record_each(tmp_path):
    @experiment(tmp_path)
    def work(number):
        return number

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(64))) == list(range(64))
    assert sorted(record.result for record in list_experiments(tmp_path)) == list(range(64))


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(OptionError, match="parentheses"):
        experiment(print)
    with pytest.raises(OptionError, match="above a function"):
        experiment()(5)
    (tmp_path / "file").write_text("")

    @experiment(tmp_path / "file")
    def never():
        pytest.fail("ran though nothing could be kept")

    with pytest.raises(OutputError):
        never()
    for text in ("", "{", "[]", json.dumps({"name": "x"}), "[" * 100_000):
        path = tmp_path / "record.json"
        path.write_text(text)
        with pytest.raises(CacheError):
            load_experiment(path)
    with pytest.raises(CacheError):
        load_experiment(tmp_path / "none.json")
