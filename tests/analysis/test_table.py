import csv
import json

import numpy as np
import pytest
from conftest import make_maps

from attn_viewer import AttentionMaps, score_heads
from attn_viewer.analysis import HeadScores, average_scores
from attn_viewer.errors import OptionError, OutputError


def make_table(**columns):
    columns = {name: np.array(values, float) for name, values in columns.items()}
    return HeadScores(np.array([2, 2, 5]), np.array([0, 3, 3]), columns, "m")


def test_rows_carry_true_numbers():
    weights = [np.full((n, 2, 2), 0.5, np.float32) for n in (2, 1)]
    scores = score_heads(AttentionMaps(weights, ["a", "b"], layers=[2, 5], heads=[[0, 3], [3]], causal=False))
    assert scores.layer.tolist() == [2, 2, 5]
    assert scores.head.tolist() == [0, 3, 3]
    assert len(scores) == 3


def test_the_grid_has_a_row_a_layer_and_gaps_where_there_is_no_head():
    table = make_table(x=[1, 2, 3])
    assert (table.layers, table.heads) == ((2, 5), (0, 3))
    np.testing.assert_array_equal(table.make_grid("x"), [[1, 2], [np.nan, 3]])


def test_the_highest_and_lowest_heads():
    table = make_table(x=[1, np.nan, 3])
    assert table.top("x") == [(5, 3, 3.0), (2, 0, 1.0)]
    assert table.top("x", 1)[0].layer == 5
    assert table.top("x", lowest=True) == [(2, 0, 1.0), (5, 3, 3.0)]
    assert make_table(x=[2, 2, 2]).top("x", 2) == [(2, 0, 2.0), (2, 3, 2.0)]


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
def test_top_refuses_other_than_counts(k):
    with pytest.raises(OptionError, match="k must be"):
        make_table(x=[1, 2, 3]).top("x", k)


def test_an_unknown_score_names_those_that_are_there():
    for ask in (make_table(x=[1, 2, 3]).top, make_table(x=[1, 2, 3]).make_grid):
        with pytest.raises(OptionError, match="no score 'y' in the table; there are x"):
            ask("y")


def test_csv_is_read_back(tmp_path):
    table = score_heads(make_maps(2, 3, 6))
    path = table.to_csv(tmp_path / "new" / "heads.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["layer"]), int(r["head"])) for r in rows] == [(i, j) for i in range(2) for j in range(3)]
    for name, column in table.columns.items():
        read = [float(row[name]) if row[name] else np.nan for row in rows]
        np.testing.assert_array_equal(read, column)
    assert rows[0]["induction"] == ""  # no token is repeated


def test_json_is_read_back(tmp_path):
    table = make_table(x=[1, np.nan, 0.1])
    content = json.loads(table.to_json(tmp_path / "heads.json").read_text())
    assert content == {
        "model_id": "m",
        "about": "",
        "layer": [2, 2, 5],
        "head": [0, 3, 3],
        "scores": {"x": [1.0, None, 0.1]},
    }


def test_nothing_is_written_where_nobody_may(tmp_path):
    (tmp_path / "file").touch()
    for write in (make_table(x=[1, 2, 3]).to_csv, make_table(x=[1, 2, 3]).to_json):
        with pytest.raises(OutputError):
            write(tmp_path / "file" / "heads")
        with pytest.raises(OutputError):
            write("/proc/none/heads")


def test_means_leave_out_prompts_without_a_value():
    mean = average_scores([make_table(x=[1, np.nan, np.nan]), make_table(x=[3, 2, np.nan])])
    np.testing.assert_array_equal(mean["x"], [2, 2, np.nan])


@pytest.mark.parametrize("tables", [[], [make_table(x=[1, 2, 3]), make_table(y=[1, 2, 3])]])
def test_means_of_other_things_are_refused(tables):
    with pytest.raises(OptionError):
        average_scores(tables)
