"""Steps and chunks over a key-value cache, against one eager pass over all tokens."""

import numpy as np
import pytest
import torch
import transformers
from architectures import NOT_AS_EAGER, build_model, make_ids
from test_calls import SDPA

from attn_viewer import capture_attention_calls
from attn_viewer.errors import CaptureError

IDS = torch.tensor([make_ids(12)])
FAMILIES = [
    *("mistral", "llama", "qwen3", "gemma2", "gemma3_text", "gemma4_text", "phi3", "cohere2", "gpt2", "gpt_neox"),
    *("falcon", "falcon (grouped)", "gpt_bigcode", "gpt_oss", "opt", "bloom", "bert (decoder)"),
]
FULLY = ("mistral", "gpt_oss")
CACHES = {
    "dynamic": lambda config: transformers.DynamicCache(),
    "sliding": lambda config: transformers.DynamicCache(config=config),
    "static": lambda config: transformers.StaticCache(config=config, max_cache_len=20),
}


def takes_static_cache(model, cut, stop):
    """Tell whether steps over a static cache give the model's own output; some attend to what is not yet written."""
    cache = CACHES["static"](model.config)
    with torch.no_grad():
        whole = model(IDS[:, :stop], use_cache=False).logits
        try:
            model(IDS[:, :cut], past_key_values=cache, use_cache=True)
            steps = model(IDS[:, cut:stop], past_key_values=cache, use_cache=True).logits
        except RuntimeError:
            return False
    return torch.allclose(whole[:, cut:], steps, atol=1e-4)


def run_cached(model, cut, stop, cache, **arguments):
    """Run a model over the first tokens, then capture what it does with those up to `stop`."""
    with torch.no_grad():
        model(IDS[:, :cut], past_key_values=cache, use_cache=True)
    step = lambda: model(IDS[:, cut:stop], past_key_values=cache, use_cache=True, **arguments)  # noqa: E731
    (maps,) = capture_attention_calls(step, model=model, tokens=[f"t{i}" for i in range(stop)]).values()
    return maps


@pytest.mark.parametrize(
    ("name", "n_new", "cut"),
    [  # of all families one step, of two each number of new tokens, of which 2 are as many as heads that share keys
        pytest.param(name, n_new, cut, marks=[pytest.mark.slow] * (name not in FULLY and (n_new, cut) != (1, 9)))
        for name in FAMILIES
        for n_new in (1, 2, 3)
        for cut in (3, 9)  # before and after the window of 5 is full
    ],
)
def test_steps_over_a_cache_are_rows_of_the_whole(name, n_new, cut):
    reference = build_model(name, attn_implementation="eager")
    model = reference if name in NOT_AS_EAGER else build_model(name)
    stop = cut + n_new
    with torch.no_grad():
        attentions = reference(IDS[:, :stop], use_cache=False, output_attentions=True).attentions
    for cache, make_cache in CACHES.items():
        for ours, options in ((model, {}), (reference, {"output_attentions": True})):
            if cache == "static" and not takes_static_cache(ours, cut, stop):
                continue
            maps = run_cached(ours, cut, stop, make_cache(ours.config), **options)
            assert (maps.kind, maps.causal, maps.first_query) == ("self", True, cut)
            assert maps.tokens_key == tuple(f"t{i}" for i in range(stop))
            assert maps.tokens_query == maps.tokens_key[cut:]
            for weights, theirs in zip(maps.weights, attentions, strict=True):
                np.testing.assert_allclose(weights, theirs[0, :, cut:].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"reduction": "head_mean"}, {"reduction": "pooled", "max_cells": 6}])
def test_reductions_and_chosen_queries_of_a_chunk(options):
    model = build_model("mistral")
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        model(IDS[:, :7], past_key_values=cache)
    maps = capture_attention_calls(lambda: model(IDS[:, 7:], past_key_values=cache), model=model, queries=2, **options)[
        "model.layers.*.self_attn"
    ]
    assert (maps.first_query, maps.queries_after) == (10, 0)
    assert not np.where(maps.future, maps.weights[0], 0).any()
    assert maps.tokens_query == ("10", "11")


def test_the_steps_of_a_decoder_are_its_own_and_cross_attention_stays_cross():
    config = transformers.BartConfig(
        vocab_size=96, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
    )  # fmt: skip
    model, given = transformers.BartModel(config).eval(), torch.tensor([[2, 5, 9]])
    with torch.no_grad():
        first = model(IDS, decoder_input_ids=given, use_cache=True)
    state = {"encoder_outputs": (first.encoder_last_hidden_state,), "past_key_values": first.past_key_values}
    maps = capture_attention_calls(lambda: model(decoder_input_ids=given[:, :1], **state), model=model)
    own, cross = maps["decoder.layers.*.self_attn"], maps["decoder.layers.*.encoder_attn"]
    assert (own.kind, own.causal, own.first_query, own.weights[0].shape) == ("decoder", True, 3, (4, 1, 4))
    assert (cross.kind, cross.causal, cross.first_query, cross.weights[0].shape) == ("cross", False, 0, (4, 1, 12))


class CachedBlock(torch.nn.Module):
    """A hand-written layer that keeps its keys and values itself."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(16, 48)
        self.past = None

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        if self.past is not None:
            k, v = (torch.cat(parts, 2) for parts in zip(self.past, (k, v), strict=True))
        self.past = k, v
        n, total = q.shape[2], k.shape[2]
        mask = torch.ones(n, total, dtype=torch.bool).tril(total - n) if n > 1 else None
        return x + SDPA(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("n_new", [1, 3])
def test_a_cache_of_a_program_s_own(n_new):
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(CachedBlock(), CachedBlock()), torch.randn(1, 8, 16)
    (whole,) = capture_attention_calls(lambda: model(x), model=model).values()
    for block in model:
        block.past = None
    with torch.no_grad():
        model(x[:, :-n_new])
    (maps,) = capture_attention_calls(lambda: model(x[:, -n_new:]), model=model).values()
    assert (maps.kind, maps.causal, maps.first_query) == ("self", True, 8 - n_new)
    np.testing.assert_allclose(np.stack(maps.weights), np.stack(whole.weights)[:, :, -n_new:], atol=1e-6)


def test_keys_that_a_static_cache_has_not_written_are_no_tokens():
    query, key = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 6, 4)

    class Step(torch.nn.Module):
        def forward(self, x, past_key_values, mask=None):
            return SDPA(query, key, key, attn_mask=mask)

    cache = transformers.DynamicCache()
    cache.update(key[:, :, :3], key[:, :, :3], 0)
    run = lambda mask: capture_attention_calls(  # noqa: E731
        lambda: model(torch.ones(1, 1, 8), past_key_values=cache, mask=mask), model=model
    )
    model = Step()
    maps = run(torch.arange(6)[None] < 4)[""]
    assert (maps.first_query, len(maps.tokens_key), maps.causal) == (3, 4, True)
    np.testing.assert_allclose(maps.weights[0].sum(-1), 1, atol=1e-6)
    with pytest.raises(CaptureError, match="2 keys behind the last token"):
        run(None)


def test_fewer_keys_than_tokens_without_a_window_are_refused():
    """Compressed keys, or a cache that dropped some: nobody knows which tokens they are."""
    query, key = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 4, 4)

    class Step(torch.nn.Module):
        def forward(self, x, past_key_values):
            return SDPA(query, key, key)

    cache = transformers.DynamicCache()
    cache.update(torch.zeros(1, 2, 9, 4), torch.zeros(1, 2, 9, 4), 0)
    model = Step()
    with pytest.raises(CaptureError, match="4 keys where its cache has seen 10 tokens"):
        capture_attention_calls(lambda: model(torch.ones(1, 1, 8), past_key_values=cache), model=model)
