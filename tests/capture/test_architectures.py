import inspect

import numpy as np
import pytest
import torch
from architectures import (
    ARCHITECTURES,
    ENCODER_DECODERS,
    LAYERS,
    NOT_AS_EAGER,
    REFUSED,
    SPEECH,
    VISION,
    build_model,
    make_ids,
    make_inputs,
)

from attn_viewer import capture_attention, capture_attention_calls
from attn_viewer.capture.guard import Loan
from attn_viewer.capture.module_stack import ModuleStack
from attn_viewer.capture.reduction import pool_matrix
from attn_viewer.capture.watch import AttentionWatch
from attn_viewer.errors import CaptureError

# Granite's models with sinks hand out weights from before the sinks took their share.
SINKS = {"deepseek_v4", "flint", "gpt_oss", "hy_v4", "inkling2_text", "mimo_v2_flash"}
ENCODERS = {
    *("albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "data2vec-text", "deberta"),
    *("deberta-v2", "distilbert", "electra", "ernie", "esm", "esmc", "eurobert", "flaubert", "gte", "ibert"),
    *("jina_embeddings_v3", "layoutlm", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet", "neomme"),
    *("nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "tapas"),
    *("ultrabert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod"),
}


def run(model, **arguments):
    """Run a model on one prompt, without a cache where it knows of one."""
    if "use_cache" in inspect.signature(model.forward).parameters:
        arguments["use_cache"] = False
    with torch.no_grad():
        return model(torch.tensor([make_ids()]), **arguments)


def get_attentions(model, layers):
    """Return transformers' own weights of the given layers, one array (n_heads, n, n) each."""
    attentions = [part for part in run(model, output_attentions=True).attentions if part is not None]
    if len(attentions) > len(layers):  # linear attention hands out its states among the weights
        attentions = [attentions[layer] for layer in layers]
    return [part[0].numpy() for part in attentions]


# One of each way to compute attention, and what most people run; the others are slow only because they are so many.
QUICK = {
    *(
        "albert",
        "bamba",
        "bert",
        "big_bird",
        "bloom",
        "codegen",
        "deberta-v2",
        "deepseek_v2",
        "deepseek_v32",
        "diffllama",
    ),
    *(
        "distilbert",
        "doge",
        "falcon",
        "falcon (grouped)",
        "gemma2",
        "gemma3_text",
        "glm4",
        "gpt2",
        "gpt_neo",
        "gpt_neox",
    ),
    *("gpt_oss", "gptj", "llama", "mistral", "mixtral", "modernbert", "mpnet", "mpt", "olmo2", "opt", "phi3", "qwen2"),
    *("qwen3", "qwen3_next", "roberta", "xglm", "xlnet"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in ARCHITECTURES
        if name not in NOT_AS_EAGER
    ],
)
def test_weights_equal_those_of_eager_attention(name):
    model, reference = build_model(name), build_model(name, attn_implementation="eager")
    expected = run(model)[0].clone()
    outputs = []
    model.register_forward_hook(lambda module, args, output: outputs.append(output[0].clone()))
    maps = capture_attention(model, prompt=make_ids())
    assert torch.equal(outputs[0], expected)
    assert maps.layers == LAYERS.get(name, (0, 1, 2))
    assert maps.source == ("eager" if model.config._attn_implementation == "eager" else "sdpa")
    assert maps.causal == (name not in ENCODERS)
    attentions = get_attentions(reference, maps.layers)
    for ours, theirs in zip(maps.weights, attentions, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    for ours, theirs in zip(capture_attention(reference, prompt=make_ids()).weights, attentions, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for pooling in ("max", "mean"):
        pooled = capture_attention(model, prompt=make_ids(), reduction="pooled", max_cells=5, pooling=pooling)
        for ours, theirs in zip(pooled.weights, attentions, strict=True):
            expected = pool_matrix(torch.from_numpy(theirs), pooled.cell, pooling)
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    assert maps.has_sinks == (name in SINKS)
    sums = np.concatenate([layer.sum(-1).ravel() for layer in maps.weights])
    assert sums.max() < 1 + 1e-5
    assert (sums.min() < 0.9) == maps.has_sinks


# Queries of heads that share keys become rows; axes in an order of their own; and neither.
@pytest.mark.parametrize("name", ["gemma4_unified_text", "xlnet", "llama"])
def test_one_token_sees_itself(name):
    maps = capture_attention(build_model(name), prompt=make_ids(1), reduction="pooled")
    assert [layer.tolist() for layer in maps.weights] == [[[[1.0]]] * 4] * 3


@pytest.mark.parametrize("name", NOT_AS_EAGER)
def test_weights_equal_those_of_torch(name):
    model, weights = build_model(name, NOT_AS_EAGER), []

    def keep(call):  # with one-hot values, attention returns its weights
        values = torch.eye(call.key.shape[2]).expand(*call.key.shape[:2], -1, -1)
        weights.append(torch.nn.functional.scaled_dot_product_attention(
            call.query, call.key, values, call.mask, is_causal=call.is_causal, scale=call.scale
        ))  # fmt: skip

    watch = AttentionWatch(ModuleStack(model), keep, None)
    with Loan() as loan:
        watch.stack.follow(loan)
        loan.enter_mode(watch)
        run(model)
    maps = capture_attention(model, prompt=make_ids())
    assert maps.layers == LAYERS.get(name, (0, 1, 2))
    assert (maps.source, maps.causal, maps.softcap) == ("sdpa", True, None)
    for ours, theirs in zip(maps.weights, weights, strict=True):
        np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # Funnel's, in transformers before 5
@pytest.mark.parametrize("name", REFUSED)
def test_models_without_weights_to_see_are_refused(name):
    model = build_model(name, REFUSED)
    with pytest.raises(CaptureError):
        capture_attention(model, prompt=make_ids())


@pytest.mark.parametrize(
    ("name", "table"), [(name, table) for table in (ENCODER_DECODERS, VISION, SPEECH) for name in table]
)
def test_each_kind_of_attention_is_seen(name, table):
    model, reference = (build_model(name, table, **o) for o in ({}, {"attn_implementation": "eager"}))
    inputs = make_inputs(table)
    with torch.no_grad():
        # Asked for weights, an eager model may take another path, with other rounding.
        eager = {"output_attentions": True} if model.config._attn_implementation == "eager" else {}
        expected, output = model(**inputs, **eager)[0], reference(**inputs, output_attentions=True)
    outputs = []
    maps = capture_attention_calls(lambda: outputs.append(model(**inputs, **eager)[0]), model=model)
    stacks = [m.weights for m in maps.values()]
    assert torch.equal(outputs[0], expected)
    if name == "wavlm":  # transformers hands out the mean over the heads in the place of each
        stacks = [[np.broadcast_to(layer.mean(0), layer.shape) for layer in stack] for stack in stacks]
    kinds = [kind for kind in output if kind.endswith("attentions")]
    assert len(kinds) == (3 if table is ENCODER_DECODERS else 1)
    assert len(stacks) == len(kinds) + (name == "siglip_vision_model")  # its head pools with attention
    for kind in kinds:
        layers = [layer[0].numpy() for layer in output[kind]]
        assert any(is_same(stack, layers) for stack in stacks), f"{kind} were not seen"


def is_same(stack, layers):
    return len(stack) == len(layers) and all(
        ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-5
        for ours, theirs in zip(stack, layers, strict=True)
    )
