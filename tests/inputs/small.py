"""Small models with weights far from uniform, their eager twins, and tokenizers that make pairs and chats."""

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "cat", "sat", "on", "mat", "lay", "rug", "a", "dog", "ran", "home"]
A, B = "the cat sat on the mat", "a dog ran home"
BERT = {
    "vocab_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def spread(model, std=0.3):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator).mul_(std)
    return model.eval()


def make_twins(model_class, config_class, **options):
    """Return a model on SDPA and the same on eager attention."""
    fast = spread(model_class(config_class(**options)))
    eager = model_class(config_class(**options, attn_implementation="eager")).eval()
    eager.load_state_dict(fast.state_dict())
    return fast, eager


def make_bert():
    return make_twins(transformers.BertModel, transformers.BertConfig, **BERT)


def make_gpt2(**options):
    sizes = {"vocab_size": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
    ends = {"bos_token_id": 2, "eos_token_id": None, "pad_token_id": 0}
    return make_twins(transformers.GPT2LMHeadModel, transformers.GPT2Config, **sizes | ends | options)


def make_tokenizer(**options):
    """Return a tokenizer of words that makes BERT's pairs, ``[CLS] a [SEP] b [SEP]``, with segment ids."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    options = {"model_input_names": names} | options
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options)


def run_eager(model, inputs, name="attentions"):
    """Return the weights of the first prompt, float64, one array of axes (n_heads, n, n) a layer."""
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    return [layer.double().numpy() for layer in output[name]]


def measure_difference(maps, layers):
    assert len(maps.weights) == len(layers)
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(maps.weights, layers, strict=True))
