"""What a data folder says to the page that browses it, whether a server sends it or a site of files holds it."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cells import pool_cells
from ..errors import GetActivationsError
from ..figures.style import DARK, LIGHT
from ..maps import AttentionMaps
from ..storage.atlas_files import ATLAS
from ..storage.folder import Prompt
from ..storage.stored import StoredMaps
from .encode import DISPLAY_SCORES, Meta, describe_facts, encode_head, round_scores, score_for_display, spell_palette
from .listing import Listing

TEXT_LENGTH = 5_000
# Cells a side of a head; longer prompts are pooled by the maximum. Up to so many, weights are kept in float32.
HEAD_SIDE, EXACT_SIDE = 2048, 256
# Weights of a layer that are scored while somebody waits.
MAX_SCORED = 2**26


def describe_folder(listing: Listing) -> dict[str, Any]:
    """Return name, models with their heads, and figure functions of a data folder, and the palettes of differences."""
    models = [
        {
            "name": model.name,
            "title": model.title,
            "heads": [[layer, heads] for layer, heads in model.heads.items()],
            "n_prompts": len(listing.read_prompts(model)),
            "atlas": (model.path / ATLAS / "atlas.json").is_file(),
        }
        for model in listing.list_models()
    ]
    palettes = [spell_palette(True, palette) for palette in (LIGHT, DARK)]
    name = listing.folder.root.resolve().name
    return {"name": name, "models": models, "functions": listing.read_functions(), "palettes": palettes}


def describe_prompt(listing: Listing, prompt: Prompt, *, exact_side: int = EXACT_SIDE) -> dict[str, Any]:
    """Return text and figures of a prompt, and what its weights are, or why there are none.

    Up to `exact_side` tokens, weights are kept in float32.
    """
    text = prompt.read().get("text")
    reply: dict[str, Any] = {"text": text[:TEXT_LENGTH] if isinstance(text, str) else ""}
    reply |= {"figures": listing.list_figures(prompt), "meta": None, "error": None}
    try:
        with prompt.open_maps() as opened:
            reply["meta"] = describe_weights(opened, exact_side=exact_side)
    except GetActivationsError as error:
        reply["error"] = str(error)
    return reply


def describe_weights(opened: StoredMaps, *, exact_side: int = EXACT_SIDE) -> Meta:
    """Return the front end's ``meta`` of stored weights, whose scores come a layer at a time."""
    facts, scale = opened.describe(), 1.0
    if facts.weighting != "attention" or facts.signed:  # then sizes may be larger than 1
        every = [(layer, head) for layer, heads in zip(facts.layers, facts.heads, strict=True) for head in heads]
        scale = max(float(np.abs(opened.read_head(*place).weights[0]).max()) for place in every) or 1.0
    if facts.reduction != "pooled" and (side := find_side(facts.shape, HEAD_SIDE)) > 1:
        notes = [f"Long prompt: shown is the largest weight of each {side} × {side} cells."]
        facts = dataclasses.replace(facts, reduction="pooled", pooling="max", cell=(side, side))
        return describe_facts(facts, scale=scale, notes=notes)
    meta = describe_facts(facts, scale=scale, exact=max(facts.shape) <= exact_side)
    if facts.reduction == "full" and max(facts.n_heads) * math.prod(facts.shape) <= MAX_SCORED:
        meta["scores"] = [{"name": name, "values": None} for name in DISPLAY_SCORES]
    return meta


def find_side(shape: tuple[int, ...], most: int) -> int:
    """Return the side of cells of which `most` a side hold a head."""
    return -(-max(shape) // most)


def encode_stored(weights: NDArray[Any], meta: Meta) -> bytes:
    """Return the bytes of a stored head, axes ``(n_query, n_key)``, as `describe_weights` says they are."""
    if weights.shape != (meta["rows"], meta["columns"]):
        weights = pool_cells(weights, (find_side(weights.shape, HEAD_SIDE),) * 2)
    return encode_head(weights, meta)


def score_layer(maps: AttentionMaps) -> dict[str, list[float | None]]:
    """Score the heads of the one layer of these maps; the front end asks for a layer after another."""
    scores = score_for_display(maps) if maps.weights[0].size <= MAX_SCORED else {}
    return {name: round_scores(rows)[0] for name, rows in scores.items()}
