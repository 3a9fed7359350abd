import subprocess
import sys

import numpy as np
import pytest
from conftest import PROMPT

from attn_viewer import load_scores, render_completions, save_completions
from attn_viewer.errors import CacheError, OptionError, OutputError

PROMPTS = [PROMPT, "In the beginning"]


def complete(demo, folder, **options):
    prefixes = [folder / "out" / "warm", folder / "out" / "genesis"]
    model, tokenizer = demo
    return prefixes, save_completions(model, PROMPTS, prefixes, 6, tokenizer=tokenizer, model_id="demo", **options)


def test_completions_are_saved_one_file_each(tmp_path, demo):
    prefixes, files = complete(demo, tmp_path, generate_options={"do_sample": False})
    assert files == [prefix.with_name(f"{prefix.name}_attn_scores.pt") for prefix in prefixes]
    model, tokenizer = demo
    for prompt, file in zip(PROMPTS, files, strict=True):
        maps = load_scores(file)
        inputs = tokenizer(prompt, return_tensors="pt")
        assert (maps.model_id, maps.prompt_length) == ("demo", inputs["input_ids"].shape[1])
        expected = model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)[0].tolist()
        assert list(maps.ids_key) == expected
        np.testing.assert_allclose(maps.weights[0].sum(-1), 1, atol=1e-5)


def test_labels_may_be_the_vocabulary_s(tmp_path, demo):
    _, files = complete(demo, tmp_path, prettify_tokens=False)
    maps = load_scores(files[0])
    assert list(maps.tokens_key) == demo[1].convert_ids_to_tokens(list(maps.ids_key))
    assert any(token[0] in "Ġ▁" for token in maps.tokens_key)


def test_pages_need_neither_model_nor_torch(tmp_path, demo):
    prefixes, _ = complete(demo, tmp_path)
    code = (
        "import sys; from attn_viewer import render_completions\n"
        "print(*render_completions(sys.argv[1:], zero_first_token=True), sep='\\n')\n"
        "print({'torch', 'transformers'} & sys.modules.keys())"
    )
    words = [sys.executable, "-c", code, *map(str, prefixes)]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert out.split() == [f"{prefix}.html" for prefix in prefixes] + ["set()"]
    assert "view=text&first=hide" in prefixes[0].with_suffix(".html").read_text().replace("\\u0026", "&")


def test_head_means_in_another_folder(tmp_path, demo):
    prefixes, _ = complete(demo, tmp_path)
    pages = render_completions(prefixes, tmp_path / "pages", average_heads=True)
    assert [page.name for page in pages] == ["warm.html", "genesis.html"]
    each = render_completions(prefixes)
    assert pages[0].stat().st_size < each[0].stat().st_size
    assert '"reduction":"head_mean"' in pages[0].read_text()
    assert '"averaged":"mean over 8 heads"' in pages[0].read_text()
    assert '"averaged":null' in each[0].read_text()


def test_what_is_missing_is_found_before_anything_is_written(tmp_path, demo):
    prefixes, _ = complete(demo, tmp_path)
    with pytest.raises(CacheError, match="does not exist"):
        render_completions([*prefixes, tmp_path / "none"], tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize(
    ("prompts", "prefixes", "options", "message"),
    [
        ("one text", ["a"], {}, "a sequence"),
        ([], [], {}, "at least one"),
        (["a"], "a", {}, "prefixes must be a sequence"),
        (["a", "b"], ["x"], {}, "2 prompts need as many"),
        (["a", "b"], ["x", "./x"], {}, "distinct"),
        (["a"], ["x/.."], {}, "cannot name"),
        (["a"], ["x"], {"prettify_tokens": False, "tokenizer": None}, "pass the tokenizer"),
        (["a"], ["x"], {"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_bad_requests(tmp_path, monkeypatch, demo, prompts, prefixes, options, message):
    monkeypatch.chdir(tmp_path)
    options = {"tokenizer": demo[1], "max_new_tokens": 2} | options
    with pytest.raises(OptionError, match=message):
        save_completions(demo[0], prompts, prefixes, **options)
    assert list(tmp_path.iterdir()) == []


def test_two_pages_of_one_name(tmp_path, demo):
    model, tokenizer = demo
    prefixes = [tmp_path / "a" / "x", tmp_path / "b" / "x"]
    save_completions(model, PROMPTS, prefixes, 1, tokenizer=tokenizer)
    with pytest.raises(OptionError, match="distinct names"):
        render_completions(prefixes, tmp_path)


def test_a_folder_nobody_may_write_to(demo):
    with pytest.raises(OutputError):
        save_completions(demo[0], ["a"], ["/proc/none/x"], 1, tokenizer=demo[1])
