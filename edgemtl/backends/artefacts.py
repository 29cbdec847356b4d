"""Artefacts made, opened and told apart: the one way for everything above the backends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgemtl.backends import registry
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.files import sha256_file
from edgemtl.targets import Target


def compile_for(target: Target, graph: Path, folder: Path) -> Artefact:
    """Compile a graph with the target's backend.

    Args:
        target: what it is for.
        graph: ONNX file, or a ``routing.json`` with its networks beside it.
        folder: made where it is not there; empty otherwise.

    Raises:
        UsageError: there is no such backend.
        TargetUnavailable: the backend does not work here.
        StageFailed: the graph has fatal problems, or the compiler failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return registry.get(target.backend).compile(graph, target, folder)


def session_options(target: Target, threads: int) -> SessionOptions:
    """Threads as asked, in the precision that the target computes in."""
    return SessionOptions(threads, str(target.options.get("precision_hint", "f32")))


@contextmanager
def open_session(artefact: Artefact, options: SessionOptions) -> Iterator[Session]:
    """An artefact, loaded by the backend that made it; closed again on leaving.

    Raises:
        TargetUnavailable: the backend or the device does not work here.
        StageFailed: the artefact cannot be loaded.
    """
    session = registry.get(artefact.backend).load(artefact, options)
    try:
        yield session
    finally:
        session.close()


def artefact_hashes(artefact: Artefact) -> dict[str, str]:
    """File of an artefact -> SHA-256."""
    return {name: sha256_file(artefact.folder / name) for name in artefact.files}


def same_artefact(a: Artefact, b: Artefact) -> bool:
    """Whether two artefacts are the same bytes."""
    return artefact_hashes(a) == artefact_hashes(b)
