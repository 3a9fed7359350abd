import pytest
import torch
import transformers
from small import BERT, make_bert, make_gpt2, make_twins

from attn_viewer import capture_attention, capture_generation
from attn_viewer.errors import PromptError

SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {"vocab_size": 96, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
BOUNDED = {
    "BertModel": ("BertConfig", BERT),
    "RobertaModel": ("RobertaConfig", SMALL | {"max_position_embeddings": 66, "pad_token_id": 1}),
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 96, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}),
    "GPTNeoForCausalLM": (
        "GPTNeoConfig",
        {"vocab_size": 96, "hidden_size": 32, "num_layers": 1, "num_heads": 4, "max_position_embeddings": 64,
         "attention_types": [[["global"], 1]]},
    ),
    "GPTJForCausalLM": (
        "GPTJConfig",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    ),
    "OPTForCausalLM": (
        "OPTConfig",
        {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 32,
         "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    ),
    "DistilBertModel": (
        "DistilBertConfig",
        {"vocab_size": 96, "dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 32, "max_position_embeddings": 64},
    ),
    "CLIPTextModel": ("CLIPTextConfig", SMALL | {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}),
    "BartModel": ("BartConfig", DECODER | {"max_position_embeddings": 64}),
    "MarianMTModel": (
        "MarianConfig",
        DECODER | {"max_position_embeddings": 64, "pad_token_id": 0, "decoder_start_token_id": 0},
    ),
}  # fmt: skip
UNBOUNDED = {
    "LlamaForCausalLM": ("LlamaConfig", SMALL | {"max_position_embeddings": 64}),
    "BloomForCausalLM": ("BloomConfig", {"vocab_size": 96, "hidden_size": 32, "n_layer": 1, "n_head": 4}),
    "DebertaV2Model": (
        "DebertaV2Config",
        SMALL | {"max_position_embeddings": 64, "position_buckets": 32, "relative_attention": True,
                 "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]},
    ),
    "T5EncoderModel": (
        "T5Config",
        {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4},
    ),
}  # fmt: skip


def build(name, table):
    config, options = table[name]
    return getattr(transformers, name)(getattr(transformers, config)(**options)).eval()


@pytest.mark.parametrize("name", BOUNDED)
def test_a_prompt_beyond_the_positions_is_refused(name):
    model = build(name, BOUNDED)
    ids = [3, *[5] * 70, 4]
    with pytest.raises(PromptError, match=rf"72 tokens are more than the 6\d that {name} has positions for"):
        capture_attention(model, prompt=ids)
    assert len(capture_attention(model, prompt=ids[:60]).tokens_key) == 60


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_model_without_a_bound_takes_more(name):
    maps = capture_attention(build(name, UNBOUNDED), prompt=[3, *[5] * 70, 4])
    assert len(maps.tokens_key) == 72


def test_a_completion_beyond_the_positions_is_refused():
    fast, _ = make_gpt2()
    with pytest.raises(PromptError, match="50 tokens are more than the 40"):
        capture_generation(fast, None, [2, *[5] * 29], max_new_tokens=20)


def test_what_the_model_raises_of_itself_stays_what_it_is():
    fast, _ = make_bert()

    def fail(module, args):
        raise RuntimeError("of its own")

    handle = fast.encoder.layer[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="of its own"):
        capture_attention(fast, prompt=[2, *[5] * 40])
    handle.remove()


def test_placeholders_of_pictures_without_a_picture_are_refused():
    vision = transformers.CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                           num_attention_heads=4, image_size=24, patch_size=6)  # fmt: skip
    text = transformers.LlamaConfig(**SMALL, max_position_embeddings=128)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=7,
                                      vision_feature_select_strategy="default", vision_feature_layer=-1)  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(config).eval()
    ids = [1, *[7] * 16, 5, 6]
    for prompt in (ids, {"input_ids": [ids], "attention_mask": [[1] * 19]}):
        with pytest.raises(PromptError, match="token 7 stands for image input"):
            capture_attention(model, prompt=prompt)
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values": torch.randn(1, 3, 24, 24)}
    maps = capture_attention(model, prompt=inputs)
    assert len(maps.tokens_key) == 19
    said = capture_generation(model, None, inputs, max_new_tokens=3)
    assert said.prompt_length == 19
    assert 20 <= len(said.tokens_key) <= 22
    assert len(capture_attention(model, prompt=[1, 5, 6]).tokens_key) == 3


def test_ids_outside_the_vocabulary():
    fast, _ = make_twins(transformers.BertModel, transformers.BertConfig, **BERT)
    with pytest.raises(PromptError, match="the model knows 0 to 15"):
        capture_attention(fast, prompt=[2, 16])
