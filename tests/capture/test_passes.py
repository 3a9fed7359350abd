"""Passes of a model that a program runs several times: a denoiser that looks at words, and agents that take turns."""

import numpy as np
import pytest
import torch
from architectures import build_model, make_ids

from attn_viewer import capture_attention, capture_attention_calls, capture_generation, overlay_attention
from attn_viewer.capture.numbering import number_modules
from attn_viewer.errors import CaptureError, OptionError
from attn_viewer.storage.pt import load_scores, save_scores

SDPA = torch.nn.functional.scaled_dot_product_attention
WORDS = ["a", "red", "cat"]


class Attention(torch.nn.Module):
    """Patches of axes (batch, n, width) look at `other`; the weights are put by as they are computed eagerly."""

    def __init__(self, width, heads=2):
        super().__init__()
        self.heads, self.expected = heads, []
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(width, width) for _ in range(3))

    def forward(self, x, other):
        split = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in
                 (self.to_q(x), self.to_k(other), self.to_v(other)))  # fmt: skip
        q, k, v = split
        self.expected.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[0].detach().numpy())
        return x + SDPA(q, k, v).transpose(1, 2).flatten(2)


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn1, self.attn2 = Attention(width), Attention(width)

    def forward(self, latents, words):
        x = latents.flatten(2).mT
        x = self.attn2(self.attn1(x, x), words)
        return x.mT.unflatten(2, latents.shape[2:])


class Denoiser(torch.nn.Module):
    """A U-Net: one block on the whole grid, one on that halved, and back."""

    def __init__(self, width=8):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(width) for _ in range(3)])

    def forward(self, latents, words):
        first = self.blocks[0](latents, words)
        half = self.blocks[1](torch.nn.functional.avg_pool2d(first, 2), words)
        return self.blocks[2](first + torch.nn.functional.interpolate(half, scale_factor=2.0), words)


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return Denoiser().eval()


def run_denoiser(model, n_steps=4, n_words=3):
    latents, words = (
        torch.randn(1, 8, 4, 6, generator=torch.Generator().manual_seed(1)),
        torch.eye(n_words, 8)[None] * 4,
    )

    def run():
        x = latents
        for _ in range(n_steps):
            x = x - 0.3 * model(x, words)

    return run


def test_each_step_of_denoising_has_maps_of_its_own(denoiser):
    found = capture_attention_calls(
        run_denoiser(denoiser), model=denoiser, when="steps", tokens={"encoder": WORDS}, grid=(4, 6)
    )
    assert {path: (len(steps), steps[0].layers, steps[0].weights[0].shape) for path, steps in found.items()} == {
        "blocks.*.attn1": (4, (0, 2), (2, 24, 24)),
        "blocks.*.attn2": (4, (0, 2), (2, 24, 3)),
        "blocks.*.attn1, 6 × 6": (4, (1,), (2, 6, 6)),
        "blocks.*.attn2, 6 × 3": (4, (1,), (2, 6, 3)),
    }
    for path, steps in found.items():
        assert [maps.step for maps in steps] == [0, 1, 2, 3]
        for maps in steps:
            for layer, weights in zip(maps.layers, maps.weights, strict=True):
                attention = getattr(denoiser.blocks[layer], path[9:14])
                np.testing.assert_allclose(weights, attention.expected[maps.step], atol=1e-6)
    cross = found["blocks.*.attn2"][3]
    assert (cross.kind, cross.tokens_key) == ("cross", tuple(WORDS))
    assert "pass 3" in cross.remarks
    assert [(span.rows, span.columns) for span in found["blocks.*.attn2, 6 × 3"][0].spans_query] == [(2, 3)]
    assert [(span.rows, span.columns) for span in found["blocks.*.attn1"][0].spans] == [(4, 6)]


def test_as_many_words_as_patches_are_words(denoiser):
    words = ["a", "red", "cat", "on", "a", "mat"]
    found = capture_attention_calls(
        run_denoiser(denoiser, n_steps=1, n_words=6), model=denoiser, tokens={"encoder": words}, grid=(4, 6)
    )
    for path, patches in (("blocks.*.attn2", (4, 6)), ("blocks.*.attn2, 6 × 6", (2, 3))):
        maps = found[path]
        assert (maps.kind, maps.tokens_key, maps.spans) == ("cross", tuple(words), ())
        assert [(span.rows, span.columns) for span in maps.spans_query] == [patches]
    assert found["blocks.*.attn1, 6 × 6"].kind == "self"


def test_words_are_laid_over_the_grid_of_patches_that_look_at_them(denoiser, tmp_path):
    cross = capture_attention_calls(
        run_denoiser(denoiser), model=denoiser, when="steps", tokens={"encoder": WORDS}, grid=(4, 6)
    )["blocks.*.attn2"][1]
    for maps in (cross, load_scores(save_scores(cross, tmp_path))):
        axes = overlay_attention(maps, np.zeros((40, 60), np.uint8), query="cat").axes[0]
        for squares, weights in zip(axes.collections, cross.weights, strict=True):
            np.testing.assert_allclose(squares.get_array(), weights[:, :, 2].mean(0))
        said = " ".join(text.get_text() for text in axes.texts)
        assert "weights of patches on cat" in said.replace("\n", " ")
        assert "%" not in said  # a column sums to no share
    with pytest.raises(OptionError, match="no such text among 3 tokens"):
        overlay_attention(cross, np.zeros((40, 60), np.uint8), query="dog")


def test_turns_of_a_language_model_are_passes():
    model = build_model("llama")
    prompts = [make_ids(5), make_ids(8)]
    run = lambda: [model(torch.tensor([ids]), use_cache=False) for ids in prompts]  # noqa: E731
    (turns,) = capture_attention_calls(run, model=model, when="steps").values()
    for turn, ids in zip(turns, prompts, strict=True):
        for ours, theirs in zip(turn.weights, capture_attention(model, prompt=ids).weights, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # A generation is the rows of its steps.
    (steps,) = capture_attention_calls(
        lambda: model.generate(torch.tensor([prompts[0]]), max_new_tokens=4, do_sample=False), model=model, when="steps"
    ).values()
    whole = capture_generation(model, None, prompts[0], max_new_tokens=4, when="steps")
    assert [maps.first_query for maps in steps] == [0, 5, 6, 7]
    for maps in steps:
        rows = whole.weights[1][:, maps.first_query :][:, : maps.shape[0], : maps.shape[1]]
        np.testing.assert_allclose(maps.weights[1], rows, atol=1e-6)


def test_a_unet_of_diffusers_is_what_its_attention_computes():
    diffusers = pytest.importorskip("diffusers", reason="needs pip install diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    blocks |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "block_out_channels": [16, 32]}
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, norm_num_groups=8, cross_attention_dim=16, attention_head_dim=4, **blocks
    ).eval()
    words, latents, expected = 3 * torch.randn(1, 3, 16), torch.randn(1, 4, 8, 8), {}

    def compute(module, args, kwargs):
        words = args[0] if kwargs.get("encoder_hidden_states") is None else kwargs["encoder_hidden_states"]
        query, key = (module.head_to_batch_dim(part) for part in (module.to_q(args[0]), module.to_k(words)))
        weights = module.get_attention_scores(query, key).numpy()
        expected.setdefault((names[module], weights.shape), []).append(weights)

    def denoise():
        x = latents
        for time in (900, 500, 100):
            x = x - 0.1 * unet(x, torch.tensor(time), encoder_hidden_states=words).sample

    found = capture_attention_calls(denoise, model=unet, tokens=WORDS, when="steps", grid=(8, 8))
    names = {module: number_modules(unet)[name][0] for name, module in unet.named_modules()}
    with torch.no_grad():
        for module in names:
            if module.__class__.__name__ == "Attention":
                module.register_forward_pre_hook(compute, with_kwargs=True)
        denoise()
    assert len(found) == 6
    for path, steps in found.items():
        assert [maps.step for maps in steps] == [0, 1, 2]
        shape = (steps[0].n_heads[0], *steps[0].shape)
        n_layers = len(steps[0].layers)
        weights = expected[path.partition(",")[0], shape]
        for step, maps in enumerate(steps):
            for ours, theirs in zip(maps.weights, weights[step * n_layers :][:n_layers], strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-6)
    words = next(steps for path, steps in found.items() if path.startswith("up") and path.endswith("attn2"))
    assert words[-1].spans_query[0][4:6] == (8, 8)
    assert words[-1].tokens_key == tuple(WORDS)


def test_passes_are_those_of_a_model(denoiser):
    with pytest.raises(OptionError, match="pass model="):
        capture_attention_calls(run_denoiser(denoiser), when="steps")
    with pytest.raises(CaptureError, match="ran no pass"):
        capture_attention_calls(lambda: None, model=denoiser, when="steps")
