import inspect
import types

import numpy as np
import pytest
import torch
import transformers
from conftest import make_maps

import attn_viewer
from attn_viewer import AttentionMaps, capture_attention
from attn_viewer.errors import InvalidMapsError

MAPS = make_maps(2, 3, 5, causal=False)
LAYERS = MAPS.weights
TOKENS = list(MAPS.tokens_key)
BATCHED = tuple(torch.from_numpy(layer[None].copy()).requires_grad_() for layer in LAYERS)


class Cache:
    """Keys and values, but no mapping: as TransformerLens's ActivationCache is."""

    def __init__(self, content):
        self.keys, self.__getitem__ = content.keys, content.__getitem__
        self.content = content

    def __getitem__(self, key):
        return self.content[key]


FORMS = {
    "the tuple of an output, with gradients": (BATCHED, 2),
    "an output": (transformers.modeling_outputs.BaseModelOutput(attentions=BATCHED), 2),
    "bfloat16": ([layer.bfloat16() for layer in BATCHED], 2),
    "float64": ([layer.double() for layer in BATCHED], 2),
    "arrays without a batch axis": (list(LAYERS), 2),
    "all layers in one tensor": (torch.stack(BATCHED), 2),
    "one layer": (LAYERS[0], 1),
    "one layer of a batch of one": (BATCHED[0], 1),
    "one head": (LAYERS[0][:1], 1),
    "one matrix": (torch.from_numpy(LAYERS[0][0].copy()), 1),
    "heads as a list of matrices": (list(LAYERS[0]), 1),
    "lists of numbers": (LAYERS[0].tolist(), 1),
    "a cache of TransformerLens": (
        Cache({"hook_embed": 0} | {f"blocks.{i}.attn.hook_pattern": layer for i, layer in enumerate(BATCHED)}),
        2,
    ),
    "the file of pattern-lens": ({f"blocks.{i}.attn.hook_pattern": layer[None] for i, layer in enumerate(LAYERS)}, 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_weights(form):
    attentions, n_layers = FORMS[form]
    maps = AttentionMaps.from_attentions(attentions, TOKENS, model_id="m")
    assert (len(maps.weights), maps.causal, maps.kind, maps.model_id) == (n_layers, False, "self", "m")
    for ours, theirs in zip(maps.weights, LAYERS, strict=False):
        np.testing.assert_allclose(ours, theirs[: len(ours)], atol=4e-3 if form == "bfloat16" else 1e-7)


def test_true_numbers_of_layers_are_the_caches():
    cache = {f"blocks.{i}.attn.hook_pattern": layer for i, layer in ((7, LAYERS[1]), (3, LAYERS[0]))}
    maps = AttentionMaps.from_attentions(cache, TOKENS)
    assert maps.layers == (3, 7)
    np.testing.assert_array_equal(maps.get_layer(7), LAYERS[1])


def make_seq2seq():
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0
    )
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()


def test_an_encoder_decoder_has_three_maps():
    with torch.no_grad():
        output = make_seq2seq()(
            input_ids=torch.tensor([[3, 4, 5, 1]]), decoder_input_ids=torch.tensor([[0, 7]]), output_attentions=True
        )
    source, target = list("abcd"), list("xy")
    encoder = AttentionMaps.from_attentions(output, source, kind="encoder")
    decoder = AttentionMaps.from_attentions(output, target, kind="decoder")
    cross = AttentionMaps.from_attentions(output, source, tokens_query=target, kind="cross")
    assert [maps.causal for maps in (encoder, decoder, cross)] == [False, True, False]
    assert [maps.kind for maps in (encoder, decoder, cross)] == ["encoder", "decoder", "cross"]
    np.testing.assert_array_equal(cross.weights[1], output.cross_attentions[1][0].numpy())
    assert AttentionMaps.from_attentions(output.cross_attentions, source, tokens_query=target).kind == "cross"
    with pytest.raises(InvalidMapsError, match="say kind='decoder' or 'cross' or 'encoder'"):
        AttentionMaps.from_attentions(output, source)
    with pytest.raises(InvalidMapsError, match="no attentions of kind 'self'"):
        AttentionMaps.from_attentions(output, source, kind="self")


@pytest.mark.parametrize("use_cache", [True, False])
def test_steps_of_a_generation_are_one_square(demo, use_cache):
    model, tokenizer = demo
    model = transformers.AutoModelForCausalLM.from_pretrained(model.name_or_path, attn_implementation="eager")
    inputs = tokenizer("In the beginning", return_tensors="pt")
    output = model.generate(
        **inputs, max_new_tokens=4, do_sample=False, output_attentions=True, return_dict_in_generate=True,
        use_cache=use_cache,
    )  # fmt: skip
    ids = output.sequences[0]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    maps = AttentionMaps.from_attentions(output, tokens)
    whole = capture_attention(model, tokenizer, ids[:-1].tolist())
    n_prompt = inputs["input_ids"].shape[1]
    assert (maps.causal, maps.prompt_length, maps.shape) == (True, n_prompt, (n_prompt + 3,) * 2)
    for ours, theirs in zip(maps.weights, whole.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    steps = AttentionMaps.from_attentions(output.attentions, tokens[:-1])
    np.testing.assert_array_equal(steps.weights[0], maps.weights[0])


def test_cross_attention_of_a_generation():
    model = make_seq2seq()
    ids = torch.tensor([[3, 4, 5, 1]])
    output = model.generate(
        ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, output_attentions=True, return_dict_in_generate=True
    )
    cross = AttentionMaps.from_attentions(output, list("abcd"), tokens_query=list("xyz"), kind="cross")
    decoder = AttentionMaps.from_attentions(output, list("xyz"), kind="decoder")
    with torch.no_grad():
        whole = model(input_ids=ids, decoder_input_ids=output.sequences[:, :3], output_attentions=True)
    for maps, theirs in ((cross, whole.cross_attentions), (decoder, whole.decoder_attentions)):
        for ours, layer in zip(maps.weights, theirs, strict=True):
            np.testing.assert_allclose(ours, layer[0].numpy(), atol=1e-5)


def test_the_last_queries_are_found():
    causal = make_maps(1, 2, 6)
    maps = AttentionMaps.from_attentions(causal.weights[0][:, -2:], causal.tokens_key)
    assert (maps.causal, maps.first_query, maps.tokens_query) == (True, 4, ("t4", "t5"))
    sides = [layer[:, :2] for layer in LAYERS]  # also of a model that looks both ways, where it is said
    assert AttentionMaps.from_attentions(sides, TOKENS, kind="self").tokens_query == tuple(TOKENS[-2:])
    assert AttentionMaps.from_attentions(sides, TOKENS, tokens_query=["a", "b"]).kind == "cross"
    first = AttentionMaps([causal.weights[0][:, :2]], causal.tokens_key, tokens_query=["t0", "t1"])
    assert (first.causal, first.first_query) == (True, 0)
    said = AttentionMaps([causal.weights[0][:, -2:]], causal.tokens_key, tokens_query=["t4", "t5"], causal=True)
    assert said.first_query == 4


def test_one_prompt_of_a_batch():
    batch = [torch.cat([layer * 0 + 1 / 5, layer]) for layer in BATCHED]
    maps = AttentionMaps.from_attentions(batch, TOKENS, batch_index=1)
    np.testing.assert_array_equal(maps.weights[1], LAYERS[1])
    for wrong, words in ((None, "2 prompts"), (2, "0 to 1"), ("x", "0 to 1"), (-1, "0 to 1")):
        with pytest.raises(InvalidMapsError, match=words):
            AttentionMaps.from_attentions(batch, TOKENS, batch_index=wrong)


BAD = LAYERS[0].copy()
BAD[1, 2] *= 2
NAN = LAYERS[0].copy()
NAN[0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("attentions", "facts", "words"),
    [
        (LAYERS, {"tokens": TOKENS[:4]}, "5 × 5 weights where"),
        (LAYERS, {"tokens": "t0t1t2"}, "tokens must be a list of str"),
        (LAYERS, {"tokens": [1, 2, 3, 4, 5]}, "tokens_key must be str, got 1"),
        (LAYERS, {"tokens_query": 7}, "tokens_query must be a list of str"),
        (BAD, {}, r"row 2 of array 0, head 1 sums to 2"),
        (LAYERS[0] / 2, {}, "sums to 0.5"),
        (NAN, {}, "nan"),
        ([layer[:, :3] for layer in LAYERS], {}, "say tokens_query="),
        (np.log(LAYERS[0]), {}, "not be negative"),
        ([[0.5, 0.5], [1.0]], {}, "attentions must be"),
        ([LAYERS[0], {"a": 1}], {}, "attentions must be"),
        ([LAYERS[0], LAYERS[1][:, :4]], {}, "layer 1 has 4 × 5"),
        ([LAYERS[0][0], LAYERS[0][0][:4]], {}, "one shape"),
        (np.stack(LAYERS), {}, "may be layers or a batch"),
        (np.ones((1,) * 6), {}, "shape"),
        ([], {}, "empty list"),
        ([[]], {}, "empty list"),
        ("attentions", {}, "attentions must be"),
        (None, {}, "attentions must be"),
        (3.5, {}, "attentions must be"),
        (object(), {}, "attentions must be"),
        ({"logits": LAYERS[0]}, {}, "output_attentions=True"),
        (LAYERS, {"kind": "other"}, "kind must be one of"),
        (LAYERS, {"causal": "yes"}, "causal must be"),
        (LAYERS, {"is_causal": True}, "no fact"),
        ([[LAYERS[0][None], LAYERS[1][None]], [LAYERS[0][None]]], {}, "one array a layer"),
        ([[LAYERS[0][None]], [LAYERS[0][None]]], {}, "must grow"),
        (types.SimpleNamespace(attentions=LAYERS), {}, "attentions must be"),
    ],
)  # fmt: skip
def test_what_are_no_attentions_is_refused(attentions, facts, words):
    with pytest.raises(InvalidMapsError, match=words):
        AttentionMaps.from_attentions(attentions, **{"tokens": TOKENS, **facts})


def test_sinks_and_padding_may_take_a_row():
    rows = LAYERS[0].copy()
    rows[:, 3] = 0
    assert not AttentionMaps.from_attentions(rows, TOKENS).has_sinks
    assert AttentionMaps.from_attentions(rows / 2, TOKENS, has_sinks=True).has_sinks


def list_readers():
    """All public functions that take maps."""
    for name in attn_viewer.__all__:
        function = getattr(attn_viewer, name)
        if inspect.isfunction(function):
            parameters = list(inspect.signature(function).parameters)
            if parameters[:1] in (["maps"], ["first"]) and name != "average_maps":
                yield pytest.param(function, len([p for p in parameters if p in ("maps", "first", "second")]), id=name)


@pytest.mark.parametrize(("function", "count"), list_readers())
def test_whoever_is_handed_arrays_says_what_makes_maps_of_them(function, count):
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind == parameter.POSITIONAL_OR_KEYWORD
    ]
    for arrays in (BATCHED, LAYERS[0], list(LAYERS), None, "maps"):
        with pytest.raises(InvalidMapsError, match=rf"{function.__name__} needs AttentionMaps, got .*from_attentions"):
            function(*[arrays] * count, *[0] * (len(needed) - count))
