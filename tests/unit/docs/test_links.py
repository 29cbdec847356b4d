"""Links between the pages: each file and each anchor that one names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += [ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def slug(heading: str) -> str:
    """The anchor that GitHub and MkDocs give a heading."""
    words = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", words).strip())


def anchors(page: Path) -> set[str]:
    """All anchors of a page."""
    text = FENCE.sub("", page.read_text("utf-8"))
    return {slug(line.lstrip("#")) for line in text.splitlines() if re.match(r"#+ ", line)}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere; addresses of other sites are not asked."""
    found = []
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        other = page.parent / name if name else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What it *is*, now\n\n[a](#what-it-is-now) [b](#not) [c](gone.md)\n", "utf-8")
    assert broken(page) == ["#not", "gone.md"]


def test_every_term_of_the_glossary_says_something() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    terms = re.findall(r"^### (.+)\n\n(.*)", text, re.MULTILINE)
    assert len(terms) > 40
    assert [term for term, first in terms if not first or first.startswith("#")] == []
    names = [term.lower() for term, _ in terms]
    assert len(set(names)) == len(names)
