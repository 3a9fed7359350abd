"""What a head's weights alone say of it: the query–key and the output–value product, their spectra and their tokens.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits". Which weights make queries, keys and values is
not looked up by name: a short pass shows which linear module put out, number by number, what attention was called with.
Positions are left out: at the first position a rotation of queries and keys turns nothing, so that the product is that
of a query and a key at distance 0.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from ..analysis.repeats import Vocabulary
from ..errors import CircuitError
from ..inputs.signature import call_model, find_device, takes_argument
from ..tokens import label_tokens
from .guard import borrow_model
from .module_stack import ModuleStack
from .numbering import number_modules
from .projections import ProjectionWatch, get_weight
from .watch import AttentionCall, AttentionWatch

# Singular directions that are spelled out, and tokens at each of their ends.
N_DIRECTIONS, N_ENDS = 8, 8
# Prompts of the pass: so many numbers a row tell rows apart in any precision.
_N_PROMPTS = 16
# How far a product in bfloat16 may be from that of the same numbers in float32, as a share of the largest.
_ROUNDING = 2**-6


@dataclasses.dataclass(frozen=True)
class Circuit:
    """A product of two of a head's weights.

    Attributes
    ----------
    kind
        ``"QK"``: query against key, with what attention is given on both sides; ``"OV"``: what a head that looks at a
        token writes. Biases and the factor of the scores are left out.
    values
        Singular values, largest first.
    directions
        Of the first singular vectors the tokens at both ends: of queries, then of keys; of what is looked at, then of
        what is written. The first ends go together, and the second.
    """

    kind: str
    values: tuple[float, ...]
    directions: Sequence[Sequence[Sequence[str]]]


@dataclasses.dataclass(frozen=True)
class HeadWeights:
    """The weights of a head: query, key and value ``(d_head, d_in)``, output ``(d_head, d_model)``; float64.

    `norm` is what stands before them, None where nothing does.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    norm: torch.nn.Module | None


class _Trace:
    """Which module made which tensor of a pass, and what attention was called with."""

    def __init__(self, model: torch.nn.Module) -> None:
        # By place in memory, which nothing else takes as long as it is here; a slice of all tokens is the same.
        self.made: dict[tuple[int, torch.Size], tuple[torch.nn.Module, torch.Tensor, torch.Tensor]] = {}
        self.calls: list[AttentionCall] = []
        self.model = model

    def see(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note what a module without parts made of one tensor."""
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if isinstance(output, torch.Tensor) and len(tensors) == 1:
            self.made.setdefault(_locate(output), (module, tensors[0], output))

    def find_norm(self, tensor: torch.Tensor) -> torch.nn.Module | None:
        """Return the norm that made a tensor, if one did."""
        module, given, output = self.made.get(_locate(tensor), (None, tensor, tensor))
        is_norm = module is not None and get_weight(module) is None and given.shape == output.shape
        return module if is_norm and not torch.equal(given, output) else None

    def find_rows(self, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights that made queries, keys or values, axes ``(n_heads, d_head, d_in)``, and their input."""
        wanted = part[:, :, 0].flatten(1).T.contiguous().cpu()
        for module, given, output in reversed(self.made.values()):
            weight = get_weight(module)
            if weight is None or output.ndim != 3 or output.shape[:2] != (len(part), part.shape[2]):
                continue
            rows = {row.float().numpy().tobytes(): i for i, row in enumerate(output[:, 0].T.contiguous().cpu())}
            found = [rows.get(row.float().numpy().tobytes()) for row in wanted]
            if None not in found and _is_product(output, given, weight, getattr(module, "bias", None)):
                return weight.T[torch.tensor(found)].double().cpu().unflatten(0, (part.shape[1], -1)), given
        raise _refuse(self.model, "queries, keys or values are no linear function of what attention is given")


def _is_product(output: torch.Tensor, given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Return whether a linear module's output is that of its weights: hooks may have changed it."""
    made = given.float() @ weight.float() + (0 if bias is None else bias.float())
    return bool((made - output).abs().max() <= _ROUNDING * output.abs().max())


def _refuse(model: torch.nn.Module, why: str) -> CircuitError:
    return CircuitError(f"{type(model).__name__} has no query–key and output–value products of single heads: {why}")


def read_head_weights(model: torch.nn.Module) -> tuple[dict[tuple[int, int], HeadWeights], torch.nn.Module | None]:
    """Find the weights of a language model's heads by ``(layer, head)``, and the norm before its output embedding.

    It is a `CircuitError` where the products are no fixed matrices, or cannot be proven to be: attention not on SDPA,
    normalised queries, a norm between head and residual stream, no output embedding.
    """
    trace, numbers = _Trace(model), number_modules(model)
    unembedding = getattr(model, "get_output_embeddings", lambda: None)()
    if unembedding is None or not getattr(model, "can_generate", lambda: False)():
        raise _refuse(model, "it is no language model with an output embedding")
    embed: Any = model.get_input_embeddings()  # type: ignore[operator]
    ids = torch.randperm(len(embed.weight), generator=torch.Generator().manual_seed(0))[: 2 * _N_PROMPTS]
    seen: list[torch.Tensor] = []
    with borrow_model(model) as loan:
        stack = ModuleStack(model)
        projections = ProjectionWatch(stack, trace.calls.append)
        watch = AttentionWatch(stack, projections.take_call, lambda _: None)
        for module in stack.known:
            if not [*module.children()]:
                loan.add_hook(module.register_forward_hook, trace.see)
        loan.add_hook(unembedding.register_forward_pre_hook, lambda _, args: seen.append(args[0]))
        projections.install(loan)
        stack.follow(loan)
        loan.enter_mode(watch)
        cache = {"use_cache": False} if takes_argument(model, "use_cache") else {}
        call_model(model, {"input_ids": ids.reshape(-1, 2).to(find_device(model))} | cache)
        projections.let_go()
    if not trace.calls or not seen:
        raise _refuse(model, "its attention does not run on SDPA")
    normed = {_locate(given) for module, given, made in trace.made.values() if trace.find_norm(made) is module}
    heads = {}
    for call in trace.calls:
        if call.projection is None or any(
            _locate(output) in normed and _shares_memory(get_weight(module), call.projection)
            for module, _, output in trace.made.values()
        ):
            raise _refuse(
                model,
                "no plain linear module takes heads to the residual stream; a norm, a gate or an adapter stands "
                "between, or it is quantised or offloaded",
            )
        (query, given), (key, _), (value, _) = map(trace.find_rows, (call.query, call.key, call.value))
        output = call.projection.double().cpu().unflatten(0, (len(query), -1))
        for head in range(len(query)):
            k, v = (head // (len(query) // len(part)) for part in (key, value))
            parts = query[head], key[k], value[v], output[head]
            heads[numbers[call.name][1], head] = HeadWeights(*parts, trace.find_norm(given))
    return heads, trace.find_norm(seen[0])


def _locate(tensor: torch.Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape


def _shares_memory(weight: torch.Tensor | None, projection: torch.Tensor) -> bool:
    return weight is not None and weight.data_ptr() == projection.data_ptr()


def factorise_product(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the singular value decomposition of ``left.T @ right``, which is never made.

    Parameters
    ----------
    left, right
        Axes ``(rank, n)`` and ``(rank, m)``.

    Returns
    -------
    left_vectors, values, right_vectors
        Axes ``(n, rank)``, ``(rank,)`` descending, ``(m, rank)``; the largest number of each left vector is positive.
    """
    (left_q, left_r), (right_q, right_r) = torch.linalg.qr(left.T), torch.linalg.qr(right.T)
    u, values, v = torch.linalg.svd(left_r @ right_r.T)
    u, v = left_q @ u, right_q @ v.T
    signs = torch.sign(torch.gather(u, 0, u.abs().argmax(0, keepdim=True)))
    return u * signs, values, v * signs


@torch.no_grad()
def measure_circuits(model: torch.nn.Module, tokenizer: Vocabulary) -> dict[tuple[int, int], list[Circuit]]:
    """Return the circuits of every head of a language model, by ``(layer, head)``.

    What a head would be given if the residual stream held a token's embedding alone is what tokens are measured by;
    what it writes is read through the model's last norm and its output embedding.

    Parameters
    ----------
    model, tokenizer : transformers model and tokenizer
        As `load_model` returns them.

    Raises
    ------
    CircuitError
        As `read_head_weights`.
    """
    heads, last_norm = read_head_weights(model)
    device = find_device(model)
    embed: Any = model.get_input_embeddings()  # type: ignore[operator]
    tokens = embed(torch.arange(len(embed.weight), device=device))[: len(tokenizer)]
    unembed = get_weight(model.get_output_embeddings())  # type: ignore[operator]
    if unembed is None:
        raise _refuse(model, "its output embedding is no plain linear module")
    unembed = unembed[:, : len(tokenizer)]
    kept: tuple[Any, torch.Tensor] = (None, tokens)
    found: dict[tuple[int, int], list[tuple[str, Any, torch.Tensor]]] = {}

    def read(vectors: torch.Tensor) -> torch.Tensor:
        return (vectors if last_norm is None else last_norm(vectors) - last_norm(torch.zeros_like(vectors))) @ unembed

    for place, head in heads.items():
        if kept[0] is not head.norm:
            kept = head.norm, tokens if head.norm is None else head.norm(tokens)
        for kind, left, right in (("QK", head.query, head.key), ("OV", head.value, head.output)):
            u, values, v = factorise_product(left, right)
            ins, outs = (vectors[:, :N_DIRECTIONS].T.to(device, tokens.dtype) for vectors in (u, v))
            before, after = ins @ kept[1].T, outs @ kept[1].T if kind == "QK" else read(outs)
            ends = [scores.topk(N_ENDS).indices for scores in (before, -before, after, -after)]
            found.setdefault(place, []).append((kind, values.tolist(), torch.stack(ends, 1).cpu()))
    ids = sorted({i for each in found.values() for _, _, ends in each for i in ends.flatten().tolist()})
    labels = dict(zip(ids, label_tokens(ids, tokenizer), strict=True))
    return {
        place: [
            Circuit(kind, tuple(values), [[[labels[i] for i in end] for end in one] for one in ends.tolist()])
            for kind, values, ends in each
        ]
        for place, each in found.items()
    }
