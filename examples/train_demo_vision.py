"""Train the demo model that sees, which Attention Viewer carries.

A model of LLaVA's shape (a CLIP vision tower, a projector, a Llama) learns to answer questions about scenes of coloured
shapes (`coloured_shapes.py`). Which colour belongs to which shape is what takes long to learn. So the projected patches
also learn to be near the words for what lies on them, which the model then has only to compare. All questions about a
picture stand in one row, and none of them sees another.

    python examples/train_demo_vision.py

Under an hour on two cores. It trains in the three sittings that made the package's model, which answers at least 99 %
of questions about a shape right (a test measures it); after the first alone it is less. Seeds fix the scenes and the
initial weights. When the first two sittings of the package's model were held, there was one question fewer, "What is
this?".
"""

import argparse
import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from coloured_shapes import COLOURS, PLACES, SHAPES, SIZE, Thing, draw_scene, list_questions
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from tqdm import trange
from train_demo_model import change_json
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

PATCH, UNSCORED = 16, -100


class Sitting(NamedTuple):
    """How long and how fast to train; all but the first go on with the model that there is."""

    seed: int
    steps: int
    batch: int  # pictures a step
    peak: float  # learning rate after warm-up


SITTINGS = (Sitting(0, 1000, 32, 2e-3), Sitting(1, 500, 32, 1.2e-3), Sitting(2, 240, 24, 8e-4))
SIDE = SIZE // PATCH
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
# Share of a patch that a shape covers where it is said to lie on it.
LIES = 0.15
# Pictures and questions go through the template as they come; the model knows no roles.
CHAT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def make_processor() -> LlavaProcessor:
    """Return what turns words and pictures into model inputs; it knows the words of all questions and answers."""
    _, things = draw_scene(0)
    said = " ".join(f"{question} {answer}" for question, answer, _ in list_questions(things))
    words = sorted({*said.replace("?", " ?").split(), *COLOURS, *SHAPES, *" ".join(PLACES).split()})
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *words))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("colour", "color"), normalizers.Replace("color", "colour")]
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    images = CLIPImageProcessor(
        size={"height": SIZE, "width": SIZE}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )


def make_model(
    tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int
) -> LlavaForConditionalGeneration:
    """Return an untrained model."""
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=width,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=512,
        initializer_range=0.08,  # attention patterns form late from the usual 0.02 at this width
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=SIDE**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config).train()


def find_lying(things: list[Thing]) -> np.ndarray:
    """Return what lies on each patch: number of shape and of colour from 1, 0 for nothing, axes ``(2, n_patches)``."""
    lying = np.zeros((2, SIDE * SIDE), np.int64)
    for thing in things:
        on = thing.measure_patches(PATCH) > LIES
        lying[0, on], lying[1, on] = 1 + SHAPES.index(thing.shape), 1 + list(COLOURS).index(thing.colour)
    return lying


class Row:
    """A picture with questions about two of its things and one about all.

    ``numbers`` say to which question a token belongs, 0 is the picture; ``targets`` what follows where that is asked,
    with ``weights`` by which all answers count the same.
    """

    def __init__(self, rng: np.random.Generator, encode: Callable[[str], list[int]]) -> None:
        image, things = draw_scene(rng, int(rng.integers(2, 5)))
        self.pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1
        self.lying = find_lying(things)
        self.ids = [*encode("<s>" + "<image>" * SIDE**2)]
        start = len(self.ids)
        self.places, self.numbers = list(range(start)), [0] * start
        self.targets, self.weights = [UNSCORED] * start, [0.0] * start
        meant = {*rng.permutation(len(things))[:2].tolist(), None}
        asked = [(question, answer) for question, answer, number in list_questions(things) if number in meant]
        for number, (question, answer) in enumerate(asked, 1):
            before, after = encode(question), encode(answer)
            self.ids += before + after
            self.places += range(start, start + len(before + after))
            self.numbers += [number] * len(before + after)
            self.targets += [UNSCORED] * (len(before) - 1) + after + encode("</s>")
            self.weights += [0.0] * (len(before) - 1) + [1 / (len(after) + 1)] * (len(after) + 1)


def make_batch(rng: np.random.Generator, encode: Callable[[str], list[int]], size: int) -> dict[str, torch.Tensor]:
    """Return rows of the same length, with a mask by which questions see the picture and themselves."""
    rows = [Row(rng, encode) for _ in range(size)]
    longest = max(len(row.ids) for row in rows)
    pad = {"ids": encode("<pad>")[0], "places": 0, "numbers": -1, "targets": UNSCORED, "weights": 0.0}
    batch = {
        name: torch.tensor([[*getattr(row, name), *[fill] * (longest - len(row.ids))] for row in rows])
        for name, fill in pad.items()
    }
    numbers = batch.pop("numbers")
    seen = (numbers[:, None, :] == 0) | (numbers[:, None, :] == numbers[:, :, None])
    batch["mask"] = (seen & torch.ones(longest, longest, dtype=torch.bool).tril())[:, None]
    batch["pixels"] = torch.from_numpy(np.stack([row.pixels for row in rows]))
    batch["lying"] = torch.from_numpy(np.stack([row.lying for row in rows]))
    return batch


def add_words(model: LlavaForConditionalGeneration, before: dict[str, int], tokenizer: PreTrainedTokenizerFast) -> None:
    """Have a model that knows the words `before` know those of a tokenizer, new ones as unknown at first."""
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    rows = [before.get(word, before["<unk>"]) for word, _ in words]
    old = [table.weight.detach().clone() for table in (model.get_input_embeddings(), model.get_output_embeddings())]
    model.resize_token_embeddings(len(words))
    for table, weights in zip((model.get_input_embeddings(), model.get_output_embeddings()), old, strict=True):
        table.weight.data.copy_(weights[rows])


def train_model(processor: LlavaProcessor, args: argparse.Namespace, sitting: Sitting) -> LlavaForConditionalGeneration:
    """Return a model after a sitting."""
    torch.manual_seed(sitting.seed)
    rng = np.random.default_rng(sitting.seed)
    encode = functools.cache(functools.partial(processor.tokenizer.encode, add_special_tokens=False))
    if sitting is not SITTINGS[0]:
        model = LlavaForConditionalGeneration.from_pretrained(args.output).train()
        add_words(model, PreTrainedTokenizerFast.from_pretrained(args.output).get_vocab(), processor.tokenizer)
    else:
        model = make_model(processor.tokenizer, args.width, args.layers, args.heads)
    words = [torch.tensor([encode(word)[0] for word in ("<image>", *kind)]) for kind in (SHAPES, COLOURS)]
    adam = torch.optim.AdamW(model.parameters(), sitting.peak, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, sitting.peak, total_steps=sitting.steps, pct_start=0.1)
    seen = {}
    model.model.multi_modal_projector.register_forward_hook(lambda *call: seen.update(patches=call[2]))
    bar = trange(sitting.steps, desc="training", unit="step", mininterval=5)
    for step in bar:
        batch = make_batch(rng, encode, sitting.batch)
        logits = model(
            input_ids=batch["ids"],
            pixel_values=batch["pixels"],
            attention_mask=batch["mask"],
            position_ids=batch["places"],
            use_cache=False,
        ).logits
        asked = batch["targets"] >= 0
        each = cross_entropy(logits[asked], batch["targets"][asked], reduction="none")
        answers = (each * batch["weights"][asked]).sum() / batch["weights"].sum()
        loss = answers
        for kind, truth in zip(words, batch["lying"].unbind(1), strict=True):
            said = seen["patches"] @ model.get_input_embeddings().weight[kind].T
            # Most patches are empty; what lies on the others is what counts.
            each = cross_entropy(said.flatten(0, 1), truth.flatten(), reduction="none")
            loss = loss + 0.5 * (each * (1 + 4 * (truth.flatten() > 0))).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        right = (logits[asked].argmax(-1) == batch["targets"][asked]).float().mean()
        bar.set_postfix(answers=f"{answers.item():.3f}", patches=f"{(loss - answers).item():.3f}", right=f"{right:.2f}")
        if step % 250 == 249:
            save_model(copy.deepcopy(model), processor, args.output)
    return model.eval()


def save_model(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write model and processor as transformers 4 and 5 read them; half of the precision halves the file."""
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    change_json(folder / "config.json", {"dtype": "float32"})
    change_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<image>"]},
        without=("backend", "extra_special_tokens"),
    )
    path = folder / "model.safetensors"
    # transformers 4 has one module more in the tower; both read the names that checkpoints of LLaVA have. A model that
    # was loaded is saved under the names that it was loaded from.
    parts = load_file(path).items()
    tower = r"^vision_tower\.(vision_model\.)?"
    save_file({re.sub(tower, "vision_tower.vision_model.", n): part for n, part in parts}, path, {"format": "pt"})
    path.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--output", type=Path, default=here / "attn_viewer" / "demo_vision")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    choices = range(1, len(SITTINGS) + 1)
    parser.add_argument("--sittings", type=int, nargs="+", choices=choices, default=[*choices], help="which to hold")
    args = parser.parse_args()
    processor = make_processor()
    for number in args.sittings:
        save_model(train_model(processor, args, SITTINGS[number - 1]), processor, args.output)


if __name__ == "__main__":
    main()
