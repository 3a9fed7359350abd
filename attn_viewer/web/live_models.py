"""What a live page asks of a model: captures, answers, likeliest next tokens, prompts compared, heads changed."""

import base64
import contextlib
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..capture.generation import capture_generation
from ..capture.guard import Loan
from ..capture.prefill import capture_attention
from ..errors import OptionError, PromptError
from ..inputs.forms import get_text_tokenizer
from ..inputs.model_inputs import prepare_inputs
from ..inputs.pictures import ask_about, read_picture
from ..interventions.changed_heads import ABLATION_MEANINGS, Intervention, ablate_heads, merge_heads
from ..interventions.head_effects import measure_effect
from ..interventions.repeated_passes import encode_text
from ..maps import AttentionMaps
from ..selections import parse_heads
from ..tokens import label_tokens, show_text
from .encode import round_scores, score_for_display
from .jobs import Job, Result
from .live_options import LiveOptions, Wanted
from .pictures import spell_pictures
from .several import describe_page, link_tokens

# Arrays of the same tokens that a job holds at most: measuring an effect makes them twice, without and with it.
MOST_COPIES = 4
N_LIKELIEST = 5
_TURN = re.compile(r"^(system|user|assistant):[ \t]?", re.MULTILINE)
_Made = tuple[list[AttentionMaps], Mapping[str, Any]]
Loader = Callable[[], tuple[torch.nn.Module, Any]]


class LiveModel:
    """A model, its tokenizer, and what may be asked of them; one thread uses it."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, model_id: str | None, limits: LiveOptions) -> None:
        self.model, self.tokenizer, self.limits = model, tokenizer, limits
        self.sees = getattr(tokenizer, "image_processor", None) is not None
        first = capture_attention(model, tokenizer, "a", model_id=model_id)  # refused before anything is served
        self.model_id = first.model_id
        head = getattr(model, "get_output_embeddings", lambda: None)()
        a, b = MOST_COPIES * sum(first.n_heads), MOST_COPIES * getattr(head, "out_features", 0)
        # n tokens make a·n² weights and b·n predictions, 4 bytes each.
        by_memory = (math.sqrt(b * b + a * limits.max_maps_mb * 10**6) - b) / (2 * a)
        self.most_tokens = min(limits.max_tokens, int(by_memory))
        if self.most_tokens < 2:
            raise OptionError(f"max_maps_mb={limits.max_maps_mb} leaves no room for two tokens; allow more")

    def describe(self) -> dict[str, Any]:
        """Return what the page says beforehand."""
        return {
            "name": self.model_id,
            "tokens": self.most_tokens,
            "newTokens": min(self.limits.max_new_tokens, self.most_tokens - 1),
            "megabytes": self.limits.max_maps_mb,
            "hasChat": bool(getattr(self.tokenizer, "chat_template", None)),
            "sees": self.sees,
            "modes": ABLATION_MEANINGS | {"merge": "both heads, of one layer, get the mean of their two patterns"},
        }

    def run(self, wanted: Wanted, job: Job) -> Result:
        """Do what was asked for."""
        if wanted.what == "load":
            return Result((), [], {"facts": self.describe()})
        prompt = self._read_prompt(wanted, wanted.prompt)
        n_prompt = self._count_tokens(prompt)
        job.tell("running", tokens=n_prompt)
        job.check()
        maps, facts = getattr(self, f"_{wanted.what}")(prompt, n_prompt, wanted, job)
        job.check()
        metas = describe_page(maps, [score_for_display(one) for one in maps])
        if wanted.picture:
            (picture,) = spell_pictures(self._read_picture(wanted), maps)
            for meta in metas:
                meta["pictures"] = [picture | {"href": f"live/picture?job={job.name}"}]
            return Result(tuple(maps), metas, facts, picture=picture["href"])
        last = wanted.prompt + (self._spell_answer(maps[0]) if wanted.what == "generate" else "")
        texts = () if wanted.ids else (wanted.other, last) if wanted.what == "compare" else (last,)
        return Result(tuple(maps), metas, facts, texts)

    def _read_prompt(self, wanted: Wanted, text: str) -> Any:
        if wanted.ids:
            return list(wanted.ids)
        if wanted.picture:
            return ask_about(self._read_picture(wanted), text)
        if not (text.strip() if wanted.chat else text):
            raise PromptError("nothing is written; give at least one token")
        if not wanted.chat:
            return text
        before, *turns = _TURN.split(text)
        said = [{"role": role, "content": words.strip()} for role, words in zip(turns[::2], turns[1::2], strict=True)]
        return [{"role": "user", "content": before.strip() if said else before}] * bool(before.strip()) + said

    def _read_picture(self, wanted: Wanted) -> Image.Image:
        try:
            data = base64.b64decode(wanted.picture, validate=True)
        except ValueError as error:
            raise PromptError("the picture did not come whole; choose it again") from error
        return read_picture(io.BytesIO(data))

    def _count_tokens(self, prompt: Any) -> int:
        sides = prepare_inputs(self.model, self.tokenizer, prompt).prompts[0].sides.values()
        count = max(side.total or 0 for side in sides)
        if count > self.most_tokens:
            raise PromptError(f"the prompt has {count:,} tokens where {self.most_tokens:,} are allowed; shorten it")
        return count

    def _capture(self, prompt: Any, *_: Any) -> _Made:
        return [capture_attention(self.model, self.tokenizer, prompt, model_id=self.model_id)], {}

    def _generate(self, prompt: Any, n_prompt: int, wanted: Wanted, job: Job) -> _Made:
        return [self._answer(prompt, n_prompt, wanted.new_tokens, job)], {}

    def _spell_answer(self, maps: AttentionMaps) -> str:
        """Return the text of the tokens behind the prompt: a folder keeps weights under the text that they are of."""
        tokenizer, ids = get_text_tokenizer(self.tokenizer), list(maps.ids_key or ())
        whole, asked = (tokenizer.decode(ids[:end], skip_special_tokens=True) for end in (None, maps.prompt_length))
        return str(whole[len(asked) :])

    def _answer(
        self, prompt: Any, n_prompt: int, count: int, job: Job, *, answer: int = 0, is_anew: bool = False
    ) -> AttentionMaps:
        """Generate, telling each token as it comes; `answer` is the number of the answer that it is of.

        `is_anew` where each token needs all queries before it, for which a cache of keys and values is not enough.
        """
        if count > self.limits.max_new_tokens or n_prompt + count > self.most_tokens:
            raise PromptError(
                f"{n_prompt:,} tokens of prompt and {count:,} new ones are asked for, where {self.most_tokens:,} "
                f"together and {self.limits.max_new_tokens:,} new ones are allowed; ask for fewer"
            )

        def report(step: Any) -> None:
            job.check()
            row = sum(rows.mean(0, dtype=float) for rows in step.weights.values()) / len(step.weights)
            weights = [round(float(value), 4) for value in row]
            job.tell("step", answer=answer, text=show_text(step.text), weights=weights)

        maps: AttentionMaps = capture_generation(
            self.model,
            self.tokenizer,
            prompt,
            model_id=self.model_id,
            max_new_tokens=count,
            generate_options={"do_sample": False} | ({"use_cache": False} if is_anew else {}),
            when="steps",
            on_step=report,
        )
        return maps

    def _predict(self, prompt: Any, *_: Any) -> _Made:
        """Capture, and return the likeliest next tokens at each position."""
        ids = encode_text(self.model, self.tokenizer, prompt)["input_ids"][0].tolist()
        with _hear_logits(self.model) as heard:
            (maps,), _facts = self._capture(prompt)
        if not maps.causal:
            raise OptionError("this model sees later tokens, which it would predict; take a causal one")
        tokenizer = get_text_tokenizer(self.tokenizer)
        logits = heard[-1][0].float()
        shares, best = logits.softmax(-1).topk(min(N_LIKELIEST, logits.shape[-1]))
        rows = [
            [[i, show_text(label_tokens([i], tokenizer)[0]), p] for i, p in zip(tokens, row, strict=True)]
            for tokens, row in zip(best.tolist(), shares.tolist(), strict=True)
        ]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return [maps], {"next": rows, "ids": ids, "text": text}

    def _compare(self, prompt: Any, _n: int, wanted: Wanted, job: Job) -> _Made:
        """Capture an earlier prompt and this one, and tell how far each head is from itself on tokens they share.

        The distance is half the sum of absolute differences of a row, mean over the rows: total variation, where all
        tokens are shared.
        """
        other = self._read_prompt(wanted, wanted.other)
        self._count_tokens(other)
        (before,), _ = self._capture(other)
        job.check()
        (after,), _ = self._capture(prompt)
        links = link_tokens(("", before.tokens_key), ("", after.tokens_key))
        one, two = np.array([(i, j) for j, i in enumerate(links) if i is not None], int).reshape(-1, 2).T
        parts = [
            (a[:, one][:, :, one], b[:, two][:, :, two]) for a, b in zip(before.weights, after.weights, strict=True)
        ]
        distances = round_scores(np.abs(a - b).sum(-1).mean(-1) / 2 for a, b in parts)
        same = sum(before.tokens_key[i] == after.tokens_key[j] for i, j in zip(one, two, strict=True))
        return [before, after], {"distances": distances, "changed": len(links) - same}

    def _change(self, prompt: Any, n_prompt: int, wanted: Wanted, job: Job) -> _Made:
        """Return the maps without and with heads changed, and what that did to predictions; tell both answers."""
        change = self._make_change(wanted)
        maps, _ = self._capture(prompt)
        job.check()
        effect = measure_effect(self.model, self.tokenizer, prompt, change, model_id=self.model_id)
        job.check()
        with change:
            maps += self._capture(prompt)[0]
        self._answer(prompt, n_prompt, wanted.new_tokens, job)
        with change:
            self._answer(prompt, n_prompt, wanted.new_tokens, job, answer=1, is_anew=wanted.mode == "mean")
        described = {
            "description": effect.description,
            "loss": [float(effect.loss_before.mean()), float(effect.loss_after.mean())],
            "before": [[show_text(label), p, q] for label, p, q in effect.top_before],
            "after": [[show_text(label), p, q] for label, p, q in effect.top_after],
        }
        return maps, {"effect": described}

    def _make_change(self, wanted: Wanted) -> Intervention:
        if not wanted.heads:
            raise OptionError("which heads are to be changed? Write layer.head of each, such as 1.3,2.0")
        heads = parse_heads(wanted.heads)
        if wanted.mode != "merge":
            return ablate_heads(self.model, heads, wanted.mode)
        if len(heads) != 2 or heads[0][0] != heads[1][0]:
            raise OptionError(f"two heads of one layer can be merged, such as 1.0,1.2, got {wanted.heads}")
        return merge_heads(self.model, heads[0][0], heads[0][1], heads[1][1])


@contextlib.contextmanager
def _hear_logits(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Keep what a model says at every position; who listens makes a capture compute all of it."""
    heard: list[torch.Tensor] = []
    with Loan() as loan:
        loan.add_hook(model.register_forward_hook, lambda _module, _args, output: heard.append(output.logits))
        yield heard


class LiveModels:
    """The models of a start-up list: the first, and of the others, which are loaded when asked for, the last one."""

    def __init__(self, first: LiveModel, others: Mapping[str, Loader]) -> None:
        self.first, self.others = first, list(others.items())
        self._loaded: tuple[int, LiveModel] = (0, first)

    @property
    def names(self) -> Sequence[str]:
        """What the page calls them."""
        return [self.first.model_id, *(name for name, _ in self.others)]

    def run(self, wanted: Wanted, job: Job) -> Result:
        """Do what was asked for with the model that was."""
        if wanted.model > len(self.others):
            raise OptionError(f"there is no model {wanted.model}; reload the page")
        if wanted.model == 0:
            return self.first.run(wanted, job)
        if self._loaded[0] != wanted.model:
            name, load = self.others[wanted.model - 1]
            job.tell("running", loads=name)
            self._loaded = (0, self.first)  # lets go of the one before
            self._loaded = (wanted.model, LiveModel(*load(), None, self.first.limits))
            job.check()
        return self._loaded[1].run(wanted, job)
