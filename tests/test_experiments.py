import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from attn_viewer import ablate_heads, experiment, experiments, measure_effect
from attn_viewer.errors import CacheError, OptionError
from attn_viewer.experiments import list_experiments, load_experiment


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
    for text in ("", "{", "[]", json.dumps({"name": "x"}), "[" * 100_000):
        path = tmp_path / "record.json"
        path.write_text(text)
        with pytest.raises(CacheError):
            load_experiment(path)
    with pytest.raises(CacheError):
        load_experiment(tmp_path / "none.json")


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_record_that_cannot_be_written_never_costs_the_result(tmp_path, when):
    folder = tmp_path / "records"

    @experiment(folder)
    def measure():
        folder.touch()
        return 42

    if when == "before":
        folder.touch()
    with pytest.warns(UserWarning, match="'measure' leaves no record: cannot write to folder") as caught:
        assert measure() == 42
    assert len(caught) == 1


def test_whatever_comes_out_is_returned_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "MOST_PARTS", 5_000)

    class Hostile(dict):
        def items(self):
            raise RuntimeError

        def __repr__(self):
            raise RuntimeError

    class HostileError(Exception):
        def __str__(self):
            raise RuntimeError

    nest = ["x"]
    for _ in range(40):
        nest = [nest] * 10
    values = [10**5000, Hostile(a=1), nest, np.zeros((2000, 2000)), "\ud800", b"\xff", {1: 2, "1": 3, None: 4, (1,): 5}]

    @experiment(tmp_path)
    def give(value):
        if isinstance(value, Exception):
            raise value
        return value

    for value in values:
        assert give(value) is value
    with pytest.raises(HostileError):
        give(HostileError())
    with pytest.raises(TypeError):
        give()
    records = list_experiments(tmp_path)
    number, hostile, nested, array, text, data, keys, error, wrong = records
    assert (number.result, hostile.result, text.result, data.result) == ("<int>", "<Hostile>", "\ud800", "b'\\xff'")
    assert all(record.path.stat().st_size < 100e6 for record in (nested, array))
    assert array.result.startswith("array([[0.")
    assert keys.result == {"1": 3, "1 (int)": 2, "None": 4, "(1,)": 5}
    assert error.error == "HostileError: <HostileError>"
    assert wrong.arguments == {"args": [], "kwargs": {}}


def test_names_stay_in_the_folder(tmp_path):
    for name in ("../../out", "/etc/x", "a/b", "..", "<lambda>", "x" * 5000, "a\0b"):

        def work():
            return 1

        work.__name__ = name
        experiment(tmp_path / "in")(work)()
    assert len(list_experiments(tmp_path / "in")) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_broken_record_does_not_hide_the_others(tmp_path):
    @experiment(tmp_path)
    def work():
        return 1

    work(), work()
    first, second = (record.path for record in list_experiments(tmp_path))
    for content in ("{", "[]", json.dumps(json.loads(first.read_text()) | {"started": 5}), "{}"):
        first.write_text(content)
        with pytest.warns(UserWarning, match="cannot read experiment"):
            assert [record.path for record in list_experiments(tmp_path)] == [second]
