"""Weights times the norms of projected values, against the same from hooks and a model's own parameters."""

import json

import numpy as np
import pytest
import torch
from architectures import ENCODER_DECODERS, build_model, make_ids
from conftest import store_prompt

from attn_viewer import (
    AttentionMaps,
    ablate_heads,
    capture_attention,
    capture_attention_calls,
    load_scores,
    merge_heads,
    plot_birds_eye,
    plot_layer_averages,
    roll_out_attention,
    save_scores,
    score_heads,
)
from attn_viewer.analysis import find_sinks
from attn_viewer.cli import main
from attn_viewer.errors import CaptureError, OptionError, UnsuitableMapsError
from attn_viewer.storage import load_prompt_maps
from attn_viewer.storage.folder import DataFolder
from attn_viewer.web.encode import describe_maps
from attn_viewer.web.replies import describe_weights

# Modules that make values, and the output projection; `None` where one module makes queries, keys and values.
PLACES = {
    "llama": ("model.layers.{}.self_attn.v_proj", "model.layers.{}.self_attn.o_proj"),
    "mistral": ("model.layers.{}.self_attn.v_proj", "model.layers.{}.self_attn.o_proj"),
    "qwen3": ("model.layers.{}.self_attn.v_proj", "model.layers.{}.self_attn.o_proj"),
    "bert": ("bert.encoder.layer.{}.attention.self.value", "bert.encoder.layer.{}.attention.output.dense"),
    "opt": ("model.decoder.layers.{}.self_attn.v_proj", "model.decoder.layers.{}.self_attn.out_proj"),
    "gpt2": ("transformer.h.{}.attn.c_attn", "transformer.h.{}.attn.c_proj"),
}


def compute_by_hand(name, ids):
    """Return one array (n_heads, n, n) a layer from an eager pass, a hook on the values and the projection's slices."""
    model, kept = build_model(name, attn_implementation="eager"), []
    for layer in range(3):
        module = model.get_submodule(PLACES[name][0].format(layer))
        module.register_forward_hook(lambda m, a, output: kept.append(output[0]))
    with torch.no_grad():
        attentions = model(torch.tensor([ids]), use_cache=False, output_attentions=True).attentions
    layers = []
    for layer, (weights, value) in enumerate(zip(attentions, kept, strict=True)):
        weight = model.get_submodule(PLACES[name][1].format(layer)).weight.detach()
        if name == "gpt2":
            value, weight = value.chunk(3, -1)[2], weight.T
        value = value.unflatten(-1, (-1, 8))  # n, key heads, 8
        heads = []
        for head in range(4):
            moved = value[:, head // (4 // value.shape[1])] @ weight[:, head * 8 : head * 8 + 8].T
            heads.append(weights[0, head] * moved.norm(dim=-1))
        layers.append(torch.stack(heads).numpy())
    return layers


@pytest.mark.parametrize("name", PLACES)
def test_weights_are_scaled_as_by_hand(name):
    ids = make_ids()
    expected, model = compute_by_hand(name, ids), build_model(name)
    outputs, last = [], model.get_submodule(PLACES[name][1].format(2))
    handle = last.register_forward_hook(lambda module, args, output: outputs.append(output))
    model(torch.tensor([ids]), use_cache=False)
    maps = capture_attention(model, prompt=ids, weighting="value_norm")
    handle.remove()
    means = capture_attention(model, prompt=ids, weighting="value_norm", reduction="head_mean")
    some = capture_attention(model, prompt=ids, weighting="value_norm", queries=3, heads=[1, 3], layers=[2])
    assert maps.weighting == means.weighting == "value_norm"
    for ours, mean, theirs in zip(maps.weights, means.weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(mean[0], theirs.mean(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(some.weights[0], expected[2][[1, 3], -3:], rtol=0, atol=1e-5)
    for pooling in ("max", "mean"):
        pooled = capture_attention(
            model, prompt=ids, weighting="value_norm", reduction="pooled", max_cells=4, pooling=pooling
        )
        cells = np.stack(expected).reshape(3, 4, 4, 3, 4, 3)
        theirs = cells.max((3, 5)) if pooling == "max" else cells.mean((3, 5))
        np.testing.assert_allclose(np.stack(pooled.weights), theirs, rtol=0, atol=1e-5)
    assert torch.equal(*outputs)


def test_what_a_head_contributes_for_one_token_is_what_its_projection_puts_out():
    """With one token all weight is 1, and the norm that of the layer's output when other heads are zeroed."""
    model, ids, outputs = build_model("qwen3"), make_ids(1), []
    model.model.layers[1].self_attn.o_proj.register_forward_hook(lambda module, args, output: outputs.append(output))
    with ablate_heads(model, [(1, 0), (1, 1), (1, 3)]):
        maps = capture_attention(model, prompt=ids, weighting="value_norm")
    assert maps.get_layer(1)[2, 0, 0] == pytest.approx(float(outputs[0].norm()), rel=1e-5)
    assert not maps.get_layer(1)[[0, 1, 3]].any()


def test_an_encoder_decoder_has_scaled_cross_attention():
    model = build_model("bart", ENCODER_DECODERS)
    plain = capture_attention(model, prompt=make_ids(), kind="cross")
    maps = capture_attention(model, prompt=make_ids(), kind="cross", weighting="value_norm")
    ratio = maps.weights[0] / plain.weights[0]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"attn_implementation": "eager"}),
        ("gpt_oss", {"attn_implementation": "eager"}),
        ("qwen3_next", {}),  # a gate before the projection
        ("diffllama", {}),  # the difference of two calls
        ("bitnet", {}),  # a norm before the projection
    ],
)
def test_where_values_or_projection_are_not_certain_it_is_refused(name, options):
    with pytest.raises(CaptureError, match="cannot be scaled"):
        capture_attention(build_model(name, **options), prompt=make_ids(), weighting="value_norm")


def test_what_an_adapter_adds_is_not_left_out_in_silence():
    class Adapter(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer, self.more = base, torch.nn.Linear(32, 32)

        def forward(self, x):
            return self.base_layer(x) + self.more(torch.nn.functional.silu(x))

    model = build_model("llama")
    model.model.layers[1].self_attn.o_proj = Adapter(model.model.layers[1].self_attn.o_proj)
    with pytest.raises(CaptureError, match=r"layers\.1\.self_attn.*merge adapters"):
        capture_attention(model, prompt=make_ids(), weighting="value_norm")


class Beside(torch.nn.Module):
    """A projection with an adapter beside it, which is no module around it."""

    def __init__(self, attention, factor):
        super().__init__()
        self.o_proj, self.adapter, self.factor = attention.o_proj, torch.nn.Linear(32, 32), factor

    def forward(self, x):
        return self.o_proj(x) + self.factor * self.adapter(x)


class Quantised(torch.nn.Module):
    """A linear module whose weights are whole numbers."""

    def __init__(self, linear):
        super().__init__()
        self.scale = float(linear.weight.detach().abs().max()) / 127
        self.register_buffer("weight", (linear.weight / self.scale).round().to(torch.int8))

    def forward(self, x):
        return x @ (self.weight.float() * self.scale).T


def add_adapter(kind):
    """Return a model whose output projections, or values, have an adapter."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    targets = ["v_proj"] if kind == "values" else ["o_proj"]
    options = {"use_dora": kind == "dora", "init_lora_weights": kind == "idle"}
    config = peft.LoraConfig(r=2, target_modules=targets, **options)
    return peft.get_peft_model(build_model("llama"), config).base_model.model.eval()


def capture_norms(model):
    return np.stack(capture_attention(model, prompt=make_ids(), weighting="value_norm").weights)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_of_the_projection_has_to_be_merged(kind):
    model = add_adapter(kind)
    with pytest.raises(CaptureError, match="merge adapters"):
        capture_norms(model)
    for module in model.modules():
        if hasattr(module, "merge"):
            module.merge()
    plain = build_model("llama")
    for layer, merged in zip(plain.model.layers, model.model.layers, strict=True):
        layer.self_attn.o_proj.weight.data = merged.self_attn.o_proj.base_layer.weight.data
    np.testing.assert_allclose(capture_norms(model), capture_norms(plain), rtol=0, atol=1e-4)


def test_an_adapter_that_adds_nothing_or_changes_values_alone_is_taken_as_it_is():
    plain = capture_norms(build_model("llama"))
    np.testing.assert_allclose(capture_norms(add_adapter("idle")), plain, rtol=0, atol=1e-5)
    model = add_adapter("values")
    changed = capture_norms(model)
    assert np.abs(changed - plain).max() > 1e-2
    for module in model.modules():
        if hasattr(module, "merge"):
            module.merge()
    np.testing.assert_allclose(capture_norms(model), changed, rtol=0, atol=1e-4)


@pytest.mark.parametrize("where", ["quantised", "beside", "in the attention", "hook", "gate", "norm", "subclass"])
def test_what_stands_between_heads_and_output_is_seen(where):
    model = build_model("llama")
    attention = model.model.layers[1].self_attn
    projection = attention.o_proj
    if where == "quantised":
        attention.o_proj = Quantised(projection)
    elif where == "beside":
        attention.o_proj = Beside(attention, 0.01)
    elif where == "in the attention":
        attention.register_forward_hook(lambda module, args, output: (output[0] * 1.01, *output[1:]))
    elif where == "hook":
        projection.register_forward_hook(lambda module, args, output: output * 1.01)
    elif where == "gate":
        projection.register_forward_pre_hook(lambda module, args: (args[0] * torch.linspace(0.5, 1, 32),))
    elif where == "norm":
        attention.o_proj = torch.nn.Sequential(torch.nn.LayerNorm(32), projection)
    else:
        projection.__class__ = type("Scaled", (torch.nn.Linear,), {"forward": lambda self, x: 2 * (x @ self.weight.T)})
    with pytest.raises(CaptureError, match=r"layers\.1\.self_attn.*merge adapters"):
        capture_norms(model)


def test_an_adapter_beside_that_adds_nothing_leaves_the_projection_certain():
    model = build_model("llama")
    model.model.layers[1].self_attn.o_proj = Beside(model.model.layers[1].self_attn, 0.0)
    np.testing.assert_allclose(capture_norms(model), capture_norms(build_model("llama")), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_reason_to_refuse(dtype):
    half = capture_norms(build_model("gpt2").to(dtype))
    np.testing.assert_allclose(half, capture_norms(build_model("gpt2")), rtol=0.1, atol=0.1)


class Overwriting(torch.nn.Module):
    """Attention that uses the memory of its queries, keys and values again, at a precision of its own."""

    def __init__(self, fill, precision):
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)
        self.fill, self.precision = fill, precision

    def forward(self, x):
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            parts = self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
            made = torch.nn.functional.scaled_dot_product_attention(*parts)
            self.kept = parts.clone()
            parts.fill_(self.fill)
            return self.out(made.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_values_are_those_that_the_call_had_and_in_full_precision(precision):
    torch.manual_seed(0)
    model, x = Overwriting(3.0, precision), torch.randn(1, 6, 16)
    (maps,) = capture_attention_calls(lambda: model(x), model=model, weighting="value_norm").values()
    query, key, value = model.kept.double()[:, 0]
    moved = value @ model.out.weight.detach().double().T.unflatten(0, (4, 4))
    expected = (query @ key.mT / 2).softmax(-1) * moved.norm(dim=-1)[:, None]
    np.testing.assert_allclose(maps.weights[0], expected, rtol=1e-5)


def test_calls_without_a_model_have_no_projection():
    parts = torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    run = lambda: torch.nn.functional.scaled_dot_product_attention(*parts)  # noqa: E731
    with pytest.raises(CaptureError, match="cannot be scaled"):
        capture_attention_calls(run, weighting="value_norm")
    with pytest.raises(OptionError, match="'attention', 'value_norm'"):
        capture_attention_calls(run, weighting="rollout")


@pytest.fixture(scope="module")
def scaled():
    model = build_model("llama")
    with merge_heads(model, 0, 1, 2):
        return capture_attention(model, prompt=make_ids(), weighting="value_norm", model_id="tiny")


def test_scores_of_shares_are_refused_and_others_are_not(scaled):
    table = score_heads(scaled)
    assert set(table.columns) == {
        *("mean_distance", "heaviest_column", "keys_90", "keys_95", "keys_99", "effective_rank", "nuclear_norm")
    }
    assert "norm of its projected value" in table.about
    for name in ("entropy", "induction", "sink_mass", "local_mass"):
        with pytest.raises(UnsuitableMapsError, match=f"{name}.*value_norm"):
            score_heads(scaled, [name])
    for ask in (find_sinks, roll_out_attention):
        with pytest.raises(UnsuitableMapsError, match="value_norm"):
            ask(scaled)


def test_storage_keeps_what_was_done(scaled, tmp_path):
    remarks = scaled.remarks
    assert remarks == (
        "each weight times the norm of its projected value",
        "changed: heads 0.1 and 0.2 merged (0.5 : 0.5)",
    )
    assert load_scores(save_scores(scaled, tmp_path)).remarks == remarks
    prompt = {"text": "some"}
    store_prompt(scaled, prompt, tmp_path / "data")
    assert load_prompt_maps("tiny", prompt, tmp_path / "data").remarks == remarks
    with DataFolder(tmp_path / "data").get_model("tiny").get_prompt(prompt).open_maps() as opened:
        assert opened.describe() == scaled.facts
        encoding = describe_weights(opened)["encoding"]
    largest = max(float(layer.max()) for layer in scaled.weights)
    assert encoding == {"type": "float32"} or encoding["scale"] == largest


def test_figures_and_pages_say_so(scaled):
    for figure in (plot_layer_averages(scaled), plot_birds_eye(scaled)):
        words = " ".join(text.get_text() for ax in figure.axes for text in ax.texts).replace("\n", " ")
        assert "each weight times the norm of its projected value" in words
        assert "changed: heads 0.1 and 0.2 merged" in words
        assert "weight × norm of value" in words + "".join(ax.get_xlabel() + ax.get_title("left") for ax in figure.axes)
    notes = describe_maps(scaled)["notes"]
    assert notes == [
        "Each weight times the norm of its projected value.",
        "Changed: heads 0.1 and 0.2 merged (0.5 : 0.5).",
    ]
    rolled = roll_out_attention(AttentionMaps([np.eye(2, dtype=np.float32)[None]], ["a", "b"]))
    words = " ".join(text.get_text() for ax in plot_layer_averages(rolled).axes for text in ax.texts)
    assert "rollout of head 0" in words
    assert "attention rollout" in words
    assert describe_maps(rolled)["weighting"] == "rollout"


def test_the_command_line(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["view", "--weighting", "value_norm", "--save_attention_scores", "--quiet"]) == 0
    cache = capsys.readouterr().out.splitlines()[0]
    expected = capture_attention(*demo, "Summer is warm. Winter is cold.\n", weighting="value_norm")
    np.testing.assert_array_equal(load_scores(cache).weights[1], expected.weights[1])
    assert main(["heads", "--load_attention_scores_path", cache, "--scores", "entropy"]) == 2
    assert "value_norm" in capsys.readouterr().err
    assert main(["view", "--weighting", "value_norm", "--figures", "raw", "--quiet"]) == 2
    assert main(["heads", "--load_attention_scores_path", cache, "--scores", "keys_90", "--json", "k.json"]) == 0
    with open("k.json") as file:
        assert "projected value" in json.load(file)["about"]
