import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from coloured_shapes import draw_scene
from conftest import PROMPT, make_maps
from PIL import Image

import attn_viewer
from attn_viewer import capture_generation, load_scores, save_scores, view_attention
from attn_viewer.cli import run_view
from attn_viewer.core import check_view
from attn_viewer.errors import CacheError, OptionError, OutputError, PromptError
from attn_viewer.figures import formats
from attn_viewer.figures import pages as usual  # has its own name for what the fixture below replaces
from attn_viewer.options import ViewOptions


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_prompt_becomes_files(demo, tmp_path):
    model, tokenizer = demo
    paths = view_attention(
        model, "demo", tokenizer, PROMPT, True, tmp_path / "scores", None, tmp_path / "vis", True, False, 3
    )
    assert paths == [
        tmp_path / "scores" / "demo_attn_scores.pt",
        tmp_path / "vis" / "demo" / "all_layers_avg.jpg",
        *(tmp_path / "vis" / "demo" / f"layer_{i}.jpg" for i in range(4)),
    ]
    assert all(path.stat().st_size > 10_000 for path in paths)


def test_a_cache_gives_the_same_bytes_as_the_model(demo, tmp_path):
    model, tokenizer = demo
    options = {"plot_figs_per_head": True, "ignore_first_token": True, "fig_format": "svg"}
    first = view_attention(model, "demo", tokenizer, PROMPT, True, tmp_path, save_fig_path=tmp_path / "one", **options)
    again = view_attention(load_attention_scores_path=first[0], save_fig_path=tmp_path / "two", **options)
    assert [p.name for p in again] == [p.name for p in first[1:]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(again, first[1:], strict=True))


def test_the_models_name_is_found(demo, tmp_path):
    model, tokenizer = demo
    (path,) = view_attention(model, tokenizer=tokenizer, prompt=PROMPT, save_fig_path=tmp_path)
    assert path == tmp_path / "demo" / "all_layers_avg.jpg"


def test_layers_and_heads_are_chosen(demo, tmp_path):
    model, tokenizer = demo
    paths = view_attention(
        model, "d", tokenizer, PROMPT, True, tmp_path, None, tmp_path, True, layers=[1, 3], heads=[0, 7]
    )
    assert [path.name for path in paths[1:]] == ["all_layers_avg.jpg", "layer_1.jpg", "layer_3.jpg"]
    maps = load_scores(paths[0])
    assert maps.layers == (1, 3)
    assert maps.heads == ((0, 7), (0, 7))
    fewer = view_attention(None, load_attention_scores_path=paths[0], save_fig_path=tmp_path / "b", layers=[3])
    assert len(fewer) == 1
    with pytest.raises(OptionError, match="no layer 0; there are 1, 3"):
        view_attention(load_attention_scores_path=paths[0], save_fig_path=tmp_path / "c", layers=[0])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("n_layers", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4)), 5])
@pytest.mark.parametrize("n_heads", [1, 13])
@pytest.mark.parametrize("num_figs_per_row", [pytest.param(1, marks=pytest.mark.slow), 3, 40])
def test_any_number_of_panels(tmp_path, n_layers, n_heads, num_figs_per_row):
    cache = save_scores(make_maps(n_layers, n_heads, 3), tmp_path)
    paths = view_attention(
        load_attention_scores_path=cache,
        save_fig_path=tmp_path,
        plot_figs_per_head=True,
        num_figs_per_row=num_figs_per_row,
        fig_format="svgz",
    )
    assert len(paths) == 1 + n_layers


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"prompt": ""}, PromptError, "got nothing"),
        ({"layers": [9]}, OptionError, "no layer 9"),
        ({"heads": [8]}, OptionError, "no head"),
        ({"fig_format": "gif"}, OptionError, "'gif'"),
        ({"model_id": "../x"}, OptionError, "model_id"),
        ({"model_id": "/x"}, OptionError, "model_id"),
        ({"num_figs_per_row": 0}, OptionError, "num_figs_per_row"),
        ({"save_attention_scores": True}, OptionError, "save_attention_scores_path"),
        ({"save_fig_path": None}, OptionError, "nothing would be written"),
        ({"save_fig_path": "file/below"}, OutputError, "is not a folder"),
        ({"model": None}, OptionError, "needs a model"),
        ({"model": "demo"}, OptionError, "load_model gives it"),
        ({"prompt": [5], "sink": "hide"}, OptionError, "one token"),
        ({"load_attention_scores_path": "none.pt"}, CacheError, "does not exist"),
    ],
)
def test_nothing_is_written_when_something_is_wrong(demo, tmp_path, monkeypatch, options, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    given = {"model": demo[0], "tokenizer": demo[1], "prompt": PROMPT, "save_fig_path": "vis", **options}
    given.setdefault("save_attention_scores_path", None)
    with pytest.raises(error, match=words):
        view_attention(**given)
    assert list_files(tmp_path) == ["file"]


def test_a_page_that_cannot_be_drawn_leaves_no_cache(demo, tmp_path):
    with pytest.raises(OptionError, match="one token"):
        view_attention(demo[0], "d", demo[1], [5], True, tmp_path / "c", None, tmp_path / "f", sink="hide")
    assert list_files(tmp_path) == []


def test_interruption_leaves_complete_files_only(demo, tmp_path, monkeypatch):
    from attn_viewer.figures import pages

    render, calls = pages.render_figure, []

    def render_two(figure, fmt, **options):
        calls.append(fmt)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return render(figure, fmt, **options)

    monkeypatch.setattr(pages, "render_figure", render_two)
    with pytest.raises(KeyboardInterrupt):
        view_attention(demo[0], "d", demo[1], PROMPT, False, None, None, tmp_path, True)
    assert list_files(tmp_path) == ["d/all_layers_avg.jpg", "d/layer_0.jpg"]


def test_options_of_the_signature_are_checked_before_the_model_runs():
    assert ViewOptions(save_fig_path="vis", fig_format="JPEG").fig_format == "jpg"
    for wrong in ({"cmap": "jett"}, {"preset": "icml1066"}, {"figures": "raww"}, {"vmin": 2.0, "vmax": 1.0}):
        with pytest.raises(OptionError):
            check_view(ViewOptions(save_fig_path="vis", **wrong))


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_is_light():
    heavy = run_python("import sys, attn_viewer; print(*sorted({m.split('.')[0] for m in sys.modules}))")
    assert not {"torch", "matplotlib", "transformers", "numpy"} & set(heavy)


def test_drawing_a_cache_needs_neither_torch_nor_transformers(tmp_path):
    cache = save_scores(make_maps(), tmp_path)
    code = (
        "import sys, attn_viewer; attn_viewer.view_attention("
        f"load_attention_scores_path={str(cache)!r}, save_fig_path={str(tmp_path)!r}); print(*sys.modules)"
    )
    modules = run_python(code)
    assert "torch" not in modules
    assert not any(name.split(".")[0] == "transformers" for name in modules)
    assert "matplotlib.pyplot" not in modules


def test_public_names_exist():
    for name in attn_viewer.__all__:
        assert getattr(attn_viewer, name).__doc__
    with pytest.raises(AttributeError, match="attribute nothing"):
        attn_viewer.nothing  # noqa: B018


def test_figures_of_smollm2(smollm2, tmp_path):
    model, tokenizer = smollm2
    paths = view_attention(model, "smollm2", tokenizer, PROMPT, True, tmp_path / "s", None, tmp_path / "one", True)
    assert len(paths) == 32
    again = view_attention(load_attention_scores_path=paths[0], save_fig_path=tmp_path / "two", plot_figs_per_head=True)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths[1:]]
    np.testing.assert_allclose(np.stack(load_scores(paths[0]).weights).sum(-1), 1, atol=1e-5)


def test_groups_are_drawn_and_tokens_kept(tmp_path, demo):
    options = {"save_attention_scores": True, "save_attention_scores_path": tmp_path, "model_id": "demo"}
    paths = view_attention(*demo[:1], tokenizer=demo[1], prompt=PROMPT, save_fig_path=tmp_path, fig_format="svg",
                           group="words", **options)  # fmt: skip
    kept = load_scores(paths[0])
    assert kept.grouping is None
    page = paths[1].read_text()
    assert "words  ·  summed over keys, mean over queries" in page
    again = view_attention(load_attention_scores_path=paths[0], save_fig_path=tmp_path, fig_format="svg", group="words")
    assert again[0].read_text() == page
    with pytest.raises(OptionError, match="letters"):
        view_attention(*demo[:1], tokenizer=demo[1], prompt=PROMPT, save_fig_path=tmp_path, group="letters")


def test_figure_functions_run_on_the_chosen_heads(demo, tmp_path):
    paths = view_attention(*demo[:1], "d", demo[1], PROMPT, save_fig_path=tmp_path, figures=["raw", "svd*"],
                           layers=[1], heads=[2, 5])  # fmt: skip
    names = [path.relative_to(tmp_path / "d").as_posix() for path in paths]
    expected = [f"figures/L1/H{head}/{name}" for head in (2, 5) for name in ("raw.png", "svd_spectra.svgz")]
    assert names == ["all_layers_avg.jpg", *expected]
    with pytest.raises(OptionError, match="figures has no use without save_fig_path"):
        view_attention(*demo[:1], "d", demo[1], PROMPT, figures="raw", save_attention_scores=True,
                       save_attention_scores_path=tmp_path)  # fmt: skip


def test_text_in_svg_is_text_or_outlines(tmp_path):
    save_scores(make_maps(1, 1, 3), tmp_path)
    for text, has_text in (("text", True), ("path", False)):
        (path,) = view_attention(load_attention_scores_path=tmp_path / "random_attn_scores.pt", save_fig_path=tmp_path,
                                 fig_format="svg", text=text)  # fmt: skip
        assert ("<text" in path.read_text()) == has_text
    with pytest.raises(OptionError, match="'path', got 'x'"):
        view_attention(load_attention_scores_path=tmp_path / "random_attn_scores.pt", save_fig_path=tmp_path, text="x")


QUESTION = "what is in the picture?"


@pytest.fixture
def pages(monkeypatch):
    """Figures of pictures that were drawn, in their order."""
    drawn = []
    render = usual.render_figure
    monkeypatch.setattr(
        formats, "render_figure", lambda figure, *a, **k: drawn.append(figure) or render(figure, *a, **k)
    )
    return drawn


def test_a_picture_on_the_command_line_is_seen_and_overlaid(demo_vision, tmp_path, monkeypatch, capsys, pages):
    """Each word of the answer has a panel whose squares are what it looked at, on the picture."""
    monkeypatch.chdir(tmp_path)
    image, things = draw_scene(5, 2)
    image.save("cat.png")
    words = ["--image", "cat.png", "--prompt", QUESTION, "--max_new_tokens", "20", "--quiet", "--html", "p.html"]
    assert run_view(words) == 0
    folder = "vis/demo_vision"
    written = [f"{folder}/{name}.jpg" for name in ("overlay", "modality_share", "all_layers_avg")]
    assert capsys.readouterr().out.split() == ["p.html", *written]
    assert all(Path(name).stat().st_size > 10_000 for name in written)

    parts = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    maps = capture_generation(*demo_vision, [{"role": "user", "content": parts}], max_new_tokens=20)
    overlay, shares = pages
    pictures, squares = overlay.axes[0].images, overlay.axes[0].collections
    np.testing.assert_allclose(pictures[0].get_array(), np.asarray(image) / np.float32(255))
    mean = np.mean(maps.weights, axis=(0, 1))
    said = maps.tokens_key[maps.prompt_length :]
    assert len(squares) == len(said) == len(pictures) - 1
    meant = {thing.colour: thing.measure_patches(16) > 0 for thing in things}
    assert set(said) >= set(meant)
    for row, (word, drawn) in enumerate(zip(said, squares, strict=True), maps.prompt_length - 1):
        np.testing.assert_allclose(drawn.get_array(), mean[row, maps.spans[0].positions.ravel()], rtol=1e-4)
        if word in meant:
            there = drawn.get_array()[meant[word]].sum() / drawn.get_array().sum()
            assert there > 3 * meant[word].mean(), word
    (panel,) = (axes for axes in shares.axes if axes.get_label() == "image")
    np.testing.assert_allclose(
        panel.images[0].get_array()[:, 0],
        [layer[:, maps.prompt_length - 1, maps.spans[0].positions].sum((-2, -1)).mean() for layer in maps.weights],
        rtol=1e-4,
    )


def test_a_picture_without_a_completion_has_a_panel_a_layer(demo_vision, tmp_path, pages):
    model, processor = demo_vision
    image, _ = draw_scene(5)
    look = {
        "image": np.asarray(image),
        "save_fig_path": tmp_path,
        "layers": [1, 3],
        "panels": [(1, 0)],
        "cmap": "magma",
    }
    paths = view_attention(model, "seer", processor, QUESTION, **look)
    assert [path.name for path in paths] == ["overlay.jpg", "modality_share.jpg", "panels.jpg", "all_layers_avg.jpg"]
    assert len(pages[0].axes[0].collections) == 1
    assert pages[0].axes[0].collections[0].cmap.name == "magma"
    view_attention(model, "seer", processor, QUESTION, image=image, save_fig_path=tmp_path, layers=[1, 3])
    assert len(pages[2].axes[0].collections) == 2


def test_pictures_that_cannot_be_shown_write_nothing(demo, demo_vision, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image, _ = draw_scene(5)
    image.save("cat.png")
    Path("broken.png").write_bytes(Path("cat.png").read_bytes()[:900])
    Image.new("1", (10_000, 10_000)).save("huge.png")
    Image.new("RGB", (1, 1), "red").save("dot.png")
    before = list_files(tmp_path)
    for words, message in (
        ("--image none.png", "cannot read image 'none.png'"),
        ("--image broken.png", "cannot read image 'broken.png'"),
        ("--image huge.png", "10,000 × 10,000 pixels is more than"),
        ("--image cat.png --model_path demo", "give the model's processor as tokenizer"),
        ("--image cat.png --chat", "image has no use beside chat"),
        ("--image cat.png --prompt_ids 1,2", "image has no use beside prompt_ids"),
        ("--image cat.png --load_attention_scores_path a.pt", "image has no use beside load_attention_scores_path"),
        ("--image cat.png --reduction pooled --max_cells 16", "an overlay needs full maps"),
        ("--image cat.png --max_new_tokens 401", "max_new_tokens must be 400 at most"),
    ):
        assert run_view([*words.split(), "--quiet"]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(PromptError, match="image goes with a prompt that is text, got"):
        view_attention(*demo_vision[:1], "seer", demo_vision[1], [1, 2], image=image, save_fig_path=tmp_path)
    assert list_files(tmp_path) == before
    # One pixel is a picture; processors of transformers 4 refuse it: which axis has its colours is not clear.
    is_refused = transformers.__version__ < "5"
    assert run_view(["--image", "dot.png", "--prompt", QUESTION, "--quiet"]) == 2 * is_refused


def test_a_processor_reads_text_alone(demo_vision, tmp_path):
    model, processor = demo_vision
    assert [path.name for path in view_attention(model, "seer", processor, "what is red?", save_fig_path=tmp_path)] == [
        "all_layers_avg.jpg"
    ]
