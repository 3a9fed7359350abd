import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.errors import ActivationsMissingError, InvalidPromptError, OptionError
from attn_viewer.pipeline.activations import activations_main
from attn_viewer.pipeline.prompts import load_text_data, split_text


def write(tmp_path, *lines):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


@given(st.text(alphabet="ab. \n!", max_size=300), st.integers(1, 40))
def test_nothing_is_lost_and_no_piece_is_too_long(text, max_chars):
    pieces = split_text(text, max_chars)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= max_chars
    assert all(pieces) or not text


def test_texts_are_cut_where_a_sentence_ends():
    assert split_text("One two three. Four five six.", 18) == ["One two three. ", "Four five six."]
    assert split_text("one two three four", 10) == ["one two ", "three four"]
    assert split_text("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


def test_metadata_stays_and_short_pieces_go(tmp_path):
    path = write(tmp_path, {"text": "A sentence here. Tail", "meta": {"a": 1}, "hash": "mine"}, b"", {"text": "ok"})
    prompts = load_text_data(path, min_chars=5, max_chars=18)
    assert [p["text"] for p in prompts] == ["A sentence here. "]
    assert prompts[0]["meta"] == {"a": 1}
    assert prompts[0]["hash"] != "mine"
    assert prompts[0]["source_fname"] == path.as_posix()


def test_a_shuffle_repeats_itself(tmp_path):
    path = write(tmp_path, *({"text": f"text {i}"} for i in range(30)))
    texts = [p["text"] for p in load_text_data(path, shuffle=True)]
    assert texts == [p["text"] for p in load_text_data(path, shuffle=True)]
    assert texts != [p["text"] for p in load_text_data(path, shuffle=True, seed=1)]
    assert sorted(texts) == sorted(p["text"] for p in load_text_data(path))


BAD = (b"{not json", b'{"meta": 1}', b'{"text": 5}', b'{"text": ""}', b"[1]", b"\xff\xfe", b'{"text": "\\ud800"}',
       b'{"text": "a", "hash": "../x"}', b"[" * 100_000)  # fmt: skip


@pytest.mark.parametrize("line", BAD)
def test_bad_lines_are_named_by_number(tmp_path, line):
    path = write(tmp_path, {"text": "good"}, line, {"text": "better"})
    with pytest.raises(InvalidPromptError, match="line 2 of") as caught:
        load_text_data(path)
    assert len(str(caught.value)) < 600
    errors = []
    assert [p["text"] for p in load_text_data(path, errors=errors)] == ["good", "better"]
    assert len(errors) == 1


def test_a_line_of_a_megabyte(tmp_path):
    path = write(tmp_path, {"text": "word " * 200_000})
    prompts = load_text_data(path, max_chars=400)
    assert len(prompts) == 2500
    assert {len(p["text"]) for p in prompts} == {400}


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    (prompt,) = load_text_data(write(tmp_path, b'{"text": "a", "loss": NaN, "meta": {"b": [-Infinity, 1]}}'))
    assert (prompt["loss"], prompt["meta"]) == (None, {"b": [None, 1]})


def test_no_file_and_no_length(tmp_path):
    with pytest.raises(InvalidPromptError, match="cannot read"):
        load_text_data("a\0b")
    with pytest.raises(OptionError, match="min_chars must be a number of characters"):
        load_text_data(write(tmp_path, {"text": "a"}), min_chars="5")
    with pytest.raises(InvalidPromptError, match="cannot read"):
        load_text_data(tmp_path / "none")
    with pytest.raises(OptionError, match="max_chars"):
        load_text_data(write(tmp_path, {"text": "a"}), min_chars=5, max_chars=4)


def test_a_run_without_prompts_does_not_look_like_one_that_did_all(tmp_path):
    path = write(tmp_path, {"text": "short"})
    with pytest.raises(ActivationsMissingError, match="no text of a fitting length"):
        activations_main("demo", tmp_path / "d", path, raw_prompts=True, min_chars=100)
    path.write_text("\n")
    with pytest.raises(ActivationsMissingError, match="no line with a 'text'"):
        activations_main("demo", tmp_path / "d", path)
    with pytest.raises(ActivationsMissingError, match="none of model 'demo'"):
        activations_main("demo", tmp_path / "d")
    assert not (tmp_path / "d").exists()


ROWS = {"text": ["One here.", "", "Three there."], "number": [1, 2, 3], "nested": [[1], [2], [3]]}


@pytest.mark.parametrize("kind", ["parquet", "saved", "splits", "folder"])
def test_tables_and_data_sets(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    table, place = datasets.Dataset.from_dict(ROWS), tmp_path / ("t.parquet" if kind == "parquet" else "t")
    if kind == "parquet":
        table.to_parquet(place)
    elif kind == "folder":
        (place / "train").mkdir(parents=True)
        table.to_parquet(place / "train" / "b.parquet")
        (place / "a.jsonl").write_text('{"text": "Zero."}\n')
    else:
        (table if kind == "saved" else datasets.DatasetDict(train=table)).save_to_disk(place)
    errors = []
    found = load_text_data(place, errors=errors)
    texts = ["One here.", "Three there."]
    assert [prompt["text"] for prompt in found] == (["Zero."] if kind == "folder" else []) + texts
    assert found[-1]["number"] == 3
    assert "nested" not in found[-1]
    assert len(errors) == 1
    assert "row 2 of" in str(errors[0])


def test_a_data_set_in_a_folder_is_read_once(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": ["two"], "loss": [float("nan")]})
    datasets.DatasetDict(train=table).save_to_disk(tmp_path / "b" / "saved")
    (tmp_path / "c.parquet").mkdir()  # as Spark writes one
    table.to_parquet(tmp_path / "c.parquet" / "part-0.PARQUET")
    (tmp_path / "a.JSONL").write_text('{"text": "one"}\n')
    found = load_text_data(tmp_path)
    assert [prompt["text"] for prompt in found] == ["one", "two", "two"]
    assert found[1]["loss"] is None


@pytest.mark.parametrize("rows", [{"words": ["a"] * 9}, {"text": [["a"]] * 9}, {"text": [{"a": "b"}]}])
@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_tables_without_texts_are_refused_once(tmp_path, rows, kind):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict(rows)
    if kind == "saved":
        table.save_to_disk(tmp_path / "t")
    else:
        table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InvalidPromptError, match="one column 'text'"):
        load_text_data(tmp_path, errors=[])


def test_splits_and_data_sets_without_rows_have_no_prompts(tmp_path):
    """Newer versions of the library cannot read what they saved so."""
    datasets = pytest.importorskip("datasets")
    empty, table = datasets.Dataset.from_dict({"text": []}), datasets.Dataset.from_dict({"text": ["one"]})
    empty.save_to_disk(tmp_path / "t")
    assert load_text_data(tmp_path / "t") == []
    datasets.DatasetDict(test=empty, train=table, valid=empty).save_to_disk(tmp_path / "splits")
    assert [prompt["text"] for prompt in load_text_data(tmp_path / "splits")] == ["one"]


@pytest.mark.parametrize("name", ["dataset_dict.json", "train/state.json"])
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"splits": 1, "_data_files": 1}', '{"splits": [1]}'])
def test_damaged_data_sets_are_refused(tmp_path, name, text):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["one"]})).save_to_disk(tmp_path / "t")
    (tmp_path / "t" / name).write_text(text)
    with pytest.raises(InvalidPromptError, match="cannot read prompts"):
        load_text_data(tmp_path / "t")


ODD = [
    (b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}', ["a", "b"], 0),
    (b'{"text": "a"}\r\n\r\n  \r\n{"text": "b"}\r\n', ["a", "b"], 0),
    (b'{"text": "a", "n": 1}\n{"text": "a", "n": 2}\n', ["a", "a"], 0),
    (b'{"text": "a", "meta": {"b": [1, {"c": 2}]}}\n', ["a"], 0),
    (b'{"words": "a"}\n{"text": ["a"]}\n{"text": {"a": 1}}\n{"text": null}\n{"text": ""}\n{"text": 5}\n', [], 6),
    (b'{"text": "' + b"word " * 20_000 + b'"}', ["word " * 20_000], 0),
    ('{"text": "a\u2028b"}\n'.encode(), ["a\u2028b"], 0),
    (b'{"text": "a"}\r{"text": "b"}\r', [], 1),
    ('{"text": "a"}'.encode("utf-16"), ["a"], 0),
    (b'[{"text": "a"}]', [], 1),
    (b'{"text": "a", "b": ' + b"[" * 100_000, [], 1),
]


@pytest.mark.parametrize(("data", "texts", "n_errors"), ODD)
def test_odd_lines_are_read_right_or_refused(tmp_path, data, texts, n_errors):
    errors = []
    assert [prompt["text"] for prompt in load_text_data(write(tmp_path, data), errors=errors)] == texts
    assert len(errors) == n_errors


def test_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionError, match=r"attn-viewer\[datasets\]"):
        load_text_data(tmp_path / "x.parquet")


def test_a_damaged_table(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidPromptError, match="cannot read prompts"):
        load_text_data(tmp_path / "x.parquet")
