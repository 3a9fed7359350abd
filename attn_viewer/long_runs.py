"""What runs for long: a bar on stderr shows it, and a signal that ends it ends its workers too."""

import contextlib
import signal
import warnings
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

# SIGHUP, where there is one, says that the terminal is gone.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def leave_when_ended() -> Iterator[None]:
    """Leave the block by `SystemExit` on a signal that would end this process alone: so its workers end too."""

    def leave(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once; leaving takes a moment
        warnings.filterwarnings("ignore", module="joblib")  # of work that was for nothing
        raise SystemExit(128 + number)

    before = {}
    # Only a main thread may say so, and a program that has its own way keeps it.
    with contextlib.suppress(ValueError):
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_bar(desc: str, unit: str, progress: bool | None, **options: Any) -> "tqdm[Any]":
    """Return a progress bar; where `progress` is None it is silent unless stderr is a terminal."""
    return tqdm(desc=desc, unit=unit, disable=None if progress is None else not progress, leave=False, **options)
