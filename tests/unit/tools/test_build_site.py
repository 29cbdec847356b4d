"""The documentation site: every page is in it, and a link that leads nowhere fails its build."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tools import build_site

ROOT = Path(__file__).resolve().parents[3]


def configuration() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not here; extra 'dev' brings it")
    found: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    return found


def test_every_page_is_in_the_navigation() -> None:
    named = [page for part in configuration()["nav"] for one in part.values() for page in one]
    pages = [path for entry in named for path in entry.values()]
    there = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert len(set(pages)) == len(pages)
    assert there <= set(pages)
    gone = [page for page in pages if page != "docs/api/index.md" and not (ROOT / page).is_file()]
    assert gone == []


def test_pages_are_gathered_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "old.md").write_text("of a page that is no more")
    copies = {
        path.relative_to(tmp_path / "pages").as_posix()
        for path in build_site.gather(tmp_path / "pages")
    }
    assert {"README.md", "docs/index.md", "docs/images/result.png", "examples/README.md"} <= copies
    assert not (tmp_path / "pages" / "old.md").exists()


def test_a_dead_anchor_fails_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not here; extra 'dev' brings it")
    (tmp_path / "README.md").write_text("# A\n\n[there](#a)\n")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    text = (tmp_path / "mkdocs.yml").read_text("utf-8")
    (tmp_path / "mkdocs.yml").write_text(text[: text.index("nav:\n")], "utf-8")
    monkeypatch.setattr(build_site, "ROOT", tmp_path)
    monkeypatch.setattr(build_site, "PAGES", tmp_path / "build" / "pages")
    site = ["--output", str(tmp_path / "site")]
    assert build_site.main(site) == 0
    assert (tmp_path / "site" / "index.html").is_file()
    (tmp_path / "README.md").write_text("# A\n\n[nowhere](#b)\n")
    assert build_site.main(site) == 1
    assert "#b" in capfd.readouterr().err
