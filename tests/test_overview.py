from pathlib import Path

import numpy as np
import pytest
from conftest import make_maps
from PIL import Image

from attn_viewer import AttentionMaps, plot_overview, save_scores
from attn_viewer.cli import main
from attn_viewer.errors import OptionError
from attn_viewer.overview import KINDS, list_uses


def test_the_share_of_queries_that_look_at_the_first_token(demo_maps):
    figure = plot_overview(demo_maps, "sinks")
    (panel,) = [ax for ax in figure.axes if ax.get_label() == "heads"]
    expected = [[(head[:, 0] > 0.3).mean() for head in layer] for layer in demo_maps.weights]
    np.testing.assert_allclose(panel.images[0].get_array(), expected)
    (means,) = [ax for ax in figure.axes if ax.get_label() == "layer means"]
    np.testing.assert_allclose([bar.get_width() for bar in means.patches], np.mean(expected, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_without_the_first_token(demo_maps, kind):
    look = {"sink": "hide"} if "sink" in list_uses(kind) else {}
    words = [t.get_text() for t in plot_overview(demo_maps, kind, **look).findobj(lambda a: hasattr(a, "get_text"))]
    assert any("demo" in word for word in words)


def test_an_option_that_a_kind_does_not_use_is_refused(demo_maps, capsys):
    for kind, look in (("sinks", {"sink": "hide"}), ("similarity", {"norm": "log"})):
        with pytest.raises(OptionError, match=f"does not use {next(iter(look))}"):
            plot_overview(demo_maps, kind, **look)
    assert main(["overview", "--kinds", "sinks,similarity", "--norm", "log"]) == 2
    assert "norm has no use for sinks, similarity" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_page(demo_maps, kind):
    figure = plot_overview(demo_maps, kind, title="a name", notes=["a word"], figsize=(6, 8), dark=True)
    words = {text.get_text() for text in figure.axes[0].texts}
    assert figure.get_size_inches().tolist() == [6, 8]
    assert any("a name" in word for word in words)
    assert any(word.startswith("a word  ·  ") for word in words)
    plain = plot_overview(demo_maps, kind, heading=False, notes=False)
    assert not any("demo" in text.get_text() or "tokens" in text.get_text() for text in plain.axes[0].texts)


def test_an_unknown_kind_is_named():
    with pytest.raises(OptionError, match="'nope'"):
        plot_overview(make_maps(), "nope")


def test_from_a_cache_and_from_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cache = save_scores(make_maps(), tmp_path)
    words = ["--save_fig_path", "v", "--fig_format", "png", "--quiet"]
    assert main(["overview", "--load_attention_scores_path", str(cache), *words, "--sink", "hide"]) == 0
    assert capsys.readouterr().out.split() == [f"v/random/{kind}.png" for kind in KINDS]
    assert main(["overview", "--kinds", "last_token,sinks", "--layers", "1-2", "--model_id", "d", *words]) == 0
    assert capsys.readouterr().out.split() == ["v/d/last_token.png", "v/d/sinks.png"]
    assert main(["overview", "--kinds", "last_token", "--max_new_tokens", "2", *words]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--load_attention_scores_path {pooled}", "pooled"),
        ("--load_attention_scores_path none.pt", "does not exist"),
        ("--load_attention_scores_path {pooled} --layers 9", "no layer 9"),
        ("--fig_format bmp", "'bmp'"),
        ("--cmap jett", "'jett'"),
        ("--model_id ../x", "'../x'"),
        ("--save_fig_path {pooled}", "is not a folder"),
    ],
)
def test_what_cannot_be_drawn_writes_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    weights = [np.full((1, 2, 2), 0.5, np.float32)]
    maps = AttentionMaps(weights, ["t"] * 8, reduction="pooled", cell=(4, 4), pooling="max")
    pooled = save_scores(maps, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["overview", *words.format(pooled=pooled).split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["overview", "--kinds", "birds_eye,nope"]) == 2


def test_an_image_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    maps = make_maps(2, 2, 5, causal=False, grid=(2, 2), model_id="vit")
    cache = str(save_scores(maps, tmp_path))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("cat.png")
    Path("text.png").write_text("no image")
    words = ["overlay", "cat.png", "--load_attention_scores_path", cache, "--fig_format", "png"]
    assert main([*words, "--query", "1,0", "--head", "1"]) == 0
    (path,) = capsys.readouterr().out.split()
    assert path == "vis/vit/overlay.png"
    before = sorted(tmp_path.rglob("*"))
    for more, message in (
        (["--query", "9"], "no query 9"),
        (["--head", "5"], "no head"),
        (["--save_fig_path", "text.png"], "is not a folder"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    for image in ("text.png", "none.png"):
        assert main(["overlay", image, "--load_attention_scores_path", cache]) == 2
        assert "cannot read image" in capsys.readouterr().err
    assert main(["overlay", "cat.png", "--model_path", "./none"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_model_and_its_processor_from_a_folder(tmp_path, monkeypatch, capsys):
    import transformers
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path / "vit")
    # transformers 4 has one class, which needs no torchvision.
    processor_class = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
    processor_class(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save("cat.png")
    capsys.readouterr()
    assert main(["overlay", "cat.png", "--model_path", "vit", "--model_id", "v"]) == 0
    out, err = capsys.readouterr()
    assert out == "vis/v/overlay.jpg\n"
    assert "Loading" not in err


def test_one_is_not_counted_as_many():
    last = AttentionMaps([np.full((2, 1, 4), 0.25, np.float32)], list("abcd"), tokens_query=["d"], causal=True)
    for maps, kind, said in ((make_maps(n_tokens=1), "similarity", "1 token"), (last, "sinks", "1 query")):
        words = [text.get_text() for text in plot_overview(maps, kind).axes[0].texts]
        assert any(said in word.split("  ·  ") for word in words), words
