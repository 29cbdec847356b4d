"""Anything that can be evaluated or run on a picture: checkpoint, ONNX file or bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for, open_session, session_options
from edgemtl.backends.first_run import try_artefact, try_graph
from edgemtl.backends.taskfiles import for_task
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle.read import open_bundle
from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import InputRefused
from edgemtl.exporting.metadata import read_metadata
from edgemtl.measure.accuracy import Run, network_runner
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.targets import Target
from edgemtl.tasks.base import Task
from edgemtl.tasks.registry import select

Kind = Literal["checkpoint", "onnx", "bundle"]


@dataclass(frozen=True)
class LoadedModel:
    """A network in any form, ready to run.

    Attributes:
        kind: what the file is.
        run: (1, 3, H, W) float32 -> output name -> array.
        tasks: what its outputs mean.
        input_spec: how pictures become its input.
        backend: that runs it; None for torch.
    """

    kind: Kind
    run: Run
    tasks: tuple[Task, ...]
    input_spec: InputSpec
    backend: str | None = None


def kind_of(path: Path) -> Kind:
    """What a file is, by its first bytes and its name.

    Raises:
        InputRefused: there is no such file.
    """
    if not path.exists():
        raise InputRefused("there is no such file", where=str(path))
    if path.suffix == ".onnx":
        return "onnx"
    return "bundle" if path.suffix == ".edgemtl" else "checkpoint"


@dataclass(frozen=True)
class ModelSignature:
    """What a network's outputs mean, and what runs it.

    Attributes:
        tasks: what its outputs mean.
        input_spec: how pictures become its input.
        backend: that runs it; None for torch.
        modules: that define the network, where it is one of torch, and the tasks.
    """

    tasks: tuple[Task, ...]
    input_spec: InputSpec
    backend: str | None
    modules: tuple[str, ...]


def modules_of(network: MultiTaskNetwork | None, tasks: Sequence[Task] = ()) -> tuple[str, ...]:
    """Modules that define a network, or tasks without one."""
    used: list[object] = [*tasks] if network is None else [network, *network.tasks]
    return tuple(sorted({type(one).__module__ for one in used}))


def read_signature(path: Path, factory: str | None = None) -> ModelSignature:
    """Read a checkpoint, an ONNX file of ours or a bundle, without a runtime to run it.

    Raises:
        InputRefused: none of these, or refused.
    """
    kind = kind_of(path)
    if kind == "checkpoint":
        network = load_network(path, factory)
        return ModelSignature(network.tasks, network.input_spec, None, modules_of(network))
    if kind == "onnx":
        tasks, spec = read_metadata(path)
        return ModelSignature(tasks, spec, registry.REFERENCE, modules_of(None, tasks))
    bundle = open_bundle(path)
    tasks, backend = bundle.tasks(), bundle.manifest.artefact.backend
    return ModelSignature(tasks, bundle.input_spec(), backend, modules_of(None, tasks))


@contextmanager
def open_model(
    path: Path,
    factory: str | None = None,
    options: SessionOptions | None = None,
    task: str | None = None,
    target: Target | None = None,
) -> Iterator[LoadedModel]:
    """Open a checkpoint, an ONNX file of ours or a bundle; closed again on leaving.

    Args:
        path: of any of these.
        factory: builds the user's own network.
        options: of the session; the bundle's own by default.
        task: compute this task alone (with those it requires); all by default.
        target: compile an ONNX file for it and run it in its runtime; ONNX Runtime by default.

    Raises:
        InputRefused: none of these, or refused.
        UsageError: there is no such task, or the file cannot compute it alone.
        TargetUnavailable: the runtime is not here.
    """
    kind = kind_of(path)
    if kind == "checkpoint":
        network = load_network(path, factory)
        kept = network.selected(None if task is None else [task])
        run = network_runner(network, [t.name for t in kept])
        yield LoadedModel(kind, run, kept, network.input_spec)
        return
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        if kind == "onnx":
            tasks, spec = read_metadata(path)
            artefact = Artefact(registry.REFERENCE, "cpu", path.parent, (path.name,))
            if target is not None:
                try_graph(path, target)
                artefact = compile_for(target, path, Path(folder))
                options = options or session_options(target, target.threads or 0)
            options = options or SessionOptions()
        else:
            bundle = open_bundle(path)
            tasks, spec = bundle.tasks(), bundle.input_spec()
            artefact = bundle.artefact(Path(folder))
            options = options or bundle.session_options()
        if task is not None:
            artefact, tasks = for_task(artefact, task), select(tasks, [task])
        if target is None or kind == "bundle":
            try_artefact(artefact, path)
        with open_session(artefact, options) as session:
            yield LoadedModel(kind, session.run, tasks, spec, artefact.backend)
