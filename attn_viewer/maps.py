"""`AttentionMaps`, the only type that the rooms of this package hand to each other."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from .choices import check_spans, choose_numbers, describe_numbers
from .errors import InvalidMapsError

KINDS = ("self", "encoder", "decoder", "cross")
REDUCTIONS = ("full", "head_mean", "pooled")
POOLINGS = ("max", "mean")
# What a cell holds, and what a colour bar calls it.
WEIGHTINGS = {
    "attention": "attention weight",
    "value_norm": "weight × norm of value",
    "rollout": "share of the input token",
    "flow": "share of the flow",
}
DERIVED = ("rollout", "flow")  # from the mean over the heads of several layers


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The attention weights of one forward pass, with all that a figure must say about them.

    Row = query (the token that looks), column = key (the token looked at). A row of full maps sums to 1,
    except where a model has learned sinks (`has_sinks`): there the missing mass went to the sink.

    Parameters
    ----------
    weights : sequence of numpy.ndarray
        One array a layer, float16 or float32, axes ``(n_heads, n_query, n_key)``; cells instead of
        tokens on the last two when `reduction` is ``"pooled"``; one head when it is ``"head_mean"``.
    tokens_key : sequence of str
        Labels of the key tokens, always one a token, also when pooled.
    tokens_query : sequence of str, optional
        Labels of the query tokens; left out, they are `tokens_key`.
    ids_key : sequence of int, optional
        Token ids of the key tokens, when known. They tell apart tokens that look alike.
    layers : sequence of int, optional
        True layer numbers, ascending; left out, they count from 0.
    heads : sequence of sequence of int, optional
        True head numbers, one sequence a layer; left out, they count from 0.
    kind : {"self", "encoder", "decoder", "cross"}
        Which attention of the model this is.
    causal : bool
        Whether no query sees a later key, so that cells above the diagonal mean nothing.
    first_query : int
        Position of the first query among all tokens, when only some queries were kept.
    queries_after : int
        Query tokens behind the last one here that were left out.
    prompt_length : int, optional
        Number of leading tokens that were the prompt; the rest was generated. Left out, all of them.
    segments : sequence of (str, int, int)
        Parts of the key tokens with a name (system, user, …): ``(name, start, stop)``, ascending, `stop` left out.
    grouping : tuple of str, optional
        When "tokens" are groups of tokens: what they are (``"words"``, ``"sentences"``, …) and how their weights were
        summarised (``"sum"`` over keys and mean over queries, or ``"max"``).
    grid : tuple of int, optional
        Rows and columns of image patches, when the last ``rows * columns`` tokens are such.
    model_id : str
        Name of the model, for titles and file names.
    reduction : {"full", "head_mean", "pooled"}
        What was kept of the weights.
    cell : tuple of int
        Query and key tokens of a pooled cell; (1, 1) when not pooled. The last cells may be smaller.
    pooling : {"max", "mean"}, optional
        How the weights in a cell were summarised, when pooled.
    has_sinks : bool
        Whether the model has learned sinks (gpt-oss), which take a share of each row.
    softcap : float, optional
        Bound that the model puts on its attention scores (Gemma 2), already in the weights.
    source : str
        How the weights were captured: ``"sdpa"``, ``"eager"`` or ``""`` when not known.
    weighting : {"attention", "value_norm", "rollout", "flow"}
        What a cell holds: an attention weight; the weight times the norm of the projected value; what
        `roll_out_attention` or `compute_attention_flow` made of the mean over heads.
    interventions : sequence of str
        What was done to heads of the model in that pass, as `ablate_heads` and `merge_heads` describe it.
    averaged_heads : sequence of int, optional
        True numbers of the heads that a layer's one map is the mean over, when known and the same in all layers.

    Raises
    ------
    InvalidMapsError
        If shapes, labels, numbers or dtypes do not fit together.
    """

    weights: Sequence[np.ndarray]
    tokens_key: Sequence[str]
    _: dataclasses.KW_ONLY
    tokens_query: Sequence[str] | None = None
    ids_key: Sequence[int] | None = None
    layers: Sequence[int] | None = None
    heads: Sequence[Sequence[int]] | None = None
    kind: str = "self"
    causal: bool = True
    first_query: int = 0
    queries_after: int = 0
    prompt_length: int | None = None
    segments: Sequence[tuple[str, int, int]] = ()
    grouping: Sequence[str] | None = None
    grid: Sequence[int] | None = None
    model_id: str = "model"
    reduction: str = "full"
    cell: Sequence[int] = (1, 1)
    pooling: str | None = None
    has_sinks: bool = False
    softcap: float | None = None
    source: str = ""
    weighting: str = "attention"
    interventions: Sequence[str] = ()
    averaged_heads: Sequence[int] | None = None

    def __post_init__(self):
        """Bring the fields to their final types and check them once."""
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("weights", tuple(_freeze_layer(w, i) for i, w in enumerate(self.weights)))
        put("tokens_key", tuple(self.tokens_key))
        put("tokens_query", self.tokens_key if self.tokens_query is None else tuple(self.tokens_query))
        if self.ids_key is not None:
            put("ids_key", tuple(map(int, self.ids_key)))
        put("layers", tuple(range(len(self.weights)) if self.layers is None else map(int, self.layers)))
        if self.heads is None:
            put("heads", tuple(tuple(range(len(w))) for w in self.weights))
        else:
            put("heads", tuple(tuple(map(int, h)) for h in self.heads))
        put("segments", check_spans(self.segments, len(self.tokens_key), InvalidMapsError, "segments"))
        if self.grouping is not None:
            put("grouping", tuple(map(str, self.grouping)))
        if self.grid is not None:
            put("grid", tuple(map(int, self.grid)))
        put("cell", tuple(map(int, self.cell)))
        put("interventions", tuple(self.interventions))
        if self.averaged_heads is not None:
            put("averaged_heads", tuple(map(int, self.averaged_heads)))
        if self.prompt_length is None:
            put("prompt_length", len(self.tokens_key))
        self._check()

    def _check(self):
        def require(condition, message):
            if not condition:
                raise InvalidMapsError(message)

        require(self.weights, "no layers: weights is empty; pass one array (n_heads, n_query, n_key) a layer")
        require(self.tokens_key and self.tokens_query, "no tokens: at least one label is needed on each axis")
        for label in (*self.tokens_query, *self.tokens_key):
            require(isinstance(label, str), f"token labels must be str, got {label!r}")
        require(
            self.ids_key is None or (len(self.ids_key) == len(self.tokens_key) and min(self.ids_key) >= 0),
            f"ids_key must be {len(self.tokens_key)} numbers from 0, one a key token, got "
            f"{len(self.ids_key or ())}, the smallest {min(self.ids_key or (0,))}",
        )
        require(isinstance(self.model_id, str), f"model_id must be str, got {self.model_id!r}")
        require(isinstance(self.causal, bool), f"causal must be bool, got {self.causal!r}")
        require(self.kind in KINDS, f"kind must be one of {KINDS}, got {self.kind!r}")
        require(self.reduction in REDUCTIONS, f"reduction must be one of {REDUCTIONS}, got {self.reduction!r}")
        require(
            self.weighting in WEIGHTINGS,
            f"weighting must be one of {', '.join(WEIGHTINGS)}, got {self.weighting!r}",
        )
        for words in self.interventions:
            require(isinstance(words, str), f"interventions must be described by str, got {words!r}")
        pooled = self.reduction == "pooled"
        require(
            len(self.cell) == 2 and min(self.cell) >= 1 and (pooled or self.cell == (1, 1)),
            f"cell must be (1, 1) unless pooled, then two numbers from 1; got {self.cell} for {self.reduction!r}",
        )
        require(
            self.pooling in POOLINGS if pooled else self.pooling is None,
            f"pooling must be one of {POOLINGS} when pooled and None otherwise, got {self.pooling!r}",
        )
        shape = self.shape
        for number, w in zip(self.layers, self.weights, strict=False):
            require(
                w.shape[1:] == shape,
                f"layer {number} has {w.shape[1]} × {w.shape[2]} weights where {len(self.tokens_query)} query and "
                f"{len(self.tokens_key)} key tokens make {shape[0]} × {shape[1]}",
            )
        require(
            len(self.layers) == len(self.weights) and list(self.layers) == sorted(set(self.layers)),
            f"layers must be {len(self.weights)} ascending numbers, got {list(self.layers)}",
        )
        require(
            [len(h) for h in self.heads] == [len(w) for w in self.weights],
            f"heads must hold one number a head: {[len(w) for w in self.weights]}, got {[len(h) for h in self.heads]}",
        )
        require(
            self.grouping is None or len(self.grouping) == 2,
            f"grouping must be what the groups are and how they were summarised, got {self.grouping}",
        )
        require(self.averaged_heads != (), "averaged_heads must be numbers of heads, or None; got none")
        require(
            self.grid is None
            or (len(self.grid) == 2 and min(self.grid) > 0 and math.prod(self.grid) <= len(self.tokens_key)),
            f"grid must be rows and columns of at most {len(self.tokens_key)} patches, got {self.grid}",
        )
        require(
            min(self.first_query, self.queries_after) >= 0
            and (not self.causal or self.first_query + len(self.tokens_query) <= len(self.tokens_key)),
            f"causal queries {self.first_query} to {self.first_query + len(self.tokens_query) - 1} must be among the "
            f"{len(self.tokens_key)} key tokens",
        )
        require(
            0 <= self.prompt_length <= len(self.tokens_key),
            f"prompt_length must be 0 to {len(self.tokens_key)}, got {self.prompt_length}",
        )

    @property
    def shape(self):
        """Rows and columns of every head: ``(n_query, n_key)`` in tokens, or in cells when pooled."""
        return math.ceil(len(self.tokens_query) / self.cell[0]), math.ceil(len(self.tokens_key) / self.cell[1])

    @property
    def future(self):
        """Cells that no query may see: bool, axes ``(rows, columns)`` of a head; all False when not causal."""
        rows, columns = self.shape
        if not self.causal:
            return np.zeros((rows, columns), bool)
        last_query = self.first_query + (np.arange(rows) + 1) * self.cell[0] - 1
        return np.arange(columns) * self.cell[1] > last_query[:, None]

    @property
    def unit(self):
        """What a label stands for: ``"token"``, or when grouped ``"word"``, ``"sentence"``, or ``"part"``.

        Parts are spans or segments, and the tokens outside of them.
        """
        if not self.grouping:
            return "token"
        return "part" if self.grouping[0] in ("spans", "segments") else self.grouping[0].removesuffix("s")

    @property
    def is_mean(self):
        """Whether a layer's one map is a mean over heads, or was made of one; also of pooled maps."""
        return self.reduction == "head_mean" or self.averaged_heads is not None

    @property
    def averaged(self):
        """What the one map of a layer is when heads are averaged: ``"mean over 8 heads"``, or what was made of it.

        Names heads that were chosen; which were is not known of maps that differ in heads from layer to layer.
        """
        heads = self.mean_heads
        if heads is None:
            mean = "mean over heads"
        elif len(heads) == 1:
            mean = f"head {heads[0]}"
        elif heads == tuple(range(len(heads))):
            mean = f"mean over {len(heads)} heads"
        else:
            mean = f"mean over heads {describe_numbers(heads)}"
        return f"{self.weighting} of {'the ' * mean.startswith('mean')}{mean}" if self.weighting in DERIVED else mean

    @property
    def mean_heads(self):
        """True numbers of the heads that a mean over heads is over; None when not known or not the same everywhere."""
        if self.is_mean:
            return self.averaged_heads
        return self.heads[0] if len(set(self.heads)) == 1 else None

    @property
    def remarks(self):
        """Phrases that every figure and page must carry, beside those about tokens and reduction."""
        return write_remarks(self.weighting, self.interventions)

    @property
    def n_heads(self):
        """Number of heads of each layer."""
        return tuple(len(w) for w in self.weights)

    @property
    def nbytes(self):
        """Size of all weights in bytes."""
        return sum(w.nbytes for w in self.weights)

    def __repr__(self):
        """Say what is inside without the numbers."""
        heads = sorted(set(self.n_heads))
        what = self.reduction if self.reduction != "pooled" else f"{self.pooling} over {self.cell[0]} × {self.cell[1]}"
        return (
            f"AttentionMaps({self.model_id!r}, {self.kind}, {len(self.layers)} layers × "
            f"{'–'.join(map(str, (heads[0], heads[-1])[: len(heads)]))} heads, "
            f"{len(self.tokens_query)} queries × {len(self.tokens_key)} keys, {what})"
        )

    def _repr_html_(self):
        """Show the maps in a notebook: the interactive page, in a frame of its own."""
        from .web.page import render_frame  # the one call upwards: IPython asks the object itself how to show it

        return render_frame(self)

    def get_layer(self, layer):
        """Return the weights of the layer with this true number.

        Parameters
        ----------
        layer : int
            True layer number, one of `layers`.

        Returns
        -------
        numpy.ndarray
            Axes ``(n_heads, n_query, n_key)``, read-only.

        Raises
        ------
        OptionError
            If that layer is not in the maps.
        """
        return self.weights[self.layers.index(choose_numbers((layer,), self.layers, "layer")[0])]

    def select(self, *, layers=None, heads=None):
        """Return maps with only some layers and heads.

        Parameters
        ----------
        layers : sequence of int, optional
            True layer numbers to keep; left out, all.
        heads : sequence of int, optional
            True head numbers to keep in every layer; left out, all.

        Returns
        -------
        AttentionMaps
            New maps on the same memory where possible.

        Raises
        ------
        OptionError
            If a layer, or a head in any kept layer, is not there.
        """
        kept = choose_numbers(layers, self.layers, "layer")
        chosen = [self.layers.index(number) for number in kept]
        weights = [self.weights[i] for i in chosen]
        numbers = [self.heads[i] for i in chosen]
        if heads is not None:
            where = [choose_numbers(heads, n, f"head of layer {k}") for k, n in zip(kept, numbers, strict=True)]
            weights = [w[[n.index(h) for h in hs]] for w, n, hs in zip(weights, numbers, where, strict=True)]
            numbers = where
        return dataclasses.replace(self, weights=weights, layers=kept, heads=numbers)

    def average_heads(self):
        """Return maps with one head a layer, the mean over its heads.

        Returns
        -------
        AttentionMaps
            The same layers with arrays of axes ``(1, n_query, n_key)``, float32.
        """
        if self.is_mean:
            return self
        means = [w.mean(axis=0, keepdims=True, dtype=np.float32) for w in self.weights]
        reduction = "head_mean" if self.reduction == "full" else self.reduction
        return dataclasses.replace(self, weights=means, heads=None, reduction=reduction, averaged_heads=self.mean_heads)


def write_remarks(weighting, interventions):
    """Write `AttentionMaps.remarks` of maps that need not be in memory.

    Parameters
    ----------
    weighting, interventions
        As `AttentionMaps` has them.

    Returns
    -------
    tuple of str
        The phrases.
    """
    scaled = ("each weight times the norm of its projected value",) * (weighting == "value_norm")
    return (*scaled, *(f"changed: {words}" for words in interventions))


def _freeze_layer(weights, index):
    """Return a read-only view of one layer's weights, or raise for what cannot be attention weights."""
    weights = np.asarray(weights)
    if weights.ndim != 3 or weights.dtype not in (np.float16, np.float32) or 0 in weights.shape:
        raise InvalidMapsError(
            f"weights[{index}] must be float16 or float32 with axes (n_heads, n_query, n_key), "
            f"got {weights.dtype} of shape {weights.shape}"
        )
    low, high = weights.min(), weights.max()
    if not (low >= 0 and high < np.inf):  # NaN makes both comparisons false
        raise InvalidMapsError(
            f"weights[{index}] must be finite and not negative, got values from {low} to {high}; "
            "attention scores before the softmax are not weights"
        )
    view = weights.view()
    view.flags.writeable = False
    return view
