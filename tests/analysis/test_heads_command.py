import csv
import json

import pytest
from conftest import make_maps

from attn_viewer import capture_attention, save_scores, score_heads
from attn_viewer.analysis import repeated_tokens_prompt
from attn_viewer.cli import main


def test_the_table_of_the_demo_model_names_its_induction_head(demo, capsys):
    words = "heads --repeated 20 --scores previous_token,induction --sort induction --top 2 --quiet"
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert rows[:2] == [["previous"], ["layer", "head", "token", "induction"]]
    assert len(rows) == 4
    expected = score_heads(capture_attention(*demo, repeated_tokens_prompt(demo[1], 20)))
    for row, head in zip(rows[2:], expected.top("induction", 2), strict=True):
        assert row[:2] == [str(head.layer), str(head.head)]
        assert float(row[3]) == pytest.approx(head.value, abs=6e-4)
    assert err == ""


def test_window_threshold_queries_and_seed_are_those_that_were_asked_for(demo, tmp_path, capsys):
    path = tmp_path / "h.json"
    words = "heads --repeated 12 --seed 5 --queries 6 --window 2 --epsilon 0.1 --scores local_mass,sink_rate --quiet"
    assert main([*words.split(), "--json", str(path)]) == 0
    maps = capture_attention(*demo, repeated_tokens_prompt(demo[1], 12, seed=5), queries=6)
    expected = score_heads(maps, ["local_mass", "sink_rate"], window=2, epsilon=0.1)
    with open(path) as file:
        table = json.load(file)
    assert table["scores"] == expected.to_dict()["scores"]
    assert "6 queries, 25 keys" in table["about"]


def test_all_files_from_a_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cache = save_scores(make_maps(3, 4, 9), tmp_path)
    words = f"heads --load_attention_scores_path {cache} --csv t/h.csv --json t/h.json --save_fig_path vis --layers 1-2"
    assert main([*words.split(), "--scores", "entropy, keys_90", "--scatter", "entropy,keys_90"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 + 8
    figures = [f"vis/random/heads_{name}.jpg" for name in ("entropy", "keys_90", "scatter")]
    assert err.splitlines() == [f"wrote {file}" for file in ("t/h.csv", "t/h.json", *figures)]
    with open("t/h.csv", newline="") as file:
        assert [row["layer"] for row in csv.DictReader(file)] == ["1"] * 4 + ["2"] * 4
    with open("t/h.json") as file:
        assert list(json.load(file)["scores"]) == ["entropy", "keys_90"]
    assert all((tmp_path / figure).stat().st_size > 5000 for figure in figures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--scores none", "there is no score 'none'"),
        ("--sort none", "there is no score 'none'"),
        ("--scores entropy --sort induction", "cannot sort by 'induction'"),
        ("--scores entropy --save_fig_path d --scatter entropy,induction", "of entropy; got induction of scores"),
        ("--save_fig_path d --scatter entropy", "nuclear_norm; got 1\n"),
        ("--scatter entropy,induction", "scatter has no use without save_fig_path"),
        ("--top 0", "top must be"),
        ("--window 0", "window must be"),
        ("--epsilon 1", "epsilon must be"),
        ("--queries 0", "queries must be"),
        ("--load_attention_scores_path {one} --queries 3", "queries has no use beside load_attention_scores_path"),
        ("--layers 99", "there is no layer 99"),
        ("--repeated 1", "repeated must be"),
        ("--fig_format bmp", "'bmp'"),
        ("--csv /proc/none/h.csv", "cannot write"),
        ("--csv h.txt --json h.txt", "csv and json are one file"),
        ("--save_fig_path /proc/none", "cannot write"),
        ("--prompt=", "the prompt is empty"),
        ("--load_attention_scores_path {one}", "at least 2 key tokens, got 1"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, words, message):
    one = save_scores(make_maps(1, 1, 1), tmp_path)
    assert main(["heads", "--quiet", *words.format(one=one).split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
