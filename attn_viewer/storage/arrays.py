"""Arrays by name in one ``.npz`` file, the same bytes for the same arrays, and never code."""

import contextlib
import zipfile
import zlib

import numpy as np

from ..errors import ActivationsDamagedError
from ..files import open_whole


def write_npz(path, arrays):
    """Write arrays as a compressed ``.npz`` file that `numpy.load` reads.

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


def read_npz(path, names=None):
    """Read arrays from a ``.npz`` file.

    Parameters
    ----------
    path : path-like
        The file.
    names : collection of str, optional
        Those to read; left out, all.

    Returns
    -------
    dict of str to numpy.ndarray
        The arrays, in the file's order.

    Raises
    ------
    ActivationsDamagedError
        If the file is truncated, holds objects in place of numbers, or lacks a name.
    """
    # numpy leaves a file open that is none of its own.
    with _report_damage(path), open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in (content.files if names is None else names)}


def read_shapes(path):
    """Read names and shapes from a ``.npz`` file without its numbers.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    dict of str to tuple of int
        Shape of each array, in the file's order.

    Raises
    ------
    ActivationsDamagedError
        If the file is truncated, holds objects in place of numbers, or sizes do not fit the shapes.
    """
    shapes = {}
    with _report_damage(path), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
                shape, _, dtype = read_header(member)
                size = member.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
            if dtype.hasobject or size != info.file_size:
                raise ValueError(f"{info.filename} has {info.file_size} bytes and claims {dtype} of shape {shape}")
            shapes[info.filename.removesuffix(".npy")] = shape
    return shapes


def map_npy(path):
    """Open one array in a ``.npy`` file without reading it into memory.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    numpy.memmap
        The array, read-only.

    Raises
    ------
    ActivationsDamagedError
        If the file is truncated or holds objects.
    """
    with _report_damage(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)


@contextlib.contextmanager
def _report_damage(path):
    """Turn whatever a damaged file makes numpy and zipfile raise into one error."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ActivationsDamagedError(
            f"{str(path)!r} cannot be read as plain arrays: {error or type(error).__name__}; "
            "delete it or compute it again"
        ) from error
