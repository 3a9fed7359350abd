import json

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, ENCODER_DECODERS, build_model, make_ids
from conftest import PROMPT

from attn_viewer import ablate_heads, capture_attention, measure_effect, merge_heads, plot_effect, rank_heads_by_effect
from attn_viewer.cli import main
from attn_viewer.errors import OptionError, PromptError


def compute_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize(
    ("name", "options"), [("llama", {}), ("gpt2", {}), ("gpt_oss", {"attn_implementation": "eager"})]
)
def test_an_effect_is_the_difference_of_two_plain_passes(name, options):
    model, ids = build_model(name, **options), make_ids()
    intervention = ablate_heads(model, [(0, 1), (1, 3)], "mean")
    before = compute_logits(model, ids)
    effect = measure_effect(model, None, ids, intervention, k=3)
    assert torch.equal(compute_logits(model, ids), before)
    with intervention:
        after = compute_logits(model, ids)
        changed = capture_attention(model, prompt=ids)
    plain = capture_attention(model, prompt=ids)
    kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="none").sum(-1)
    np.testing.assert_allclose(effect.divergence, kl, atol=1e-5)
    for losses, logits in ((effect.loss_before, before), (effect.loss_after, after)):
        expected = torch.nn.functional.nll_loss(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert [row[1] for row in effect.top_before] == pytest.approx(before[-1].exp().topk(3).values.tolist(), rel=1e-4)
    assert [row[2] for row in effect.top_after] == pytest.approx(after[-1].exp().topk(3).values.tolist(), rel=1e-4)
    shift = [np.abs(a - b).sum(2).mean(1) / 2 for a, b in zip(plain.weights, changed.weights, strict=True)]
    np.testing.assert_allclose(effect.pattern_change.make_grid("total_variation"), shift, atol=1e-6)
    untouched = effect.pattern_change.make_grid("total_variation")[0]
    assert untouched[1] > 0
    assert not untouched[[0, 2, 3]].any()
    json.dumps(effect.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_heads_in_turn_have_the_loss_of_a_pass_without_each(name, mode):
    model, ids = build_model(name), make_ids()
    plain = measure_effect(model, None, ids, ablate_heads(model, [(0, 0)], mode))
    table = rank_heads_by_effect(model, None, ids, mode=mode, batch_size=3)
    assert (table.layer.tolist(), table.head.tolist()) == ([0] * 4 + [1] * 4 + [2] * 4, [0, 1, 2, 3] * 3)
    for layer, head, change in zip(table.layer, table.head, table["loss_change"], strict=True):
        effect = measure_effect(model, None, ids, ablate_heads(model, [(layer, head)], mode))
        assert change == pytest.approx(effect.loss_change, abs=1e-5)
    assert measure_effect(model, None, ids, ablate_heads(model, [(0, 0)], mode)).loss_change == plain.loss_change
    some = rank_heads_by_effect(model, None, ids, mode=mode, layers=[2])
    np.testing.assert_allclose(some["loss_change"], table["loss_change"][-4:], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gemma3n_text", {}),
        (
            "gemma3n_text",
            {
                "num_hidden_layers": 4,
                "num_kv_shared_layers": 2,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        ),
        ("zamba2", {}),
    ],
)
def test_models_whose_layers_share_something_are_ranked_as_one_by_one(name, options, monkeypatch):
    """Keys of an earlier layer, or a module of two layers: what is handed out must be what a whole pass computes."""
    model_class, arguments = ARCHITECTURES[name]
    monkeypatch.setitem(ARCHITECTURES, name, (model_class, arguments | options))
    model, ids = build_model(name), make_ids()
    table = rank_heads_by_effect(model, None, ids)
    inputs = torch.tensor([ids])

    def measure():
        with torch.no_grad():
            logits = model(inputs, use_cache=False).logits
        return float(torch.nn.functional.cross_entropy(logits[0, :-1], inputs[0, 1:]))

    plain = measure()
    for layer, head, change in zip(table.layer.tolist(), table.head.tolist(), table["loss_change"], strict=True):
        with ablate_heads(model, [(layer, head)]):
            assert change == pytest.approx(measure() - plain, abs=1e-5)


def test_bad_input_is_refused():
    model, other, ids = build_model("llama"), build_model("llama"), make_ids()
    with pytest.raises(PromptError, match="at least two"):
        measure_effect(model, None, [5], ablate_heads(model, [(0, 0)]))
    with pytest.raises(PromptError, match="at least two"):
        rank_heads_by_effect(model, None, [5])
    with pytest.raises(OptionError, match="on this model"):
        measure_effect(model, None, ids, ablate_heads(other, [(0, 0)]))
    with pytest.raises(OptionError, match="on this model"):
        measure_effect(model, None, ids, None)
    with pytest.raises(OptionError, match="later tokens"):
        bert = build_model("bert")
        measure_effect(bert, None, ids, ablate_heads(bert, [(0, 0)]))
    for name in ("bert", "albert"):  # one module serves all layers of ALBERT
        with pytest.raises(OptionError, match="later tokens"):
            rank_heads_by_effect(build_model(name), None, ids)
    with pytest.raises(OptionError, match="encoder-decoder"):
        rank_heads_by_effect(build_model("bart", ENCODER_DECODERS), None, ids)
    for wrong in ({"mode": "half"}, {"batch_size": 0}, {"layers": [9]}):
        with pytest.raises(OptionError):
            rank_heads_by_effect(model, None, ids, **wrong)
    with pytest.raises(OptionError, match="k must"):
        measure_effect(model, None, ids, ablate_heads(model, [(0, 0)]), k=0)


def test_the_figure_shows_the_numbers(demo):
    model, tokenizer = demo
    effect = measure_effect(model, tokenizer, PROMPT, merge_heads(model, 1, 2, 3, 0.25), model_id="demo")
    axes = {ax.get_label(): ax for ax in plot_effect(effect).axes}
    heights = [bar.get_height() for bar in axes["divergence"].patches]
    np.testing.assert_allclose(heights, effect.divergence, rtol=1e-6)
    heights = [bar.get_height() for bar in axes["tokens"].patches]
    np.testing.assert_allclose(heights[1:], effect.loss_after - effect.loss_before, rtol=1e-5, atol=1e-8)
    widths = [bar.get_width() for bar in axes["next"].patches]
    assert max(widths[: len(widths) // 2]) == effect.top_before[0][1]
    image = axes["heads"].images[0].get_array()
    np.testing.assert_allclose(image, effect.pattern_change.make_grid("total_variation"))
    assert "heads 1.2 and 1.3 merged (0.25 : 0.75)" in " ".join(t.get_text() for t in axes["page"].texts)


@pytest.mark.parametrize("tokens", [2, 300])
def test_prompts_short_and_long_are_drawn(demo, tokens):
    effect = measure_effect(demo[0], demo[1], [5, 6] * (tokens // 2), ablate_heads(demo[0], [(0, 0)]))
    plot_effect(effect).canvas.draw()


def test_the_command_prints_draws_and_writes(tmp_path, capsys):
    words = [
        "ablate",
        "--heads",
        "1.2,0.1",
        "--save_fig_path",
        str(tmp_path),
        "--json",
        str(tmp_path / "e.json"),
        "--quiet",
    ]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "heads 1.2, 0.1 zeroed"
    assert lines[-1] == str(tmp_path / "demo" / "ablation.png")
    numbers = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert numbers["changed"] == [[1, 2], [0, 1]]
    assert main(["ablate", "--rank", "--top", "2", "--save_fig_path", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert (tmp_path / "demo" / "loss_without_each_head.png").is_file()
    venue = ["--save_fig_path", str(tmp_path), "--preset", "icml2024"]
    assert main(["ablate", "--merge", "1.2,1.3", "--alpha", "0.3", *venue]) == 0
    data = (tmp_path / "demo" / "ablation.png").read_bytes()
    assert int.from_bytes(data[16:20], "big") == 975  # 3.25 inches at 300 dots each
    for wrong in (
        ["--merge", "1.2,0.3"],
        ["--merge", "1.2,1.2"],
        ["--heads", "9.0"],
        ["--merge", "1.2,1.3", "--alpha", "2"],
    ):
        assert main(["ablate", *wrong]) == 2
    with pytest.raises(SystemExit):
        main(["ablate", "--heads", "5"])
    for wrong in (
        [],
        ["--heads", "1.2", "--rank"],
        ["--merge", "1.2,1.3", "--mode", "mean"],
        ["--rank", "--alpha", "1"],
    ):
        assert main(["ablate", *wrong]) == 2
