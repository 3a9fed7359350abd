"""Reading the archives of `torch.save` without torch, and without ever running what is in them.

An archive is a zip of ``{prefix}/data.pkl`` and of each storage's bytes as ``{prefix}/data/{key}``. Of the pickle only
operations that build plain types are followed, and of what it may call by name only what rebuilds a tensor, which here
is a description that `TensorArchive.read` turns into an array.
"""

import collections
import io
import pickle
import pickletools
import zipfile
from typing import NamedTuple

import numpy as np

# What torch.save makes of plain types and tensors. BUILD and the like, which set attributes, are not among them.
_OPCODES = frozenset(
    (
        *("PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *(
            "APPEND",
            "APPENDS",
            "SETITEM",
            "SETITEMS",
            "BINUNICODE",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "BINFLOAT",
        ),
        *("NONE", "NEWTRUE", "NEWFALSE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "BINPERSID"),
        "REDUCE",
    )
)
# bfloat16, which numpy lacks, is the upper half of a float32.
_BFLOAT16 = "bfloat16"
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class Tensor(NamedTuple):
    """A tensor of an archive.

    Attributes
    ----------
    storage : tuple
        What the archive says of its storage.
    offset : int
        Of its first element.
    shape, strides : tuple of int
        In elements, as torch counts them.
    """

    storage: tuple
    offset: int
    shape: tuple
    strides: tuple


def _rebuild_tensor(storage, offset, shape, strides, *_gradients):
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor, *_gradients):
    return tensor


_CALLABLES = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in _CALLABLES:
            raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a plain type")
        return _CALLABLES[module, name]

    def persistent_load(self, pid):
        return pid


def _unpickle(data):
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"{opcode.name} builds more than tensors and plain types")
        if opcode.name.endswith("PUT") and argument > len(data):  # the memo would grow to whatever it says
            raise pickle.UnpicklingError("more is remembered than is there")
    return _Unpickler(io.BytesIO(data)).load()


class TensorArchive:
    """An open archive, a context manager.

    Parameters
    ----------
    path : path-like
        The file.

    Attributes
    ----------
    content : object
        What was saved: plain types, and a `Tensor` for each tensor.

    Raises
    ------
    Exception
        Of the types that damaged files make `zipfile` and `pickle` raise; `pickle.UnpicklingError` where the archive
        holds more than tensors and plain types.
    """

    def __init__(self, path):
        self._zip = zipfile.ZipFile(path)
        try:
            names = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise zipfile.BadZipFile("it is no archive of torch.save")
            self._prefix = names[0].removesuffix("data.pkl")
            is_big = f"{self._prefix}byteorder" in self._zip.namelist() and self._read("byteorder") == b"big"
            self._order = ">" if is_big else "<"
            self.content = _unpickle(self._read("data.pkl"))
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self._zip.close()

    def _read(self, name):
        info = self._zip.getinfo(self._prefix + name)
        if info.compress_type != zipfile.ZIP_STORED:  # torch.save compresses nothing; a stranger might, to fill memory
            raise zipfile.BadZipFile("it is compressed")
        return self._zip.read(info)

    def read(self, tensor):
        """Return the array of a tensor, read-only; bfloat16 as float32.

        Parameters
        ----------
        tensor : Tensor
            One of `content`.

        Returns
        -------
        numpy.ndarray
            Axes as the tensor's.

        Raises
        ------
        Exception
            As on opening, and where the tensor does not lie inside its storage.
        """
        kind, key = tensor.storage[1:3]
        if kind not in _STORAGES.values():
            raise ValueError(f"a storage holds {kind!r}, which is no kind of number")
        data = self._read(f"data/{key}")
        dtype = np.dtype("u2" if kind == _BFLOAT16 else kind).newbyteorder(self._order)
        numbers = (tensor.offset, *tensor.shape, *tensor.strides)
        if len(tensor.shape) != len(tensor.strides) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a tensor is described by other things than numbers")
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        if 0 not in tensor.shape and last >= len(data) // dtype.itemsize:
            raise ValueError("a tensor reaches past its storage")
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        array = np.ndarray(tensor.shape, dtype, data, tensor.offset * dtype.itemsize, strides)
        return (array.astype("u4") << 16).view("f4") if kind == _BFLOAT16 else array
