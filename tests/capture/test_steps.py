"""Rows of each step of a generation, against one pass over all tokens."""

import gc
import tracemalloc

import numpy as np
import pytest
import torch
import transformers
from architectures import ENCODER_DECODERS, build_model, make_ids
from conftest import PROMPT
from test_prefill import describe_model

from attn_viewer import capture_generation, load_scores, view_attention
from attn_viewer.errors import AttnViewerError, CaptureError, OptionError

IDS = make_ids(9)
REPEATED = [5, 6, 7] * 3
WAYS = {
    "greedy": {},
    "static": {"cache_implementation": "static"},
    "chunks": {"prefill_chunk_size": 4},
    "no cache": {"use_cache": False},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "beams that end early": {"num_beams": 3, "eos_token_id": list(range(40)), "length_penalty": -2.0},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "early exit": {"assistant_early_exit": 1},
}


def capture_both(model, ids=IDS, generate_options=None, **options):
    """Capture as it runs, and in one pass afterwards, with the same random numbers."""
    found = []
    for when in ("steps", "pass"):
        torch.manual_seed(0)
        arguments = {"generate_options": dict(generate_options)} if generate_options else {}
        found.append(capture_generation(model, None, ids, max_new_tokens=8, when=when, **arguments, **options))
    return found


def check_rows(steps, whole):
    """Check that steps are the rows and keys of one pass, but for the last token."""
    first, n = steps.first_query, len(steps.tokens_query)
    assert steps.ids_key == whole.ids_key[: len(steps.ids_key)]
    assert steps.prompt_length == whole.prompt_length or steps.kind == "cross"
    for ours, theirs in zip(steps.weights, whole.weights, strict=True):
        np.testing.assert_allclose(ours, theirs[:, first : first + n, : ours.shape[2]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["llama", "mistral"])  # mistral's window slides
def test_rows_are_those_of_one_pass(name, way):
    steps, whole = capture_both(build_model(name), REPEATED, WAYS[way])
    assert steps.causal
    assert steps.tokens_query == steps.tokens_key
    assert len(steps.tokens_key) == len(whole.tokens_key) - 1 or way.startswith("beams")
    check_rows(steps, whole)


@pytest.mark.parametrize("name", ["gemma3_text", "gemma2", "gpt_oss", "gpt2", "qwen3", "falcon", "bloom", "phi3"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_families(name, implementation):
    try:
        model = build_model(name, attn_implementation=implementation)
    except ValueError:
        pytest.skip(f"{name} has no {implementation}")
    if not model.can_generate():
        model = transformers.AutoModelForCausalLM.from_config(model.config, attn_implementation=implementation).eval()
    check_rows(*capture_both(model))


@pytest.mark.parametrize("kind", ["decoder", "cross"])
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_encoder_decoders(name, kind):
    config = build_model(name, ENCODER_DECODERS).config
    if name == "t5":
        config.num_decoder_layers = config.num_layers  # its cache has as many layers as the encoder
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    for options in ({}, {"num_beams": 3}):
        steps, whole = capture_both(model, make_ids(), options, kind=kind)
        assert (steps.kind, steps.causal) == (kind, kind == "decoder")
        check_rows(steps, whole)
    with pytest.raises(OptionError, match="encoder runs once"):
        capture_both(model, make_ids(), kind="encoder")


def test_candidates_that_an_assistant_got_wrong_leave_no_rows():
    model, assistant = build_model("llama"), build_model("llama")
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    check_rows(*capture_both(model, generate_options={"assistant_model": assistant}))


@pytest.mark.parametrize(("name", "kind"), [("llama", "dynamic"), ("llama", "static"), ("mistral", "sliding")])
def test_a_generation_goes_on_from_a_cache(name, kind):
    model = build_model(name)
    cache = {
        "dynamic": transformers.DynamicCache,
        "static": lambda: transformers.StaticCache(config=model.config, max_cache_len=20),
        "sliding": lambda: transformers.DynamicCache(config=model.config),
    }[kind]()
    with torch.no_grad():
        model(torch.tensor([IDS[:5]]), past_key_values=cache)
    options = {"max_new_tokens": 4, "when": "steps"}
    steps = capture_generation(model, None, IDS, generate_options={"past_key_values": cache}, **options)
    whole = capture_generation(model, None, IDS, max_new_tokens=4)
    assert (steps.first_query, len(steps.tokens_query), len(steps.tokens_key)) == (5, 7, 12)
    check_rows(steps, whole)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_pooled_rows_are_those_of_pooled_weights(pooling):
    model = build_model("llama")
    steps = capture_generation(
        model, None, IDS, max_new_tokens=8, when="steps", reduction="pooled", max_cells=4, pooling=pooling
    )
    full = capture_generation(model, None, IDS, max_new_tokens=8, when="steps")
    assert steps.cell == (4, 4)
    for cells, weights in zip(steps.weights, full.weights, strict=True):
        blocks = weights.reshape(4, 4, 4, 4, 4)
        expected = blocks.max((2, 4)) if pooling == "max" else blocks.mean((2, 4))
        np.testing.assert_allclose(cells, expected, atol=1e-5)


def test_reductions_and_choices_act_on_each_step():
    model = build_model("llama")
    full = capture_generation(model, None, IDS, max_new_tokens=8, when="steps")
    mean = capture_generation(model, None, IDS, max_new_tokens=8, when="steps", reduction="head_mean", layers=[1])
    np.testing.assert_allclose(mean.weights[0], full.weights[1].mean(0, keepdims=True), atol=1e-6)
    some = capture_generation(model, None, IDS, max_new_tokens=8, when="steps", heads=[2], queries=3)
    assert (some.first_query, some.heads[0]) == (13, (2,))
    np.testing.assert_array_equal(some.weights[0], full.weights[0][2:3, 13:])


@pytest.mark.parametrize("options", [{}, {"prompt_lookup_num_tokens": 3}])
def test_each_token_is_told_as_it_comes(options):
    model, told = build_model("llama"), []
    steps = capture_generation(
        model, None, REPEATED, max_new_tokens=8, when="steps", on_step=told.append, generate_options=options or None
    )
    assert [one.step for one in told] == list(range(8))
    assert tuple(one.token_id for one in told[:-1]) == steps.ids_key[9:]
    for one in told:
        assert one.position == 8 + one.step
        for layer, row in one.weights.items():
            np.testing.assert_array_equal(row, steps.get_layer(layer)[:, one.position, : row.shape[1]])
            assert not steps.get_layer(layer)[:, one.position, row.shape[1] :].any()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_oss", "gemma2"])
def test_only_modules_that_attend_are_watched_once_they_are_known(name):
    """The first pass shows which; of a model that runs eager, any module may compute weights."""
    model, watched, early = build_model(name), [], []
    inner = next(m for path, m in model.named_modules() if path.endswith(("q_proj", "c_attn")))

    def look_inside(*hooked):
        early.append(torch.overrides._len_torch_function_stack())

    def look(step):
        watched.append(
            {path for path, module in model.named_modules() if module._forward_hooks and module is not inner}
        )
        assert torch.overrides._len_torch_function_stack() == 0

    model.generation_config.cache_implementation = "dynamic"
    inner.register_forward_hook(look_inside)
    capture_generation(model, None, IDS, max_new_tokens=4, when="steps", on_step=look)
    if model.config._attn_implementation == "eager":
        assert watched[2] == watched[0]
        assert early == [1, 1, 1, 1]
    else:
        attention = {path for path in watched[0] if path.endswith(("self_attn", ".attn"))}
        around = {path for path in watched[0] if all(one.startswith(path) for one in attention)}
        assert len(attention) == 3
        assert watched[2] == attention | around
        assert early == [1, 0, 0, 0]  # functions are seen from where the module has read which attention to run


def test_a_step_leaves_nothing_behind_but_its_rows():
    """Beside what the cache holds of it, and its number."""
    model, tensors, arrays, rows = build_model("llama"), [], [], []

    def find_tensors():
        return {id(one): one for one in gc.get_objects() if type(one) is torch.Tensor}

    others = find_tensors()  # of tests before, of which some have no storage

    def measure(step):
        gc.collect()
        held = [one.untyped_storage() for name, one in find_tensors().items() if name not in others]
        tensors.append(sum({storage.data_ptr(): storage.nbytes() for storage in held}.values()))
        arrays.append(tracemalloc.get_traced_memory()[0])
        rows.append(sum(row.nbytes for row in step.weights.values()))

    tracemalloc.start()
    try:
        capture_generation(
            model, None, make_ids(150), max_new_tokens=9, when="steps", reduction="full", on_step=measure
        )
    finally:
        tracemalloc.stop()
    config = model.config
    cached = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    np.testing.assert_allclose(np.diff(tensors[3:]), cached + 8, atol=32)  # of masks, of positions in transformers 4
    assert arrays[-1] - arrays[3] < sum(rows[4:])  # those lie in pages that Python does not count


def test_a_function_that_raises_ends_the_generation(demo):
    model, tokenizer = demo
    before, told = describe_model(model), []

    def stop(step):
        told.append(step.text)
        if step.step == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        capture_generation(model, tokenizer, PROMPT, max_new_tokens=9, when="steps", on_step=stop)
    assert len(told) == 3
    assert describe_model(model) == before
    with pytest.raises(OptionError, match="which beam wins"):
        capture_generation(
            model, tokenizer, PROMPT, max_new_tokens=3, when="steps", on_step=stop, generate_options={"num_beams": 2}
        )


def test_a_batch_padded_on_the_left_is_generated_prompt_by_prompt():
    model = build_model("llama")
    batch = {
        "input_ids": torch.tensor([[0, 0, *IDS[:7]], IDS]),
        "attention_mask": torch.tensor([[0, 0, *[1] * 7], [1] * 9]),
    }
    steps = capture_generation(model, None, batch, max_new_tokens=4, when="steps", batch_index="all")
    for maps, ids in zip(steps, (IDS[:7], IDS), strict=True):
        alone = capture_generation(model, None, ids, max_new_tokens=4, when="steps")
        np.testing.assert_allclose(maps.weights[0], alone.weights[0], atol=1e-5)


def test_tokens_that_change_behind_the_rows_are_refused():
    model = build_model("llama")
    with pytest.raises(CaptureError, match="not those of the text"):
        capture_generation(
            model, None, IDS, max_new_tokens=6, when="steps", generate_options={"logits_processor": [Rewrite()]}
        )


class Rewrite(transformers.LogitsProcessor):
    """Changes what was said before, once it has been run on."""

    def __call__(self, ids, scores):
        ids[:, 3] = 3
        return scores


def test_figures_and_caches_are_made_of_steps(demo, tmp_path):
    model, tokenizer = demo
    written = view_attention(
        model, "m", tokenizer, PROMPT, max_new_tokens=4, when="steps", save_fig_path=tmp_path,
        save_attention_scores=True, save_attention_scores_path=tmp_path,
    )  # fmt: skip
    maps = load_scores(written[0])
    assert len(maps.tokens_key) == maps.prompt_length + 3
    with pytest.raises(AttnViewerError, match="when has no use without max_new_tokens"):
        view_attention(model, "m", tokenizer, PROMPT, when="steps", save_fig_path=tmp_path)
