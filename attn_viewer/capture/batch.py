"""The attention weights of several short prompts, from one pass that computes each as if it ran alone."""

import itertools
from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from ..capture_options import CaptureOptions
from ..declarations import takes_options
from ..errors import CaptureError
from ..inputs.model_inputs import prepare_inputs
from ..inputs.signature import find_device, has_decoder, takes_argument
from ..maps import AttentionMaps
from .changes import list_interventions
from .collector import Collector
from .fused import SdpaArguments
from .guard import borrow_model, list_implementations
from .module_stack import ModuleStack
from .numbering import NumberedModules
from .prefill import get_model_id, label_stack
from .watch import AttentionWatch


@takes_options(CaptureOptions)
def capture_batch(
    model: torch.nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    model_id: str | None = None,
    options: CaptureOptions,
) -> list[AttentionMaps]:
    """Capture the attention weights of several prompts in one pass, one map a prompt.

    Short prompts leave a processor waiting for the model's weights, which a batch fetches once. Prompts are laid end to
    end in one row, each with positions of its own, and attention is computed for each prompt on its own tokens, in the
    shapes that it would have alone. What is left are sums of linear layers over tokens that do not know of each other;
    where the library that computes them rounds them alike whatever the number of tokens, as MKL does from 4 on, the
    weights are to the bit those of `capture_attention`. Whether that is so, only comparing tells.

    Options are those of `CaptureOptions` without ``weighting``. A `CaptureError` says that this model's prompts must
    run one at a time.
    """
    if has_decoder(model) or list_interventions():
        raise _refuse(model)
    prompts = [prepare_inputs(model, tokenizer, text) for text in texts]
    inputs = [prompt.arguments for prompt in prompts]
    body = getattr(model, "base_model", model)  # without the head: nobody wants logits
    if not takes_argument(body, "position_ids"):
        raise _refuse(model)
    lengths, known = [each["input_ids"].shape[1] for each in inputs], NumberedModules(body)

    def make_collector(n: int) -> Collector:
        return Collector(body, options, lambda stack, shape: shape == (n, n), known=known)

    collectors = [make_collector(n) for n in lengths]
    arguments = {
        name: torch.cat([each[name] for each in inputs], dim=1) for name in inputs[0] if takes_argument(body, name)
    }
    arguments["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None].to(find_device(model))
    if takes_argument(body, "attention_mask"):
        # Not every tokenizer gives one, and without it transformers sees from the positions where prompts begin, and
        # makes a mask in place of is_causal.
        arguments["attention_mask"] = torch.ones_like(arguments["position_ids"])
    settings = {"use_cache": False} if takes_argument(body, "use_cache") else {}
    with borrow_model(body) as loan:
        if "eager" in list_implementations(body):
            raise _refuse(model)
        stack = ModuleStack(body)
        stack.follow(loan, stack.list_callers())
        loan.enter_mode(BatchWatch(stack, collectors, lengths))
        body(**arguments, **settings)
    collectors[0].check_complete(stack.seen)  # the others saw the same modules
    return [
        label_stack(collector, collector.find_main(), prompt.prompts[0], "self", model_id or get_model_id(model))
        for collector, prompt in zip(collectors, prompts, strict=True)
    ]


class BatchWatch(AttentionWatch):
    """Have each prompt of a row attend on its own, and hand its calls to a collector of its own."""

    def __init__(self, stack: ModuleStack, collectors: Sequence[Collector], lengths: Sequence[int]) -> None:
        def refuse(seen: object) -> NoReturn:
            raise _refuse(stack.model)

        super().__init__(stack, refuse, refuse, wants_lse=collectors[0].wants_lse)
        self.collectors, self.lengths = collectors, lengths

    def _see_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        given = SdpaArguments(*args, **kwargs)
        shape = 1, sum(self.lengths)
        parts = given[:3]
        # A mask that depends on the whole row's length would not be there for a prompt alone.
        if given.attn_mask is not None or any(p.ndim != 4 or (p.shape[0], p.shape[2]) != shape for p in parts):
            raise _refuse(self.stack.model)
        where = self._count()
        outputs = []
        for collector, stop, n in zip(self.collectors, itertools.accumulate(self.lengths), self.lengths, strict=True):
            query, key, value = (part[:, :, stop - n : stop] for part in parts)
            own = given._replace(query=query, key=key, value=value)
            outputs.append(self._attend(*where, own, collector.take_call))
        return torch.cat(outputs, dim=2)


def _refuse(model: torch.nn.Module) -> CaptureError:
    return CaptureError(
        f"prompts of {type(model).__name__} must run one at a time: its attention is not called with one row of tokens "
        "a prompt (it runs eager attention, another layout, or under interventions)"
    )
