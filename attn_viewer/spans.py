"""Spans: where the patches of pictures and the frames of sound lie among the keys."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SENSES = ("image", "video", "audio")


class Span(NamedTuple):
    """The patches of a picture, of a tile of it or of a frame of a video; or the frames of a sound.

    Key ``start + row * stride + column`` is the patch in that row and column; keys between rows (newline tokens) are no
    patches. A sound is one row.
    """

    sense: str  # one of SENSES
    number: int  # which picture, video or sound, each counted from 0, as the model was given them
    part: str  # "whole"; "thumbnail", where tiles show it larger; "tile 0,2" of row and column; "frame 3"
    start: int
    rows: int
    columns: int
    stride: int  # keys from one row to the next
    seconds: float  # from a frame to the next; 0 where that is not known

    def is_within(self, n_keys: int) -> bool:
        """Tell whether it is one, of a model of so many keys."""
        return (
            self.sense in SENSES
            and min(self.number, self.start, self.rows - 1, self.columns - 1) >= 0
            and (self.rows == 1 or self.stride >= self.columns)
            and 0 <= self.seconds < math.inf
            and self.start + (self.rows - 1) * self.stride + self.columns <= n_keys
        )

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Numbers of the keys, axes ``(rows, columns)``."""
        return self.start + self.stride * np.arange(self.rows)[:, None] + np.arange(self.columns)

    @property
    def tile(self) -> tuple[int, int] | None:
        """Row and column of a tile."""
        word, _, place = self.part.partition(" ")
        row, _, column = place.partition(",")
        return (int(row), int(column)) if word == "tile" and row.isdecimal() and column.isdecimal() else None


def shift_spans(spans: Sequence[Span], by: int, n_keys: int | None) -> tuple[Span, ...]:
    """Return spans among keys that begin at `by`, without those that are not wholly there."""
    moved = (span._replace(start=span.start - by) for span in spans)
    return tuple(span for span in moved if span.is_within(2**53 if n_keys is None else n_keys))
