"""Arrakis's attention tools: what its page runs, and what their names promise."""

import numpy as np
import pytest
import torch

from attn_viewer import capture_attention
from attn_viewer.compat.arrakis import AttentionTools, BaseInterpretabilityBench, HookedAutoConfig, HookedAutoModel
from attn_viewer.errors import OptionError

# The example of Arrakis's page on attention tools with its imports changed; the model is smaller than its default
EXAMPLE = """
import torch
from attn_viewer.compat.arrakis import *

config = HookedAutoConfig(name="llama", vocab_size=99, hidden_size=32, intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4)
model = HookedAutoModel(config)
input_ids = torch.randint(0, 99, (1, 50))

class MIExperiment(BaseInterpretabilityBench):
   def __init__(self, model, save_dir="experiments"):
      super().__init__(model, save_dir)

exp = MIExperiment(model)

@exp.use_tools("attention")
def test_attention_tools(layer_idx, head_idx1, head_idx2, alpha, attention):
   return {
      "ablate_head": attention.ablate_head(layer_idx, head_idx1),
      "merge_heads": attention.merge_heads(layer_idx, head_idx1, head_idx2, alpha),
      "attention_patterns": attention.attention_patterns(input_ids, layer_idx, head_idx1),
      "top_attended_ids": attention.top_attended_ids(input_ids, layer_idx, head_idx1, 1),
   }

found = test_attention_tools(0, 0, 1, 0.5)
"""


def test_the_seed_example_runs_with_its_imports_changed():
    names = {}
    exec(compile(EXAMPLE, "example", "exec"), names)
    assert names["found"]["attention_patterns"].shape == (50, 50)
    (best,) = names["found"]["top_attended_ids"]
    assert best == names["input_ids"][0, names["found"]["attention_patterns"][-1].argmax()]


@pytest.fixture
def ids(demo):
    return demo[1]("In the beginning God created the heaven", return_tensors="pt")["input_ids"]


def test_tools_do_what_their_names_say(demo, ids):
    tools = AttentionTools(demo[0])
    expected = capture_attention(*demo, ids).get_layer(1)
    np.testing.assert_allclose(tools.attention_patterns(ids, 1, 3), expected[3], atol=1e-6)
    order = np.argsort(-expected[3][-1])[:3]
    assert torch.equal(torch.stack(tools.top_attended_ids(ids, 1, 3, 3)), ids[0, order.copy()])
    with tools.ablate_head(1, 3):
        assert not tools.attention_patterns(ids, 1, 3).any()
    with tools.merge_heads(1, 2, 3, 0.25):
        merged = tools.attention_patterns(ids, 1, 2)
    np.testing.assert_allclose(merged, 0.25 * expected[2] + 0.75 * expected[3], atol=1e-6)
    np.testing.assert_allclose(tools.attention_patterns(ids, 1, 3), expected[3], atol=1e-6)


def test_experiments_are_kept_by_version(demo, tmp_path):
    bench = BaseInterpretabilityBench(demo[0], tmp_path / "kept")
    assert bench.list_versions("doubles") == []

    @bench.log_experiment
    def doubles(number):
        return 2 * number

    assert [doubles(2), doubles(3)] == [4, 6]
    (version,) = bench.list_versions("doubles")
    assert bench.get_version("doubles", version)["result"] == 6
    assert "return 2 * number" in bench.get_version("doubles", version)["source"]
    assert bench.get_version("doubles", "none") is None


def test_a_tool_that_is_not_there_is_said(demo):
    bench = BaseInterpretabilityBench(demo[0])
    with pytest.raises(OptionError, match="no tool 'logit_lens'; there are attention"):
        bench.use_tools("logit_lens")
    bench.tools["custom"] = 5
    assert bench.use_tools("custom")(lambda custom: custom)() == 5


def test_words_of_kinds():
    config = HookedAutoConfig("gpt-neox", hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=9)
    assert config.model_type == "gpt_neox"
    assert not HookedAutoModel(config).training
