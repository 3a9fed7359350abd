import copy
import threading

import numpy as np
import pytest
import torch
from architectures import build_model, make_ids
from conftest import PROMPT

from attn_viewer import capture_attention, load_model
from attn_viewer.capture.guard import borrow_model
from attn_viewer.capture.prefill import get_model_id
from attn_viewer.errors import CaptureError, InvalidMapsError, OptionError, PromptError


def compute_eager(model, ids, **arguments):
    """Return transformers' own weights, one array (n_heads, n, n) a layer."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_attentions=True, use_cache=False, **arguments)
    return [layer[0].float().numpy() for layer in output.attentions]


def measure_difference(maps, layers):
    assert len(maps.weights) == len(layers)
    return max(np.abs(ours - theirs).max() for ours, theirs in zip(maps.weights, layers, strict=True))


def test_a_sliding_window_shorter_than_the_prompt_is_seen():
    maps = capture_attention(build_model("mistral"), prompt=make_ids())
    hidden = np.tril(np.ones(maps.shape, bool), -5)
    assert all((layer[:, hidden] == 0).all() for layer in maps.weights)


def test_a_soft_cap_is_reported():
    model = build_model("gemma2", attn_implementation="eager")
    assert capture_attention(model, prompt=make_ids()).softcap == 2.0


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        ("gpt2", "sdpa"),
        ("llama", "sdpa"),
        ("bert", "sdpa"),
        *((n, "eager") for n in ("gpt2", "gemma2", "gpt_oss", "bert")),
    ],
)
def test_the_model_is_not_touched(name, implementation):
    model = build_model(name, attn_implementation=implementation)
    ids = torch.tensor([make_ids()])
    before = model(ids, use_cache=False)[0]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    seen = describe_model(model)
    outputs = []
    model.get_input_embeddings().register_forward_hook(lambda *_: None)
    seen_with_hook = describe_model(model)
    handle = next(iter(model.children())).register_forward_hook(lambda m, a, out: outputs.append(out[0]))
    capture_attention(model, prompt=ids[0].tolist())
    capture_attention(model, prompt=ids[0].tolist())
    handle.remove()
    assert describe_model(model) == seen_with_hook != seen
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(ids, use_cache=False)[0], before)
    plain = []
    handle = next(iter(model.children())).register_forward_hook(lambda m, a, out: plain.append(out[0]))
    model(ids, use_cache=False)
    handle.remove()
    assert torch.equal(outputs[0], plain[0])


def describe_model(model):
    """Return all that a capture might leave behind."""
    return str(getattr(model, "config", "")), [
        (
            name,
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._forward_hooks_always_called),
            sorted(vars(module)),
            getattr(getattr(module, "config", None), "_attn_implementation", None),
        )
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize(("name", "implementation"), [("llama", "sdpa"), ("llama", "eager"), ("gemma2", "eager")])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_model_that_fails_midway_is_left_as_it_was(name, implementation, error):
    model = build_model(name, attn_implementation=implementation).train()
    ids = make_ids()

    def fail(module, args):
        raise error

    handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
    before = describe_model(model)
    with pytest.raises(error):
        capture_attention(model, prompt=ids)
    assert describe_model(model) == before
    handle.remove()
    assert len(capture_attention(model, prompt=ids).layers) == 3


def test_fifty_interruptions_leave_the_model_as_it_was():
    model, ids = build_model("llama"), make_ids()
    plain = torch.tensor([ids])
    logits, before = model(plain, use_cache=False).logits, describe_model(model)
    modules = [m for name, m in model.named_modules() if name.startswith("model.layers.")]
    rng = np.random.default_rng(0)
    for _ in range(50):
        module = modules[rng.integers(len(modules))]

        def interrupt(*_):
            raise KeyboardInterrupt

        register = module.register_forward_hook if rng.random() < 0.5 else module.register_forward_pre_hook
        handle = register(interrupt)
        with pytest.raises(KeyboardInterrupt):
            capture_attention(model, prompt=ids, reduction=rng.choice(["full", "head_mean", "pooled"]))
        handle.remove()
        assert describe_model(model) == before
        assert torch.equal(model(plain, use_cache=False).logits, logits)
        assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["gemma2", "gptj", "bert"])
def test_weights_taken_from_layers_take_no_memory_any_more(name):
    model, outputs = build_model(name, attn_implementation="eager"), []
    handle = model.register_forward_hook(lambda module, args, output: outputs.append(output))
    capture_attention(model, prompt=make_ids())
    handle.remove()
    collected = outputs[0].attentions or ()  # which collect them, and when, depends on the version
    assert all(layer.untyped_storage().nbytes() <= 4 for layer in collected)


def test_a_module_that_layers_share_goes_by_the_layer_that_runs():
    models = build_model("llama"), build_model("llama")
    for model in models:
        model.model.layers[2].self_attn = model.model.layers[0].self_attn
    models[1].model.layers[2].self_attn = copy.deepcopy(models[1].model.layers[0].self_attn)
    shared, alone = (capture_attention(model, prompt=make_ids()) for model in models)
    assert shared.layers == alone.layers == (0, 1, 2)
    assert measure_difference(shared, alone.weights) == 0


def test_training_mode_is_put_back_module_by_module():
    model = build_model("gpt2").train()
    model.transformer.h[1].eval()
    before = describe_model(model)
    maps = capture_attention(model, prompt=make_ids())
    assert describe_model(model) == before
    np.testing.assert_array_equal(maps.weights[2], capture_attention(model.eval(), prompt=make_ids()).weights[2])


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention"])
def test_fused_attention_is_watched_as_sdpa(implementation):
    model, ids = build_model("llama"), make_ids()
    expected = capture_attention(model, prompt=ids)
    # Neither runs on this machine; what matters is which function the layers look up.
    model.config._attn_implementation_internal = implementation
    maps = capture_attention(model, prompt=ids)
    assert model.config._attn_implementation == implementation
    assert measure_difference(maps, expected.weights) == 0
    assert maps.source == "sdpa"


def test_two_captures_at_once_do_not_mix():
    model, ids = build_model("llama"), make_ids()
    caught = []

    def capture_again(module, args):
        try:
            capture_attention(model, prompt=ids)
        except CaptureError as error:
            caught.append(str(error))

    handle = model.model.layers[1].register_forward_pre_hook(capture_again)
    capture_attention(model, prompt=ids)
    handle.remove()
    assert len(caught) == 1
    assert "being captured already" in caught[0]
    with borrow_model(model):
        thread = threading.Thread(target=capture_again, args=(None, None))
        thread.start()
        thread.join()
    assert len(caught) == 2


def test_layers_and_heads_are_chosen_by_true_number():
    model, ids = build_model("llama"), make_ids()
    whole = capture_attention(model, prompt=ids)
    some = capture_attention(model, prompt=ids, layers=[2, 0], heads=[3, 1])
    assert some.layers == (0, 2)
    assert some.heads == ((1, 3), (1, 3))
    np.testing.assert_array_equal(some.get_layer(2), whole.get_layer(2)[[1, 3]])


def test_weights_can_be_kept_in_half_precision():
    model, ids = build_model("llama"), make_ids()
    half = capture_attention(model, prompt=ids, dtype="float16")
    assert half.weights[0].dtype == np.float16
    np.testing.assert_allclose(half.weights[0], capture_attention(model, prompt=ids).weights[0], atol=5e-4)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "words"),
    [
        ("", {}, PromptError, "got nothing"),
        (None, {}, PromptError, "got nothing"),
        ([], {}, PromptError, "got nothing"),
        (7, {}, PromptError, "got a int"),
        ("text", {}, PromptError, "needs a tokenizer"),
        ([{"role": "user"}], {"tokenizer": True}, PromptError, "'role': …, 'content'"),
        ([{"role": "user", "content": "hi"}], {"tokenizer": True}, PromptError, "no chat template"),
        ([3, 96], {}, PromptError, "the model knows 0 to 95"),
        ([3, -1], {}, PromptError, "run from -1"),
        ([3], {"layers": [7]}, OptionError, "there is no layer 7; there are 0-2"),
        ([3], {"heads": [4]}, OptionError, "there are 0-3"),
        ([3], {"dtype": "int8"}, OptionError, "dtype"),
    ],
)
def test_what_cannot_be_captured_is_refused(prompt, options, error, words, demo):
    options = options | ({"tokenizer": demo[1]} if options.get("tokenizer") else {})
    with pytest.raises(error, match=words):
        capture_attention(build_model("llama"), prompt=prompt, **options)


class WrittenAttention(torch.nn.Module):
    """One head, without anything that torch fuses."""

    def __init__(self, normalise=lambda scores: torch.softmax(scores, -1)):
        super().__init__()
        self.normalise = normalise

    def forward(self, x):
        return self.normalise(x @ x.transpose(1, 2)) @ x


class Layer(torch.nn.Module):
    def __init__(self, inner, blind):
        super().__init__()
        self.inner = inner
        self.blind = blind

    def forward(self, hidden, **options):
        return self.inner(hidden + 0 * self.blind(hidden), **options)


def test_a_model_whose_weights_nobody_sees_is_an_error():
    model = build_model("llama")
    model.model.layers[1] = Layer(model.model.layers[1], WrittenAttention(torch.sigmoid))
    with pytest.raises(CaptureError, match=r"1 attention modules could not be seen .*layers\.1\.blind"):
        capture_attention(model, prompt=make_ids())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("options", [{}, {"reduction": "head_mean"}, {"reduction": "pooled", "max_cells": 3}])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_weights_that_are_no_numbers_are_refused_for_that(name, implementation, options):
    model = build_model(name, attn_implementation=implementation)
    next(p for path, p in model.named_parameters() if "1" in path and "q" in path).data[0, 0] = torch.nan
    with pytest.raises(InvalidMapsError, match=r"weights\[1\] must be finite"):
        capture_attention(model, prompt=make_ids(), **options)


def test_a_layer_that_goes_by_another_name_is_not_missing():
    model, plain = build_model("llama"), build_model("llama")
    model.model.layers[1] = Layer(model.model.layers[1], torch.nn.Identity())
    maps = capture_attention(model, prompt=make_ids())
    assert maps.layers == (0, 1, 2)
    assert measure_difference(maps, capture_attention(plain, prompt=make_ids()).weights) == 0


def test_a_model_without_attention_is_an_error():
    model = torch.nn.Embedding(96, 4)
    model.forward = lambda input_ids: torch.nn.functional.embedding(input_ids, model.weight)
    with pytest.raises(CaptureError, match="no attention weights"):
        capture_attention(model, prompt=[1, 2])


def test_names_come_from_the_model(demo):
    model = build_model("gpt2")
    assert get_model_id(model) == "GPT2LMHeadModel"
    model.config._name_or_path = "org/some-model/"
    assert get_model_id(model) == "some-model"


def test_demo_model(demo, demo_maps):
    _model, tokenizer = demo
    assert demo_maps.tokens_key[0] == "<s>"
    assert demo_maps.source == "sdpa"
    reference, _ = load_model(attn_implementation="eager")
    assert measure_difference(demo_maps, compute_eager(reference, tokenizer(PROMPT)["input_ids"])) < 1e-5


def test_smollm2(smollm2, smollm2_folder):
    model, tokenizer = smollm2
    maps = capture_attention(model, tokenizer, PROMPT)
    assert maps.n_heads == (9,) * 30
    reference, _ = load_model(smollm2_folder, attn_implementation="eager")
    assert measure_difference(maps, compute_eager(reference, tokenizer(PROMPT)["input_ids"])) < 1e-5


def test_chat_messages_go_through_the_template_of_smollm2(smollm2):
    model, tokenizer = smollm2
    maps = capture_attention(model, tokenizer, [{"role": "user", "content": "hi"}], layers=[0])
    text = "".join(maps.tokens_key)
    assert "user⏎hi<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant⏎")


def test_smollm2_is_captured_in_half_precision(smollm2_folder):
    model, tokenizer = load_model(smollm2_folder, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    maps = capture_attention(model, tokenizer, PROMPT)
    np.testing.assert_allclose(np.stack(maps.weights).sum(-1), 1, atol=1e-5)
    assert model.dtype == torch.bfloat16
