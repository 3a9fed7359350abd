"""Attention weights of a prompt in one file: written whole, read a layer or a head at a time, and never code.

An archive is a ``.npz`` with one array ``blocks.{l}.attn.hook_pattern`` a layer, axes ``(1, n_heads, n_query, n_key)``;
a stack one ``.npy`` of axes ``(n_layers, n_heads, n_query, n_key)``, memory-mapped.
"""

import functools
import re
import zipfile
import zlib

import numpy as np

from ..errors import ActivationsDamagedError, ActivationsMissingError, AttnViewerError
from ..files import open_whole

KEY = "blocks.{}.attn.hook_pattern"
_MEMBER = re.compile(r"blocks\.(0|[1-9]\d{0,8})\.attn\.hook_pattern\.npy")


def write_npz(path, arrays):
    """Write arrays as a compressed ``.npz`` file that `numpy.load` reads, the same bytes for the same arrays.

    Parameters
    ----------
    path : path-like
        The file; its folder must exist.
    arrays : dict of str to numpy.ndarray
        Names and arrays.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with open_whole(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # without a date: 1980-01-01
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                # Weights repeat nothing but the zeros of the future: looking for runs alone gives the same size three
                # times as fast. zipfile has no word for it; were the attribute gone, its own deflate would stay.
                member._compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def _report_damage(method):
    """Turn whatever a damaged file makes numpy and zipfile raise into one error."""

    @functools.wraps(method)
    def read(weights, *args):
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
    """The weights in an open file, which is closed at the end of a ``with`` block.

    Parameters
    ----------
    file : io.BufferedReader
        The file, opened for reading.
    name : str
        What errors call it.
    layers : sequence of int, optional
        True numbers of the layers, for files that do not say them; left out, they count from 0.
    """

    def __init__(self, file, name, layers=None):
        self.file, self.name, self.layers = file, name, layers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def _refuse(self, layer, head=None):
        what = f"layer {layer}" if head is None else f"head {head} in layer {layer}"
        return ActivationsMissingError(f"{self.name} holds no {what}")


class Archive(_Weights):
    """Weights in a ``.npz``."""

    @functools.cached_property
    @_report_damage
    def shapes(self):
        """Shape of each layer, ``(n_heads, n_query, n_key)``, by true number ascending."""
        with zipfile.ZipFile(self.file) as archive:
            members = {int(m[1]): info for info in archive.infolist() if (m := _MEMBER.fullmatch(info.filename))}
            if not members:
                raise ActivationsDamagedError(
                    f"{self.name} holds no {KEY.format(0)}; it is no file of attention weights"
                )
            return {layer: self._read_header(archive, members[layer])[0][1:] for layer in sorted(members)}

    def _read_header(self, archive, info):
        """Return shape, whether it is in Fortran order, dtype, and where the numbers begin."""
        with archive.open(info) as member:
            shape, in_fortran_order, dtype = _read_header(member)
            start = member.tell()
        if len(shape) != 4 or shape[0] != 1 or not _are_weights(shape, dtype):
            raise ActivationsDamagedError(
                f"{self.name}: {info.filename} is {dtype} of shape {shape}, expected floats (1, heads, n, n)"
            )
        if start + int(np.prod(shape, dtype=object)) * dtype.itemsize != info.file_size:
            raise ValueError(f"{info.filename} has {info.file_size} bytes and claims {dtype} of shape {shape}")
        return shape, in_fortran_order, dtype, start

    @_report_damage
    def read_layer(self, layer):
        """Return a layer, axes ``(n_heads, n_query, n_key)``."""
        if layer not in self.shapes:
            raise self._refuse(layer)
        with zipfile.ZipFile(self.file) as archive, archive.open(f"{KEY.format(layer)}.npy") as member:
            return np.lib.format.read_array(member, allow_pickle=False)[0]

    @_report_damage
    def read_head(self, layer, position):
        """Return the head at a position in a layer, axes ``(n_query, n_key)``; no other is kept in memory."""
        if position >= self.shapes.get(layer, (0,))[0]:
            raise self._refuse(layer, position)
        with zipfile.ZipFile(self.file) as archive:
            info = archive.getinfo(f"{KEY.format(layer)}.npy")
            shape, in_fortran_order, dtype, start = self._read_header(archive, info)
            if not in_fortran_order:
                size = shape[2] * shape[3] * dtype.itemsize
                with archive.open(info) as member:
                    member.seek(start + position * size)
                    return np.frombuffer(member.read(size), dtype).reshape(shape[2:])
        return self.read_layer(layer)[position]


class Stack(_Weights):
    """Weights in a ``.npy``; what is read is a read-only view of the file."""

    @functools.cached_property
    @_report_damage
    def _stack(self):
        shape, in_fortran_order, dtype = _read_header(self.file)
        order = "F" if in_fortran_order else "C"
        is_deep = len(shape) in (4, 5) and shape[: len(shape) - 4] in ((), (1,))
        if not (is_deep and _are_weights(shape, dtype)):
            raise ActivationsDamagedError(
                f"{self.name} is {dtype} of shape {shape}, expected floats (layers, heads, n, n)"
            )
        stack = np.memmap(self.file, dtype, "r", self.file.tell(), shape, order)
        return stack[0] if len(shape) == 5 else stack  # as pattern-lens writes it

    @functools.cached_property
    def _positions(self):
        return {layer: i for i, layer in enumerate(self.layers or range(len(self._stack))) if i < len(self._stack)}

    @functools.cached_property
    def shapes(self):
        """Shape of each layer, ``(n_heads, n_query, n_key)``, by true number ascending."""
        return dict.fromkeys(sorted(self._positions), self._stack.shape[1:])

    def read_layer(self, layer):
        """Return a layer, axes ``(n_heads, n_query, n_key)``."""
        if layer not in self._positions:
            raise self._refuse(layer)
        return self._stack[self._positions[layer]]

    def read_head(self, layer, position):
        """Return the head at a position in a layer, axes ``(n_query, n_key)``."""
        if position >= self.shapes.get(layer, (0,))[0]:
            raise self._refuse(layer, position)
        return self._stack[self._positions[layer], position]


def _are_weights(shape, dtype):
    """Tell whether an array has numbers, of a kind that other machines and torch know too."""
    return min(shape) > 0 and dtype.kind == "f" and dtype.itemsize <= 8


def _read_header(file):
    version = np.lib.format.read_magic(file)
    return getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")(file)
