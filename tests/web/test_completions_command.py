import json
import subprocess
import sys
from pathlib import Path

import pytest

from attn_viewer import load_scores
from attn_viewer.cli import main


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [{"text": "In the beginning", "name": "genesis"}, {"text": "Summer is warm."}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_completions_are_saved_here_and_rendered_there(tmp_path, prompts, capsys):
    words = ["completions", "save", "--prompts", str(prompts), "--output", str(tmp_path / "c")]
    assert main([*words, "--max_new_tokens", "5", "--layers", "1-2", "--model_id", "demo"]) == 0
    files = capsys.readouterr().out.splitlines()
    assert files == [str(tmp_path / "c" / f"{name}_attn_scores.pt") for name in ("genesis", "2")]
    maps = load_scores(files[0])
    assert (maps.layers, maps.model_id, len(maps.tokens_key)) == ((1, 2), "demo", maps.prompt_length + 5)
    # In a process of its own, which tells whether anything that knows models was loaded.
    code = (
        "import sys; from attn_viewer.cli import main; status = main(sys.argv[1:])\n"
        "sys.exit(status or 3 * ('torch' in sys.modules))"
    )
    words = ["completions", "render", *files, "--output", str(tmp_path / "pages"), "--average_heads", "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    pages = [Path(line) for line in done.stdout.splitlines()]
    assert pages == [tmp_path / "pages" / f"{name}.html" for name in ("genesis", "2")]
    assert all('"reduction":"head_mean"' in page.read_text() for page in pages)


def test_one_prompt_and_raw_labels(tmp_path, capsys):
    words = ["completions", "save", "--prompt", "Winter is cold.", "--output", str(tmp_path), "--raw_tokens"]
    assert main([*words, "--max_new_tokens", "2"]) == 0
    maps = load_scores(capsys.readouterr().out.strip())
    assert any(token[0] in "Ġ▁" for token in maps.tokens_key)
    assert main(["completions", "render", str(tmp_path / "completion")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "completion.html")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("save --prompts none.jsonl", "cannot read prompts"),
        ("save --prompts empty.jsonl", "holds no prompt"),
        ("save --prompts out.jsonl", "cannot name a folder"),
        ("save --prompts twice.jsonl", "distinct"),
        ("save --max_new_tokens 0", "max_new_tokens must be"),
        ("save --temperature 0", "temperature must be a number above 0"),
        ("render none", "does not exist"),
        ("render none --max_mb -1", "max_mb must be a number above 0"),
    ],
)
def test_what_cannot_be_done_writes_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "out.jsonl").write_text('{"text": "a", "name": "../a"}\n')
    (tmp_path / "twice.jsonl").write_text('{"text": "a", "name": "x"}\n{"text": "b", "name": "x"}\n')
    before = sorted(tmp_path.rglob("*"))
    assert main(["completions", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before
