"""docs/interactions.md: whatever it says that our page can do is a test that is there."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TABLE = HERE.parent.parent / "docs" / "interactions.md"


def test_what_we_say_that_the_page_can_do_is_tested():
    if not TABLE.exists():
        pytest.skip("installed without docs")
    rows = [line.split("|")[1:-1] for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    head, _, *rest = rows
    assert len(rest) > 25
    for row in rest:
        assert len(row) == len(head)
        ours = row[1].strip()
        if ours.startswith("no"):
            continue
        name, test = re.fullmatch(r"`(\w+\.py)::(\w+)`", ours).groups()
        assert f"\ndef {test}(" in (HERE / name).read_text(encoding="utf-8"), ours
