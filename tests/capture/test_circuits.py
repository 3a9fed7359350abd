"""Products of a head's weights against direct computation."""

import functools
import warnings

import numpy as np
import pytest
import torch
from architectures import build_model
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, GPT2Config, LlamaConfig, Qwen3Config

from attn_viewer.capture.circuits import N_DIRECTIONS, N_ENDS, factorise_product, measure_circuits, read_head_weights
from attn_viewer.errors import CircuitError
from attn_viewer.tokens import label_tokens

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


def make_llama(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL | {"num_hidden_layers": 2} | changes)
    return AutoModelForCausalLM.from_config(config).eval().to(dtype)


def add_lora(targets):
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which parts make no sense is said of some
        config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        return peft.get_peft_model(make_llama(), config).eval()


def check_llama(model, layer, head):
    """Compare with slices of what a Llama calls its projections; return the head's weights and the last norm."""
    heads, last = read_head_weights(model)
    config, attention = model.config, model.model.layers[layer].self_attn
    group = config.num_attention_heads // config.num_key_value_heads
    assert len(heads) == config.num_hidden_layers * config.num_attention_heads
    found = heads[layer, head]
    d = len(found.query)
    rows, shared = slice(head * d, head * d + d), slice(head // group * d, head // group * d + d)
    assert torch.equal(found.query.float(), attention.q_proj.weight[rows])
    assert torch.equal(found.key.float(), attention.k_proj.weight[shared])
    assert torch.equal(found.value.float(), attention.v_proj.weight[shared])
    assert torch.equal(found.output.float(), attention.o_proj.weight[:, rows].T)
    assert (found.norm, last) == (model.model.layers[layer].input_layernorm, model.model.norm)
    return found


def test_the_demo_model(demo):
    model, tokenizer = demo
    head = check_llama(model, 2, 3)
    query_key, output_value = measure_circuits(model, tokenizer)[2, 3]
    u, s, v = np.linalg.svd((head.query.T @ head.key).numpy())
    np.testing.assert_allclose(query_key.values, s[: len(query_key.values)], rtol=1e-9)
    assert len(query_key.directions) == N_DIRECTIONS
    given = model.model.layers[2].input_layernorm(model.model.embed_tokens.weight).detach().double().numpy()
    sign = np.sign(u[np.abs(u[:, 0]).argmax(), 0])
    expected = [
        label_tokens(np.argsort(-scores)[:N_ENDS], tokenizer)
        for scores in (given @ u[:, 0] * sign, -given @ u[:, 0] * sign, given @ v[0] * sign, -given @ v[0] * sign)
    ]
    assert query_key.directions[0] == expected
    u, s, v = np.linalg.svd((head.value.T @ head.output).numpy())
    np.testing.assert_allclose(output_value.values, s[: len(output_value.values)], rtol=1e-9)
    sign = np.sign(u[np.abs(u[:, 0]).argmax(), 0])
    written = model.lm_head(model.model.norm(torch.tensor(v[0] * sign, dtype=torch.float32))).detach().numpy()
    assert output_value.directions[0][2] == label_tokens(np.argsort(-written)[:N_ENDS], tokenizer)
    assert output_value.directions[0][3] == label_tokens(np.argsort(written)[:N_ENDS], tokenizer)


def test_heads_that_share_keys():
    check_llama(build_model("llama"), 1, 3)


@pytest.mark.parametrize("changes", [
    {"attention_bias": True},
    {"num_key_value_heads": 1, "tie_word_embeddings": True},
    {"dtype": torch.bfloat16},
    {"dtype": torch.float16},
])  # fmt: skip
def test_variants_of_a_llama(changes):
    check_llama(make_llama(**changes), 1, 1)


def merge(model):
    model.merge_adapter()
    return model


@pytest.mark.parametrize("finish", [merge, lambda model: model.merge_and_unload()])
def test_an_adapter_that_is_merged(finish):
    model = finish(add_lora(["q_proj", "k_proj", "v_proj", "o_proj"]))
    (attention,) = (module for name, module in model.named_modules() if name.endswith("layers.1.self_attn"))
    heads, _ = read_head_weights(model)
    for name, found in (("q", heads[1, 1].query), ("k", heads[1, 1].key), ("v", heads[1, 1].value)):
        assert torch.equal(found.float(), getattr(attention, f"{name}_proj").weight[8:])
    plain = make_llama().model.layers[1].self_attn.q_proj.weight[8:]
    assert not torch.allclose(heads[1, 1].query.float(), plain)
    assert torch.equal(heads[1, 1].output.float(), attention.o_proj.weight[:, 8:].T)


def test_an_adapter_that_leaves_attention_alone():
    plain, _ = read_head_weights(make_llama())
    heads, _ = read_head_weights(add_lora(["up_proj", "embed_tokens"]))
    for name in ("query", "key", "value", "output"):
        assert torch.equal(getattr(heads[1, 0], name), getattr(plain[1, 0], name))


@pytest.mark.slow
def test_heads_of_smollm2_share_keys(smollm2):
    check_llama(smollm2[0], 18, 6)


def test_one_layer_for_queries_keys_and_values():
    model = AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_head=2, n_layer=2, vocab_size=50)).eval()
    heads, last = read_head_weights(model)
    weight = model.transformer.h[1].attn.c_attn.weight
    assert torch.equal(heads[1, 1].key.float(), weight[:, 16 + 8 : 16 + 16].T)
    assert torch.equal(heads[1, 0].output.float(), model.transformer.h[1].attn.c_proj.weight[:8])
    assert (heads[1, 0].norm, last) == (model.transformer.h[1].ln_1, model.transformer.ln_f)


def test_a_product_is_never_made():
    left, right = (torch.randn(3, n, dtype=torch.float64) for n in (7, 5))
    u, values, v = factorise_product(left, right)
    np.testing.assert_allclose((u * values) @ v.T, left.T @ right, atol=1e-12)
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()


def quantise(*names):
    model, modules = make_llama(), set(names) or {torch.nn.Linear}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it will go
        return torch.ao.quantization.quantize_dynamic(model, modules, dtype=torch.qint8)


def double(name):
    model = make_llama()
    model.get_submodule(f"model.layers.1.self_attn.{name}").register_forward_hook(lambda _module, _args, out: 2 * out)
    return model


@pytest.mark.parametrize(("make", "why"), [
    (quantise, "quantised"),
    (lambda: quantise("model.layers.0.self_attn.k_proj"), "no linear"),
    (lambda: quantise("model.layers.1.self_attn.o_proj"), "quantised"),
    (lambda: quantise("lm_head"), "output embedding"),
    (lambda: add_lora(["q_proj"]), "no linear"),
    (lambda: add_lora(["v_proj"]), "no linear"),
    (lambda: add_lora(["o_proj"]), "adapter"),
    (lambda: add_lora(["lm_head"]), "output embedding"),
    *((functools.partial(double, name), "no linear") for name in ("q_proj", "k_proj", "v_proj")),
    (lambda: double("o_proj"), "no plain linear"),
])  # fmt: skip
def test_what_changes_a_product_is_refused(make, why, demo):
    with pytest.raises(CircuitError, match=why):
        measure_circuits(make(), demo[1])


@pytest.mark.parametrize(("make", "why"), [
    (lambda: AutoModelForCausalLM.from_config(Qwen3Config(**SMALL, head_dim=8, num_key_value_heads=1)), "no linear"),
    (lambda: BertForMaskedLM(BertConfig(**SMALL)), "no language model"),
    (lambda: torch.nn.Linear(2, 2), "no language model"),
    (lambda: AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=50),
                                              attn_implementation="eager"), "SDPA"),
])  # fmt: skip
def test_no_fixed_products(make, why):
    with pytest.raises(CircuitError, match=why):
        read_head_weights(make().eval())
