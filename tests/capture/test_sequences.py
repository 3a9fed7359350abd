"""Passes are no layers, and weights over other things than tokens are no maps."""

import pytest
import torch
import transformers
from architectures import build_model, make_ids
from test_calls import Block

from attn_viewer import capture_attention, capture_attention_calls
from attn_viewer.errors import CaptureError

X = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(0))


class Twin(torch.nn.Module):
    """One encoder for two inputs."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(Block())

    def forward(self, x):
        return self.encoder(x) - self.encoder(x.flip(1))


class Universal(torch.nn.Module):
    """One layer, run again on what it put out."""

    def __init__(self):
        super().__init__()
        self.layer = Block()

    def forward(self, x):
        for _ in range(3):
            x = self.layer(x)
        return x


def test_passes_of_one_layer_are_not_shown_as_layers():
    block = torch.nn.Sequential(Block())
    for model, run in (
        (block, lambda: (block(X), block(X + 1))),
        (twin := Twin(), lambda: twin(X)),
        (bert := build_model("bert"), lambda: [bert(torch.tensor([make_ids(n)])) for n in (5, 5)]),
    ):
        with pytest.raises(CaptureError, match="'steps' keeps each pass"):
            capture_attention_calls(run, model=model)
    llama = build_model("llama")
    with pytest.raises(CaptureError, match="'steps' keeps each pass"):
        capture_attention_calls(lambda: llama.generate(torch.tensor([make_ids(4)]), max_new_tokens=3), model=llama)


def test_a_layer_that_runs_on_its_own_output_is_several():
    model = Universal()
    (maps,) = capture_attention_calls(lambda: model(X), model=model).values()
    assert maps.layers == (0, 1, 2)
    assert capture_attention(build_model("albert"), prompt=make_ids()).layers == (0, 1, 2)


_BERT = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}


@pytest.mark.parametrize(
    ("n_heads", "n_tokens", "window"), [(4, 12, 4), (4, 4, 4), (8, 16, 8), (16, 16, 8), (8, 24, 4)]
)
def test_weights_of_a_band_are_refused(n_heads, n_tokens, window):
    config = transformers.LongformerConfig(
        **_BERT, num_attention_heads=n_heads, attention_window=window, max_position_embeddings=64
    )
    model, ids = transformers.LongformerModel(config).eval(), torch.tensor([make_ids(n_tokens)])
    with pytest.raises(CaptureError, match=r"no map from tokens to tokens"):
        capture_attention_calls(lambda: model(ids, output_attentions=True), model=model)


def test_block_sparse_weights_are_refused_and_whole_ones_shown():
    config = transformers.BigBirdConfig(
        **_BERT, num_attention_heads=4, attention_type="block_sparse", block_size=4, num_random_blocks=1,
        max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.BigBirdModel(config).eval()
    with pytest.raises(CaptureError, match=r"no learned sinks|could not be seen"):
        capture_attention(model, prompt=make_ids(64))


class HandsOut(torch.nn.Module):
    """Attention that returns what it is told to, beside its output."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.num_heads = weights, 2

    def forward(self, x):
        return x, self.weights


HandsOut.__name__ = "HandsOutAttention"


def make_weights(*shape):
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).softmax(-1)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (make_weights(3, 7, 7), "3 heads where it has 2"),
        (make_weights(2, 5, 5), "5 queries where it was given 7 tokens"),
        (make_weights(2, 7, 4), "4 keys for 7 queries"),
        (make_weights(2, 7, 7) * 0.5, "sum to 0.5, not to 1, and it has no learned sinks"),
        (make_weights(2, 7, 8)[..., 1:], "no learned sinks"),
    ],
)
def test_what_cannot_be_weights_is_refused(weights, reason):
    model = torch.nn.Sequential(HandsOut(weights))
    with pytest.raises(CaptureError, match=reason):
        capture_attention_calls(lambda: model(X), model=model)


def test_sinks_are_claimed_only_where_there_are_some():
    short = make_weights(2, 7, 8)[..., 1:]
    module = HandsOut(short)
    module.sinks = torch.nn.Parameter(torch.zeros(2))
    model = torch.nn.Sequential(module)
    (maps,) = capture_attention_calls(lambda: model(X), model=model).values()
    assert maps.has_sinks
    padded = make_weights(2, 7, 7)
    padded[:, :, :2] = 0  # rows of padding
    model = torch.nn.Sequential(HandsOut(padded))
    (maps,) = capture_attention_calls(lambda: model(X), model=model).values()
    assert not maps.has_sinks
