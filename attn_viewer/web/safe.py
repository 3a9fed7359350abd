"""Opening files of a folder that strangers name: nothing outside of it, and nothing but plain files."""

import errno
import io
import os
import stat
from pathlib import Path

from ..errors import AttnViewerError

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENXIO)


class NotInFolderError(AttnViewerError, LookupError):
    """What a request names is not in the data folder; the message is for whoever asked."""


class DamagedError(AttnViewerError, ValueError):
    """What a request names is there and cannot be read; the message is for whoever asked."""


def open_inside(root: Path, *parts: str) -> io.BufferedReader:
    """Open a file of a folder for reading.

    Parameters
    ----------
    root : pathlib.Path
        The folder, resolved.
    *parts : str
        Its path below the folder, made of names that were checked.

    Returns
    -------
    io.BufferedReader
        The file.

    Raises
    ------
    NotInFolderError
        If there is none, a link leads out of the folder, or it is no plain file.
    """
    try:
        path = root.joinpath(*parts).resolve(strict=True)
        if not path.is_relative_to(root):
            raise NotInFolderError("a link leads out of the data folder")
        # A pipe would block; a link that came in since `resolve` is refused.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (ValueError, RuntimeError) as error:
        raise NotInFolderError("there is no such file") from error
    except OSError as error:
        if error.errno in _ABSENT:
            raise NotInFolderError("there is no such file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotInFolderError("that is no plain file")
    return os.fdopen(descriptor, "rb")
