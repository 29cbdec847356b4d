"""One artefact, several tasks, one copy of the weights: switch between tasks without reloading.

ONNX Runtime computes a whole graph whatever outputs are asked for, so a network of five tasks costs
five tasks. Here the graph is written once per task beside the graph of all, and the weights of all
of them lie once, in one file that every graph refers to. A program opens the tasks it may need
(:class:`TaskSessions`); to switch is then to call another session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends import registry
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, SessionOptions, Variant
from edgemtl.backends.weightsfile import WEIGHTS_FILE, WeightsFile
from edgemtl.errors import StageFailed, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def with_task_files(artefact: Artefact, tasks: Mapping[str, Sequence[str]]) -> Artefact:
    """The same artefact with a graph per task beside the graph of all; rewrites its folder.

    Args:
        artefact: of ONNX Runtime, one file.
        tasks: task name -> its outputs.

    Raises:
        StageFailed: the artefact is of another runtime, or cannot be written.
    """
    import onnx

    able = registry.get(artefact.backend).capabilities.task_files
    if not able or len(artefact.files) != 1:
        raise StageFailed(
            "a graph per task can be written for ONNX Runtime only",
            hint="compile a bundle per task: --task NAME",
        )
    whole = artefact.folder / artefact.files[0]
    model = onnx.load(whole)
    names = _file_names(tasks)
    # Outputs that no task owns (the count of missed experts) belong to all of them.
    owned = {output for outputs in tasks.values() for output in outputs}
    common = [value.name for value in model.graph.output if value.name not in owned]
    try:
        _move_weights(model, artefact.folder / WEIGHTS_FILE)
        whole.write_bytes(model.SerializeToString(deterministic=True))
        for task, outputs in tasks.items():
            alone = _restricted(model, [*outputs, *common])
            (artefact.folder / names[task]).write_bytes(alone.SerializeToString(deterministic=True))
    except OSError as error:
        raise StageFailed(f"cannot write the artefact: {error.strerror}") from error
    variants = tuple(
        Variant(task, "task", (name, WEIGHTS_FILE), (*tasks[task], *common))
        for task, name in names.items()
    )
    files = (artefact.files[0], *sorted(names.values()), WEIGHTS_FILE)
    return replace(artefact, files=files, variants=variants)


def for_task(artefact: Artefact, task: str) -> Artefact:
    """The artefact as one that opens this task's graph.

    Raises:
        UsageError: it has no such graph.
    """
    known = [one.name for one in artefact.variants if one.kind == "task"]
    if task not in known:
        told = ", ".join(known) or "none; compile with --set export.task_files=true"
        raise UsageError(f"there is no graph of task '{task}' alone", hint=f"there are: {told}")
    return artefact.variant(task)


class TaskSessions:
    """Sessions of several tasks of one artefact, all loaded.

    Args:
        artefact: from :func:`with_task_files`.
        tasks: to open; all by default.
        options: of every session.

    Raises:
        UsageError: a task has no graph of its own.
        StageFailed: the runtime does not load it.
    """

    def __init__(
        self,
        artefact: Artefact,
        tasks: Iterable[str] | None = None,
        options: SessionOptions | None = None,
    ) -> None:
        backend = registry.get(artefact.backend)
        known = [one.name for one in artefact.variants if one.kind == "task"]
        wanted = known if tasks is None else list(tasks)
        self.sessions: dict[str, Session] = {
            task: backend.load(for_task(artefact, task), options) for task in wanted
        }

    def run(self, task: str, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """One task on (B, 3, H, W) float32; its outputs by name."""
        return self.sessions[task].run(images)

    def close(self) -> None:
        """Release all sessions."""
        for session in self.sessions.values():
            session.close()


def _file_names(tasks: Iterable[str]) -> dict[str, str]:
    """A file name per task; what a file system might mind becomes an underscore."""
    names: dict[str, str] = {}
    for task in tasks:
        base = f"task-{re.sub(r'[^A-Za-z0-9_-]', '_', task)[:60]}"
        name, count = f"{base}.onnx", 0
        while name in names.values():
            count += 1
            name = f"{base}-{count}.onnx"
        names[task] = name
    return names


def _move_weights(model: ModelProto, path: Path) -> None:
    """Write the larger stored tensors into one file and let the graph refer to it, in place."""
    weights = WeightsFile()
    weights.take(model.graph.initializer, path.name)
    path.write_bytes(weights.data)


def _restricted(model: ModelProto, outputs: Sequence[str]) -> ModelProto:
    """The part of a graph that these outputs need."""
    import onnx

    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    graph = alone.graph
    needed = set(outputs)
    kept = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input) | names_inside(node)
    del graph.node[:], graph.output[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.output.extend(value for value in model.graph.output if value.name in outputs)
    graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    return alone


def names_inside(node: NodeProto) -> set[str]:
    """All names in a node's branches or loop, of outer tensors and of their own."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= {value.name for value in graph.output}
            for inner in graph.node:
                names |= {*inner.input, *inner.output} | names_inside(inner)
    return names
