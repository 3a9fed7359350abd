"""Attention weights of a prompt in one file: written whole, read a layer or a head at a time, and never code.

An archive is a ``.npz`` with one array ``blocks.{l}.attn.hook_pattern`` a layer, axes ``(1, n_heads, n_query, n_key)``;
a stack one ``.npy`` of axes ``(n_layers, n_heads, n_query, n_key)``, memory-mapped.
"""

import functools
import io
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..errors import ActivationsDamagedError, ActivationsMissingError, AttnViewerError
from ..files import open_whole

KEY = "blocks.{}.attn.hook_pattern"
# What is in an archive may be as large as this, in bytes, or so many times the file: maps are mostly zeros.
SPARE, TIMES = 2**27, 100
Shape = tuple[int, int, int]
Weights = npt.NDArray[Any]
_Read = TypeVar("_Read")
_MEMBER = re.compile(r"blocks\.(0|[1-9]\d{0,8})\.attn\.hook_pattern\.npy")


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as a compressed ``.npz`` that `numpy.load` reads: the same bytes for the same arrays."""
    with open_whole(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # without a date: 1980-01-01
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                # Weights repeat nothing but the zeros of the future: looking for runs alone gives the same size three
                # times as fast. zipfile has no word for it; were the attribute gone, its own deflate would stay.
                cast(Any, member)._compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def read_npz(file: IO[bytes], name: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an open ``.npz``, by name.

    Raises
    ------
    ActivationsDamagedError
        If it is none, or holds objects or more than its size makes likely; `name` is what the error calls it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_size(archive.infolist(), file)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # whatever a damaged file makes numpy and zipfile raise
        raise ActivationsDamagedError(
            f"{name} cannot be read: {error or type(error).__name__}; delete it or compute it again (--force)"
        ) from error


def _check_size(members: Iterable[zipfile.ZipInfo], file: IO[bytes]) -> None:
    unpacked, size = sum(member.file_size for member in members), os.fstat(file.fileno()).st_size
    if unpacked > max(SPARE, TIMES * size):
        raise ValueError(f"{size:,} bytes claim to be {unpacked:,}")


def _report_damage(method: Callable[..., _Read]) -> Callable[..., _Read]:
    """Turn whatever a damaged file makes numpy and zipfile raise into one error."""

    @functools.wraps(method)
    def read(weights: Any, *args: int) -> _Read:
        try:
            return method(weights, *args)
        except AttnViewerError:
            raise
        except Exception as error:
            raise ActivationsDamagedError(
                f"{weights.name} cannot be read as plain arrays: {error or type(error).__name__}; "
                "delete it or compute it again"
            ) from error

    return read


class _Weights:
    """The weights in an open file, which is closed at the end of a ``with`` block and which errors call `name`.

    `layers` are true numbers, for files that do not say them; left out, they count from 0.
    """

    def __init__(self, file: io.BufferedReader, name: str, layers: Sequence[int] | None = None) -> None:
        self.file, self.name, self.layers = file, name, layers

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()

    def _refuse(self, layer: int, head: int | None = None) -> ActivationsMissingError:
        what = f"layer {layer}" if head is None else f"head {head} in layer {layer}"
        return ActivationsMissingError(f"{self.name} holds no {what}")


class Archive(_Weights):
    """Weights in a ``.npz``."""

    def __exit__(self, *_error: object) -> None:
        if "_zip" in self.__dict__:
            self._zip.close()
        super().__exit__()

    @functools.cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.file)

    @functools.cached_property
    def _members(self) -> dict[int, "_Member"]:
        infos = {int(m[1]): info for info in self._zip.infolist() if (m := _MEMBER.fullmatch(info.filename))}
        if not infos:
            raise ActivationsDamagedError(f"{self.name} holds no {KEY.format(0)}; it is no file of attention weights")
        if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos.values()):
            raise zipfile.BadZipFile("it is compressed in a way that numpy does not use")
        _check_size(infos.values(), self.file)
        return {layer: self._describe(infos[layer]) for layer in sorted(infos)}

    def _describe(self, info: zipfile.ZipInfo) -> "_Member":
        with self._zip.open(info) as file:
            shape, in_fortran_order, dtype = _read_header(file)
            start = file.tell()
        if len(shape) != 4 or shape[0] != 1 or not _are_weights(shape, dtype):
            raise ActivationsDamagedError(
                f"{self.name}: {info.filename} is {dtype} of shape {shape}, expected floats (1, heads, n, n)"
            )
        if start + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(f"{info.filename} has {info.file_size} bytes and claims {dtype} of shape {shape}")
        return _Member(info, (shape[1], shape[2], shape[3]), in_fortran_order, dtype, start)

    @functools.cached_property
    @_report_damage
    def shapes(self) -> dict[int, Shape]:
        """Shape of each layer, ``(n_heads, n_query, n_key)``, by true number ascending."""
        return {layer: member.shape for layer, member in self._members.items()}

    @_report_damage
    def read_layer(self, layer: int) -> Weights:
        """Return a layer, axes ``(n_heads, n_query, n_key)``."""
        if layer not in self.shapes:
            raise self._refuse(layer)
        with self._zip.open(self._members[layer].info) as file:
            layers: Weights = np.lib.format.read_array(file, allow_pickle=False)
        return cast(Weights, layers[0])

    @_report_damage
    def read_head(self, layer: int, position: int) -> Weights:
        """Return the head at a position in a layer, axes ``(n_query, n_key)``; no other is kept in memory."""
        if position >= self.shapes.get(layer, (0,))[0]:
            raise self._refuse(layer, position)
        member = self._members[layer]
        if member.in_fortran_order:
            return cast(Weights, self.read_layer(layer)[position])
        shape = member.shape[1:]
        size = math.prod(shape) * member.dtype.itemsize
        with self._zip.open(member.info) as file:
            file.seek(member.start + position * size)
            return np.frombuffer(file.read(size), member.dtype).reshape(shape)


class _Member(NamedTuple):
    """An array of an archive; its numbers begin at `start`."""

    info: zipfile.ZipInfo
    shape: Shape
    in_fortran_order: bool
    dtype: np.dtype[Any]
    start: int


class Stack(_Weights):
    """Weights in a ``.npy``; what is read is a read-only view of the file."""

    @functools.cached_property
    @_report_damage
    def _stack(self) -> Weights:
        shape, in_fortran_order, dtype = _read_header(self.file)
        order: Literal["F", "C"] = "F" if in_fortran_order else "C"
        is_deep = len(shape) in (4, 5) and shape[: len(shape) - 4] in ((), (1,))
        if not (is_deep and _are_weights(shape, dtype)):
            raise ActivationsDamagedError(
                f"{self.name} is {dtype} of shape {shape}, expected floats (layers, heads, n, n)"
            )
        stack: Weights = np.memmap(cast(Any, self.file), dtype, "r", self.file.tell(), shape, order)
        return stack[0] if len(shape) == 5 else stack  # as pattern-lens writes it

    @functools.cached_property
    def _positions(self) -> dict[int, int]:
        return {layer: i for i, layer in enumerate(self.layers or range(len(self._stack))) if i < len(self._stack)}

    @functools.cached_property
    def shapes(self) -> dict[int, Shape]:
        """Shape of each layer, ``(n_heads, n_query, n_key)``, by true number ascending."""
        heads, n_query, n_key = self._stack.shape[1:]
        return dict.fromkeys(sorted(self._positions), (heads, n_query, n_key))

    def read_layer(self, layer: int) -> Weights:
        """Return a layer, axes ``(n_heads, n_query, n_key)``."""
        if layer not in self._positions:
            raise self._refuse(layer)
        return cast(Weights, self._stack[self._positions[layer]])

    def read_head(self, layer: int, position: int) -> Weights:
        """Return the head at a position in a layer, axes ``(n_query, n_key)``."""
        if position >= self.shapes.get(layer, (0,))[0]:
            raise self._refuse(layer, position)
        return cast(Weights, self._stack[self._positions[layer], position])


def _are_weights(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Tell whether an array has numbers, of a kind that other machines and torch know too."""
    return min(shape) > 0 and dtype.kind == "f" and dtype.itemsize <= 8


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    header: tuple[tuple[int, ...], bool, np.dtype[Any]]
    header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")(file)
    return header
