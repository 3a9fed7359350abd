"""Reading the archives of `torch.save` without torch, and without ever running what is in them.

An archive is a zip of ``{prefix}/data.pkl`` and of each storage's bytes as ``{prefix}/data/{key}``. Of the pickle only
operations that build plain types are followed, here and not by `pickle`, and of what it may call by name only what
rebuilds a tensor, which here is a description that `TensorArchive.read` turns into an array.

Memory and time are bounded by the file: the pickle has at most `MOST_STEPS` operations, repeats no list and at most
`SPARE` characters of text, entries of the zip are not larger than the file, a storage is read once, and tensors, which
may overlap, claim at most `SPARE` numbers more than there are.
"""

import collections
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MOST_STEPS = 2**22
SPARE = 2**22
Numbers = npt.NDArray[Any]
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


class Storage(NamedTuple):
    """The memory of tensors: the kind of its numbers, and its key in the archive."""

    kind: str
    key: str


class Tensor(NamedTuple):
    """A tensor of an archive."""

    storage: Storage
    offset: int  # of the first element
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements, as torch counts them


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Tensor:
    if any(isinstance(part, dict) and part for part in more):
        raise ValueError("the numbers of a tensor are others than stored (negated or conjugated)")
    is_shaped = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 8
    numbers = (offset, *shape, *strides) if is_shaped else (None,)
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError("a tensor is described by other things than numbers")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_gradients: Any) -> Any:
    return tensor


def _rebuild_size(sizes: Any) -> tuple[Any, ...]:
    if not isinstance(sizes, tuple):
        raise ValueError("a size is no tuple")
    return sizes


def _rebuild_hooks() -> dict[Any, Any]:
    return {}


_CALLABLES: dict[str, Callable[..., Any] | str] = {
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch Size": _rebuild_size,
    "collections OrderedDict": _rebuild_hooks,
    **{f"torch {name}": kind for name, kind in _STORAGES.items()},
}


class _Builder:
    """Follows the operations of a pickle that torch.save makes of plain types and tensors; all others are refused."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._spare = SPARE

    def follow(self, name: str, argument: Any) -> None:
        """Follow one operation."""
        match name:
            case "PROTO" | "STOP":
                pass
            case "MARK":
                self._marks.append(len(self.stack))
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append({"DICT": dict, "LIST": list, "TUPLE": tuple}[name[6:]]())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self.stack.append(argument)
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._take(int(name[5:] or 0))))
            case "APPEND" | "APPENDS":
                items = self._take(name == "APPEND")
                self.stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._take(2 * (name == "SETITEM"))
                if any(isinstance(key, tuple) for key in items[::2]):
                    raise pickle.UnpicklingError("a key is a tuple")
                self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                found = self._memo[argument]
                self._spare -= len(found) if isinstance(found, str) else 0
                # Lists that hold a list many times that holds a list many times are larger than any memory.
                if type(found) in (list, dict, tuple) or self._spare < 0:
                    raise pickle.UnpicklingError(f"a {type(found).__name__} is repeated in it")
                self.stack.append(found)
            case "GLOBAL":
                if argument not in _CALLABLES:
                    raise pickle.UnpicklingError(f"{argument.replace(' ', '.')} is neither a tensor nor a plain type")
                self.stack.append(_CALLABLES[argument])
            case "BINPERSID":
                _, kind, key, *_ = self.stack.pop()
                if not (isinstance(kind, str) and isinstance(key, str) and kind in _STORAGES.values()):
                    raise ValueError("a storage holds what is no kind of number")
                self.stack.append(Storage(kind, key))
            case "REDUCE":
                function, arguments = self._take(2)
                self.stack.append(function(*arguments))
            case _:
                raise pickle.UnpicklingError(f"{name} builds more than tensors and plain types")

    def _take(self, count: int) -> list[Any]:
        """Take some objects from the stack; 0 for all since the last mark."""
        start = len(self.stack) - count if count else self._marks.pop()
        if start < 0:
            raise pickle.UnpicklingError("more is taken than is there")
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _unpickle(data: bytes) -> Any:
    builder = _Builder()
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if step == MOST_STEPS:
            raise pickle.UnpicklingError(f"it describes more than {MOST_STEPS:,} things")
        builder.follow(opcode.name, argument)
    return builder.stack.pop()


class TensorArchive:
    """An open archive, a context manager; `content` is what was saved, plain types and a `Tensor` for each tensor.

    Raises whatever damaged files make `zipfile` and `pickletools` raise; `pickle.UnpicklingError` where the archive
    holds more than tensors and plain types.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._zip = zipfile.ZipFile(path)
        try:
            self._check_entries(os.path.getsize(path))
            names = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise zipfile.BadZipFile("it is no archive of torch.save")
            self._prefix = names[0].removesuffix("data.pkl")
            is_big = f"{self._prefix}byteorder" in self._zip.namelist() and self._read("byteorder") == b"big"
            self._order = ">" if is_big else "<"
            self.content: Any = _unpickle(self._read("data.pkl"))
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "TensorArchive":
        return self

    def __exit__(self, *_error: object) -> None:
        self._zip.close()

    def _check_entries(self, size: int) -> None:
        entries = self._zip.infolist()
        # torch.save compresses nothing; a stranger might, to fill memory.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("it is compressed")
        if sum(entry.file_size for entry in entries) > size:
            raise zipfile.BadZipFile("its entries are larger than the file")

    def _read(self, name: str) -> bytes:
        return self._zip.read(self._prefix + name)

    def read(self, tensors: Sequence[Tensor]) -> list[Numbers]:
        """Return tensors of `content` as read-only views of their storages, float16 where they are, else float32.

        Raises as on opening, and where the tensors do not lie inside their storages.
        """
        counts: collections.Counter[Storage] = collections.Counter()
        for storage in {tensor.storage for tensor in tensors}:
            size = self._zip.getinfo(f"{self._prefix}data/{storage.key}").file_size
            counts[storage] = size // _find_dtype(storage, self._order).itemsize
        claimed = sum(math.prod(tensor.shape) for tensor in tensors)
        if claimed > counts.total() + SPARE:
            raise ValueError(f"its tensors claim {min(claimed, 10**30):.7g} numbers, and it holds {counts.total():,}")
        for tensor in tensors:
            reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
            if 0 not in tensor.shape and tensor.offset + reach >= counts[tensor.storage]:
                raise ValueError("a tensor reaches past its storage")
        storages = {storage: self._read_storage(storage) for storage in counts}
        return [_view_tensor(tensor, storages[tensor.storage]) for tensor in tensors]

    def _read_storage(self, storage: Storage) -> Numbers:
        dtype = _find_dtype(storage, self._order)
        data = self._read(f"data/{storage.key}")
        numbers = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
        if storage.kind == _BFLOAT16:
            wide = numbers.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        with np.errstate(over="ignore"):  # to infinity, which no weight is
            return numbers.astype(np.float16 if storage.kind == "f2" else np.float32, copy=False)


def _find_dtype(storage: Storage, order: str) -> np.dtype[Any]:
    kind = "u2" if storage.kind == _BFLOAT16 else storage.kind
    return np.dtype(f"{order}{kind}")


def _view_tensor(tensor: Tensor, numbers: Numbers) -> Numbers:
    if 0 in tensor.shape:
        return np.empty(tensor.shape, numbers.dtype)
    size = numbers.itemsize
    strides = [stride * size for stride in tensor.strides]
    view: Numbers = np.ndarray(tensor.shape, numbers.dtype, numbers, tensor.offset * size, strides)
    view.flags.writeable = False
    return view
