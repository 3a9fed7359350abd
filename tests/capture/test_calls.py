import numpy as np
import pytest
import torch
from architectures import ENCODER_DECODERS, build_model
from transformers import SqueezeBertConfig, SqueezeBertModel

from attn_viewer import capture_attention, capture_attention_calls, plot_heads
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


@pytest.mark.parametrize("is_bart", [True, False])
def test_two_sequences_of_one_length_are_labelled_by_side(is_bart):
    if is_bart:
        model = build_model("bart", ENCODER_DECODERS)
        ids, decoder_ids = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11, 12]])
        run = lambda: model(ids, decoder_input_ids=decoder_ids, use_cache=False)  # noqa: E731
    else:
        torch.manual_seed(0)
        model = torch.nn.Transformer(16, 4, 2, 2, 32, batch_first=True).eval()
        source, target = torch.randn(2, 1, 4, 16)
        run = lambda: model(source, target)  # noqa: E731
    with pytest.raises(OptionError, match=r"as many as each of decoder, encoder"):
        capture_attention_calls(run, model=model, tokens=list("abcd"))
    with pytest.raises(OptionError, match="there are decoder, encoder"):
        capture_attention_calls(run, model=model, tokens={"left": list("abcd")})
    sides = {"encoder": list("abcd"), "decoder": list("wxyz")}
    found = capture_attention_calls(run, model=model, tokens=sides)
    labels = [("".join(maps.tokens_query), "".join(maps.tokens_key)) for maps in found.values()]
    assert sorted(labels) == [("abcd", "abcd"), ("wxyz", "abcd"), ("wxyz", "wxyz")]
    found = capture_attention_calls(run, model=model, tokens={"decoder": list("wxyz")})
    labels = [("".join(maps.tokens_query), "".join(maps.tokens_key)) for maps in found.values()]
    assert sorted(labels) == [("0123", "0123"), ("wxyz", "0123"), ("wxyz", "wxyz")]


class Written(Block):
    """The same layer with nothing that torch fuses; `normalise` makes weights of scores."""

    def __init__(self, normalise):
        super().__init__()
        self.normalise = normalise

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = self.normalise(scores.masked_fill(torch.ones(scores.shape[-2:]).bool().triu(1), -torch.inf))
        return x + torch.einsum("bhqk,bhkd->bqhd", weights, v).flatten(2)


def divide(scores):
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("normalise", [lambda scores: scores.softmax(-1), torch.nn.Softmax(-1), divide])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_layer_that_is_written_out_is_seen(program, normalise, at):
    model, x = program
    expected = capture_attention_calls(lambda: model(x), model=model, batch_index=1)
    written = Written(normalise)
    written.load_state_dict(model[at].state_dict())
    model[at] = written
    (maps,) = capture_attention_calls(lambda: model(x), model=model, batch_index=1).values()
    assert maps.layers == (0, 1, 2)
    assert maps.causal
    for ours, theirs in zip(maps.weights, expected["*"].weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_products_in_parts_of_their_own_are_those_of_the_module_around_them():
    torch.manual_seed(0)
    config = SqueezeBertConfig(num_hidden_layers=2, hidden_size=32, embedding_size=32, intermediate_size=48,
                               num_attention_heads=4, vocab_size=60)  # fmt: skip
    model = SqueezeBertModel(config).eval()
    expected = []
    for layer in model.encoder.layers:
        layer.attention.softmax.register_forward_hook(lambda *seen: expected.append(seen[-1]))
    (maps,) = capture_attention_calls(lambda: model(torch.arange(9)[None]), model=model).values()
    for ours, theirs in zip(maps.weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs[0].detach(), atol=1e-6)


def test_a_layer_between_others_that_shows_no_weights_is_an_error(program):
    model, x = program
    model[1] = Written(torch.sigmoid)
    with pytest.raises(CaptureError, match=r"first: '1', Written"):
        capture_attention_calls(lambda: model(x[:1]), model=model)
    model[1] = torch.nn.Linear(16, 16)  # what is no attention leaves no gap
    (maps,) = capture_attention_calls(lambda: model(x[:1]), model=model).values()
    assert maps.layers == (0, 2)


class Heads(Written):
    """Heads one by one."""

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 3, 0, 1, 4)
        return x + torch.cat([(q[i] @ k[i].mT).softmax(-1) @ v[i] for i in range(self.heads)], -1)


@pytest.mark.parametrize("layer", [Heads(None), Written(lambda scores: scores.softmax(-1) / 2)])
def test_products_that_do_not_tell_the_weights_are_refused_for_that(program, layer):
    _, x = program
    for model in (torch.nn.Sequential(layer), torch.nn.Sequential(Block(), layer, Block())):
        with pytest.raises(CaptureError, match=r"in a way that does not tell its weights .* register_attention"):
            capture_attention_calls(lambda model=model: model(x[:1]), model=model)


def test_a_batch_needs_a_choice_and_a_program_a_call(program):
    model, x = program
    with pytest.raises(OptionError, match="run must be a function"):
        capture_attention_calls(x)
    with pytest.raises(CaptureError, match=r"prompts of a batch, lie side by side .* batch_index="):
        capture_attention_calls(lambda: model(x), model=model)
    with pytest.raises(OptionError, match="batch_index=2, but module '0' runs on a batch of 2"):
        capture_attention_calls(lambda: model(x), model=model, batch_index=2)
    with pytest.raises(CaptureError, match="no attention weights"):
        capture_attention_calls(lambda: None)


class Flat(torch.nn.Module):
    """A layer whose prompts, or the heads of all of them, lie on the first of three axes."""

    def __init__(self, heads=1, num_heads=None, attend=SDPA):
        super().__init__()
        self.heads, self.num_heads, self.attend = heads, num_heads, attend
        self.qkv = torch.nn.Linear(16, 48)

    def forward(self, x):
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).flatten(1, 2)
        mask = torch.ones(len(parts[0]), 7, 7, dtype=torch.bool).tril()
        return x + self.attend(*parts, mask).unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2)

    def compute(self, x):
        q, k, _ = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).detach()
        future = torch.ones(7, 7, dtype=torch.bool).triu(1)
        return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf).softmax(-1)


@pytest.mark.parametrize("heads", [(1, None), (4, 4), (1, 1)])
def test_prompts_that_share_an_axis_with_heads_are_none(heads):
    torch.manual_seed(0)
    model, x = Flat(*heads), torch.randn(2, 7, 16)
    (maps,) = capture_attention_calls(lambda: model(x), model=model, batch_index=1).values()
    np.testing.assert_allclose(maps.weights[0], model.compute(x)[1], atol=1e-6)
    with pytest.raises(CaptureError, match="prompts of a batch, lie side by side"):
        capture_attention_calls(lambda: model(x), model=model)
    (maps,) = capture_attention_calls(lambda: model(x[:1]), model=model).values()
    np.testing.assert_allclose(maps.weights[0], model.compute(x[:1])[0], atol=1e-6)


def test_heads_of_all_prompts_on_one_axis_are_refused_where_nothing_tells_how_many_they_are():
    model = torch.nn.Sequential(torch.nn.Embedding(9, 16), Flat(4))
    ids = torch.arange(14).reshape(2, 7) % 9
    with pytest.raises(CaptureError, match=r"on a tensor of shape \(8, 7, 4\)"):
        capture_attention(model, prompt=ids, batch_index=1)
    maps = capture_attention(model, prompt=ids[:1])
    np.testing.assert_allclose(maps.weights[0], model[1].compute(model[0](ids[:1]))[0], atol=1e-6)


def test_attention_without_axes_of_heads_and_batch():
    torch.manual_seed(0)
    x = torch.randn(5, 16)
    mask = torch.eye(5).bool() | (torch.arange(5) > 2)
    (maps,) = capture_attention_calls(lambda: SDPA(x, x, x, mask)).values()
    expected = (x @ x.mT / 4).masked_fill(~mask, -torch.inf).softmax(-1)
    np.testing.assert_allclose(maps.weights[0][0], expected, atol=1e-6)
    model = torch.nn.MultiheadAttention(16, 4).eval()
    (maps,) = capture_attention_calls(lambda: model(x, x, x, need_weights=False), model=model).values()
    expected = model(x, x, x, average_attn_weights=False)[1]
    np.testing.assert_allclose(maps.weights[0], expected.detach(), atol=1e-6)


class Doubtful(torch.nn.MultiheadAttention):
    """Drops weights whatever it is told, as one does who samples from a model."""

    def forward(self, x):
        function, heads = torch.nn.functional.multi_head_attention_forward, self.num_heads
        first = x, x, x, self.embed_dim, heads, self.in_proj_weight, self.in_proj_bias, None, None, False, self.dropout
        return function(*first, self.out_proj.weight, self.out_proj.bias, True, None, False)[0]


def test_dropout_in_a_pass_has_the_random_numbers_that_it_has_without_us():
    model, x, outputs = Doubtful(16, 4, dropout=0.5), torch.randn(5, 1, 16), []

    def run():
        torch.manual_seed(0)
        outputs.append((model(x), torch.get_rng_state()))

    run()
    (maps,) = capture_attention_calls(run, model=model).values()
    assert all(map(torch.equal, *outputs))
    _, expected = torch.nn.MultiheadAttention.forward(model.eval(), x, x, x, average_attn_weights=False)
    np.testing.assert_allclose(maps.weights[0], expected[0].detach(), atol=1e-6)


@pytest.mark.parametrize("kept", [{}, {"reduction": "head_mean"}, {"reduction": "pooled", "max_cells": 3}])
def test_a_program_may_compute_gradients(program, kept):
    model, x = program
    options = {"model": model, "batch_index": 1} | kept
    (expected,) = capture_attention_calls(lambda: model(x), **options).values()
    gradients = torch.autograd.grad(model(x).sum(), model[0].qkv.weight)

    def run():
        with torch.enable_grad():
            model(x).sum().backward()

    (maps,) = capture_attention_calls(run, **options).values()
    np.testing.assert_allclose(maps.weights, expected.weights, atol=1e-6)
    torch.testing.assert_close(model[0].qkv.weight.grad, gradients[0])


@pytest.mark.parametrize(
    "attend",
    [
        lambda q, k, v, mask: torch.vmap(SDPA)(q, k, v),
        lambda q, k, v, mask: SDPA(*(part.to("meta") for part in (q, k, v))),
        lambda q, k, v, mask: SDPA(*(torch.nested.nested_tensor([*part[None]]) for part in (q, k, v))),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_attention_on_what_is_no_plain_array_is_refused(attend):
    model = Flat(4, attend=attend)
    with pytest.raises(CaptureError, match="tensors that are no plain arrays of numbers"):
        capture_attention_calls(lambda: model(torch.randn(1, 7, 16)), model=model)
