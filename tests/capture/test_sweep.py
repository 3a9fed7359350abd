"""Every type of model that transformers knows: what is captured under SDPA is what eager attention computes.

``pytest -m slow tests/capture/test_sweep.py`` runs it, with ``-n 2`` on two cores, with ``--lf`` what failed, with
``-k`` some types.
"""

import contextlib
import inspect
import re
import signal
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from generic import MODEL_TYPES, NotBuiltError, NotRunError, build_model, find_classes, find_running
from torch.overrides import TorchFunctionMode

from attn_viewer import AttentionMaps, capture_attention, capture_attention_calls
from attn_viewer.errors import AttnViewerError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SDPA = torch.nn.functional.scaled_dot_product_attention
TOLERANCE = 1e-5
# Layer by layer, rounding lets SDPA and eager attention drift apart; scores in the hundreds make more of it.
DRIFTING = {"mobilebert": 1e-4, "mt5": 1e-4}
# Past this, SDPA and eager attention compute different things, and eager weights are no measure.
OTHER_OUTPUT = 1e-3
SECONDS = 120  # for one type

Layers = list[np.ndarray]


def name_stack(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)", "*", name)


class Reference:
    """The weights that eager attention computes, by stack of modules, seen from outside of the package.

    They come from `eager_attention_forward` of the model's own modeling files and from `torch.nn.MultiheadAttention`.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.stacks: dict[str, Layers] = defaultdict(list)

    def take(self, module: torch.nn.Module, weights: torch.Tensor | None) -> None:
        if weights is not None:
            self.stacks[name_stack(self.names.get(module, ""))].append(to_array(weights))

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as hooks:
            for file in {sys.modules[type(module).__module__] for module in self.names}:
                if hasattr(file, "eager_attention_forward"):
                    patch.setattr(file, "eager_attention_forward", self._wrap(file))
            for module in self.names:
                if isinstance(module, torch.nn.MultiheadAttention):
                    handle = module.register_forward_hook(self._ask_again, with_kwargs=True)
                    hooks.callback(handle.remove)
            yield

    def _wrap(self, file: types.ModuleType) -> Any:
        original = file.eager_attention_forward

        def attend(module: torch.nn.Module, *args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
            output, weights = original(module, *args, **options)
            self.take(module, weights)
            return output, weights

        return attend

    def _ask_again(self, module: Any, args: Any, options: dict[str, Any], output: Any) -> None:
        wanted = {"need_weights": True, "average_attn_weights": False}
        self.take(module, type(module).forward(module, *args, **options | wanted)[1])


class Softmaxes(TorchFunctionMode):
    """Takes what every softmax puts out. SDPA is asked for it: with one-hot values, attention returns its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: Layers = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is SDPA:
            bound = inspect.signature(_attend).bind(*args, **kwargs or {})
            query, key = bound.arguments["query"], bound.arguments["key"]
            bound.arguments["value"] = torch.eye(key.shape[-2], dtype=key.dtype).expand(*key.shape[:-1], -1)
            self.weights.append(to_array(SDPA(*bound.args, **bound.kwargs).view(*query.shape[:-1], -1)))
        output = func(*args, **kwargs or {})
        if func in (torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax) and output.ndim > 2:
            self.weights.append(to_array(output))
        if func is torch.nn.functional.multi_head_attention_forward:  # what it runs is out of a mode's sight
            kwargs = (kwargs or {}) | {"need_weights": True, "average_attn_weights": False}
            self.weights.append(to_array(func(*args, **kwargs)[1]))
        return output


def _attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options):  # type: ignore[no-untyped-def]
    """Signature of SDPA."""


def to_array(weights: torch.Tensor) -> np.ndarray:
    """Return the weights of the one prompt; rows of padding, NaN under SDPA, are 0."""
    weights = weights.detach().float().nan_to_num(0)
    return (
        weights.flatten(0, -4)[0].numpy() if weights.ndim > 3 and weights.shape[:-3].numel() == 1 else weights.numpy()
    )


def get_tuples(output: Any) -> list[Layers]:
    """Return the attentions that transformers hands out, each a list of layers."""
    if not isinstance(output, dict):
        return []
    tuples = [
        value for name, value in output.items() if name.endswith("attentions") and isinstance(value, (tuple, list))
    ]
    found = [[to_array(part) for part in parts if isinstance(part, torch.Tensor)] for parts in tuples]
    return [layers for layers in found if layers]


def is_part(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], tolerance: float) -> bool:
    """Tell whether layers lie somewhere in a row of them; some models hand out those of several stacks in one."""
    starts = range(len(theirs) - len(ours) + 1)
    return any(all(is_same(*pair, tolerance) for pair in zip(ours, theirs[start:], strict=False)) for start in starts)


def is_same(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    """Tell whether a layer is equal; a row that sees nothing is 0 for us and uniform, or 0, for eager attention.

    Some models cut away what they put in front of the tokens before they hand weights out.
    """
    n_query, n_key = theirs.shape[-2:]
    ours = ours[..., -n_query:, -n_key:]
    if ours.shape != theirs.shape or ours.size == 0:
        return ours.shape == theirs.shape
    blind = (ours == 0).all(-1) & (theirs.max(-1) == theirs.min(-1))
    return float(np.abs(ours - theirs)[~blind].max(initial=0)) < tolerance


def find_first(output: Any) -> torch.Tensor | None:
    """Return the first tensor of numbers in an output."""
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else [output]
    tensors = (part for part in parts if isinstance(part, torch.Tensor) and part.is_floating_point())
    return next((tensor.nan_to_num(0) for tensor in tensors), None)


class Case:
    """A model under SDPA, what it is captured to do, and what the same weights do in eager mode."""

    def __init__(self, model_type: str, model_class: type[transformers.PreTrainedModel]) -> None:
        self.tolerance = DRIFTING.get(model_type, TOLERANCE)
        config, self.inputs = find_running(model_type, model_class)
        self.model = build_model(model_class, config)
        eager = build_model(model_class, config, "eager")
        eager.load_state_dict(self.model.state_dict())
        self.reference, self.softmaxes = Reference(eager), Softmaxes()
        with self.reference.record():
            self.eager_output = run(eager, self.inputs | ask_weights(eager, self.inputs))
        self.tuples = get_tuples(self.eager_output)
        asked = ask_weights(self.model, self.inputs) if self.model.config._attn_implementation == "eager" else {}
        self.arguments = self.inputs | asked
        with self.softmaxes:
            self.output = run(self.model, self.arguments)

    def is_other_than_eager(self) -> bool:
        """Tell whether SDPA and eager attention make another output of the same weights."""
        ours, theirs = find_first(self.output), find_first(self.eager_output)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return False
        return float((ours - theirs).abs().max()) > OTHER_OUTPUT * max(1.0, float(theirs.abs().max()))

    def judge(self, maps: AttentionMaps, stack: str | None) -> str:
        """Return what captured layers equal; fail if that is nothing they should."""
        own = [self.reference.stacks[stack]] if stack in self.reference.stacks else []
        candidates = own + self.tuples + (list(self.reference.stacks.values()) if stack is None else [])
        if any(is_part(maps.weights, layers, self.tolerance) for layers in candidates):
            return "equal to eager"
        is_own = all(
            any(is_same(layer, seen, self.tolerance) for seen in self.softmaxes.weights) for layer in maps.weights
        )
        if is_own and (not own or self.is_other_than_eager()):
            return "equal to SDPA"  # or its own softmax; eager attention hands nothing out, or computes something else
        shapes = [[layer.shape for layer in layers] for layers in ([*maps.weights], *candidates)]
        raise AssertionError(f"{stack or 'the prompt'}: weights are nowhere in eager attention; shapes {shapes}")

    def capture_calls(self) -> Iterator[str]:
        outputs: list[Any] = []
        seen = capture_attention_calls(lambda: outputs.append(run(self.model, self.arguments)), model=self.model)
        for stack, maps in seen.items():
            yield self.judge(maps, stack)
        missing = {
            stack for stack, layers in self.reference.stacks.items() if stack not in seen and is_over_tokens(layers)
        }
        assert not missing, f"nobody saw {missing}"
        plain, ours = find_first(self.output), find_first(outputs[0])
        assert plain is None or (ours is not None and torch.equal(plain, ours)), "the output moved"

    def capture_prompt(self) -> Iterator[str]:
        ids = {name: tensor[0].tolist() for name, tensor in self.inputs.items() if name.endswith("input_ids")}
        if ids.keys() != self.inputs.keys() - {"use_cache"} or "input_ids" not in ids:
            return
        kinds = ("encoder", "decoder", "cross") if "decoder_input_ids" in ids else (None,)
        for kind in kinds:
            maps = capture_attention(
                self.model, prompt=ids["input_ids"], decoder_prompt=ids.get("decoder_input_ids"), kind=kind
            )
            yield self.judge(maps, None)


def is_over_tokens(layers: Layers) -> bool:
    return any(layer.shape[-2] > 1 for layer in layers)


def run(model: torch.nn.Module, inputs: dict[str, Any]) -> Any:
    torch.manual_seed(0)  # some draw what they mask
    with torch.no_grad():
        return model(**inputs)


def ask_weights(model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, bool]:
    """Return the argument that asks for weights, where the model knows it; signatures do not say."""
    asked = {"output_attentions": True}
    try:
        run(model, inputs | asked)
    except Exception:
        return {}
    return asked


@contextlib.contextmanager
def limit_seconds() -> Iterator[None]:
    def stop(*args: Any) -> None:
        raise NotRunError(f"took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Why types are refused, but for those without any softmax over tokens, of which eager attention shows none either.
REFUSALS: dict[str, set[str]] = {
    "keys are pooled, compressed, in bands or in blocks, or layers differ in their tokens": {
        *("canine", "cvt", "deepseek_v4", "funnel", "glpn", "groupvit", "groupvit_vision_model", "hiera", "led"),
        *("levit", "longformer", "longt5", "mra", "pegasus_x", "pvt", "pvt_v2", "reformer", "segformer"),
    },
    "windows, frames or pictures lie side by side where a batch would": {
        *(
            "donut-swin",
            "lightglue",
            "superglue",
            "xclip",
            "maskformer",
            "maskformer-swin",
            "mobilevit",
            "rf_detr",
            "swin",
            "swin2sr",
            "swinv2",
        ),
        *("sam2_hiera_det_model", "sam2_vision_model"),
        *("timesformer", "videoprism", "videoprism_vision_model", "vitpose_backbone"),
    },
    "attends over positions that are no tokens of the prompt": {
        *("cpmant", "prophetnet", "t5gemma2", "videoprism_text_model"),
    },
    "layers run several times": {"hrm_text", "videomt"},
    "no weight for each pair: linear, hashed, additive, or scores before their softmax": {
        *("mobilevitv2", "patchtsmixer", "rwkv", "superpoint", "swiftformer", "wavtokenizer", "yoso"),
    },
    "has no such attention without further inputs": {"EvollaModel", "encoder-decoder", "evolla", "pop2piano"},
}

STATES = ("not built", "not run", "equal to eager", "equal to SDPA", "refused")


def examine(model_type: str, model_class: type[transformers.PreTrainedModel]) -> tuple[str, str]:
    """Return the state of one class, and why."""
    try:
        case = Case(model_type, model_class)
    except NotBuiltError as error:
        return "not built", str(error)
    except NotRunError as error:
        return "not run", str(error)
    verdicts: list[tuple[str, str]] = []
    for capture in (case.capture_calls, case.capture_prompt):
        with collect_refusal(verdicts):
            verdicts += [(verdict, "") for verdict in capture()]
    reasons = [reason for state, reason in verdicts if state == "refused"]
    is_expected = any(model_type in expected for expected in REFUSALS.values())
    is_without = not case.reference.stacks and not case.tuples and not case.softmaxes.weights
    assert not reasons or is_expected or is_without, reasons[0]
    return max(verdicts, key=lambda verdict: STATES.index(verdict[0]))


@contextlib.contextmanager
def collect_refusal(verdicts: list[tuple[str, str]]) -> Iterator[None]:
    try:
        yield
    except AttnViewerError as error:
        verdicts.append(("refused", str(error)))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_weights_are_those_of_eager_attention(model_type: str, record_property: Callable[[str, object], None]) -> None:
    try:
        with limit_seconds():
            found = [examine(model_type, model_class) for model_class in find_classes(model_type)]
    except (NotBuiltError, NotRunError) as error:
        found = [("not run" if isinstance(error, NotRunError) else "not built", str(error))]
    state, reason = max(found, key=lambda verdict: STATES.index(verdict[0]))
    record_property("sweep", state)
    if state in ("not built", "not run"):
        pytest.skip(f"{state}: {reason}")
