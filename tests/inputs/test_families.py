"""The table of families in the documentation says what the tests run."""

from pathlib import Path

import pytest
from families import FAMILIES
from test_placeholders import capture, draw, make

PAGE = Path(__file__).parent.parent.parent / "docs" / "families.md"
# Of families that hear, `test_placeholders.py` marks a frame.
HEARS = {
    "whisper": ["WhisperForConditionalGeneration", "", "", "20 frames", ""],
    "qwen2_audio": ["Qwen2AudioForConditionalGeneration", "", "", "8 frames", ""],
}

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="installed without its pages")


def read_rows():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in rows}


def describe(name):
    """Return the cells of a family that sees."""
    family = make(name)
    spans = capture(name, family.encode(draw(*family.size))).spans
    parts = [f"{span.rows} × {span.columns}" + (" (thumbnail)" if span.part == "thumbnail" else "") for span in spans]
    counted = [f"{parts.count(part)} of {part}" if parts.count(part) > 1 else part for part in dict.fromkeys(parts)]
    generation = "steps alone" if name == "paligemma" else "yes"
    return [type(family.model).__name__, "yes", ", ".join(counted), "", generation]


def test_the_table_has_all_families():
    assert list(read_rows()) == [*FAMILIES, *HEARS]
    assert {name: read_rows()[name] for name in HEARS} == HEARS


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_says_what_is_run(name):
    assert read_rows()[name] == describe(name)
