"""A graph compiled for its target: what the compile stage and the verbs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.routed import ROUTING
from edgemtl.backends.taskfiles import with_task_files
from edgemtl.backends.types import Artefact
from edgemtl.pipeline.stage import ARTEFACT
from edgemtl.targets import Target


@dataclass(frozen=True)
class ArtefactRequest:
    """One graph, to be compiled for one target.

    Attributes:
        graph: ONNX file, or a ``routing.json`` with its networks beside it.
        target: what it is for.
        task_files: task -> its outputs, where a graph per task is wanted beside that of all.
    """

    graph: Path
    target: Target
    task_files: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ArtefactOutcome:
    """What a backend compiled.

    Attributes:
        artefact: in the folder that was given.
        size_bytes: of its own files; a runtime that is the same for every network is none of them.
        problems: what of the graph does not run as written, in sentences.
    """

    artefact: Artefact
    size_bytes: int
    problems: tuple[str, ...] = ()

    def documents(self) -> dict[str, Any]:
        """``artefact.json``."""
        artefact = self.artefact
        return {
            ARTEFACT: {
                "backend": artefact.backend,
                "target": artefact.target,
                "files": list(artefact.files),
                "reproducible": artefact.reproducible,
                "facts": dict(artefact.facts),
                "variants": [one.to_dict() for one in artefact.variants],
                "size_bytes": self.size_bytes,
            }
        }

    def summary(self) -> list[str]:
        """In sentences."""
        files, target = len(self.artefact.files), self.artefact.target
        size = f"{files} file(s), {self.size_bytes / 1e6:.2f} MB for {target}"
        return [*self.problems, size]


def compile_graph(request: ArtefactRequest, folder: Path) -> ArtefactOutcome:
    """Compile into ``folder``, which is made where it is not there, and empty otherwise.

    Raises:
        TargetUnavailable: the target's backend does not work here.
        StageFailed: the graph has fatal problems, or the compiler failed.
    """
    graph, target = request.graph, request.target
    # Each network behind a router is asked about when it is compiled.
    told = [] if graph.name == ROUTING else registry.get(target.backend).problems(graph, target)
    problems = [
        f"{problem.op} '{problem.node}': {problem.reason} ({problem.advice})" for problem in told
    ]
    artefact = compile_for(target, graph, folder)
    if request.task_files:
        artefact = with_task_files(artefact, request.task_files)
    own = set(artefact.files) - set(artefact.facts.get("runtime_files", ()))
    size = sum((folder / name).stat().st_size for name in own)
    return ArtefactOutcome(artefact, size, tuple(problems))
