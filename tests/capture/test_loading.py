import importlib
import json
import shutil
import sys

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers
from architectures import build_model, make_ids

from attn_viewer import capture_attention, capture_generation, load_model
from attn_viewer.capture import loading
from attn_viewer.capture.loading import choose_class, get_demo_path, load_image_model
from attn_viewer.cli import main
from attn_viewer.errors import CaptureError, ModelLoadError, OptionError

# Of peft, where a model has no folder yet.
pytestmark = pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")


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


@pytest.mark.parametrize("is_vision", [False, True])
def test_layers_that_a_checkpoint_lacks_are_refused(tmp_path, demo, is_vision):
    """Such layers hold random numbers, of which transformers only remarks."""
    load, source = (load_image_model, "demo-vision") if is_vision else (load_model, "demo")
    shutil.copytree(get_demo_path(source), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    part = config["vision_config"] if is_vision else config
    part["num_hidden_layers"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=r"are not in the checkpoint .*layers\.\d+\."):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_tables_norms_and_heads_that_a_checkpoint_lacks_are_refused(tmp_path, demo, name):
    config = build_model("llama").config
    config.tie_word_embeddings = False
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    demo[1].save_pretrained(tmp_path)
    load_model(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del weights[name]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match=rf"are not in the checkpoint .*\({name}"):
        load_model(tmp_path)


def test_a_pooler_that_a_checkpoint_lacks_is_no_matter(tmp_path, demo):
    model = transformers.BertForMaskedLM(build_model("bert").config)
    model.save_pretrained(tmp_path)
    demo[1].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    loaded = capture_attention(*load_model(tmp_path), make_ids())
    np.testing.assert_array_equal(loaded.weights[1], capture_attention(model, None, make_ids()).weights[1])


@pytest.mark.parametrize(
    ("name", "is_spare"),
    [
        ("pooler.dense.weight", True),
        ("embeddings.mask_token", True),
        ("masked_spec_embed", True),
        ("attention_pooler.layers.0.q_proj.weight", False),
        ("mask_decoder.transformer.layers.0.self_attn.q_proj.weight", False),
        ("prompt_encoder.no_mask_embed.weight", False),
        ("embed_tokens.weight", False),
    ],
)
def test_what_may_be_random_has_no_layers_and_no_masks_to_find(name, is_spare):
    assert bool(loading._SPARE.match(name)) == is_spare


def test_dtype_and_device_map(tmp_path, demo):
    build_model("llama").save_pretrained(tmp_path)
    demo[1].save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, dtype="bfloat16", device_map="cpu")
    assert model.dtype == torch.bfloat16
    assert load_model(tmp_path, attn_implementation="eager")[0].config._attn_implementation == "eager"


def test_gguf_of_smollm2_is_dequantised(smollm2):
    model, tokenizer = smollm2
    assert model.dtype == torch.float32
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.chat_template


def test_a_tokenizer_that_is_missing_is_an_error(tmp_path):
    build_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot load"):
        load_model(tmp_path)


@pytest.fixture
def adapter(tmp_path, demo):
    """The folder of an adapter on a model in the folder beside it."""
    model = build_model("llama")
    model.save_pretrained(tmp_path / "whole_model")
    demo[1].save_pretrained(tmp_path / "whole_model")
    wrapper = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, part in wrapper.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, generator=torch.Generator().manual_seed(0))
    wrapper.save_pretrained(tmp_path / "adapter")
    set_base(tmp_path / "adapter", "../whole_model")
    return tmp_path / "adapter", wrapper.eval()


def set_base(folder, base):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))


def test_an_adapter_is_loaded_into_its_model(adapter, demo):
    folder, wrapper = adapter
    model, tokenizer = load_model(folder)
    assert tokenizer.get_vocab() == demo[1].get_vocab()
    assert not model.training
    ours, theirs = (capture_attention(m, prompt=make_ids()) for m in (model, wrapper))
    np.testing.assert_array_equal(np.stack(ours.weights), np.stack(theirs.weights))
    bare = capture_attention(load_model(folder.parent / "whole_model")[0], prompt=make_ids())
    assert np.abs(ours.weights[0] - bare.weights[0]).max() > 0.01
    assert ours.tokens_key == bare.tokens_key
    assert load_model(str(folder), dtype="bfloat16")[0].dtype == torch.bfloat16


def test_an_adapter_whose_model_is_not_there(adapter, monkeypatch):
    folder, _ = adapter
    for base, words in [("./nowhere", "does not exist"), ("../adapter", "an adapter too"), (3, "does not say")]:
        set_base(folder, base)
        with pytest.raises(ModelLoadError, match=words):
            load_model(folder)
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(ModelLoadError, match="does not say"):
        load_model(folder)


def test_an_adapter_without_the_library(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelLoadError, match=r"attn-viewer\[adapters\]"):
        load_model(adapter[0])


def test_an_adapter_without_weights(adapter):
    (adapter[0] / "adapter_model.safetensors").write_bytes(b"{")
    with pytest.raises(ModelLoadError, match="cannot load adapter"):
        load_model(adapter[0])


@pytest.mark.parametrize("left", [0, 2])
def test_an_adapter_that_lacks_parameters_is_refused(adapter, left):
    path = adapter[0] / "adapter_model.safetensors"
    parts = safetensors.torch.load_file(path)
    safetensors.torch.save_file(dict([*parts.items()][:left]), path)
    with pytest.raises(ModelLoadError, match="missing adapter keys"):
        load_model(adapter[0])


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path, demo, smollm2_path, monkeypatch):
    asked = {
        "accelerate": ("integrations.accelerate", "modeling_utils"),  # of transformers 5 and 4
        "gguf": ("modeling_gguf_pytorch_utils",),
    }
    for name, modules in asked.items():
        for module in map(importlib.import_module, (f"transformers.{module}" for module in modules)):
            monkeypatch.setattr(module, f"is_{name}_available", lambda *_: False, raising=False)
    build_model("llama").save_pretrained(tmp_path)
    demo[1].save_pretrained(tmp_path)
    for path, package, options in ((tmp_path, "accelerate", {"device_map": "auto"}), (smollm2_path, "gguf", {})):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ModelLoadError, match=rf"{package} missing: pip install 'attn-viewer\[models\]'"):
            load_model(path, **options)


@pytest.mark.filterwarnings("ignore:You are calling .generate:UserWarning")  # transformers 4
@pytest.mark.parametrize("offload", ["cpu_offload", "disk_offload"])
def test_a_model_that_is_offloaded_whole_is_captured(offload, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    plain, model = build_model("llama"), build_model("llama")
    if offload == "cpu_offload":
        accelerate.cpu_offload(model, "cpu")
    else:
        accelerate.disk_offload(model, str(tmp_path), "cpu")
    assert all(parameter.is_meta for parameter in model.parameters())
    maps = capture_attention(model, prompt=make_ids())
    for ours, theirs in zip(maps.weights, capture_attention(plain, prompt=make_ids()).weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(CaptureError, match="offloaded"):
        capture_attention(model, prompt=make_ids(), weighting="value_norm")
    generated = capture_generation(model, None, make_ids(), max_new_tokens=2)
    assert generated.prompt_length == len(make_ids())


def test_an_unknown_dtype():
    with pytest.raises(OptionError, match="int4"):
        load_model(dtype="int4")


def test_classes():
    config = transformers.T5Config()
    assert choose_class(config) == "AutoModel"
    config.architectures = ["QwenForCausalLM"]
    assert choose_class(config) == "AutoModelForCausalLM"
    config.architectures = ["T5ForConditionalGeneration"]
    assert choose_class(config) == "T5ForConditionalGeneration"
    config.architectures = ["OwnForConditionalGeneration"]
    assert choose_class(config) == "AutoModelForSeq2SeqLM"
    config.is_encoder_decoder = False
    assert choose_class(config) == "AutoModel"
    config = transformers.WhisperConfig(architectures=["WhisperForConditionalGeneration"])
    assert choose_class(config) == "WhisperForConditionalGeneration"


def test_a_model_that_sees_comes_with_its_processor_or_else_its_tokenizer(tmp_path, caplog):
    model, processor = load_model("demo-vision")
    assert isinstance(model, transformers.LlavaForConditionalGeneration)
    assert isinstance(processor, transformers.LlavaProcessor)
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    assert not caplog.messages
    assert load_model(tmp_path)[1].get_vocab() == processor.tokenizer.get_vocab()
    assert "text alone" in caplog.text


def test_a_path_without_a_name_is_no_demo_model(capsys):
    assert main(["view", "--model_path", ""]) == 2
    assert "folder '' holds no model" in capsys.readouterr().err


def test_revisions_are_of_models_on_the_hub():
    with pytest.raises(OptionError, match="revision is for models of the hub, and 'demo' is on disk"):
        load_model(revision="x")
