"""Each form of a prompt in each place that takes one: the same maps as `capture_attention`."""

import json

import numpy as np
import pytest
import torch
from small import A, B, make_bert, make_gpt2, make_tokenizer, measure_difference, run_eager

from attn_viewer import capture_attention, load_scores, save_completions, view_attention
from attn_viewer.cli import main
from attn_viewer.errors import OptionError, PromptError

TEMPLATE = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
CHAT = [{"role": "user", "content": "the cat sat"}, {"role": "assistant", "content": "a dog ran"}]
FORMS = {
    "text": lambda t: A,
    "pair": lambda t: (A, B),
    "chat": lambda t: CHAT,
    "chat of parts": lambda t: [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in CHAT],
    "list": lambda t: t(A)["input_ids"],
    "tensor": lambda t: t(A, return_tensors="pt")["input_ids"],
    "array": lambda t: t(A, return_tensors="np")["input_ids"][0],
    "encoding": lambda t: t(A, B, return_tensors="pt"),
    "dict": lambda t: dict(t(A, B)),
    "padded": lambda t: t(A, B, padding="max_length", max_length=20, return_tensors="pt"),
}
INPUTS = {  # as the tokenizer makes them of the same
    "pair": (A, B),
    "encoding": (A, B),
    "dict": (A, B),
    "padded": (A, B),
    "chat": ("user : the cat sat assistant : a dog ran",),
    "chat of parts": ("user : the cat sat assistant : a dog ran",),
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def bert():
    return make_bert()


@pytest.fixture(scope="module")
def gpt2():
    return make_gpt2()


def make_inputs(tokenizer, form):
    is_chat = form.startswith("chat")
    return tokenizer(*INPUTS.get(form, (A,)), add_special_tokens=not is_chat, return_tensors="pt")


def read_cache(folder):
    (path,) = folder.glob("*.pt")
    return load_scores(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_view_of_each_form(form, bert, tokenizer, tmp_path):
    fast, eager = bert
    prompt = FORMS[form](tokenizer)
    places = {"save_fig_path": tmp_path / "figures", "save_attention_scores": True}
    written = view_attention(fast, tokenizer=tokenizer, prompt=prompt, save_attention_scores_path=tmp_path, **places)
    assert [path.suffix for path in written] == [".pt", ".jpg"]
    maps = read_cache(tmp_path)
    layers = run_eager(eager, make_inputs(tokenizer, form))
    assert measure_difference(maps, [layer[0] for layer in layers]) < 1e-5
    want = capture_attention(fast, tokenizer, prompt)
    assert (maps.tokens_key, maps.segments) == (want.tokens_key, want.segments)


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_completion_of_each_form(form, gpt2, tmp_path):
    own = make_tokenizer(model_input_names=["input_ids", "attention_mask"], chat_template=TEMPLATE)
    prompt = FORMS[form](own)
    save_completions(gpt2[0], [prompt], [tmp_path / "said"], 3, tokenizer=own)
    maps = read_cache(tmp_path)
    ids = make_inputs(own, form)["input_ids"]
    with torch.no_grad():
        said = gpt2[0].generate(ids, max_new_tokens=3, do_sample=False)
    assert maps.ids_key == tuple(said[0].tolist())
    assert maps.prompt_length == ids.shape[1]


def test_one_row_of_a_batch_is_viewed_and_all_are_refused(bert, tokenizer, tmp_path):
    inputs = tokenizer([A, B], padding=True, return_tensors="pt")
    places = {"save_attention_scores": True, "save_attention_scores_path": tmp_path}
    view_attention(bert[0], tokenizer=tokenizer, prompt=inputs, batch_index=1, **places)
    assert read_cache(tmp_path).tokens_key == ("[CLS]", "a", "dog", "ran", "home", "[SEP]")
    with pytest.raises(OptionError, match="give a number here"):
        view_attention(bert[0], tokenizer=tokenizer, prompt=inputs, batch_index="all", **places)
    with pytest.raises(OptionError, match="give a number here"):
        save_completions(bert[0], [inputs], [tmp_path / "x"], 3, tokenizer=tokenizer, batch_index="all")
    with pytest.raises(PromptError, match="these are 2 prompts"):
        view_attention(bert[0], tokenizer=tokenizer, prompt=inputs, **places)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, bert, gpt2, tokenizer):
    """Folders of an encoder and of a language model, with their tokenizer."""
    top = tmp_path_factory.mktemp("models")
    for name, (model, _) in {"bert": bert, "gpt2": gpt2}.items():
        model.save_pretrained(top / name)
        names = ["input_ids", "attention_mask", *["token_type_ids"] * (name == "bert")]
        make_tokenizer(model_input_names=names, chat_template=TEMPLATE).save_pretrained(top / name)
    return top


TYPED = {
    "text": (["--prompt", A], A),
    "pair": (["--prompt", A, "--pair", B], (A, B)),
    "ids": (["--prompt_ids", "2,5,6,5,3"], [2, 5, 6, 5, 3]),
    "chat": (["--prompt", "the cat sat", "--chat"], CHAT[:1]),
}


@pytest.mark.parametrize("form", TYPED)
def test_what_is_typed_is_viewed(form, folders, bert, tokenizer, tmp_path, capsys):
    words, prompt = TYPED[form]
    where = ["--save_attention_scores", "--save_attention_scores_path", str(tmp_path), "--save_fig_path", str(tmp_path)]
    assert main(["view", "--model_path", str(folders / "bert"), *words, *where, "--quiet"]) == 0
    maps, want = read_cache(tmp_path), capture_attention(bert[0], tokenizer, prompt)
    np.testing.assert_allclose(np.stack(maps.weights), np.stack(want.weights), atol=1e-6)
    assert (maps.tokens_key, maps.segments) == (want.tokens_key, want.segments)


@pytest.mark.parametrize("form", TYPED)
@pytest.mark.parametrize("command", ["html", "overview", "heads", "completions save", "ablate"])
def test_what_is_typed_goes_into_every_command(command, form, folders, gpt2, tmp_path, capsys):
    words, prompt = TYPED[form]
    more = {
        "html": ["--output", str(tmp_path / "page.html"), "--quiet"],
        "overview": ["--kinds", "last_token", "--save_fig_path", str(tmp_path), "--quiet"],
        "heads": ["--json", str(tmp_path / "scores.json"), "--quiet"],
        "completions save": ["--max_new_tokens", "2", "--output", str(tmp_path), "--quiet"],
        "ablate": ["--heads", "1.2", "--json", str(tmp_path / "effect.json"), "--quiet"],
    }
    assert not main([*command.split(), "--model_path", str(folders / "gpt2"), *words, *more[command]])
    own = make_tokenizer(model_input_names=["input_ids", "attention_mask"], chat_template=TEMPLATE)
    want = capture_attention(gpt2[0], own, prompt)
    if command == "completions save":
        assert read_cache(tmp_path).ids_key[: len(want.ids_key)] == want.ids_key
    elif command == "ablate":
        assert tuple(json.loads((tmp_path / "effect.json").read_text())["tokens"]) == want.tokens_key
    else:
        assert any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pair", ""], "two texts that are not empty"),
        (["--prompt_ids", "2,x"], "whole numbers such as"),
        (["--prompt_ids", "2.5"], "whole numbers such as"),
        (["--prompt_ids", "2,99"], "the model knows 0 to 15"),
        (["--prompt_ids", "2,5", "--chat"], "has no use beside"),
        (["--pair", B, "--chat"], "has no use beside"),
    ],
)
def test_what_cannot_be_typed(words, message, folders, tmp_path, capsys):
    given = ["view", "--model_path", str(folders / "bert"), "--save_fig_path", str(tmp_path), *words]
    try:
        status = main(given)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err
