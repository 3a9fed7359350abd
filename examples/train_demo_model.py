"""Train the demo model that Attention Viewer carries.

A llama-style decoder of 4 layers × 8 heads learns two public-domain texts (the King James Bible and
the Jargon File, both Debian packages) mixed with repeated sequences. Repetition is what makes
previous-token and induction heads form; Olsson et al. 2022 ("In-context Learning and Induction
Heads") tell why. One head of each kind is enough for that, so a second stage leaves out heads at
random, as in Zhou et al. 2020 ("Scheduled DropHead"), until others can stand in for them.

    apt-get install bible-kjv dict-jargon
    python examples/train_demo_model.py

About forty minutes on two cores; ``--go_on`` does the second stage alone, from the model that is there.
The package's model was trained in two such sittings, and is what the second wrote after 700 of its 1,200
steps. The seed fixes the data and the initial weights.
"""

import argparse
import contextlib
import copy
import gzip
import json
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from attn_viewer import capture_attention, load_model

BOS, UNSCORED = 0, -100
# Lengths of rows of repeated chunks, and the loss (nats a token) at which they grow.
SHORTEST, LONGEST, MASTERED = 24, 160, 0.8
# Share of the heads that are left out at the peak of the second stage.
LEFT_OUT = 0.25


def read_bible():
    """Return the verses of the King James Bible, one string each, without their numbers."""
    text = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    return [line.split(" ", 1)[1] for line in text.splitlines() if " " in line]


def read_jargon(path="/usr/share/dictd/jargon.dict.dz"):
    """Return the paragraphs of the Jargon File, unwrapped and in plain ASCII."""
    text = gzip.decompress(Path(path).read_bytes()).decode("utf-8")
    text = text.translate(str.maketrans("‘’“”´–—", "''\"\"'--"))
    paragraphs = (re.sub(r"\s+", " ", p).strip() for p in re.split(r"\n\s*\n", text))
    plain = (re.sub(r"[{}]|\[techspeak\] ?", "", p) for p in paragraphs)
    return [p for p in plain if len(p) > 80 and p.isascii()]


def train_tokenizer(lines, vocab_size):
    """Train a byte-level BPE tokenizer that puts ``<s>`` before every prompt."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


class Corpus:
    """Encoded lines of one text, from which windows that begin at a line are drawn."""

    def __init__(self, lines, tokenizer, longest):
        coded = tokenizer([line + "\n" for line in lines], add_special_tokens=False, verbose=False)["input_ids"]
        self.ids = np.concatenate([np.asarray(c) for c in coded])
        starts = np.cumsum([0] + [len(c) for c in coded[:-1]])
        self.starts = starts[starts < len(self.ids) - longest]

    def draw(self, rng, length):
        """Return `length` token ids."""
        start = rng.choice(self.starts)
        return self.ids[start : start + length]


def draw_text(rng, corpora, length):
    """Return ``(ids, targets)`` of a row of text; one in six says its beginning again at its end."""
    ids = corpora[rng.integers(len(corpora))].draw(rng, length - 1).copy()
    if rng.random() < 1 / 6:
        size = rng.integers(8, length // 2)
        ids[-size:] = ids[:size]
    ids = np.concatenate([[BOS], ids])
    return ids, ids


def draw_repeated(rng, vocab_size, length):
    """Return ``(ids, targets)`` of a row of random tokens said again and again."""
    period = rng.integers(3, length // 3 if length < 64 else length // 2)
    ids = np.concatenate([[BOS], np.resize(rng.integers(1, vocab_size, period), length - 1)])
    targets = ids.copy()
    targets[: period + 1] = UNSCORED  # nothing can be learned from the first time
    return ids, targets


@torch.no_grad()
def point_back(model, heads=2, strength=24.0, frequencies=6):
    """Let the first heads of the first layer start out looking at the previous token.

    An induction head can only form above a head that tells each token what came before it. A small model needs very
    many steps to find both at once; with one of them roughly there, training soon finds the other and sharpens both.
    Query and key biases that are turned against each other by one position give, after RoPE, scores that are largest
    one token back.
    """
    attention, half = model.model.layers[0].self_attn, model.config.head_dim // 2
    angles = model.model.rotary_emb.inv_freq[:frequencies]
    for head in range(heads):
        first = head * model.config.head_dim
        for bias, angle in ((attention.q_proj.bias, angles), (attention.k_proj.bias, 0 * angles)):
            bias[first : first + frequencies] = strength**0.5 * torch.cos(angle)
            bias[first + half : first + half + frequencies] = -(strength**0.5) * torch.sin(angle)


def compute_loss(model, rows):
    """Return the mean loss (nats) of rows of ``(ids, targets)``."""
    ids, targets = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    return model(input_ids=ids, labels=targets, use_cache=False).loss


def learning_rate(step, steps, peak, warmup=100):
    """Linear warm-up, the peak until half of the steps, then a cosine to a twentieth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * step / steps - 1))))


class Optimizer:
    """AdamW with the rate of `learning_rate`."""

    def __init__(self, model, steps, peak):
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        self.model, self.steps, self.peak = model, steps, peak
        self.adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
            lr=peak,
            betas=(0.9, 0.95),
        )

    def reduce_loss(self, loss, step):
        """Take one step."""
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.peak)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()


def train_model(sources, steps, tokens, peak, vocab_size, seed):
    """Return the trained model and its tokenizer; `tokens` is how many a step sees."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = train_tokenizer([line for text in sources for line in text], vocab_size)
    corpora = [Corpus(text, tokenizer, 256) for text in sources]
    vocab_size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.08,  # attention patterns form late from the usual 0.02 at this width
        attention_bias=True,  # lets a head look at a position whatever stands there
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).train()
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.1)
    point_back(model)
    optimizer = Optimizer(model, steps, peak)
    # Copying, and then induction, is learned within some hundred steps from many short rows, and hardly ever from long
    # ones. So rows grow as they are mastered, and text comes in when they have grown.
    length, mastered, text_weight = SHORTEST, 0.0, 0.0
    bar = trange(steps, desc="training", unit="step")
    for step in bar:
        share = tokens // 2 if text_weight else tokens
        loss = compute_loss(model, [draw_repeated(rng, vocab_size, int(length)) for _ in range(share // int(length))])
        mastered = 0.9 * mastered + 0.1 * (loss.item() < MASTERED)
        if mastered > 0.5 and length < LONGEST:
            length, mastered = min(LONGEST, length * 1.1), 0.0
        if length == LONGEST or text_weight:
            text_weight = min(1.0, text_weight + 1 / 300)
            span = 64 if step < 0.6 * steps else 256
            texts = [draw_text(rng, corpora, span) for _ in range(share // span)]
            loss = loss + text_weight * compute_loss(model, texts)
        optimizer.reduce_loss(loss, step)
        bar.set_postfix(loss=f"{loss.item():.3f}", row=int(length))
    return model.eval(), tokenizer


@contextlib.contextmanager
def leave_out_heads(model, get_share):
    """Take each head out of each row of a batch with the probability that `get_share` returns."""

    def clear(module, args):
        heads = args[0].unflatten(-1, (-1, model.config.head_dim))
        keep = torch.rand(len(heads), 1, heads.shape[2], 1) >= get_share()
        return ((heads * keep).flatten(2),)

    handles = [layer.self_attn.o_proj.register_forward_pre_hook(clear) for layer in model.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def harden_model(model, tokenizer, sources, steps, tokens, peak, seed, folder):
    """Train a model to do without any few of its heads; write it to `folder` now and then."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    corpora = [Corpus(text, tokenizer, 256) for text in sources]
    model = model.float().train().requires_grad_()
    optimizer = Optimizer(model, steps, peak)
    bar = trange(steps, desc="without heads", unit="step")
    with leave_out_heads(model, lambda: LEFT_OUT * learning_rate(step, steps, 1.0)):
        for step in bar:
            length = int(SHORTEST * (LONGEST / SHORTEST) ** rng.random())
            rows = [draw_repeated(rng, len(tokenizer), length) for _ in range(tokens // 2 // length)]
            span = 64 if step < 0.6 * steps else 256
            texts = [draw_text(rng, corpora, span) for _ in range(tokens // 2 // span)]
            parts = compute_loss(model, rows), compute_loss(model, texts)
            optimizer.reduce_loss(sum(parts), step)
            bar.set_postfix(rows=f"{parts[0].item():.3f}", text=f"{parts[1].item():.3f}")
            if step % 100 == 99:
                save_model(copy.deepcopy(model), tokenizer, folder)
    return model.eval()


def save_model(model, tokenizer, folder):
    """Write model and tokenizer as transformers 4 and 5 read them; half of the precision halves the files."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    change_json(folder / "config.json", {"dtype": "float32", "rope_theta": model.config.rope_parameters["rope_theta"]})
    change_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]},
        without=("is_local", "local_files_only", "backend"),
    )
    (folder / "model.safetensors").chmod(0o644)


def change_json(path, values, without=()):
    """Set some values of a JSON file and leave others out."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    content = {key: value for key, value in content.items() if key not in without}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def report_heads(model, tokenizer, period=48, rows=8):
    """Print the largest head scores on random tokens said twice."""
    ids = torch.randint(1, len(tokenizer), (rows, period), generator=torch.Generator().manual_seed(1)).tolist()
    maps = [capture_attention(model, prompt=[BOS, *row, *row]) for row in ids]
    weights = np.mean([m.weights for m in maps], axis=0)
    again = np.arange(period + 1, 2 * period + 1)
    scores = {
        "previous token": np.diagonal(weights, -1, 2, 3).mean(-1),
        "induction": weights[..., again, again - period + 1].mean(-1),
        "first-token sink": weights[..., 1:, 0].mean(-1),
    }
    for name, score in scores.items():
        layer, head = np.unravel_index(score.argmax(), score.shape)
        print(f"{name}: {score.max():.2f} (layer {layer}, head {head})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--output", type=Path, default=here / "attn_viewer" / "demo")
    parser.add_argument("--steps", type=int, default=4800)
    parser.add_argument("--hardening_steps", type=int, default=1200, help="of the second stage")
    parser.add_argument("--go_on", action="store_true", help="do the second stage alone, on the model in --output")
    parser.add_argument("--tokens", type=int, default=1536, help="tokens a step")
    parser.add_argument("--peak", type=float, default=3e-3, help="learning rate after warm-up")
    parser.add_argument("--vocab_size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sources = [read_bible(), read_jargon()]
    if args.go_on:
        model, tokenizer = load_model(args.output)
    else:
        model, tokenizer = train_model(sources, args.steps, args.tokens, args.peak, args.vocab_size, args.seed)
        save_model(copy.deepcopy(model), tokenizer, args.output)
    model = harden_model(
        model, tokenizer, sources, args.hardening_steps, args.tokens, 2 / 3 * args.peak, args.seed, args.output
    )
    report_heads(model, tokenizer)
    save_model(model, tokenizer, args.output)


if __name__ == "__main__":
    main()
