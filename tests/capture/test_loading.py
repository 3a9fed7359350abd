import pytest
import torch
import transformers
from architectures import build_model

from attn_viewer import load_model
from attn_viewer.capture.loading import choose_auto_class, get_demo_path
from attn_viewer.errors import ModelLoadError, OptionError


def test_the_demo_model_is_small_and_complete(demo):
    model, tokenizer = demo
    assert sum(path.stat().st_size for path in get_demo_path().iterdir()) <= 4e6
    assert model.dtype == torch.float32
    assert not model.training
    assert model.config.num_hidden_layers == 4
    assert model.config.num_attention_heads == 8
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    assert model.config._attn_implementation == "sdpa"


def test_a_folder_is_loaded_as_what_it_was_trained_to_be(tmp_path, demo):
    models = {"gpt2": build_model("gpt2"), "bert": transformers.BertModel(build_model("bert").config)}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        demo[1].save_pretrained(tmp_path / name)
    assert type(load_model(tmp_path / "gpt2")[0]).__name__ == "GPT2LMHeadModel"
    assert type(load_model(tmp_path / "bert")[0]).__name__ == "BertModel"


def test_dtype_and_device_map(tmp_path, demo):
    build_model("llama").save_pretrained(tmp_path)
    demo[1].save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, dtype="bfloat16", device_map="cpu")
    assert model.dtype == torch.bfloat16
    assert load_model(tmp_path, attn_implementation="eager")[0].config._attn_implementation == "eager"


def test_gguf_is_dequantised(smollm2):
    model, tokenizer = smollm2
    assert model.dtype == torch.float32
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.chat_template


def test_a_tokenizer_that_is_missing_is_an_error(tmp_path):
    build_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot load"):
        load_model(tmp_path)


def test_an_unknown_dtype():
    with pytest.raises(OptionError, match="int4"):
        load_model(dtype="int4")


def test_auto_classes():
    class Config:
        architectures = None
        is_encoder_decoder = False

    assert choose_auto_class(Config()) == "AutoModel"
    Config.architectures = ["QwenForCausalLM"]
    assert choose_auto_class(Config()) == "AutoModelForCausalLM"
    Config.architectures, Config.is_encoder_decoder = ["T5ForConditionalGeneration"], True
    assert choose_auto_class(Config()) == "AutoModelForSeq2SeqLM"
