"""Hold ``docs/run-folder.md`` to a run folder that a compile wrote: keys, types, absences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "run-folder.md"
#: columns of the table of a file or of a part that several files have
COLUMNS = ("key", "type", "what it is", "absent")
LINK = re.compile(r"\[[^\]]+\]\(#([^)]+)\)")
KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "list": (list,),
}
#: what wildcard segments such as ``<task>`` become
ANY = "*"


@dataclass
class Key:
    """A key of the page with what lies below it.

    Attributes:
        kind: as the page has it; empty for what is only on the way to another key.
        always: whether it is there whenever the object is that it belongs to.
        below: the keys of its object, or of the objects of its list.
    """

    kind: str = ""
    always: bool = False
    below: dict[str, Key] | None = None


def tables(text: str) -> dict[str, list[tuple[str, ...]]]:
    """Heading's anchor -> rows of the table of keys below it."""
    found: dict[str, list[tuple[str, ...]]] = {}
    anchor = ""
    for line in text.splitlines():
        if line.startswith("#"):
            anchor = re.sub(r"[^\w\s-]", "", line.lstrip("# ").lower()).replace(" ", "-")
        elif line.startswith("|"):
            row = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            if row == COLUMNS:
                found[anchor] = []
            elif anchor in found and not row[0].startswith("---"):
                assert len(row) == len(COLUMNS), line
                found[anchor].append(row)
    return found


def _segments(key: str) -> list[str]:
    parts = key.strip("`").split(".")
    return [ANY if part.startswith("<") else part for part in parts]


@cache
def _part(anchor: str) -> dict[str, Key]:
    """The keys of a file or part, by its anchor."""
    top: dict[str, Key] = {}
    for name, kind, _, absent in tables(PAGE.read_text("utf-8"))[anchor]:
        level, always = top, absent == "never"
        segments = _segments(name)
        for place, segment in enumerate(segments):
            plain, listed = segment.removesuffix("[]"), segment.endswith("[]")
            last = place == len(segments) - 1
            key = level.setdefault(plain, Key("list" if listed else "object"))
            # what is on the way is there where one of its keys always is
            key.always = key.always or (always and plain != ANY)
            if last:
                key.kind, key.always = kind, always and plain != ANY
                link = LINK.search(kind)
                key.below = _part(link[1]) if link else key.below
            else:
                key.below = {} if key.below is None else key.below
                level = key.below
    return top


def files() -> dict[str, dict[str, Key]]:
    """File's name in the folder -> its keys; ``stages/*/stage.json`` for those of stages."""
    found = {}
    for line in PAGE.read_text("utf-8").splitlines():
        row = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(row) == 3 and row[0].endswith(".json`"):
            link = LINK.search(row[1])
            assert link, row
            keys = dict(_part(link[1]))
            # two files are a part of others and have the version beside it
            keys.setdefault("schema_version", Key("integer", True))
            found[row[0].strip("`").replace("NN-NAME", ANY)] = keys
    return found


def problems(folder: Path) -> list[str]:
    """Where page and folder differ, a line each; empty where they agree."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        data = json.loads(path.read_text("utf-8"))
        if next(iter(data), "") != "schema_version":
            found.append(f"{name}: the version does not come first")
        found += document_problems(name, data)
    return found


def document_problems(name: str, data: dict[str, Any]) -> list[str]:
    """The same for one file, by its name in the folder."""
    keys = files().get(re.sub(r"^stages/[^/]+/", f"stages/{ANY}/", name))
    if keys is None:
        return [f"{name}: the page does not have this file"]
    return [f"{name}: {line}" for line in _object(data, keys, "")]


def _object(data: dict[str, Any], keys: dict[str, Key], where: str) -> Iterator[str]:
    for name, value in data.items():
        key = keys.get(name) or keys.get(ANY)
        if key is None:
            yield f"'{where}{name}' is not on the page"
        else:
            yield from _value(value, key, f"{where}{name}")
    for name, key in keys.items():
        if key.always and name not in data:
            yield f"'{where}{name}' is on the page and was not written"


def _value(value: Any, key: Key, where: str) -> Iterator[str]:
    kind = LINK.sub("object", key.kind)
    words = kind.split()
    if value is None:
        # "list of X or null" is of elements
        if not kind.endswith("or null") or words[0] == "list":
            yield f"'{where}' is null, the page says {kind}"
        return
    plain = isinstance(value, bool) == (words[0] == "boolean")
    if not plain or not isinstance(value, KINDS[words[0]]):
        yield f"'{where}' is {type(value).__name__}, the page says {kind}"
        return
    for element in value if isinstance(value, list) else (value,):
        inner = words[2] if words[:2] == ["list", "of"] else ""
        if element is None and words[0] == "list" and kind.endswith("or null"):
            continue
        if inner and not isinstance(element, KINDS[inner]):
            yield f"'{where}[]' is {type(element).__name__}, the page says {kind}"
        elif key.below and isinstance(element, dict):
            yield from _object(element, key.below, f"{where}.")
