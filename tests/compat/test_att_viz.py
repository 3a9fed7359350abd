"""att_viz's names on the demo model: what its README runs, and the numbers behind it."""

import subprocess
import sys

import numpy as np
import pytest

from attn_viewer import capture_generation, load_scores
from attn_viewer.compat import att_viz
from attn_viewer.compat.att_viz import AttentionAggregationMethod, AttentionMatrix, RenderConfig, Renderer
from attn_viewer.errors import OptionError

# att_viz's README example with its imports and its model changed
EXAMPLE = """
from attn_viewer.compat.att_viz import Experiment
from attn_viewer.compat.att_viz import Renderer, RenderConfig
from attn_viewer.compat.att_viz import SelfAttentionModel
from attn_viewer.compat.att_viz import AttentionAggregationMethod

model = SelfAttentionModel("demo")
aggregation_method = AttentionAggregationMethod.HEADWISE_AVERAGING
renderer = Renderer(render_config=RenderConfig(), aggregation_method=aggregation_method)
experiment = Experiment(model, renderer)
experiment.basic_experiment(prompt="In the beginning", aggr_method=aggregation_method, max_new_tokens=4)
"""
HEADS, MEAN = AttentionAggregationMethod.NONE, AttentionAggregationMethod.HEADWISE_AVERAGING


@pytest.fixture
def model(monkeypatch, demo):
    monkeypatch.setattr(att_viz, "load_model", lambda path: demo)
    return att_viz.SelfAttentionModel("demo")


def test_the_seed_example_runs_with_its_imports_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLE, "example", "exec"), {})
    (page,) = tmp_path.iterdir()
    assert page.name.startswith("AttViz-")
    assert '"reduction":"head_mean"' in page.read_text().replace(": ", ":")


def test_generated_text_comes_with_its_attention(model, tmp_path):
    tokens, matrix, prompt_length = model.generate_text("And God said", 5, str(tmp_path / "a"), None)
    expected = capture_generation(model.model, model.tokenizer, "And God said", max_new_tokens=5)
    assert tokens == model.tokenizer.convert_ids_to_tokens(list(expected.ids_key))
    assert prompt_length == expected.prompt_length == len(tokens) - 5
    assert (matrix.num_layers, matrix.num_heads) == (4, 8)
    for kept in (matrix.attention_matrix, load_scores(tmp_path / "a_attn_scores.pt")):
        for mine, weights in zip(kept.weights, expected.weights, strict=True):
            np.testing.assert_array_equal(mine, weights)


def test_attentions_of_generate_are_a_matrix(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = model.tokenizer("And God said", return_tensors="pt")["input_ids"]
    model.model.set_attn_implementation("eager")
    try:
        output = model.model.generate(
            inputs, max_new_tokens=3, do_sample=False, output_attentions=True, return_dict_in_generate=True
        )
    finally:
        model.model.set_attn_implementation("sdpa")
    matrix = AttentionMatrix(output.attentions)
    assert (matrix.num_layers, matrix.num_heads, matrix.is_formatted) == (4, 8, False)
    matrix.format(MEAN, zero_first_attention=True)
    tokens = model.tokenizer.convert_ids_to_tokens(output.sequences[0])
    maps = matrix.make_maps(tokens)
    assert (maps.reduction, len(maps.tokens_key)) == ("head_mean", len(tokens) - 1)
    (page,) = Renderer(RenderConfig()).render(tokens, inputs.shape[1], matrix)
    assert "first=hide" in page.read_text()


def test_saved_completions_become_pages(model, tmp_path):
    prefixes = [str(tmp_path / name) for name in ("one", "two")]
    att_viz.save_completions("demo", ["And God said", "In the"], prefixes, 3, prompt_template="{p}")
    pages = att_viz.process_saved_completions(RenderConfig(), HEADS, prefixes)
    assert [page.name for page in pages] == ["one.html", "two.html"]
    with pytest.raises(OptionError, match="save_prefixes"):
        att_viz.save_completions("demo", ["a"], prefixes[:1], save_prefix="b")
    with pytest.raises(OptionError, match="when completions are saved"):
        att_viz.process_saved_completions(RenderConfig(), HEADS, prefixes, prettify_tokens=False)


@pytest.fixture
def page(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens, matrix, n = model.generate_text("And God said", 2, prompt_template=None)
    (page,) = Renderer(RenderConfig()).render(tokens, n, matrix, prettify_tokens=False)
    return page


@pytest.mark.slow  # a process
def test_post_processing_is_a_command(page, tmp_path):
    words = [sys.executable, "-m", "attn_viewer.compat.att_viz", page.name]
    done = subprocess.run([*words, "2.5", "0.05"], capture_output=True, text=True, check=True)
    made = (tmp_path / done.stdout.strip()).read_text()
    assert made == att_viz.reprocess_html(page, 2.5, 0.05).read_text()


def test_post_processing_opens_a_page_amplified(page, tmp_path):
    made = att_viz.reprocess_html(page, 2.5, 0.05)
    assert made.name == f"{page.stem}_reprocessed.html"
    assert "view=text&amp=2_5&min=0_05" in made.read_text().replace("\\u0026", "&")
    assert len(made.read_text()) > len((tmp_path / page).read_text())
    with pytest.raises(OptionError, match="amplification is 1 to 5"):
        att_viz.reprocess_html(page, 9, 0)
    (tmp_path / "other.html").write_text("<p>")
    with pytest.raises(OptionError, match="no page of Attention Viewer"):
        att_viz.reprocess_html(tmp_path / "other.html", 1, 0)
