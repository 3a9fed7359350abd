import numpy as np
import pytest
import tokenizers
import torch
import transformers
from conftest import PROMPT
from small import BERT, A, B, make_bert, make_gpt2, make_tokenizer, make_twins, measure_difference, run_eager, spread

from attn_viewer import capture_attention
from attn_viewer.errors import AttnViewerError, CaptureError, OptionError, PromptError


@pytest.fixture(scope="module")
def bert():
    return make_bert()


@pytest.fixture(scope="module")
def gpt2():
    return make_gpt2()


def check(maps, eager, inputs, row=0, kept=slice(None)):
    layers = [layer[row][:, kept, kept] for layer in run_eager(eager, inputs)]
    assert measure_difference(maps, layers) < 1e-5
    return maps


def test_a_pair_has_the_segment_ids_that_the_model_was_trained_on(bert):
    fast, eager = bert
    tokenizer = make_tokenizer()
    inputs = tokenizer(A, B, return_tensors="pt")
    assert set(inputs["token_type_ids"][0].tolist()) == {0, 1}
    maps = check(capture_attention(fast, tokenizer, (A, B)), eager, inputs)
    assert maps.segments == (("sentence A", 0, 8), ("sentence B", 8, 13))
    assert maps.sentence_b_start == 8
    assert maps.tokens_key[8] == "a"


def test_segment_ids_are_asked_for_where_the_model_knows_them_and_the_tokenizer_keeps_them(bert):
    fast, eager = bert
    tokenizer = make_tokenizer(model_input_names=["input_ids", "attention_mask"])
    assert "token_type_ids" not in tokenizer(A, B)
    check(capture_attention(fast, tokenizer, (A, B)), eager, make_tokenizer()(A, B, return_tensors="pt"))


def test_a_pair_of_a_model_without_segment_ids():
    fast, eager = make_twins(transformers.DistilBertModel, transformers.DistilBertConfig, vocab_size=16, dim=32,
                             n_layers=2, n_heads=4, hidden_dim=64)  # fmt: skip
    tokenizer = make_tokenizer()
    inputs = tokenizer(A, B, return_tensors="pt", return_token_type_ids=False)
    maps = check(capture_attention(fast, tokenizer, (A, B)), eager, inputs)
    assert [name for name, *_ in maps.segments] == ["sentence A", "sentence B"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("implementation", ["fast", "eager"])
def test_padding_is_masked_and_left_out(name, side, implementation, request):
    fast, eager = request.getfixturevalue(name)
    names = ["input_ids", "attention_mask", *["token_type_ids"] * (name == "bert")]
    tokenizer = make_tokenizer(padding_side=side, model_input_names=names)
    inputs = tokenizer(A, B, padding="max_length", max_length=20, return_tensors="pt")
    kept = slice(7, 20) if side == "left" else slice(0, 13)
    maps = capture_attention(fast if implementation == "fast" else eager, tokenizer, inputs)
    check(maps, eager, inputs, kept=kept)
    assert maps.tokens_key == tuple(tokenizer.convert_ids_to_tokens(inputs["input_ids"][0, kept].tolist()))
    assert maps.segments == (("sentence A", 0, 8), ("sentence B", 8, 13))
    assert maps.causal == (name == "gpt2")
    pooled = capture_attention(fast, tokenizer, inputs, reduction="pooled", max_cells=5)
    whole = np.pad(np.stack(maps.weights), [(0, 0), (0, 0), (0, 2), (0, 2)])
    np.testing.assert_allclose(np.stack(pooled.weights), whole.reshape(2, 4, 5, 3, 5, 3).max((3, 5)), atol=1e-5)
    mean = capture_attention(fast, tokenizer, inputs, reduction="head_mean", queries=3)
    np.testing.assert_allclose(mean.weights[1][0], maps.weights[1][:, -3:].mean(0), atol=1e-5)
    assert mean.tokens_query == maps.tokens_key[-3:]


def test_a_model_that_does_not_use_the_mask_is_found_out(bert):
    class Deaf(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.config = inner, inner.config

        def forward(self, input_ids, attention_mask=None):
            return self.inner(input_ids)

    tokenizer = make_tokenizer()
    inputs = tokenizer(A, padding="max_length", max_length=14, return_tensors="pt")
    for model in bert:
        with pytest.raises(CaptureError, match="does not use the mask"):
            capture_attention(Deaf(model), tokenizer, {n: inputs[n] for n in ("input_ids", "attention_mask")})


@pytest.mark.parametrize("form", ["tensor", "row", "array", "list of numpy", "nested", "uint", "tuple", "int32"])
def test_ids_come_in_any_kind_of_array(form, demo):
    model, tokenizer = demo
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    forms = {
        "tensor": ids,
        "row": ids[0],
        "array": ids.numpy(),
        "list of numpy": list(ids[0].numpy()),
        "nested": ids.tolist(),
        "uint": ids[0].numpy().astype(np.uint16),
        "tuple": tuple(ids[0].tolist()),
        "int32": ids.int(),
    }
    want = capture_attention(model, tokenizer, PROMPT)
    maps = capture_attention(model, tokenizer, forms[form])
    np.testing.assert_array_equal(np.stack(maps.weights), np.stack(want.weights))
    assert maps.tokens_key == want.tokens_key


@pytest.mark.parametrize("form", ["encoding", "dict", "lists", "without batch axis", "arrays", "int16"])
def test_what_the_tokenizer_returned_goes_in_whole(form, bert):
    fast, eager = bert
    tokenizer = make_tokenizer()
    inputs = tokenizer(A, B, return_tensors="pt")
    forms = {
        "encoding": inputs,
        "dict": dict(inputs),
        "lists": {name: part.tolist() for name, part in inputs.items()},
        "without batch axis": tokenizer(A, B, return_special_tokens_mask=True),
        "arrays": tokenizer(A, B, return_tensors="np"),
        "int16": {name: part.short() for name, part in inputs.items()},
    }
    maps = check(capture_attention(fast, tokenizer, forms[form]), eager, inputs)
    assert maps.segments == (("sentence A", 0, 8), ("sentence B", 8, 13))


def test_embeddings_in_place_of_ids(gpt2):
    fast, eager = gpt2
    embeds = fast.get_input_embeddings()(torch.tensor([[2, 5, 6, 7]])).detach()
    maps = check(capture_attention(fast, None, {"inputs_embeds": embeds}), eager, {"inputs_embeds": embeds})
    assert maps.tokens_key == ("0", "1", "2", "3")
    assert maps.ids_key is None


def test_positions_that_come_are_used(gpt2):
    fast, eager = gpt2
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 7]]), "position_ids": torch.tensor([[9, 3, 20, 1]])}
    check(capture_attention(fast, None, inputs), eager, inputs)
    check(capture_attention(fast, None, inputs | {"position_ids": [9, 3, 20, 1]}), eager, inputs)


def test_a_mask_by_query_and_key(gpt2):
    fast, eager = gpt2
    mask = torch.tril(torch.ones(5, 5, dtype=torch.bool))
    mask[3, 1] = False
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 7, 8]]), "attention_mask": mask[None, None]}
    maps = capture_attention(fast, None, inputs)
    bias = torch.where(inputs["attention_mask"], 0.0, torch.finfo(torch.float32).min)
    check(maps, eager, inputs | {"attention_mask": bias})
    assert (maps.weights[0][:, 3, 1] == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_prompt_of_a_batch_or_all(side, bert):
    fast, eager = bert
    tokenizer = make_tokenizer(padding_side=side)
    inputs = tokenizer([A, B, "the dog"], padding=True, return_tensors="pt")
    with pytest.raises(PromptError, match="these are 3 prompts; choose one with batch_index=0 to 2"):
        capture_attention(fast, tokenizer, inputs)
    every = capture_attention(fast, tokenizer, inputs, batch_index="all")
    for row, (maps, n) in enumerate(zip(every, (8, 6, 4), strict=True)):
        kept = slice(8 - n, 8) if side == "left" else slice(0, n)
        check(maps, eager, inputs, row, kept)
        assert len(maps.tokens_key) == n
        one = capture_attention(fast, tokenizer, inputs, batch_index=row - 3)
        np.testing.assert_array_equal(np.stack(one.weights), np.stack(maps.weights))
    single = capture_attention(fast, tokenizer, A, batch_index="all")
    assert len(single) == 1
    for wrong in (3, -4, True, "first", 1.0):
        with pytest.raises(AttnViewerError):
            capture_attention(fast, tokenizer, inputs, batch_index=wrong)


def test_an_encoder_decoder_with_two_vocabularies():
    pair = {"encoder": BERT, "decoder": BERT | {"vocab_size": 12, "is_decoder": True, "add_cross_attention": True}}
    configs = [transformers.BertConfig(**part) for part in pair.values()]

    def build(implementation):
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*configs)
        return transformers.EncoderDecoderModel(config=config, encoder=None, decoder=None), implementation

    model = spread(build("sdpa")[0])
    tokenizer, own = make_tokenizer(), make_tokenizer()
    own.add_tokens(["tail"])
    maps = capture_attention(model, tokenizer, A, decoder_prompt="the cat", decoder_tokenizer=own, kind="cross")
    assert maps.tokens_query == ("[CLS]", "the", "cat")
    assert maps.tokens_key[0] == "[CLS]"
    assert len(maps.tokens_key) == 8
    with pytest.raises(PromptError, match="the model knows 0 to 11"):
        capture_attention(model, tokenizer, A, decoder_prompt=[2, 13], decoder_tokenizer=own)
    with torch.no_grad():
        model.encoder.config._attn_implementation_internal = "eager"
        model.decoder.config._attn_implementation_internal = "eager"
        output = model(
            **tokenizer(A, return_tensors="pt"), decoder_input_ids=torch.tensor([[2, 5, 6]]), output_attentions=True
        )
    assert measure_difference(maps, [layer[0].numpy() for layer in output.cross_attentions]) < 1e-5


def test_model_inputs_of_an_encoder_decoder_hold_both_sides():
    fast, eager = make_twins(transformers.T5ForConditionalGeneration, transformers.T5Config, vocab_size=16, d_model=32,
                             d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)  # fmt: skip
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
        "decoder_input_ids": torch.tensor([[0, 8, 9]]),
    }
    for kind, kept in {"encoder": (3, 3), "cross": (3, 3), "decoder": (3, 3)}.items():
        maps = capture_attention(fast, None, inputs, kind=kind)
        layers = run_eager(eager, inputs, f"{kind}_attentions")
        assert measure_difference(maps, [layer[0][:, : kept[0], : kept[1]] for layer in layers]) < 1e-5
    with pytest.raises(PromptError, match="hold decoder_input_ids already"):
        capture_attention(fast, None, inputs, decoder_prompt=[0, 1])


IDS = [[2, 5, 6, 3]]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"input_ids": torch.tensor(IDS), "attention_mask": torch.ones(1, 5)}, "attention_mask is of shape"),
        ({"input_ids": IDS, "token_type_ids": [[0, 0]]}, "token_type_ids is of shape"),
        ({"input_ids": IDS, "position_ids": [[0, 0, 0]]}, "position_ids is of shape"),
        ({"input_ids": IDS, "position_ids": [[0.0, 1.0, 2.0, 3.0]]}, "position_ids are whole numbers"),
        ({"input_ids": IDS, "position_ids": [[0, 1, 2, 999]]}, "BertModel cannot take these .* (Index|Runtime)Error"),
        ({"input_ids": IDS, "position_ids": [[-1, 1, 2, 3]]}, "BertModel cannot take these .* (Index|Runtime)Error"),
        ({"input_ids": IDS, "token_type_ids": [[0, 0, 2, 2]]}, "BertModel cannot take these .* (Index|Runtime)Error"),
        ({"input_ids": IDS, "token_type_ids": [[0.0] * 4]}, "token_type_ids are whole numbers"),
        ({"input_ids": IDS, "atention_mask": [[1, 1, 1, 0]]}, "no 'atention_mask'; did you mean 'attention_mask'"),
        ({"inputs_embeds": torch.zeros(1, 4, 31)}, "BertModel cannot take these inputs .* RuntimeError"),
        ({"input_ids": torch.tensor(IDS).to_sparse()}, "to_dense"),
        ({"input_ids": IDS, "attention_mask": [[1, 1, 0.5, 1]]}, "1 for tokens and 0 for padding"),
        ({"input_ids": IDS, "attention_mask": [[0, 0, 0, 0]]}, "leaves no token"),
        ({"input_ids": IDS * 2, "attention_mask": [[1, 1, 1, 1]] * 2}, "these are 2 prompts"),
        (torch.tensor(IDS * 2), "these are 2 prompts"),
        (torch.tensor(IDS, device="meta"), "'meta'"),
        ({"input_ids": torch.tensor(IDS, device="meta")}, "'meta'"),
        (torch.tensor(IDS).float(), "whole numbers, got torch.float32"),
        (np.array(IDS, float), "whole numbers"),
        ([2.0, 5.0], "whole numbers"),
        ([True, False], "whole numbers"),
        (["2", "5", "3"], "token ids are whole numbers"),
        (["2", "5"], r"a tuple \(a, b\)"),
        ((A, ""), "two texts that are not empty"),
        (("", ""), "two texts that are not empty"),
        ((A,), "got a tuple with a str"),
        (([2, 3], [4]), "even rows"),
        ([[2, 3], [4]], "even rows"),
        (torch.zeros(1, 1, 4, dtype=torch.long), r"axes \(n,\) or \(batch, n\)"),
        (torch.zeros(0, dtype=torch.long), "no tokens"),
        (np.int64(3), r"axes \(n,\)"),
        ({}, "go by their names"),
        ({"labels": IDS}, "takes input_ids"),
        ({"role": "user", "content": "hi"}, "put this one into a list"),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(1, 4, 32)}, "not both"),
        ({"inputs_embeds": torch.zeros(1, 4, 32, dtype=torch.long)}, "numbers of axes"),
        ({"input_ids": "the cat"}, "even rows"),
        ({"input_ids": [2, 3], "past_key_values": transformers.DynamicCache()}, "comes from an earlier pass"),
        ({"input_ids": [2, 3], "past_key_values": ((torch.ones(1), torch.ones(1)),)}, "comes from an earlier pass"),
        ([10**30], "got a list of object"),
        ([object()], "whole numbers"),
        ([None], "whole numbers"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_refused(prompt, words, bert):
    with pytest.raises(PromptError, match=words):
        capture_attention(bert[0], make_tokenizer(), prompt)


def test_text_that_the_tokenizer_refuses(demo):
    with pytest.raises(AttnViewerError):
        capture_attention(*demo, "half a pair \ud800")


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_sound_goes_in_as_its_features(kind):
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in
             {"layers": 2, "attention_heads": 4, "ffn_dim": 32}.items()}  # fmt: skip
    fast, eager = make_twins(
        transformers.WhisperForConditionalGeneration, transformers.WhisperConfig, vocab_size=16, d_model=32,
        num_mel_bins=8, max_source_positions=20, max_target_positions=30, decoder_start_token_id=1, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, **sides,
    )  # fmt: skip
    inputs = {"input_features": torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(0))}
    maps = capture_attention(fast, None, inputs, kind=kind, decoder_prompt=[1, 5, 6])
    layers = run_eager(eager, inputs | {"decoder_input_ids": torch.tensor([[1, 5, 6]])}, f"{kind}_attentions")
    assert measure_difference(maps, [layer[0] for layer in layers]) < 1e-5
    assert len(maps.tokens_key) == (3 if kind == "decoder" else 20)


def test_a_picture_goes_in_as_its_pixels():
    fast, eager = make_twins(transformers.ViTModel, transformers.ViTConfig, hidden_size=32, num_hidden_layers=2,
                             num_attention_heads=4, intermediate_size=32, image_size=24, patch_size=6)  # fmt: skip
    inputs = {"pixel_values": torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))}
    maps = check(capture_attention(fast, None, inputs), eager, inputs)
    assert maps.tokens_key == tuple(map(str, range(17)))


def test_separators_of_two_tokens_belong_to_the_first_sentence():
    tokenizer = make_tokenizer(model_input_names=["input_ids", "attention_mask"])
    tokenizer._tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast, eager = make_twins(transformers.RobertaModel, transformers.RobertaConfig, vocab_size=16, hidden_size=32,
                             num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, type_vocab_size=1,
                             pad_token_id=0)  # fmt: skip
    maps = check(capture_attention(fast, tokenizer, (A, B)), eager, tokenizer(A, B, return_tensors="pt"))
    assert maps.tokens_key[6:10] == ("mat", "[SEP]", "[SEP]", "a")
    assert maps.segments == (("sentence A", 0, 9), ("sentence B", 9, 14))


def test_what_a_decoder_has_said_is_refused_where_there_is_none(demo):
    with pytest.raises(OptionError, match="decoder_prompt is for encoder-decoders, and LlamaForCausalLM is none"):
        capture_attention(*demo, "a", decoder_prompt="b")
