import copy

import numpy as np
import pytest
import torch
import transformers
from architectures import ENCODER_DECODERS, build_model, make_ids
from conftest import PROMPT
from test_prefill import describe_model

from attn_viewer import capture_attention, capture_generation
from attn_viewer.errors import OptionError


def test_the_completion_is_what_generate_says(demo):
    model, tokenizer = demo
    ids = tokenizer("And God said", return_tensors="pt")
    with torch.no_grad():
        expected = model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0].tolist()
    before, settings = describe_model(model), copy.deepcopy(model.generation_config.to_dict())
    maps = capture_generation(model, tokenizer, "And God said", max_new_tokens=6)
    assert maps.prompt_length == ids["input_ids"].shape[1]
    assert maps.ids_key == tuple(expected)
    np.testing.assert_array_equal(maps.weights[2], capture_attention(model, tokenizer, expected).weights[2])
    assert describe_model(model) == before
    assert model.generation_config.to_dict() == settings


def test_weights_are_those_of_each_step_of_decoding(demo):
    """One pass over all tokens gives what the model attended to, token by token, with its cache."""
    model, tokenizer = demo
    maps = capture_generation(model, tokenizer, "And God said", max_new_tokens=4)
    for end in range(maps.prompt_length, len(maps.tokens_key)):
        ids = tokenizer.convert_tokens_to_ids  # labels are for people; the ids come from the same greedy decoding
        del ids
        inputs = tokenizer("And God said", return_tensors="pt")
        with torch.no_grad():
            so_far = model.generate(**inputs, max_new_tokens=end - maps.prompt_length + 1, pad_token_id=0)[
                0, :-1
            ].tolist()
        row = capture_attention(model, tokenizer, so_far, queries=1).weights[3][:, 0]
        np.testing.assert_allclose(row, maps.weights[3][:, end - 1, :end], atol=1e-5)


def test_sampling_options_pass_through(demo):
    model, tokenizer = demo
    said = set()
    for seed in range(4):
        torch.manual_seed(seed)
        options = {"do_sample": True, "temperature": 5.0}
        said.add(capture_generation(model, tokenizer, "And", max_new_tokens=5, generate_options=options).tokens_key)
    assert len(said) > 1


def test_a_model_that_fails_while_generating_is_left_as_it_was(demo):
    model, tokenizer = demo
    before, settings = describe_model(model), copy.deepcopy(model.generation_config.to_dict())

    def fail(ids, scores):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture_generation(model, tokenizer, PROMPT, max_new_tokens=3, generate_options={"logits_processor": [fail]})
    assert describe_model(model) == before
    assert model.generation_config.to_dict() == settings


def test_an_encoder_decoder_shows_what_its_decoder_looks_at():
    model = transformers.BartForConditionalGeneration(build_model("bart", ENCODER_DECODERS).config).eval()
    maps = capture_generation(model, None, make_ids(), max_new_tokens=5)
    assert maps.kind == "cross"
    assert not maps.causal
    assert len(maps.tokens_key) == 12
    assert 2 <= len(maps.tokens_query) <= 6
    decoder = capture_generation(model, None, make_ids(), max_new_tokens=5, kind="decoder")
    assert decoder.causal
    assert decoder.tokens_key == maps.tokens_query


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_each_kind_equals_eager_attention(name, kind):
    model, reference = (build_model(name, ENCODER_DECODERS, **o) for o in ({}, {"attn_implementation": "eager"}))
    ids, said = make_ids(), [model.config.decoder_start_token_id, *make_ids(5)]
    maps = capture_attention(model, prompt=ids, decoder_prompt=said, kind=kind)
    with torch.no_grad():
        output = reference(
            input_ids=torch.tensor([ids]),
            decoder_input_ids=torch.tensor([said]),
            output_attentions=True,
            use_cache=False,
        )
    for ours, theirs in zip(maps.weights, output[f"{kind}_attentions"], strict=True):
        np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-5)
    assert maps.kind == kind
    assert maps.causal == (kind == "decoder")
    assert len(maps.tokens_query) == (12 if kind == "encoder" else 6)


@pytest.mark.parametrize("is_setting", [True, False])
def test_a_dictionary_of_what_was_generated_holds_the_same_ids(is_setting):
    options, model = {"return_dict_in_generate": True, "output_scores": True}, build_model("llama")
    plain = capture_generation(model, None, make_ids(), max_new_tokens=3)
    if is_setting:
        model.generation_config.return_dict_in_generate = True
    maps = capture_generation(
        model, None, make_ids(), max_new_tokens=3, generate_options=None if is_setting else options
    )
    assert maps.ids_key == plain.ids_key
    assert bool(model.generation_config.return_dict_in_generate) is is_setting


def test_what_cannot_generate_is_refused(demo):
    with pytest.raises(OptionError, match="cannot generate"):
        capture_generation(transformers.BertModel(build_model("bert").config), None, [3, 4], max_new_tokens=3)
    with pytest.raises(OptionError, match="max_new_tokens"):
        capture_generation(*demo, PROMPT, max_new_tokens=0)
    with pytest.raises(OptionError, match="has self attention, not 'cross'"):
        capture_attention(*demo, PROMPT, kind="cross")


@pytest.mark.parametrize("when", ["pass", "steps"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"temprature": 1}, "temprature"),
        ({"top_k": "x", "do_sample": True}, "top_k"),
        ({"num_beams": 0}, "ZeroDivisionError"),
        ({"num_beams": "2"}, "TypeError"),
        ({"stop_strings": ["a"]}, "stop strings"),
        ({"max_new_tokens": 2}, "max_new_tokens="),
        ({"attention_mask": torch.ones(1, 2)}, "goes into the prompt"),
        ({"inputs_embeds": torch.ones(1, 2, 32)}, "goes into the prompt"),
        ({"inputs": torch.ones(1, 2).long()}, "goes into the prompt"),
    ],
)
def test_options_that_generate_does_not_take_are_refused(options, reason, when):
    model, how = build_model("llama"), {"max_new_tokens": 3, "when": when}
    with pytest.raises(OptionError, match=reason):
        capture_generation(model, None, make_ids(), generate_options=options, **how)


def test_a_cache_of_what_is_not_shown_is_refused():
    """With the keys of another text, a pass over prompt and completion would show weights that chose nothing."""
    model, ids = build_model("llama"), make_ids()
    for when, n_past in (("pass", 1), ("steps", len(ids)), ("steps", len(ids) + 1)):
        cache = transformers.DynamicCache()
        with torch.no_grad():
            model(torch.ones(1, n_past, dtype=torch.long), past_key_values=cache)
        with pytest.raises(OptionError, match="tokens already"):
            capture_generation(
                model, None, ids, max_new_tokens=3, when=when, generate_options={"past_key_values": cache}
            )
    empty = {"past_key_values": transformers.DynamicCache()}
    other = torch.tensor([ids[:5]])
    other[0, 1] += 1
    for words in (other, torch.tensor([ids[:5]] * 2)):
        cache = transformers.DynamicCache()
        with torch.no_grad():
            model(words, past_key_values=cache)
        with pytest.raises(OptionError, match="does not hold the keys of the first 5 tokens"):
            capture_generation(
                model, None, ids, max_new_tokens=3, when="steps", generate_options={"past_key_values": cache}
            )
    plain = capture_generation(model, None, ids, max_new_tokens=3)
    assert capture_generation(model, None, ids, max_new_tokens=3, generate_options=empty).ids_key == plain.ids_key


def test_what_a_persons_own_code_raises_in_generate_is_handed_on():
    def fail(ids, scores):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        capture_generation(
            build_model("llama"), None, make_ids(), max_new_tokens=3, generate_options={"logits_processor": [fail]}
        )
    assert type(caught.value) is ValueError
