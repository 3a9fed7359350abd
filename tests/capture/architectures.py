"""Tiny random-weight models of many architectures, built with the transformers version at hand."""

import torch
import transformers

N_TOKENS = 12
_SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = _SMALL | {"num_key_value_heads": 2}

# name: (config class, model class, config arguments)
ARCHITECTURES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", _GROUPED | {"sliding_window": 5, "head_dim": 8}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _GROUPED | {"head_dim": 16}),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        _GROUPED | {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    ),
    "gpt_oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        _GROUPED | {"head_dim": 8, "sliding_window": 5, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _GROUPED),
    "bert": ("BertConfig", "BertModel", _SMALL),
}


def build_model(name, **options):
    """Build one of `ARCHITECTURES`, in eval mode, the same weights every time."""
    config_class, model_class, arguments = ARCHITECTURES[name]
    config = getattr(transformers, config_class)(**arguments)
    torch.manual_seed(0)
    auto = (
        transformers.AutoModelForCausalLM if model_class.endswith(("CausalLM", "HeadModel")) else transformers.AutoModel
    )
    model = auto.from_config(config, **options).eval()
    with torch.no_grad():  # weights as they are initialised give nearly uniform attention
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
            elif "sinks" in dict(model.named_parameters()):
                parameter.normal_()
    return model


def make_ids(n_tokens=N_TOKENS, vocab_size=96):
    """Return token ids that are no special tokens."""
    return torch.randint(3, vocab_size, (n_tokens,), generator=torch.Generator().manual_seed(1)).tolist()
