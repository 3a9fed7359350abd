"""The README examples of bertviz and CircuitsVis with the line that draws changed: their numbers stand in our page."""

import numpy as np
import pytest
import torch
import transformers
from test_page import read_page
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer

from attn_viewer import AttentionMaps, export_html


@pytest.fixture(scope="module")
def model_name(tmp_path_factory):
    """A folder with a small BERT of random weights and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat"]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        initializer_range=0.5, attn_implementation="eager",
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def test_the_example_of_bertviz(model_name, tmp_path):
    input_text = "the cat sat on the mat"
    model = AutoModel.from_pretrained(model_name, output_attentions=True, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    inputs = tokenizer.encode(input_text, return_tensors="pt")
    outputs = model(inputs)
    attention = outputs.attentions  # outputs[-1] is an empty tuple of cross attentions since transformers 5
    tokens = tokenizer.convert_ids_to_tokens(inputs[0])
    # model_view(attention, tokens)
    (page,) = export_html(AttentionMaps.from_attentions(attention, tokens), tmp_path / "model_view.html")
    meta, heads = read_page(page)
    assert (meta["tokens_key"], meta["causal"]) == (["[CLS]", *input_text.split(), "[SEP]"], False)
    assert len(heads) == 3 * 4
    assert (
        AttentionMaps.from_attentions(outputs, tokens).facts == AttentionMaps.from_attentions(attention, tokens).facts
    )
    for (layer, head), weights in heads.items():
        np.testing.assert_array_equal(weights, attention[layer][0, head].detach().numpy())


def test_the_example_of_circuitsvis(demo, tmp_path):
    model = AutoModel.from_pretrained(demo[0].name_or_path, attn_implementation="eager")
    tokens = demo[1].tokenize("In the beginning")
    with torch.no_grad():
        cache = model(torch.tensor([demo[1].convert_tokens_to_ids(tokens)]), output_attentions=True).attentions
    attention_pattern = cache[1].squeeze(0)
    # cv.attention.attention_patterns(tokens=tokens, attention=attention_pattern)
    maps = AttentionMaps.from_attentions(tokens=tokens, attentions=attention_pattern)
    (page,) = export_html(maps, tmp_path / "attention_patterns.html")
    meta, heads = read_page(page)
    assert meta["causal"]
    assert [head for _, head in heads] == list(range(len(attention_pattern)))
    for (_, head), weights in heads.items():
        np.testing.assert_array_equal(weights, attention_pattern[head].numpy())
