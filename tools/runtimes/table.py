"""The committed outcomes: every case that some runtime does not answer rightly."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtimes.kept import Found

OUTCOMES_FILE = Path(__file__).with_name("outcomes.csv")
#: runtime -> version -> case -> outcome
Outcomes = Mapping[tuple[str, str], Mapping[str, str]]


def outcomes(found: Iterable[Found], mode: str = "plain") -> dict[tuple[str, str], dict[str, str]]:
    """(runtime, version) -> case -> outcome.

    A case that ends its process counts as "late" here: what is committed must not be a list of
    inputs that end a runtime's process.
    """
    told: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        if one.mode == mode:
            outcome = "late" if one.outcome == "died" else one.outcome
            told.setdefault((one.runtime, one.version), {})[one.case] = outcome
    return told


def write(path: Path, told: Outcomes) -> None:
    """Write the newest version of every runtime; rows without anything to say are left out."""
    newest = dict(sorted(told))
    columns = list(newest.items())
    names = sorted({name for column in columns for name in told[column]})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", *(f"{runtime} {version}" for runtime, version in columns)])
    writer.writerow(["(asked)", *(len(told[column]) for column in columns)])
    for name in names:
        row = [told[column].get(name, "not asked") for column in columns]
        if set(row) != {"right"}:
            writer.writerow([name, *row])
    path.write_text(stream.getvalue(), "utf-8")


def read(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """What :func:`write` wrote: (runtime, version) -> case -> outcome, "right" ones left out."""
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    columns = []
    for head in rows[0][1:]:
        runtime, _, version = head.partition(" ")
        columns.append((runtime, version))
    return {
        column: {row[0]: row[index] for row in rows[2:] if row[index] != "right"}
        for index, column in enumerate(columns, start=1)
    }


def changes(before: Outcomes, now: Outcomes, operators: Mapping[str, Sequence[str]]) -> list[str]:
    """What differs from the committed outcomes, one line each, runtime by runtime."""
    lines = []
    for runtime, version in sorted(now):
        column = next((c for c in before if c[0] == runtime), None)
        if column is None:
            lines.append(f"{runtime} {version}: not in the committed table")
            continue
        old, new = before[column], now[runtime, version]
        changed = [
            (name, old.get(name, "right"), outcome)
            for name, outcome in sorted(new.items())
            if old.get(name, "right") not in (outcome, "not asked")
        ]
        lines.append(
            f"{runtime} {column[1]} -> {version}: {len(changed)} of {len(new)} cases changed"
        )
        for name, was, outcome in changed:
            lines.append(f"  {' '.join(operators.get(name, ()))} {name}: {was} -> {outcome}")
    return lines
