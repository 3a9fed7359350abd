import threading
from typing import get_args

import numpy as np
import pytest
import torch
from architectures import ENCODER_DECODERS, build_model, make_ids, make_inputs
from conftest import PROMPT
from test_prefill import describe_model

from attn_viewer import ablate_heads, capture_attention, capture_attention_calls, merge_heads
from attn_viewer.capture.targets import find_target
from attn_viewer.errors import CaptureError, OptionError
from attn_viewer.options import AblationMode

MODES = get_args(AblationMode)
# Output projections, whose inputs are the heads' outputs side by side.
PROJECTIONS = {
    "gpt2": "transformer.h.{}.attn.c_proj",
    "llama": "model.layers.{}.self_attn.o_proj",
    "qwen3": "model.layers.{}.self_attn.o_proj",
    "gemma2": "model.layers.{}.self_attn.o_proj",
    "gpt_oss": "model.layers.{}.self_attn.o_proj",
    "bert": "bert.encoder.layer.{}.attention.output.dense",
    "bart": "model.decoder.layers.{}.self_attn.out_proj",
}
IMPLEMENTATIONS = [
    (name, kind)
    for name in PROJECTIONS
    for kind in ("sdpa", "eager")
    if kind == "eager" or name not in ("gemma2", "gpt_oss")
]


def run(model, ids=None, **arguments):
    with torch.no_grad():
        return model(torch.tensor([make_ids() if ids is None else ids]), use_cache=False, **arguments)[0].clone()


def replace_head(model, name, changes):
    """Set slices of the output projections' inputs by hooks; None is zero."""
    handles = []
    for (layer, head), new in changes.items():

        def change(module, args, head=head, new=new):
            heads = args[0].clone().unflatten(-1, (4, -1))
            heads[..., head, :] = 0 if new is None else new
            return (heads.flatten(-2), *args[1:])

        projection = model.get_submodule(PROJECTIONS[name].format(layer))
        handles.append(projection.register_forward_pre_hook(change))
    try:
        return run(model)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_ablation_equals_zeros_before_the_output_projection(name, implementation):
    model = build_model(name, attn_implementation=implementation)
    before, heads = run(model), [(0, 3), (1, 0), (1, 2)]
    seen = describe_model(model)
    with ablate_heads(model, heads):
        changed = run(model)
    expected = replace_head(model, name, dict.fromkeys(heads))
    assert (expected - before).abs().max() > 1e-3
    np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-5)
    assert describe_model(model) == seen
    assert torch.equal(run(model), before)


def compute_by_hand(model, name, layer):
    """Return patterns of a layer, (n_heads, n, n), and values, (n_heads, n, d), of the model in eager mode."""
    place = {"bert": "bert.encoder.layer.{}.attention.self.value"}.get(name, PROJECTIONS[name])
    place = place.format(layer).replace("o_proj", "v_proj").replace("out_proj", "v_proj").replace("c_proj", "c_attn")
    kept = []
    handle = model.get_submodule(place).register_forward_hook(lambda m, a, output: kept.append(output[0]))
    with torch.no_grad():
        weights = model(torch.tensor([make_ids()]), use_cache=False, output_attentions=True).attentions[layer][0]
    handle.remove()
    value = kept[0].chunk(3, -1)[2] if name == "gpt2" else kept[0]
    value = value.unflatten(-1, (-1, 8)).transpose(0, 1)
    return weights, value.repeat_interleave(4 // len(value), 0)


@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_merging_equals_the_same_by_hand(name, implementation):
    by_hand = build_model(name, attn_implementation="eager")
    weights, values = compute_by_hand(by_hand, name, 1)
    shared = 0.3 * weights[1] + 0.7 * weights[2]
    expected = replace_head(by_hand, name, {(1, head): shared @ values[head] for head in (1, 2)})
    model = build_model(name, attn_implementation=implementation)
    before = run(model)
    with merge_heads(model, 1, 1, 2, alpha=0.3):
        changed = run(model)
    assert (changed - before).abs().max() > 1e-4
    np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-5)
    assert torch.equal(run(model), before)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "mistral"])
@pytest.mark.parametrize("mode", MODES)
def test_captured_weights_are_those_that_made_the_output(name, mode):
    by_hand = build_model(name, attn_implementation="eager")
    model = build_model(name, attn_implementation="sdpa")
    ids = make_ids()
    with ablate_heads(by_hand, [(0, 1), (2, 3)], mode), merge_heads(by_hand, 1, 0, 2):
        expected = capture_attention(by_hand, prompt=ids)
        wanted = run(by_hand)
    plain = capture_attention(model, prompt=ids)
    with ablate_heads(model, [(0, 1), (2, 3)], mode), merge_heads(model, 1, 0, 2):
        maps = capture_attention(model, prompt=ids)
        last = capture_attention(model, prompt=ids, queries=3, heads=[1, 3])
        pooled = capture_attention(model, prompt=ids, reduction="pooled", max_cells=5, pooling="mean")
        np.testing.assert_allclose(run(model), wanted, rtol=0, atol=1e-5)
    for ours, theirs in zip(maps.weights, expected.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    for ours, theirs in zip(last.weights, expected.weights, strict=True):
        np.testing.assert_allclose(ours, theirs[[1, 3], -3:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pooled.weights[2][3, 0, 0], expected.weights[2][3, :3, :3].mean(), rtol=0, atol=1e-5)
    changed = maps.weights[0][1]
    n = len(ids)
    seen = np.tril(plain.weights[0][1] > 0) if name != "bert" else np.ones((n, n), bool)
    if mode == "zero":
        assert not changed.any()
    elif mode == "uniform":
        np.testing.assert_allclose(changed, seen / seen.sum(1, keepdims=True), atol=1e-6)
    elif mode == "bos":
        assert (changed.argmax(1) == seen.argmax(1)).all()
        np.testing.assert_allclose(changed.max(1), 1)
    else:
        own = plain.weights[0][1]
        mean = own.cumsum(0) / np.arange(1, n + 1)[:, None] if name != "bert" else np.tile(own.mean(0), (n, 1))
        np.testing.assert_allclose(changed, mean, atol=1e-6)


def test_a_program_that_changes_heads_inside_a_capture_shows_them_changed():
    model, ids = build_model("llama"), torch.tensor([make_ids()])

    def program():
        with ablate_heads(model, [(1, 2)]):
            model(ids)

    (maps,) = capture_attention_calls(program, model=model).values()
    assert not maps.weights[1][2].any()
    assert maps.weights[1][1].any()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_oss", "mistral"])
@pytest.mark.parametrize("mode", ["zero", "uniform", "bos"])
def test_generation_with_a_cache_follows_the_change(name, mode):
    model, ids = build_model(name), torch.tensor([make_ids()])
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids, **options)
    with ablate_heads(model, [(0, 0), (1, 1), (2, 2)], mode):
        cached = model.generate(ids, **options)
        whole = model.generate(ids, use_cache=False, **options)
    assert torch.equal(cached, whole)
    assert torch.equal(model.generate(ids, **options), plain)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_oss", "mistral"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side):
    """A short prompt beside a long one gives what it gives alone, also where a mean must leave padding out."""
    model, ids = build_model(name), make_ids()
    short, pad = ids[3:9], [0] * (len(ids) - 6)
    real = slice(len(pad), None) if side == "left" else slice(0, len(short))
    mask = torch.zeros(2, len(ids), dtype=torch.long)
    mask[0], mask[1, real] = 1, 1
    batch = torch.tensor([ids, [*pad, *short] if side == "left" else [*short, *pad]])
    places = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    for mode in MODES:
        with torch.no_grad(), ablate_heads(model, [(0, 1), (2, 2)], mode), merge_heads(model, 1, 0, 3, 0.3):
            both = model(batch, use_cache=False, **places)[0]
            np.testing.assert_allclose(both[0], run(model, ids)[0], rtol=0, atol=1e-5)
            np.testing.assert_allclose(both[1][real], run(model, short)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("mode", MODES)
def test_padding_of_an_encoder_as_long_as_its_decoder_changes_nothing(kind, mode, implementation):
    """In cross attention, what a query sees at its own position says nothing about whether it is padding."""
    model = build_model("bart", ENCODER_DECODERS, attn_implementation=implementation)
    decoder_ids = make_inputs(ENCODER_DECODERS)["decoder_input_ids"]
    ids = torch.tensor([make_ids()[: decoder_ids.shape[1]]])
    mask = torch.ones_like(ids)
    mask[:, -3:] = 0
    inputs = {"decoder_input_ids": decoder_ids, "use_cache": False}
    with torch.no_grad(), ablate_heads(model, [(0, 1), (1, 2)], mode, kind=kind):
        padded = model(input_ids=ids, attention_mask=mask, **inputs)[0]
        alone = model(input_ids=ids[:, :-3], **inputs)[0]
    np.testing.assert_allclose(padded, alone, rtol=0, atol=1e-5)


def test_compiled_models_change_too():
    model = build_model("llama")
    with ablate_heads(model, [(1, 2)]):
        expected = run(model)
    plain, maps = run(model), capture_attention(model, prompt=make_ids())
    compiled = torch.compile(model, backend="eager")
    np.testing.assert_allclose(run(compiled), plain, rtol=0, atol=1e-5)
    for changed in (model, compiled):
        with ablate_heads(changed, [(1, 2)]):
            assert torch.equal(run(compiled), expected)
    np.testing.assert_allclose(run(compiled), plain, rtol=0, atol=1e-5)
    for ours, theirs in zip(capture_attention(compiled, prompt=make_ids()).weights, maps.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_each_kind_of_attention_of_an_encoder_decoder_can_be_changed(kind):
    model, inputs = build_model("bart", ENCODER_DECODERS), make_inputs(ENCODER_DECODERS)
    place = {"encoder": "encoder.layers.1.self_attn", "decoder": "decoder.layers.1.self_attn"}
    module = model.get_submodule(f"{place.get(kind, 'decoder.layers.1.encoder_attn')}.out_proj")
    with torch.no_grad(), ablate_heads(model, [(1, 2)], kind=kind):
        changed = model(**inputs)[0]

    def clear(module, args):
        heads = args[0].clone().unflatten(-1, (4, -1))
        heads[..., 2, :] = 0
        return (heads.flatten(-2),)

    handle = module.register_forward_pre_hook(clear)
    with torch.no_grad():
        expected = model(**inputs)[0]
    handle.remove()
    np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-5)


def test_interventions_nest_and_the_later_one_acts_on_the_earlier():
    model = build_model("llama")
    with ablate_heads(model, [(1, 0)]):
        only = run(model)
        with merge_heads(model, 1, 0, 1):  # half of head 1's pattern for both
            maps = capture_attention(model, prompt=make_ids())
        assert torch.equal(run(model), only)
    plain = capture_attention(model, prompt=make_ids())
    np.testing.assert_allclose(maps.weights[1][0], plain.weights[1][1] / 2, atol=1e-6)
    with merge_heads(model, 1, 0, 1), ablate_heads(model, [(1, 0)]):
        maps = capture_attention(model, prompt=make_ids())
    assert not maps.weights[1][0].any()


@pytest.mark.parametrize("is_first", [True, False])
def test_two_models_are_changed_each_on_its_own(is_first):
    model, other = build_model("llama"), build_model("gpt2")
    changes = ablate_heads(model, [(1, 0)]), ablate_heads(other, [(0, 2)])
    with changes[not is_first], changes[is_first]:
        maps, others = (capture_attention(one, prompt=make_ids()) for one in (model, other))
    plain = capture_attention(model, prompt=make_ids())
    assert [layer.any((1, 2)).tolist() for layer in maps.weights] == [[True] * 4, [False] + [True] * 3, [True] * 4]
    assert not others.weights[0][2].any()
    np.testing.assert_array_equal(maps.weights[0], plain.weights[0])
    assert (maps.interventions, others.interventions) == (("head 1.0 zeroed",), ("head 0.2 zeroed",))


def test_a_model_and_a_part_of_it_are_not_both_changed():
    model = build_model("llama")
    plain = run(model)
    for outer, inner in ((model, model.model), (model.model, model)):
        with ablate_heads(outer, [(1, 0)]), pytest.raises(CaptureError, match="share"):
            ablate_heads(inner, [(0, 0)]).__enter__()
    assert torch.equal(run(model), plain)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_an_error_inside_ends_the_change(error, implementation):
    model = build_model("llama", attn_implementation=implementation)
    before, seen = run(model), describe_model(model)

    def fail(module, args):
        raise error

    with pytest.raises(error), ablate_heads(model, [(0, 0)]):
        handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
        try:
            run(model)
        finally:
            handle.remove()
    assert describe_model(model) == seen
    assert torch.equal(run(model), before)
    with ablate_heads(model, [(0, 0)]) as ablation:
        assert not torch.equal(run(model), before)
    with ablation:  # again
        assert not torch.equal(run(model), before)


def test_layers_that_share_a_module_or_are_missing_have_their_true_numbers():
    albert = build_model("albert")
    with ablate_heads(albert, [(2, 1)]):
        maps = capture_attention(albert, prompt=make_ids())
    assert [bool(layer[1].any()) for layer in maps.weights] == [True, True, False]
    assert find_target(build_model("qwen3_next")).layers == (3,)


@pytest.mark.parametrize(
    "heads", [[], [(0, 9)], [(7, 0)], [(0, -1)], [(0, 0.5)], [(True, 0)], "5.3", [(0, 1, 2)], None, 5]
)
def test_heads_that_are_not_there_are_refused(heads):
    with pytest.raises(OptionError):
        ablate_heads(build_model("llama"), heads)


def test_other_bad_input_is_refused():
    model = build_model("llama")
    with pytest.raises(OptionError, match="itself"):
        merge_heads(model, 0, 1, 1)
    for alpha in (-0.1, 1.1, float("nan"), "0.5", True):
        with pytest.raises(OptionError, match="alpha"):
            merge_heads(model, 0, 1, 2, alpha)
    with pytest.raises(OptionError, match="'zero', 'mean'"):
        ablate_heads(model, [(0, 0)], "half")
    with pytest.raises(OptionError, match="cross"):
        ablate_heads(model, [(0, 0)], kind="cross")
    with ablate_heads(model, [(0, 0)], "mean"), pytest.raises(CaptureError, match="use_cache"):
        model.generate(torch.tensor([make_ids()]), max_new_tokens=2, pad_token_id=0)
    with pytest.raises(CaptureError), ablate_heads(build_model("prophetnet"), [(0, 0)]) as ablation:
        run(ablation.model)


def test_two_threads_do_not_change_one_model_together():
    model, errors = build_model("llama"), []

    def work():
        try:
            with ablate_heads(model, [(0, 1)]):
                pass
        except CaptureError as error:
            errors.append(error)

    with ablate_heads(model, [(0, 0)]):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_on_smollm2_an_ablated_head_has_no_weights(smollm2):
    with ablate_heads(smollm2[0], [(5, 3)]):
        maps = capture_attention(*smollm2, PROMPT, layers=[5])
    assert not maps.weights[0][3].any()
    np.testing.assert_allclose(np.delete(maps.weights[0], 3, 0).sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(("name", "implementation"), [("llama", "eager"), ("llama", "sdpa"), ("gpt_oss", "eager")])
def test_a_layer_without_any_head_is_captured_as_zeros(name, implementation):
    model = build_model(name, attn_implementation=implementation)
    with ablate_heads(model, [(1, head) for head in range(4)]):
        maps = capture_attention(model, prompt=make_ids())
    assert [bool(layer.any()) for layer in maps.weights] == [True, False, True]
    assert maps.interventions == ("heads 1.0, 1.1, 1.2, 1.3 zeroed",)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_maps_say_what_was_done_to_this_model_and_not_to_another(implementation):
    model, other = (build_model("llama", attn_implementation=implementation) for _ in range(2))
    with ablate_heads(model, [(1, 0)]), ablate_heads(other, [(0, 0)]), merge_heads(model, 1, 0, 1):
        maps = capture_attention(model, prompt=make_ids())
        inner = capture_attention(model.model, prompt=make_ids())
    assert maps.interventions == ("head 1.0 zeroed", "heads 1.0 and 1.1 merged (0.5 : 0.5)")
    assert inner.interventions == maps.interventions
    assert not maps.has_sinks  # rows that sum to one half are not a model's sinks
    assert capture_attention(model, prompt=make_ids()).interventions == ()
