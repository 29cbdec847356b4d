"""Builds the documentation site into build/site from the pages as they lie in the repository.

The pages, the examples' page, pictures and docs/api (tools/build_docs.py) are copied to build/pages
in the same folders, so that every link between them stays what it is; MkDocs then builds the site
with ``--strict``: a link or an anchor that leads nowhere fails the build (exit code 1).

    python tools/build_site.py [--output build/site]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"
#: what the site is made of, below the root of the repository
PARTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs/*.md", "docs/api/*.md")
PARTS += ("docs/images/*", "examples/README.md", "examples/*.py")


def gather(pages: Path) -> list[Path]:
    """Copy all parts to ``pages``, which is made anew.

    Returns:
        The copies, sorted.
    """
    shutil.rmtree(pages, ignore_errors=True)
    copies = []
    for pattern in PARTS:
        for part in sorted(ROOT.glob(pattern)):
            copy = pages / part.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copies.append(Path(shutil.copyfile(part, copy)))
    return sorted(copies)


def main(arguments: list[str] | None = None) -> int:
    """Build the site and say where; the exit code is MkDocs'."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "site")
    output = parser.parse_args(arguments).output.absolute()
    gather(PAGES)
    # Not --quiet: MkDocs then counts no warnings either (findings/mkdocs-strict-quiet.sh).
    call = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run([*call, "--site-dir", str(output)], cwd=ROOT)
    if done.returncode == 0:
        print(f"start at {output / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
