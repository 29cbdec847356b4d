"""What backends are asked and what they answer, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Availability:
    """Whether a backend works here.

    Attributes:
        ok: whether :meth:`Backend.compile` and :meth:`Backend.load` can be called.
        version: of the runtime, empty when not ok.
        reason: why not, with the next step; empty when ok.
    """

    ok: bool
    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Problem:
    """A node that the backend cannot run, or runs otherwise than written.

    Attributes:
        node: ONNX node name, empty for the graph as a whole.
        op: ONNX operator.
        reason: one sentence.
        advice: what to do.
        fatal: False when it runs, but not as written (int8 as float, say).
    """

    node: str
    op: str
    reason: str
    advice: str
    fatal: bool = True


@dataclass(frozen=True)
class Artefact:
    """What a backend compiled, as a folder of files.

    Attributes:
        backend: name of the backend that can load it.
        target: name of the target it is for.
        folder: where the files lie.
        files: their names relative to ``folder``, sorted; the first entry is what a runtime opens.
        reproducible: whether the same input gives the same bytes.
        facts: plain data worth keeping (tool versions, precision asked and granted, ...).
    """

    backend: str
    target: str
    folder: Path
    files: tuple[str, ...]
    reproducible: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SessionOptions:
    """How an artefact is run.

    Attributes:
        threads: worker threads; 0 lets the runtime choose.
        precision_hint: "f32" computes as written; "auto" lets the runtime choose (OpenVINO takes
            bfloat16 on some machines, and then is not comparable with float32).
    """

    threads: int = 0
    precision_hint: str = "f32"
