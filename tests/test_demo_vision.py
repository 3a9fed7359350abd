"""What the demo model that sees has learned, on scenes that it has not seen."""

import numpy as np
import pytest
import torch
from coloured_shapes import draw_scene, list_questions

from attn_viewer import capture_attention, capture_generation
from attn_viewer.capture.loading import get_demo_path

UNSEEN = range(1_000_000, 1_000_500)
KINDS = ("what colour is", "what shape is", "where is", "what is in", "what is this")


@pytest.fixture(scope="module")
def scenes():
    """Pictures, their things, and one question of each kind: ``(question, answer, thing)``."""
    scenes = []
    for seed in UNSEEN:
        image, things = draw_scene(seed, 2 + seed % 3)
        asked = list(list_questions(things))
        first = seed % len(things)
        chosen = [next(q for q in asked[3 * first :] if q[0].startswith(kind)) for kind in KINDS]
        scenes.append((image, things, chosen))
    return scenes


def test_it_is_small():
    assert sum(path.stat().st_size for path in get_demo_path("demo-vision").iterdir()) <= 3e6


@pytest.mark.slow
def test_it_answers_questions_about_unseen_scenes(demo_vision, scenes):
    """An answer is right where each of its words, and that nothing follows, is the likeliest."""
    model, processor = demo_vision
    tokenizer = processor.tokenizer
    right = np.zeros((len(KINDS), len(scenes)), bool)
    for start in range(0, len(scenes), 50):
        some = scenes[start : start + 50]
        pixels = processor.image_processor([image for image, _, _ in some], return_tensors="pt")["pixel_values"]
        for kind in range(len(KINDS)):
            asked = [f"{processor.image_token * 64}{chosen[kind][0]}" for _, _, chosen in some]
            said = [f" {chosen[kind][1]}{tokenizer.eos_token}" for _, _, chosen in some]
            ids = tokenizer([a + s for a, s in zip(asked, said, strict=True)], padding=True, return_tensors="pt")
            with torch.no_grad():
                likeliest = model(**ids, pixel_values=pixels).logits.argmax(-1)
            for row, question in enumerate(asked):
                n_asked = len(tokenizer(question)["input_ids"])
                stop = int(ids["attention_mask"][row].sum())
                expected = ids["input_ids"][row, n_asked:stop]
                right[kind, start + row] = torch.equal(likeliest[row, n_asked - 1 : stop - 1], expected)
    *about_one, in_picture, this = right.mean(1)
    assert min(about_one) >= 0.99
    assert min(in_picture, this) >= 0.94  # up to 12 words in a row


def test_a_head_looks_at_the_shape_that_is_meant(demo_vision, scenes):
    """Of the weight on the picture, from the query that says the colour; chance is the share of patches it lies on."""
    model, processor = demo_vision
    shares, chances = [], []
    for image, things, ((question, _, number), *_) in scenes[:80]:
        inputs = processor(text=processor.image_token + question, images=image, return_tensors="pt")
        maps = capture_attention(model, processor, inputs, queries=1)
        patches = np.flatnonzero(inputs["input_ids"][0] == processor.image_token_id)
        meant = things[number].measure_patches(model.config.vision_config.patch_size) > 0
        on_image = np.stack(maps.weights)[:, :, 0, patches]
        shares.append(on_image[..., meant].sum(-1) / on_image.sum(-1))
        chances.append(meant.mean())
    assert np.mean(shares, axis=0).max() >= 7 * np.mean(chances)


def test_it_says_what_it_sees(demo_vision):
    model, processor = demo_vision
    image, things = draw_scene(3)
    *_, (_, answer, _) = list_questions(things)
    for question in ("What is this?", "what is in the picture?"):
        message = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}
        said = capture_generation(model, processor, [message], max_new_tokens=len(answer.split()))
        assert " ".join(said.tokens_key[said.prompt_length :]) == answer
