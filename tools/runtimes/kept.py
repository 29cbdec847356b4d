"""What was found so far, one line each, so that a run that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.cases import Case


@dataclass(frozen=True)
class Found:
    """How one case ended.

    Attributes:
        runtime, version: who was asked.
        mode: "plain" without our table and rewritings, "product" with them.
        case: name of the case.
        outcome: one of ``asking.OUTCOMES``.
        why: one sentence; empty when right.
        operators: of the graph, without those that only take the packed input apart.
    """

    runtime: str
    version: str
    mode: str
    case: str
    outcome: str
    why: str
    operators: tuple[str, ...]


class Kept:
    """The file of findings; the last line of a case counts."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def read(self) -> dict[tuple[str, str, str, str], Found]:
        """(runtime, version, mode, case) -> what was found; half a last line is passed over."""
        found: dict[tuple[str, str, str, str], Found] = {}
        if self._path.exists():
            for line in self._path.read_text("utf-8").splitlines():
                try:
                    data: dict[str, Any] = json.loads(line)
                except ValueError:
                    continue
                one = Found(**{**data, "operators": tuple(data["operators"])})
                found[one.runtime, one.version, one.mode, one.case] = one
        return found

    def add(self, one: Found) -> None:
        """Write it down at once."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(one)) + "\n")


def operators(case: Case) -> tuple[str, ...]:
    """Operators of a case, sorted; what takes the packed input apart is left out."""
    from onnx import load_from_string

    nodes = load_from_string(case.model).graph.node
    own = {node.op_type for node in nodes if not node.name.startswith("cut")}
    own -= {"Constant"} if len(own) > 1 else set()
    return tuple(sorted(own))


def read_torch(folder: Path) -> Iterator[Case]:
    """The cases that ``torch_cases.write`` left; what the exporter refused is none."""
    for place in sorted(folder.glob("*.npz")):
        with np.load(place, allow_pickle=False) as stored:
            if not stored["model"].size:
                continue
            name, _, opset = place.stem.partition("@")
            yield Case(
                f"torch/{name}/{opset}",
                stored["model"].tobytes(),
                stored["image"],
                (stored["wanted"],),
                relative=1e-4,
                absolute=1e-6,
            )
