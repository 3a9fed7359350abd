"""Opening files of a folder for reading: plain files alone, and where strangers name them none outside of it."""

import errno
import io
import os
import stat
from pathlib import Path

# A pipe would block. Not every system has these.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_file(root: Path, *parts: str) -> io.BufferedReader:
    """Open a plain file by its path below a folder, wherever links lead to.

    Raises `OSError` if there is none, it cannot be read, or it is no plain file; `ValueError` if it cannot be a path.
    """
    return _open_plain(root.joinpath(*parts), _FLAGS)


def open_inside(root: Path, *parts: str) -> io.BufferedReader:
    """Open a file as `open_file` does; `FileNotFoundError` where a link leads out of the folder."""
    try:
        top, path = root.resolve(strict=True), root.joinpath(*parts).resolve(strict=True)
    except RuntimeError as error:  # links that lead to themselves
        raise FileNotFoundError(errno.ENOENT, "links go round in a circle") from error
    if not path.is_relative_to(top):
        raise FileNotFoundError(errno.ENOENT, "a link leads out of the folder")
    # A link that came in since is refused.
    return _open_plain(path, _FLAGS | getattr(os, "O_NOFOLLOW", 0))


def _open_plain(path: Path, flags: int) -> io.BufferedReader:
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file")
    return os.fdopen(descriptor, "rb")
