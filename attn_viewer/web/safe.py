"""Opening files of a folder that strangers name: nothing outside of it, and nothing but plain files."""

import errno
import os
import stat

from ..errors import AttnViewerError

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENXIO)


class NotInFolderError(AttnViewerError, LookupError):
    """What a request names is not in the data folder; the message is for whoever asked."""


class DamagedError(AttnViewerError, ValueError):
    """What a request names is there and cannot be read; the message is for whoever asked."""


def open_inside(root, *parts):
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
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except (ValueError, RuntimeError) as error:
        raise NotInFolderError("there is no such file") from error
    except OSError as error:
        if error.errno in _ABSENT:
            raise NotInFolderError("there is no such file") from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotInFolderError("that is no plain file")
    return file
