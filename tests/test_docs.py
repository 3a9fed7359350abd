"""Pages: what they show runs, and their links lead somewhere."""

import re
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
QUICK = ("README.md", "quickstart.md")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="installed without its pages")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow][: page.name not in QUICK], id=page.name) for page in PAGES],
)
def test_what_a_page_shows_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from blocks import BLOCK, run_page

    with mpl.rc_context():
        assert run_page(page, tmp_path) == len(BLOCK.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists() and not link.startswith("made/")] == []
