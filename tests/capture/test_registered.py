import numpy as np
import pytest
import torch

from attn_viewer import capture_attention, register_attention
from attn_viewer.capture import numbering
from attn_viewer.errors import CaptureError, OptionError


class TokenMixer(torch.nn.Module):
    """Attention that neither says so nor hands its weights out where others do."""

    def forward(self, x):
        scores = x @ x.transpose(-1, -2)
        shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
        return {"mixed": torch.stack([shares, shares.flip(-1)], 1).sum(1) @ x, "shares": (shares, shares.flip(-1))}


class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = None
        self.embed = torch.nn.Embedding(9, 4)
        self.layers = torch.nn.ModuleList([TokenMixer(), TokenMixer()])

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)["mixed"] / 2
        return x


@pytest.fixture
def odd():
    yield Odd()
    numbering.registered.pop(TokenMixer, None)


def test_an_odd_module_says_where_its_weights_are(odd):
    ids = torch.tensor([[1, 5, 2, 8]])
    with pytest.raises(CaptureError):
        capture_attention(odd, None, ids)
    register_attention(TokenMixer, lambda module, args, output: torch.stack(output["shares"], 1))
    maps = capture_attention(odd, None, ids)
    assert (maps.layers, maps.n_heads) == ((0, 1), (2, 2))
    x = odd.embed(ids)
    for layer, weights in zip(odd.layers, maps.weights, strict=True):
        output = layer(x)
        np.testing.assert_array_equal(weights, torch.stack(output["shares"], 1)[0].detach())
        x = output["mixed"] / 2


@pytest.mark.parametrize("answer", [None, torch.ones(2, 3), torch.ones(1, 2, 4, 4)])
def test_what_is_no_weights_is_refused(odd, answer):
    register_attention(TokenMixer, lambda module, args, output: answer)
    with pytest.raises(CaptureError, match="registered for TokenMixer must return weights"):
        capture_attention(odd, None, torch.tensor([[1, 5, 2, 8]]))


def test_what_cannot_be_registered_is_said():
    with pytest.raises(OptionError):
        register_attention(int, len)
    with pytest.raises(OptionError):
        register_attention(TokenMixer, None)
