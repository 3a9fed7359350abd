"""Attention weights of one prompt in an open file of a data folder, read a head at a time."""

import functools
import os
import re
import zipfile

import numpy as np

from ..errors import AttnViewerError

_KEY = re.compile(r"blocks\.(\d{1,6})\.attn\.hook_pattern\.npy")


class NotInFolderError(AttnViewerError, LookupError):
    """What a request names is not in the data folder; the message is for whoever asked."""


class DamagedError(AttnViewerError, ValueError):
    """What a request names is there and cannot be read; the message is for whoever asked."""


def _report_damage(method):
    @functools.wraps(method)
    def read(*args):
        try:
            return method(*args)
        except AttnViewerError:
            raise
        except Exception as error:  # what numpy and zipfile raise on damaged files is of many types
            raise DamagedError("the weights of this prompt cannot be read; compute them again") from error

    return read


class _Weights:
    def __init__(self, file, layers):
        self.file, self.layers = file, layers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


class Stack(_Weights):
    """One array of axes ``(n_layers, n_heads, n_query, n_key)``, memory-mapped."""

    def _map(self):
        self.file.seek(0)
        shape, in_fortran_order, dtype = _read_header(self.file)
        if len(shape) == 5 and shape[0] == 1:  # as pattern-lens writes it
            shape = shape[1:]
        if len(shape) != 4 or dtype.kind != "f" or in_fortran_order:
            raise DamagedError("the weights of this prompt are not stacked by layer and head")
        return np.memmap(self.file, dtype, "r", self.file.tell(), shape)

    @_report_damage
    def read_shapes(self):
        """Return the shape of each layer, ``(n_heads, n_query, n_key)``, by true number."""
        stack = self._map()
        numbers = self.layers or range(len(stack))
        return {number: stack.shape[1:] for number, _ in zip(numbers, stack, strict=False)}

    @_report_damage
    def read_head(self, layer, head):
        """Return the head at a position in a layer, axes ``(n_query, n_key)``."""
        stack = self._map()
        index = self.layers.index(layer) if self.layers and layer in self.layers else layer
        if index >= len(stack) or head >= stack.shape[1]:
            raise NotInFolderError("there is no such head")
        return np.array(stack[index, head])


class Archive(_Weights):
    """A ``.npz`` with one array of axes ``(1, n_heads, n_query, n_key)`` a layer."""

    @_report_damage
    def read_shapes(self):
        """Return the shape of each layer, ``(n_heads, n_query, n_key)``, by true number."""
        shapes = {}
        with zipfile.ZipFile(self.file) as archive:
            for info in archive.infolist():
                if match := _KEY.fullmatch(info.filename):
                    with archive.open(info) as member:
                        shapes[int(match[1])] = _check_shape(_read_header(member), info, member.tell())
        if not shapes:
            raise DamagedError("the file of this prompt holds no attention weights")
        return shapes

    @_report_damage
    def read_head(self, layer, head):
        """Return the head at a position in a layer, axes ``(n_query, n_key)``."""
        with zipfile.ZipFile(self.file) as archive:
            try:
                info = archive.getinfo(f"blocks.{layer}.attn.hook_pattern.npy")
            except KeyError as error:
                raise NotInFolderError("there is no such head") from error
            with archive.open(info) as member:
                header = _read_header(member)
                n_heads, rows, columns = _check_shape(header, info, member.tell())
                if head >= n_heads:
                    raise NotInFolderError("there is no such head")
                size = rows * columns * header[2].itemsize
                member.seek(head * size, os.SEEK_CUR)  # deflated bytes of earlier heads pass, and none is kept
                return np.frombuffer(member.read(size), header[2]).reshape(rows, columns)


def _read_header(file):
    version = np.lib.format.read_magic(file)
    return getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")(file)


def _check_shape(header, info, start):
    shape, in_fortran_order, dtype = header
    if len(shape) != 4 or shape[0] != 1 or dtype.kind != "f" or in_fortran_order:
        raise DamagedError("the weights of this prompt are no plain numbers of axes (1, heads, queries, keys)")
    if start + int(np.prod(shape, dtype=object)) * dtype.itemsize != info.file_size:
        raise DamagedError("the weights of this prompt are not as many as they claim; compute them again")
    return shape[1:]
