"""Tokens that stand for pictures and sound: which patch of which picture is which, as families of models lay them out.

A rule is stated for a type of model only where its layout is known; for any other there are labels, and no spans.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import PromptError
from ..spans import Span

Inputs = Mapping[str, torch.Tensor]

_PLACEHOLDER = re.compile(r"(image|video|audio|speech|vision)\w*_token_(id|index)")
# Seconds from one row of a spectrogram to the next, as Whisper's and all that were made of it have it.
_HOP = 0.01
_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")
# How much better the one arrangement of tiles must fit the small picture than any other.
_SURELY = 4.0


class _Piece(NamedTuple):
    """A picture, a tile of it, a frame or a sound, in the order of the placeholders."""

    number: int
    part: str
    rows: int
    columns: int
    newlines: int = 0  # placeholders behind each row that are no patches
    before: int = 0
    after: int = 0
    seconds: float = 0.0

    @property
    def length(self) -> int:
        """How many placeholders it has."""
        return self.before + self.rows * (self.columns + self.newlines) + self.after


class _Run(NamedTuple):
    """Placeholders without anything between them."""

    length: int
    left: str  # labels of the tokens beside it
    right: str


_Rule = Callable[[Any, Inputs, Sequence[_Run]], Sequence[_Piece] | None]


def check_placeholders(config: Any, inputs: Inputs) -> None:
    """Refuse tokens that stand for pictures or sound where none goes in: the model would read them as words."""
    ids = inputs.get("input_ids")
    if ids is None or any(part.is_floating_point() for part in inputs.values()):
        return
    for name, token in list_placeholders(config).items():
        if bool((ids == token).any()):
            raise PromptError(
                f"token {token} stands for {name.partition('_')[0]} input ({name}), and none goes in; give model "
                "inputs as the processor returns them, or chat messages with the processor as tokenizer"
            )


def list_placeholders(config: Any) -> dict[str, int]:
    """Return the tokens that stand for pictures or sound, by the names that a config has for them."""
    tokens = {name: getattr(config, name, None) for name in dir(config) if _PLACEHOLDER.fullmatch(name)}
    return {name: token for name, token in tokens.items() if isinstance(token, int)}


def find_spans(
    config: Any, inputs: Inputs, write_labels: Callable[[Sequence[int]], Sequence[str]]
) -> list[tuple[Span, ...]]:
    """Find which placeholders stand for which patches of which pictures, in each prompt of a batch, padding counted.

    There are none of a model that no rule is known for. Some families mark tiles by words, for which labels are needed.
    """
    ids = inputs.get("input_ids")
    if ids is None:
        return []
    spans: list[tuple[Span, ...]] = [()] * len(ids)
    for sense, pixels, rule in _RULES.get(getattr(config, "model_type", None), ()):
        token = getattr(config, f"{sense}_token_id", None)
        if not isinstance(token, int) or pixels not in inputs:
            continue
        places = (ids == token).cpu().numpy()
        pieces = rule(
            config, inputs, [run for row in range(len(ids)) for run in _find_runs(ids[row], places[row], write_labels)]
        )
        if pieces is None:
            continue
        wanted = sum(piece.length for piece in pieces)
        if wanted != places.sum():
            raise PromptError(
                f"the prompt has {places.sum()} placeholders (token {token}) where its {pixels} make {wanted} {sense} "
                "tokens; give the model inputs as one call of the model's processor returned them, nothing cut off"
            )
        for row, found in enumerate(_place_pieces(sense, iter(pieces), places)):
            spans[row] += found
    return spans


def find_cross_spans(config: Any, inputs: Inputs) -> list[tuple[Span, ...]]:
    """Find which keys of cross attention are which patches of pictures, or frames of sound."""
    kind = getattr(config, "model_type", None)
    if kind == "mllama" and "aspect_ratio_ids" in inputs:
        return [_read_mllama(config, row) for row in inputs["aspect_ratio_ids"].tolist()]
    if kind == "whisper" and "input_features" in inputs:
        features = inputs["input_features"]
        return [(Span("audio", 0, "whole", 0, 1, (n := -(-features.shape[-1] // 2)), n, 2 * _HOP),)] * len(features)
    return []


def _find_runs(
    ids: torch.Tensor, places: np.ndarray, write_labels: Callable[[Sequence[int]], Sequence[str]]
) -> Iterator[_Run]:
    edges = np.flatnonzero(np.diff(places, prepend=False, append=False))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        left, right = (
            write_labels([int(ids[place])])[0] if 0 <= place < len(ids) else "" for place in (start - 1, stop)
        )
        yield _Run(int(stop - start), left, right)


def _place_pieces(sense: str, pieces: Iterator[_Piece], places: np.ndarray) -> Iterator[tuple[Span, ...]]:
    """Yield the spans of each row of a batch; `places` tells the placeholders."""
    for row in places:
        keys, spans, used = np.flatnonzero(row), [], 0
        while used < len(keys):
            piece = next(pieces)
            own = keys[used + piece.before : used + piece.length - piece.after]
            used += piece.length
            if used > len(keys):
                raise PromptError(f"the placeholders of one prompt stand for less than its {sense}; give each alone")
            keys_of = own.reshape(piece.rows, piece.columns + piece.newlines)[:, : piece.columns]
            stride = int(keys_of[1, 0] - keys_of[0, 0]) if piece.rows > 1 else piece.columns
            span = Span(
                sense, piece.number, piece.part, int(keys_of[0, 0]), piece.rows, piece.columns, stride, piece.seconds
            )
            if not np.array_equal(span.positions, keys_of):
                raise PromptError(
                    f"{sense} {piece.number} ({piece.part}) is not laid out as {piece.rows} rows of {piece.columns} "
                    "placeholders; give the model inputs as the model's processor returned them"
                )
            spans.append(span)
        yield tuple(spans)


def _measure_tower(config: Any) -> tuple[int, int]:
    """Return rows and columns of patches of a vision tower that takes pictures of one size."""
    sizes = (getattr(config.vision_config, name) for name in ("image_size", "patch_size"))
    (height, width), (down, across) = ((size, size) if isinstance(size, int) else size for size in sizes)
    return height // down, width // across


def _read_tower(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece] | None:
    """Read every picture as one grid of all patches, after the class token where that is kept."""
    if "image_sizes" in inputs and config.vision_config.model_type == "pixtral":
        return _read_sizes(config, inputs, runs)
    rows, columns = _measure_tower(config)
    before, count = _count_class_tokens(config), len(inputs["pixel_values"].flatten(0, -4))
    return [_Piece(number, "whole", rows, columns, before=before) for number in range(count)]


def _count_class_tokens(config: Any) -> int:
    keeps_all = getattr(config, "vision_feature_select_strategy", None) == "full"
    return int(keeps_all and "siglip" not in config.vision_config.model_type)


def _read_gemma(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece]:
    side = math.isqrt(config.mm_tokens_per_image)
    return [_Piece(number, "whole", side, side) for number in range(len(inputs["pixel_values"]))]


def _read_sizes(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece]:
    """Read pictures that keep their shapes."""
    patch = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    sizes = inputs["image_sizes"].tolist()
    return [_Piece(number, "whole", height // patch, width // patch) for number, (height, width) in enumerate(sizes)]


def _read_grids(sense: str) -> _Rule:
    """Return the rule of pictures, or of the frames of videos, whose processor counts patches before they merge."""

    def read(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece]:
        vision = config.vision_config
        down, across = getattr(vision, "merge_kernel_size", None) or [vision.spatial_merge_size] * 2
        seconds = inputs.get("second_per_grid_ts")
        pieces = []
        for number, (frames, height, width) in enumerate(inputs[f"{sense}_grid_thw"].tolist()):
            lasts = 0.0 if seconds is None or sense != "video" else float(seconds[number])
            for frame in range(frames):
                part = "whole" if sense == "image" else f"frame {frame}"
                pieces.append(_Piece(number, part, height // down, width // across, seconds=lasts))
        return pieces

    return read


def _read_anyres(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece]:
    """Read a small whole picture, then all tiles as one, without what padded them, a newline behind each row."""
    from transformers.image_processing_utils import select_best_resolution

    rows, columns = _measure_tower(config)
    before = _count_class_tokens(config)
    sizes, size = inputs["image_sizes"].tolist(), config.vision_config.image_size
    counts = inputs.get("batch_num_images")
    alone = [True] * len(sizes) if counts is None else [n == 1 for n in counts.flatten().tolist() for _ in range(n)]
    pieces = []
    for number, ((height, width), is_alone) in enumerate(zip(sizes, alone, strict=True)):
        tiles = [side // size for side in select_best_resolution((height, width), config.image_grid_pinpoints)]
        if not is_alone:
            pieces.append(_Piece(number, "whole", rows, columns, before=before, after=1))
            continue
        high, wide = _crop_padding(rows * tiles[0], columns * tiles[1], height, width)
        most = re.fullmatch(r"anyres_max_(\d+)", getattr(config, "vision_aspect_ratio", None) or "")
        ratio = math.sqrt(high * wide / (int(most[1]) * rows**2)) if most else 0
        if ratio > 1.1:
            high, wide = int(high // ratio), int(wide // ratio)
        pieces.append(_Piece(number, "thumbnail", rows, columns, before=before))
        pieces.append(_Piece(number, "whole", high, wide, newlines=1))
    return pieces


def _crop_padding(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of patches without those of padding, as LLaVA-NeXT leaves them out."""
    if width / height > columns / rows:
        return rows - (rows - int(round(height * (columns / width), 7))) // 2 * 2, columns
    return rows, columns - (columns - int(round(width * (rows / height), 7))) // 2 * 2


def _read_pooled_video(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece]:
    """Read frames of a quarter of the patches, and one newline behind the last."""
    rows, columns = (math.ceil(side / 2) for side in _measure_tower(config))
    n_videos, n_frames = inputs["pixel_values_videos"].shape[:2]
    return [
        _Piece(number, f"frame {frame}", rows, columns, after=int(frame == n_frames - 1))
        for number in range(n_videos)
        for frame in range(n_frames)
    ]


def _measure_merged(config: Any) -> tuple[int, int]:
    """Return rows and columns of a tile whose patches were put together in squares."""
    shares = (getattr(config, name, None) for name in ("downsample_ratio", "scale_factor"))
    share = next((one for one in shares if one), None) or config.vision_config.pixel_shuffle_ratio
    rows, columns = (round(side * share if share < 1 else side / share) for side in _measure_tower(config))
    return rows, columns


def _read_marked_tiles(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece] | None:
    """Read tiles with words before or behind them that say where they lie, and the whole picture, which comes last."""
    shape = _measure_merged(config)
    pieces, number, here, has_tiles = [], 0, [0, 0], False
    for run in runs:
        match = _TILE.fullmatch(run.left)
        if run.left in ("<global-img>", "<|image|>"):
            pieces.append(_Piece(number, "thumbnail" if has_tiles else "whole", *shape))
            number, here, has_tiles = number + 1, [0, 0], False
            continue
        if match:
            here = [int(match[1]) - 1, int(match[2]) - 1]
        elif not run.right.startswith("<|tile_"):
            return None
        pieces.append(_Piece(number, f"tile {here[0]},{here[1]}", *shape))
        here = [here[0] + 1, 0] if run.right == "<|tile_y_separator|>" else [here[0], here[1] + 1]
        has_tiles = True
    return pieces


def _read_canvas(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece] | None:
    """Read the tiles of a picture row by row, then the whole picture; how many rows there are, the pixels tell."""
    shape = _measure_merged(config)
    pieces: list[_Piece] = []
    used = 0
    for number, run in enumerate(runs):
        count = run.length // math.prod(shape)
        if count == 1:
            pieces.append(_Piece(number, "whole", *shape))
        else:
            columns = _find_columns(inputs["pixel_values"][used : used + count].float())
            places = (f"tile {i // columns},{i % columns}" if columns else f"tile {i}" for i in range(count - 1))
            pieces += [_Piece(number, part, *shape) for part in (*places, "thumbnail")]
        used += count
    return pieces


def _find_columns(pixels: torch.Tensor) -> int | None:
    """Return how many tiles stand side by side; None where a picture of one colour does not tell.

    Tiles together and the whole picture, which is the last of them, differ in size alone.
    """
    (*_, whole), tiles = pixels, pixels[:-1]
    errors = {}
    for columns in (n for n in range(1, len(tiles) + 1) if len(tiles) % n == 0):
        rows = len(tiles) // columns
        large = tiles.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
        small = torch.nn.functional.adaptive_avg_pool2d(large, whole.shape[-2:])
        errors[columns] = float(((small - whole) ** 2).mean())
    best, *others = sorted(errors, key=lambda columns: errors[columns])
    return best if not others or errors[others[0]] > _SURELY * errors[best] else None


def _read_mllama(config: Any, ratios: Sequence[int]) -> tuple[Span, ...]:
    """Return the tiles of all pictures of a prompt: as many places as a picture may have, a class token before each."""
    vision = config.vision_config
    rows, columns = _measure_tower(config)
    spans, each = [], rows * columns + 1
    for number, ratio in enumerate(ratios):
        down, across = vision.supported_aspect_ratios[ratio - 1] if ratio else (0, 0)
        for tile, (row, column) in enumerate(itertools.product(range(down), range(across))):
            start = (number * vision.max_num_tiles + tile) * each + 1
            part = "whole" if down * across == 1 else f"tile {row},{column}"
            spans.append(Span("image", number, part, start, rows, columns, columns, 0.0))
    return tuple(spans)


def _read_audio(config: Any, inputs: Inputs, runs: Sequence[_Run]) -> Sequence[_Piece] | None:
    """Count the rows of spectrograms, which a convolution and a mean halve."""
    mask = inputs.get("feature_attention_mask")
    if mask is None or len(mask) == sum(run.length for run in runs):  # one placeholder a sound, which the model expands
        return None
    counts = [((n - 1) // 2 - 1) // 2 + 1 for n in mask.sum(-1).tolist()]
    return [_Piece(number, "whole", 1, count, seconds=4 * _HOP) for number, count in enumerate(counts)]


_TOWER: tuple[str, str, _Rule] = ("image", "pixel_values", _read_tower)
_MERGED = (
    ("image", "image_grid_thw", _read_grids("image")),
    ("video", "video_grid_thw", _read_grids("video")),
)
_MARKED = ("image", "pixel_values", _read_marked_tiles)
# What a prompt may hold, which argument says so, and how it is laid out; by type of model.
_RULES: dict[str | None, tuple[tuple[str, str, _Rule], ...]] = {
    **dict.fromkeys(("llava", "vipllava", "paligemma", "deepseek_vl", "janus"), (_TOWER,)),
    "gemma3": (("image", "pixel_values", _read_gemma),),
    "mistral3": (("image", "image_sizes", _read_sizes),),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), _MERGED),
    "kimi_k25": _MERGED[:1],
    "llava_next": (("image", "image_sizes", _read_anyres),),
    "llava_onevision": (
        ("image", "image_sizes", _read_anyres),
        ("video", "pixel_values_videos", _read_pooled_video),
    ),
    **dict.fromkeys(("idefics3", "smolvlm", "llama4"), (_MARKED,)),
    "internvl": (("image", "pixel_values", _read_canvas),),
    "qwen2_audio": (("audio", "input_features", _read_audio),),
}
