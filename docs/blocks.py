"""Running what a page shows: its blocks of Python, and the commands of its shell blocks, in order, in one folder."""

import contextlib
import glob
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = ("attn-viewer ", "python main.py ")
# What a page names in a clone of the repository.
EXAMPLES = Path(__file__).parent.parent / "examples"


def run_page(page: Path, folder: Path) -> int:
    """Run the blocks of a Markdown page in a folder; return how many there were.

    Of shell blocks, commands of this package run; installing, serving and testing do not.
    """
    names: dict[str, Any] = {}
    count = 0
    with _enter(folder):
        for count, (language, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1):
            if language == "python":
                text = text.replace('"examples/', f'"{EXAMPLES.as_posix()}/')
                exec(compile(text, f"{page.name}, block {count}", "exec"), names)
            else:
                for line in text.replace("\\\n", " ").splitlines():
                    words = shlex.split(line, comments=True)
                    if words[:1] == ["echo"]:
                        Path(words[-1]).write_text(f"{words[1]}\n", encoding="utf-8")
                    elif line.startswith(COMMANDS) and "serve" not in words:
                        there = [re.sub("^examples(?=/)", str(EXAMPLES), word) for word in words]
                        _run_command([part for word in there for part in sorted(glob.glob(word)) or [word]])
    return count


def _run_command(words: list[str]) -> None:
    from attn_viewer.cli import main

    status = main(words[1:] if words[0] == "attn-viewer" else ["view", *words[2:]])
    if status:
        raise RuntimeError(f"{shlex.join(words)} ended with status {status}")


@contextlib.contextmanager
def _enter(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
