import numpy as np
import pytest
import torch

from attn_viewer import capture_attention_calls, plot_heads
from attn_viewer.errors import CaptureError, OptionError

SDPA = torch.nn.functional.scaled_dot_product_attention


class Block(torch.nn.Module):
    """A hand-written attention layer, as people write them."""

    def __init__(self, width=16, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv = torch.nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return x + SDPA(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


@pytest.fixture
def program():
    torch.manual_seed(0)
    return torch.nn.Sequential(*(Block() for _ in range(3))), torch.randn(2, 7, 16)


def compute_weights(block, x):
    q, k, _ = block.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / 2
    return scores.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def test_a_hand_written_transformer(program):
    model, x = program
    maps = capture_attention_calls(lambda: model(x), model=model, batch_index=1, tokens=list("abcdefg"))
    (maps,) = maps.values()
    assert maps.layers == (0, 1, 2)
    assert maps.causal
    assert maps.tokens_key == tuple("abcdefg")
    assert maps.model_id == "Sequential"
    with torch.no_grad():
        second = model[0](x)
        expected = compute_weights(model[1], second)[1]
    np.testing.assert_allclose(maps.weights[1], expected, atol=1e-6)
    assert len(plot_heads(maps, 2).axes[0].images) == 4


def test_calls_without_a_model_are_counted(program):
    model, x = program
    maps = capture_attention_calls(lambda: model(x[:1]))
    assert list(maps) == [""]
    assert maps[""].layers == (0, 1, 2)


def test_the_weights_of_multihead_attention():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(1, 6, 16)
    (maps,) = capture_attention_calls(lambda: model(x), model=model).values()
    assert maps.layers == (0, 1)
    assert not maps.causal
    with torch.no_grad():
        _, expected = model.layers[0].self_attn(x, x, x, average_attn_weights=False)
    np.testing.assert_allclose(maps.weights[0], expected[0], atol=1e-6)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_batch_needs_a_choice_and_a_program_a_call(program):
    model, x = program
    with pytest.raises(OptionError, match="callable"):
        capture_attention_calls(x)
    with pytest.raises(CaptureError, match="one prompt at a time"):
        capture_attention_calls(lambda: model(x), model=model)
    with pytest.raises(CaptureError, match="no attention weights"):
        capture_attention_calls(lambda: None)
