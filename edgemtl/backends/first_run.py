"""A stranger's network is loaded and run once in a process with limits, before that is done here.

Nobody can tell from a file what a runtime will do with it: a few hundred bytes can ask for a tensor
of terabytes, or for a loop without end. What does not come through is refused, and this process
goes on. Only files that somebody gives us are tried, never what a run of ours has just made.

As a program: ``python -m edgemtl.backends.first_run REQUEST.json``; JSON on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.types import Artefact, SessionOptions, Variant
from edgemtl.errors import EdgemtlError, StageFailed, UsageError, as_data, from_data
from edgemtl.processes import environment, how_it_ended, python_module, run_bounded
from edgemtl.targets import Target

#: for Python, the runtime, loading and one run; the networks of the examples take two to five
SECONDS = 300.0
#: Python and a runtime take 0.1 GB, loading a graph about three times its weights
FEWEST_BYTES = 4 << 30
BYTES_PER_BYTE = 8
#: of the machine's memory that a trial may take
MOST_OF_MEMORY = 0.75
_SECONDS_VARIABLE = "EDGEMTL_FIRST_RUN_SECONDS"
_MEGABYTES_VARIABLE = "EDGEMTL_FIRST_RUN_MB"
#: of an answer: an error with its hint
_MOST_ANSWER = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a first run may take.

    Attributes:
        seconds: in all.
        memory_bytes: of memory that the process writes to.
    """

    seconds: float
    memory_bytes: int

    @staticmethod
    def of(size: int) -> Limits:
        """For a network of so many bytes; the environment may say otherwise.

        Raises:
            UsageError: what it says is no number above 0.
        """
        import psutil

        most = int(psutil.virtual_memory().total * MOST_OF_MEMORY)
        memory = min(FEWEST_BYTES + BYTES_PER_BYTE * size, most)
        asked = _number(_MEGABYTES_VARIABLE)
        return Limits(
            _number(_SECONDS_VARIABLE) or SECONDS, memory if asked is None else int(asked * 1e6)
        )


def _number(variable: str) -> float | None:
    text = os.environ.get(variable, "")
    try:
        number = float(text or 1)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise UsageError(f"{variable} is no number above 0", where="environment")
    return number if text else None


def try_artefact(artefact: Artefact, where: Path) -> None:
    """Load an artefact and run it once, elsewhere.

    Args:
        artefact: of a file that somebody gave us.
        where: that file.

    Raises:
        StageFailed: it does not load or run, or takes more time or memory than it may.
        TargetUnavailable: its runtime is not here.
    """
    size = sum(file.stat().st_size for file in _files(artefact) if file.is_file())
    request = {
        "backend": artefact.backend,
        "target": artefact.target,
        "folder": str(artefact.folder.resolve()),
        "files": list(artefact.files),
        "facts": dict(artefact.facts),
        "variants": [variant.to_dict() for variant in artefact.variants],
    }
    _try({"artefact": request}, size, where)


def _files(artefact: Artefact) -> list[Path]:
    names = {*artefact.files, *(n for variant in artefact.variants for n in variant.files)}
    return [artefact.folder / name for name in sorted(names)]


def try_graph(graph: Path, target: Target) -> None:
    """Compile an ONNX file for a target, load what comes out and run it once, elsewhere.

    Raises:
        StageFailed, TargetUnavailable: as :func:`try_artefact`.
    """
    request = {"graph": str(graph.resolve()), "target": target.model_dump(mode="json")}
    _try(request, graph.stat().st_size, graph)


def _try(request: Mapping[str, Any], size: int, where: Path) -> None:
    limits = Limits.of(size)
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        asked = Path(folder) / "request.json"
        asked.write_text(json.dumps(request), "utf-8")
        done = run_bounded(
            python_module(__name__, str(asked)),
            limits.seconds,
            _MOST_ANSWER,
            env=environment(),
            memory_bytes=limits.memory_bytes,
        )
    room = f"{limits.seconds:g} s and {limits.memory_bytes / 1e9:.1f} GB"
    hint = (
        f"to load it and run it once it may take {room}; where it needs more and you trust it, "
        f"{_SECONDS_VARIABLE} and {_MEGABYTES_VARIABLE} set other limits"
    )
    if done.late:
        raise StageFailed(
            f"this network was not loaded and run once within {limits.seconds:g} s",
            where=str(where),
            hint=hint,
        )
    try:
        problem = json.loads(done.answer)["error"]
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(
            f"the runtime died with {how_it_ended(done.code)} when it loaded and first ran this "
            "network",
            where=str(where),
            hint=hint,
        ) from error
    if problem is not None:
        met = from_data(problem)
        if type(met) is StageFailed:
            met.hint = met.hint or hint
        raise met


def main() -> None:
    """Entry point of the process."""
    os.environ["EDGEMTL_ISOLATED"] = "1"  # a backend need not start another process to be safe
    private = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with os.fdopen(private, "w", encoding="utf-8") as answers:
        _answer(json.loads(Path(sys.argv[1]).read_text("utf-8")), answers)


def _answer(request: Mapping[str, Any], answers: IO[str]) -> None:
    problem: EdgemtlError | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
            _run_once(_artefact(request, Path(folder)))
    except MemoryError:
        problem = StageFailed("this network needs more memory than it may take")
    except EdgemtlError as error:
        problem = error
    json.dump({"error": None if problem is None else as_data(problem)}, answers)


def _artefact(request: Mapping[str, Any], folder: Path) -> Artefact:
    if "graph" in request:
        target = Target.model_validate(request["target"])
        return compile_for(target, Path(request["graph"]), folder)
    made = request["artefact"]
    return Artefact(
        made["backend"],
        made["target"],
        Path(made["folder"]),
        tuple(made["files"]),
        facts=made["facts"],
        variants=tuple(Variant.from_dict(variant) for variant in made["variants"]),
    )


def _run_once(artefact: Artefact) -> None:
    session = registry.get(artefact.backend).load(artefact, SessionOptions(threads=1))
    try:
        session.run(np.zeros(session.input_shape, np.float32))
    finally:
        session.close()


if __name__ == "__main__":
    main()
