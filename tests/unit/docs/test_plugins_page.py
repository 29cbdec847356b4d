"""docs/plugins.md shows the files of the example packages, all of them and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from support.plugins import NAMES, PACKAGES

from edgemtl import plugins

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
#: a step that shows a file: its name, and what is in it
STEP = re.compile(
    r"^\*\*\d\.\*\* (?:Write|Name it in) `([\w.]+)`.*?^```(?:python|toml)\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def test_every_file_of_every_package_is_shown_as_it_is() -> None:
    shown = {text for _, text in STEP.findall(PAGE)}
    assert len(shown) == len(re.findall(r"^```(?:python|toml)$", PAGE, re.MULTILINE))
    files = [p for p in sorted(PACKAGES.glob("*/*")) if p.suffix in (".py", ".toml")]
    assert len(files) == 19
    assert {path.read_text("utf-8") for path in files} == shown


def test_the_steps_of_each_example_are_numbered() -> None:
    sections = PAGE.split("\n## ")[1:]
    assert len(sections) == len(NAMES)
    for section in sections:
        steps = [int(n) for n in re.findall(r"^\*\*(\d)\.\*\* ", section, re.MULTILINE)]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 5, section[:40]


def test_the_table_has_every_group_and_every_package() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| [")]
    found = {tuple(re.findall(r"`([\w.-]+)`", row)[i] for i in (0, -1)) for row in rows}
    assert {group for group, _ in found} == set(plugins.GROUPS)
    assert {name for _, name in found} == set(NAMES)
