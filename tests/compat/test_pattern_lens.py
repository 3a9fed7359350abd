"""pattern-lens's names on the demo model, and the numbers behind them."""

import dataclasses
import gzip
import json
import runpy
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import make_maps

import attn_viewer
from attn_viewer import capture_attention
from attn_viewer.compat import pattern_lens
from attn_viewer.compat.pattern_lens import activations, figures, indexes, server
from attn_viewer.compat.pattern_lens.load_activations import activations_exist, load_activations
from attn_viewer.errors import (
    ActivationsMismatchError,
    ActivationsMissingError,
    AttnViewerError,
    InvalidPromptError,
    OptionError,
)
from attn_viewer.figures import registry

# pattern-lens's README example with its imports changed
EXAMPLE = """
from scipy.linalg import svd
from attn_viewer.compat.pattern_lens.attn_figure_funcs import register_attn_figure_func
from attn_viewer.compat.pattern_lens.figure_util import matplotlib_figure_saver


@register_attn_figure_func
@matplotlib_figure_saver(fmt="svgz")
def spectra(attn_matrix, ax):
    ax.plot(svd(attn_matrix)[1], "o-")
    ax.set_title("Singular Value Spectrum of Attention Matrix")
"""
TEXTS = ["In the beginning God created the heaven", "And the earth was", "without form, and void; and darkness"]


@pytest.fixture
def registered(monkeypatch):
    """Figure functions that a test registers are gone after it."""
    registry.select_attn_figure_funcs()  # which registers those of this package
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))


@pytest.fixture
def hooked(demo):
    return activations.HookedTransformer(*demo, "demo")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def test_the_seed_example_runs_with_its_imports_changed(tmp_path, registered):
    program = tmp_path / "program.py"
    program.write_text(EXAMPLE)
    spectra = runpy.run_path(str(program))["spectra"]
    assert "spectra" in pattern_lens.get_all_figure_names()
    assert spectra in pattern_lens.attn_figure_funcs.ATTENTION_MATRIX_FIGURE_FUNCS
    spectra(make_maps(1, 1, 9).weights[0][0], tmp_path)
    svg = gzip.decompress((tmp_path / "spectra.svgz").read_bytes()).decode()
    assert ">Singular Value Spectrum of Attention Matrix<" in svg


def test_functions_can_be_imported_from_the_package_too():
    assert pattern_lens.register_attn_figure_func is registry.register_attn_figure_func
    assert pattern_lens.load_activations.load_activations is load_activations
    with pytest.raises(AttributeError, match="plot_bars"):
        _ = pattern_lens.plot_bars


def test_weights_of_a_prompt_come_as_asked_for(hooked, tmp_path):
    expected = capture_attention(hooked.model, hooked.tokenizer, TEXTS[0])
    prompt = {"text": TEXTS[0]}
    path, cache = activations.get_activations(prompt, hooked, tmp_path, True, "torch")
    assert isinstance(cache["blocks.0.attn.hook_pattern"], torch.Tensor)
    path_again, stored = load_activations("demo", prompt, tmp_path, "numpy")
    assert path == path_again == tmp_path / "demo" / "prompts" / prompt["hash"] / "activations.npz"
    assert activations.get_activations(prompt, "demo", tmp_path, return_cache=None) == (path, None)
    for layer, weights in enumerate(expected.weights):
        np.testing.assert_array_equal(stored[f"blocks.{layer}.attn.hook_pattern"][0], weights)
    path, stacked = activations.compute_activations(prompt, hooked, tmp_path, return_cache="numpy", stack_heads=True)
    np.testing.assert_array_equal(stacked, np.stack(expected.weights)[None])
    np.testing.assert_array_equal(np.load(path), stacked[0])


def test_a_batch_gives_what_each_prompt_gives_alone(hooked, tmp_path):
    prompts = [{"text": text, "hash": f"p{i}"} for i, text in enumerate(TEXTS)]
    paths = activations.compute_activations_batched(prompts, hooked, tmp_path)
    for prompt, path in zip(prompts, paths, strict=True):
        expected = capture_attention(hooked.model, hooked.tokenizer, prompt["text"])
        with np.load(path) as stored:
            for layer, weights in enumerate(expected.weights):
                np.testing.assert_array_equal(stored[f"blocks.{layer}.attn.hook_pattern"][0], weights)
        assert prompt["n_tokens"] == len(prompt["tokens"]) == len(hooked.tokenizer.tokenize(prompt["text"]))


@dataclasses.dataclass
class _Config:
    """As TransformerLens has one."""

    model_name: str = "lens/small"
    n_layers: int = 2
    n_heads: int = 3
    dtype: torch.dtype = torch.float32


class _Lens:
    """What a model of TransformerLens must have, with a token before the text."""

    def __init__(self):
        self.cfg, self.tokenizer = _Config(), SimpleNamespace(tokenize=str.split)

    def to_tokens(self, text):
        return torch.zeros(1, len(text.split()) + 1)

    def run_with_cache(self, texts, names_filter, return_type, padding_side="right"):
        texts = [texts] if isinstance(texts, str) else texts
        n = max(len(text.split()) for text in texts) + 1
        ones = torch.ones(len(texts), 3, n, n).tril()
        names = [f"blocks.{i}.attn.hook_{kind}" for i in range(2) for kind in ("pattern", "z")]
        return None, {name: ones / ones.sum(-1, keepdim=True) for name in names if names_filter(name)}


def test_a_model_of_transformer_lens_is_a_model(tmp_path):
    prompt = {"text": "a b c", "hash": "abc"}
    path, cache = activations.compute_activations(prompt, _Lens(), tmp_path, return_cache="numpy")
    assert {name: weights.shape for name, weights in cache.items()} == {
        f"blocks.{i}.attn.hook_pattern": (1, 3, 4, 4) for i in range(2)
    }
    maps = attn_viewer.storage.load_prompt_maps("lens/small", prompt, tmp_path)
    assert maps.tokens_key == ("<bos>", "a", "b", "c")
    assert maps.causal
    config = json.loads((path.parents[2] / "model_cfg.json").read_text())
    assert (config["n_layers"], config["n_heads"], config["dtype"]) == (2, 3, "torch.float32")
    local = _Lens()
    local.cfg.model_name = str(tmp_path / "models" / "local")  # as a bridge of a model from a folder has it
    assert activations.compute_activations(prompt, local, tmp_path)[0].parts[-4] == "local"
    with pytest.raises(OptionError, match="hook_z"):
        activations.compute_activations(prompt, _Lens(), tmp_path, lambda name: True)


@pytest.mark.parametrize(
    ("prompts", "seq_lens", "said"),
    [
        ([], None, "must not be empty"),
        ([{"hash": "a"}], None, "'text'"),
        ([{"text": "a"}], None, "'hash'"),
        ([{"text": "a", "hash": "a"}], [1, 2], "2 for 1"),
    ],
)
def test_wrong_calls_are_assertions_too(prompts, seq_lens, said, tmp_path):
    with pytest.raises(AssertionError, match=said) as caught:
        activations.compute_activations_batched(prompts, _Lens(), tmp_path, seq_lens=seq_lens)
    assert isinstance(caught.value, AttnViewerError)
    with pytest.raises(AssertionError, match=r"range \[0, 1\]"):
        pattern_lens.matrix_as_svg([[0.0, 2.0]])


def test_what_is_no_model_or_prompt_is_said(tmp_path, demo):
    with pytest.raises(OptionError, match="HookedTransformer or TransformerBridge"):
        activations.compute_activations({"text": "a", "hash": "a"}, demo[0], tmp_path)
    with pytest.raises(OptionError, match="return_cache"):
        activations.compute_activations({"text": "a", "hash": "a"}, _Lens(), tmp_path, return_cache="jax")
    with pytest.raises(InvalidPromptError, match="must have 'hash' key"):
        activations_exist("demo", {"text": "a"}, tmp_path)
    with pytest.raises(OptionError, match="leave them out"):
        indexes.write_html_index(tmp_path, {"a": 1})


def test_commands_make_a_folder_and_its_figures(prompts, tmp_path, monkeypatch):
    folder = tmp_path / "attn_data"
    words = ["-m", "demo", "-p", str(prompts), "-s", str(folder), "-r", "--min-chars", "20", "-b", "2"]
    monkeypatch.setattr(sys, "argv", ["activations", *words])
    activations.main()
    (stored, _) = attn_viewer.storage.folder.DataFolder(folder).get_model("demo").list_prompts()
    assert sorted(prompt["text"] for prompt in stored) == sorted(text for text in TEXTS if len(text) >= 20)
    page = (folder / "index.html").read_text()
    assert all(f'href="demo/prompts/{prompt["hash"]}/"' in page for prompt in stored)
    monkeypatch.setattr(sys, "argv", ["figures", "-m", "demo", "-s", str(folder), "-n", "1", "--figure-funcs", "raw"])
    monkeypatch.setattr(figures.pipeline.os, "cpu_count", lambda: 1)
    figures.main()
    drawn = sorted(folder.glob("demo/prompts/*/L*/H*/raw.png"))
    assert len(drawn) == 4 * 8
    times = [path.stat().st_mtime_ns for path in drawn]
    figures.main()
    assert [path.stat().st_mtime_ns for path in drawn] == times


def test_stacked_heads_are_stored_once(prompts, tmp_path):
    options = {"no_index_html": True, "stacked_heads": True}
    with pytest.raises(ActivationsMissingError, match="raw_prompts=True"):
        activations.activations_main("demo", tmp_path, str(prompts), False, 0, 99, False, None, **options)
    activations.activations_main("demo", tmp_path, str(prompts), True, 0, 99, False, 2, **options)
    assert len([*tmp_path.glob("demo/prompts/*/activations-blocks.-.attn.hook_pattern.npy")]) == 2
    assert not (tmp_path / "index.html").exists()


def test_a_prompt_of_another_text_is_refused(hooked, tmp_path):
    activations.compute_activations({"text": TEXTS[0], "hash": "same"}, hooked, tmp_path)
    with pytest.raises(ActivationsMismatchError):
        activations.compute_activations({"text": TEXTS[1], "hash": "same"}, hooked, tmp_path)


def test_figures_of_one_head(tmp_path):
    def works(pattern, folder):
        plt.imsave(folder / "works", pattern, format="png")

    def fails(pattern, folder):
        raise ValueError("not today")

    pattern = make_maps(1, 1, 5).weights[0][0]
    with pytest.warns(UserWarning, match="fails failed at L3 H4: not today"):
        status = figures.process_single_head(3, 4, pattern, tmp_path, [works, fails])
    assert status["works"] is True
    assert isinstance(status["fails"], ValueError)
    assert (tmp_path / "fails.error.txt").read_text() == "not today\n"
    saved = (tmp_path / "works").stat().st_mtime_ns
    assert figures.process_single_head(3, 4, pattern, tmp_path, [works]) == {"works": True}
    assert (tmp_path / "works").stat().st_mtime_ns == saved


def test_process_prompt_reads_what_is_stored(hooked, tmp_path):
    prompt = {"text": TEXTS[1]}
    path, _ = activations.get_activations(prompt, hooked, tmp_path)
    config = figures.HTConfigMock.load({"n_layers": 4, "n_heads": 8, "model_name": "demo"})
    assert config.serialize() == {"n_layers": 4, "n_heads": 8, "model_name": "demo"}
    figures.process_prompt(prompt, config, tmp_path, figures.select_attn_figure_funcs("raw"))
    assert len([*path.parent.glob("L*/H*/raw.png")]) == 4 * 8
    assert (tmp_path / "demo" / "prompts.jsonl").read_text().count("\n") == 1


def test_the_server_serves_data_folders_alone(tmp_path, hooked, monkeypatch):
    with pytest.raises(SystemExit, match="no data folder"):
        server.main(str(tmp_path))
    activations.get_activations({"text": TEXTS[1]}, hooked, tmp_path)
    asked = {}
    monkeypatch.setattr(server, "serve", lambda path, port, ready: asked.update(path=path, port=port))
    with pytest.raises(SystemExit) as caught:
        server.main(str(tmp_path), 8123)
    assert (asked, caught.value.code) == ({"path": str(tmp_path), "port": 8123}, 0)
