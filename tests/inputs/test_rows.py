import numpy as np
import pytest
import torch
import transformers
from small import A, B, make_gpt2, make_tokenizer, make_twins, measure_difference, run_eager

from attn_viewer import capture_attention, capture_generation
from attn_viewer.capture_options import PassOptions
from attn_viewer.errors import PromptError
from attn_viewer.inputs.model_inputs import prepare_inputs
from attn_viewer.inputs.rows import append_tokens, take_prompt


@pytest.fixture(scope="module")
def gpt2():
    return make_gpt2()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(model_input_names=["input_ids", "attention_mask"], padding_side="left")


def generate(model, ids, n):
    with torch.no_grad():
        return model.generate(torch.tensor([ids]), max_new_tokens=n, do_sample=False)[0].tolist()


FORMS = {
    "text": lambda t: A,
    "pair": lambda t: (A, B),
    "list": lambda t: t(A)["input_ids"],
    "tensor": lambda t: t(A, return_tensors="pt")["input_ids"],
    "row": lambda t: t(A, return_tensors="np")["input_ids"][0],
    "encoding": lambda t: t(A, return_tensors="pt"),
    "lists": lambda t: dict(t(A, B)),
    "padded on the left": lambda t: t(A, padding="max_length", max_length=14, return_tensors="pt"),
    "padded on the right": lambda t: t(
        A, padding="max_length", max_length=14, padding_side="right", return_tensors="pt"
    ),
    "embeddings": None,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_completion_of_each_form(form, gpt2, tokenizer):
    fast, eager = gpt2
    ids = tokenizer(*((A, B) if form in ("pair", "lists") else (A,)))["input_ids"]
    if form == "embeddings":
        prompt = {"inputs_embeds": fast.get_input_embeddings()(torch.tensor([ids])).detach()}
    else:
        prompt = FORMS[form](tokenizer)
    want = generate(fast, ids, 4)
    maps = capture_generation(fast, tokenizer, prompt, max_new_tokens=4)
    assert measure_difference(maps, [w[0] for w in run_eager(eager, {"input_ids": torch.tensor([want])})]) < 1e-5
    assert maps.prompt_length == len(ids)
    labels = tuple(tokenizer.convert_ids_to_tokens(want))
    if form == "embeddings":
        assert maps.tokens_key == (*map(str, range(len(ids))), *labels[len(ids) :])
    else:
        assert maps.ids_key == tuple(want)
        assert maps.tokens_key == labels
    if form == "pair":
        assert maps.segments == (("sentence A", 0, 8), ("sentence B", 8, 13))


@pytest.mark.parametrize("side", ["left", "right"])
def test_completions_of_a_batch(side, gpt2, tokenizer):
    fast, _ = gpt2
    inputs = tokenizer([A, B], padding=True, padding_side=side, return_tensors="pt")
    every = capture_generation(fast, tokenizer, inputs, max_new_tokens=3, batch_index="all")
    assert [maps.ids_key for maps in every] == [tuple(generate(fast, tokenizer(t)["input_ids"], 3)) for t in (A, B)]
    one = capture_generation(fast, tokenizer, inputs, max_new_tokens=3, batch_index=1)
    np.testing.assert_array_equal(np.stack(one.weights), np.stack(every[1].weights))


def test_a_decoder_prompt_is_kept():
    fast, eager = make_twins(transformers.T5ForConditionalGeneration, transformers.T5Config, vocab_size=16, d_model=32,
                             d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)  # fmt: skip
    for begun in ([0, 7, 8], [9, 7]):
        for kind in ("cross", "decoder"):
            maps = capture_generation(fast, None, [3, 4, 5], max_new_tokens=2, decoder_prompt=begun, kind=kind)
            assert maps.tokens_query[: len(begun)] == tuple(map(str, begun))
            said = [int(token) for token in maps.tokens_query]
            inputs = {"input_ids": torch.tensor([[3, 4, 5]]), "decoder_input_ids": torch.tensor([said])}
            layers = run_eager(eager, inputs, f"{kind}_attentions")
            assert measure_difference(maps, [layer[0] for layer in layers]) < 1e-5
        assert maps.prompt_length == len(begun)
    given = {"input_ids": [[3, 4, 5]], "decoder_input_ids": [[0, 7, 8]]}
    assert capture_generation(fast, None, given, max_new_tokens=2).tokens_query[1] == "7"


def test_one_prompt_of_a_batch_stands_alone(gpt2, tokenizer):
    batch = tokenizer([A, B], padding=True, return_tensors="pt")
    positions = torch.arange(8).expand(2, 8)
    inputs = prepare_inputs(gpt2[0], tokenizer, {**batch, "position_ids": positions}, PassOptions(batch_index=1))
    alone = take_prompt(inputs, inputs.prompts[0])
    assert alone.arguments["input_ids"].tolist() == [tokenizer(B)["input_ids"]]
    assert alone.arguments["position_ids"].tolist() == [[2, 3, 4, 5, 6, 7]]
    assert alone.arguments["attention_mask"].tolist() == [[1] * 6]
    longer = append_tokens(gpt2[0], tokenizer, alone, torch.tensor([[5, 6]]))
    assert longer.arguments["input_ids"].tolist() == [[*tokenizer(B)["input_ids"], 5, 6]]
    assert longer.arguments["position_ids"].tolist() == [[2, 3, 4, 5, 6, 7, 8, 9]]
    assert longer.prompts[0].sides["self"].labels[-2:] == ("the", "cat")


def test_a_mask_by_query_and_key_says_nothing_of_a_completion(gpt2):
    inputs = {"input_ids": torch.tensor([[2, 5, 6]]), "attention_mask": torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()}
    assert len(capture_attention(gpt2[0], prompt=inputs).tokens_key) == 3
    with pytest.raises(PromptError, match="mask by query and key"):
        capture_generation(gpt2[0], None, inputs, max_new_tokens=2)
