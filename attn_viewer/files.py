"""Writing files whole or not at all, inside the folder that was asked for."""

import contextlib
import errno
import io
import itertools
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from .errors import OptionError, OutputError

_HOST = re.sub(r"\W", "_", platform.node())[:40]
_TEMPORARY = re.compile(r"\..*\.(?P<host>\w*)-(?P<pid>\d+)-\w+\.part", re.DOTALL)
_DAY = 86_400
# Bytes of a name; with a suffix, file systems take 255.
LONGEST_NAME = 200
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}
# With the process in a temporary file's name, numbers make it the only one of that name.
_numbers = itertools.count()


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path as every function here takes one: ``~`` is a home; what stands for that of nobody stays."""
    return Path(os.path.expanduser(path))


def describe_place(
    path: str | os.PathLike[str],
) -> Literal["is a file", "is a folder", "is neither file nor folder", "does not exist"]:
    """Say what is at a path, links followed; nothing is where no file can have the name or nobody may look."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # a name too long, a NUL byte
        return "does not exist"
    return "is a file" if stat.S_ISREG(mode) else "is a folder" if stat.S_ISDIR(mode) else "is neither file nor folder"


def check_model_id(model_id: str) -> str:
    """Return a name that can be a file or folder below the output folder; ``org/name`` makes a folder in a folder.

    Raises `OptionError` if it is empty, too long or absolute, or holds ``..``, backslash, drive or control character.
    """
    parts = model_id.split("/") if isinstance(model_id, str) else [""]
    if any(p in ("", ".", "..") or ":" in p or "\\" in p or not p.isprintable() for p in parts):
        raise OptionError(
            f"model_id {model_id!r} cannot name a folder inside the output folder; "
            "give a plain name such as 'smollm2' (model_id=, --model_id)"
        )
    if len(model_id.encode()) > LONGEST_NAME:
        raise OptionError(
            f"model_id {model_id[:40] + '…'!r} has {len(model_id.encode())} bytes, a name at most {LONGEST_NAME}; "
            "give a shorter one (model_id=, --model_id)"
        )
    return model_id


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """Return a folder that exists or can be created and written to, or raise `OutputError`; nothing is written."""
    folder = expand_home(folder)
    if "\0" in str(folder):
        raise _folder_error(folder, "a name cannot hold a NUL byte")
    ancestor = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not ancestor.is_dir():
        raise _folder_error(folder, f"{str(ancestor)!r} is not a folder")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise _folder_error(folder, f"no permission in {str(ancestor)!r}")
    return folder


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that can be written, its folder created, or raise an error; nothing is written."""
    path = expand_home(path)
    if describe_place(path) == "is a folder":
        raise OptionError(f"{str(path)!r} is a folder; give the name of a file in it")
    check_folder(path.parent)
    return path


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Create a folder with its parents, or raise `OutputError`; what killed processes left half done in it goes."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a NUL byte
        raise _folder_error(folder, getattr(error, "strerror", None) or error) from error
    remove_leftovers(folder)
    return Path(folder)


def _folder_error(folder: object, reason: object) -> OutputError:
    return OutputError(f"cannot write to folder {str(folder)!r}: {reason}; choose a folder that you may write to")


class _Temporary(io.FileIO):
    """A file that remembers why it could not be written: libraries that write to it raise errors of their own."""

    failure: OSError | None = None

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


@contextlib.contextmanager
def open_whole(path: str | os.PathLike[str]) -> Iterator[io.BufferedRandom]:
    """Open `path`, in a folder that exists, for writing so that it appears complete or not at all.

    What is written goes into a temporary file in the same folder, which becomes `path` when the block ends without an
    exception; an older file stays until then. `OutputError` says why a file cannot be written (no permission, full
    disk), whatever the library that wrote to it made of that.
    """
    path = os.fspath(path)
    raw: _Temporary | None = None
    place = ""
    try:
        while raw is None:
            words = name_temporary(os.path.basename(path))
            place = os.path.join(os.path.dirname(path), f"{words['prefix']}{next(_numbers)}{words['suffix']}")
            # A dead process with the same number may have left one.
            with contextlib.suppress(FileExistsError):
                raw = _Temporary(place, "x+")  # with the rights of any new file, which `tempfile` does not give
        with io.BufferedRandom(raw) as file:
            yield file
        os.replace(place, path)
    except BaseException as error:
        # By its place: what interrupts the making of a file leaves one that has no other name here.
        with contextlib.suppress(OSError):
            os.unlink(place)
        failure = error if isinstance(error, OSError) else raw and raw.failure
        if failure and isinstance(error, Exception):
            advice = _ADVICE.get(failure.errno or 0, "choose a folder that you may write to")
            raise OutputError(f"cannot write {path!r}: {failure.strerror or failure}; {advice}") from failure
        raise


def name_temporary(name: str) -> dict[str, str]:
    """Return `prefix` and `suffix` of a temporary file or folder that becomes `name`, as `tempfile` takes them.

    `remove_leftovers` knows it by them once its process is gone.
    """
    return {"prefix": f".{name[:40]}.{_HOST}-{os.getpid()}-", "suffix": ".part"}


def remove_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left half done in a folder, not below it; return the names of what else is in it.

    What a process of this machine that still lives is writing stays, and so does for a day what another machine writes.
    Hidden files are not named.
    """
    names: list[str] = []
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return names
    for entry in entries:
        if not entry.name.startswith("."):
            names.append(entry.name)
        elif (match := _TEMPORARY.fullmatch(entry.name)) and _is_abandoned(entry, match):
            # Where it may not be removed it does no harm.
            with contextlib.suppress(OSError):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    return names


def _is_abandoned(entry: os.DirEntry[str], match: re.Match[str]) -> bool:
    with contextlib.suppress(OSError):
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY:
            return True
    # Elsewhere than on POSIX, `os.kill` ends the process whatever the signal.
    if match["host"] != _HOST or os.name != "posix":
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # somebody else's process, which lives
        pass
    return False


def write_whole(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file, in a folder that exists, so that it is complete or absent, and return its path."""
    with open_whole(path) as file:
        file.write(data)
    return Path(path)
