"""Prompts that run together have the very weights that they have alone; models for which that is not known say so."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import store_prompt
from transformers import AutoConfig, AutoModel

from attn_viewer import capture_attention, load_model
from attn_viewer.capture.batch import capture_batch
from attn_viewer.errors import CaptureError, PromptError
from attn_viewer.pipeline import activations, batches

TEXTS = [
    "Summer is warm. Winter is cold and long.",
    "The sea is deep and the sky is high over the whole of the land, day after day.",
    "One day a dog came home and slept by the fire.",
]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["demo", "smollm2"])
def test_together_as_alone(request, name):
    model, tokenizer = request.getfixturevalue(name)
    before = [(m.training, dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
    together = capture_batch(model, tokenizer, TEXTS, model_id=name, reduction="auto")
    assert [(m.training, dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()] == before
    for text, maps in zip(TEXTS, together, strict=True):
        alone = capture_attention(model, tokenizer, text, model_id=name, reduction="auto")
        for field in dataclasses.fields(alone):
            if field.name not in ("weights", "_"):
                assert getattr(maps, field.name) == getattr(alone, field.name)
        for one, other in zip(maps.weights, alone.weights, strict=True):
            # Libraries may round rows of a larger product otherwise; the pipeline looks before it relies on it.
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_neighbours_take_part_in_nothing(demo):
    model, tokenizer = demo
    pair = capture_batch(model, tokenizer, [TEXTS[0], TEXTS[1]])[0]
    with torch.no_grad():
        # Beside another text nothing may change.
        same = capture_batch(model, tokenizer, [TEXTS[0], TEXTS[1][::-1]])[0]
    for one, other in zip(pair.weights, same.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        np.testing.assert_allclose(one.sum(-1), 1, atol=1e-5)


def test_what_cannot_run_together_is_refused(demo):
    _, tokenizer = demo
    model, _ = load_model(attn_implementation="eager")
    with pytest.raises(CaptureError, match="one at a time"):
        capture_batch(model, tokenizer, TEXTS)
    with pytest.raises(PromptError):
        capture_batch(demo[0], tokenizer, [TEXTS[0], ""])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_pipeline_stores_what_prompts_have_alone(tmp_path, implementation):
    model, tokenizer = load_model(attn_implementation=implementation)
    prompts = [{"text": text} for text in TEXTS]
    known = batches.capture_together(prompts, model, tokenizer, "demo")
    if implementation == "eager":
        assert known == {}
        assert batches._agreed[model] is False
        return
    for prompt in prompts:
        alone, _ = activations.compute_activations(dict(prompt), model, tokenizer, tmp_path / "a", model_name="demo")
        if maps := known.get(prompt["hash"]):
            there = store_prompt(maps, dict(prompt), tmp_path / "b")
            assert there.read_bytes() == alone.read_bytes()
    assert batches._agreed[model] == (len(known) == len(prompts))


def test_groups_are_in_order_of_length_and_bounded():
    prompts = [{"text": "x" * n} for n in (900, 1400, 40, 42, 300, 310, 5000, 39)]
    groups = batches.group_prompts(prompts)
    lengths = [[len(p["text"]) for p in group] for group in groups]
    assert lengths == [[39, 40, 42, 300, 310, 900], [1400], [5000]]
    for group in lengths:
        assert len(group) == 1 or sum(group) <= batches.BATCH_CHARS
    shares = [[len(p["text"]) for p in group] for group in batches.group_prompts(prompts[1:6], 4)]
    assert shares == [[40, 42, 300], [310], [1400]]


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 8}),  # sees the row's length in its mask
        ("roberta", {"is_decoder": False}),  # counts positions its own way
        ("lfm2", {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "block_ff_dim": 64}),
    ],
)
def test_prompts_run_alone_where_a_row_of_them_is_not_the_same(demo, model_type, options):
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(model_type, vocab_size=len(demo[1]), **size, **options)
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    assert batches.capture_together([{"text": text} for text in TEXTS], model, demo[1], "tiny") == {}
    assert batches._agreed[model] is False
