"""Measure an artefact on a board that runs its runtime's own server, alone or behind a tracker.

Which server that is, and how it is started, says the backend (``Capabilities.rpc``). It may offer
itself to a tracker, which hands out one of several boards of a name. Such protocols (TVM's) are
neither encrypted nor do they know who calls: they are for a network that belongs to you.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Backend
from edgemtl.backends.types import RpcServer
from edgemtl.devices.runner.latency import instability, summary
from edgemtl.devices.runner.selftest import compare, failure
from edgemtl.devices.ssh import DeviceRun
from edgemtl.errors import ExitCode, StageFailed, TargetUnavailable, UsageError

_log = logging.getLogger(__name__)

#: for connecting, the upload and the self-test, beside what the measurement itself takes
SETUP_SECONDS = 90.0
#: a run takes at most so long, as a guess for the time limit
_RUN_SECONDS = 2.0


@dataclass(frozen=True)
class RpcAddress:
    """Where a server is, or a tracker and the name of the boards it should give one of."""

    scheme: str
    host: str
    port: int
    key: str | None = None

    @staticmethod
    def parse(text: str, scheme: str) -> RpcAddress:
        """Read an address ``SCHEME://host:port[?key=NAME]``.

        Raises:
            UsageError: not of that form.
        """
        form = f"{scheme}://host:port, or {scheme}://host:port?key=NAME for a tracker"
        try:
            parts = urlsplit(text)
            port, asked = parts.port, dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise UsageError(f"not a device address: {error}", where=text, hint=form) from error
        extra = parts.path.strip("/") or parts.username or parts.password or parts.fragment
        if parts.scheme != scheme or extra or port is None or set(asked) - {"key"}:
            raise UsageError("not a device address", where=text, hint=form)
        key = asked.get("key")
        if key is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", key):
            raise UsageError("not a name of boards", where=text, hint="letters, digits and . _ -")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._:-]*", parts.hostname or ""):
            raise UsageError("not a device address", where=text, hint=form)
        return RpcAddress(scheme, str(parts.hostname), port, key)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}" + (f"?key={self.key}" if self.key else "")


@dataclass(frozen=True)
class RpcJob:
    """What is to be run.

    Attributes:
        library: the artefact's shared library.
        inputs: (cases, B, 3, H, W) float32.
        expected: output -> (cases, ...), in the order of the graph.
        allowed, allowed_mean: output -> largest and mean absolute error accepted.
        threads: of the server's pool; 0 leaves it as it is.
        warm_up, min_seconds: seconds of runs before, and of timed runs at least.
        min_runs: timed runs at least.
    """

    library: Path
    inputs: NDArray[np.float32]
    expected: Mapping[str, NDArray[np.float32]]
    allowed: Mapping[str, float]
    allowed_mean: Mapping[str, float]
    threads: int
    warm_up: float
    min_seconds: float
    min_runs: int


def bench(
    backend: Backend,
    address: RpcAddress,
    job: RpcJob,
    setup_seconds: float = SETUP_SECONDS,
) -> DeviceRun:
    """Run the self-test on the server, then time the network by the server's clock.

    Args:
        backend: whose server it is; it says ``capabilities.rpc``.
        address: where it is.
        job: what runs.
        setup_seconds: for all but the measurement.

    Raises:
        TargetUnavailable: there is no server, no board of that name became free, or it was lost.
    """
    limit = setup_seconds + job.warm_up + job.min_seconds + _RUN_SECONDS * job.min_runs
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        place = Path(folder)
        np.save(place / "inputs.npy", job.inputs)
        request = {
            "host": address.host,
            "port": address.port,
            "key": address.key,
            "session_seconds": int(limit) + 1,
            "library": str(job.library),
            "inputs": str(place / "inputs.npy"),
            "outputs": list(job.expected),
            "answers": str(place),
            "step": str(place / "step"),
            "threads": job.threads,
            "warm_up": job.warm_up,
            "min_seconds": job.min_seconds,
            "min_runs": job.min_runs,
        }
        _log.info(f"running on {address}")
        try:
            found = backend.ask_server(request, limit)
        except StageFailed as error:
            server = backend.capabilities.rpc
            assert server is not None
            raise _lost(server, address, place / "step", error) from error
        answers = {name: np.load(place / f"{k}.npy") for k, name in enumerate(job.expected)}
    checks = compare(_replay(answers), job.inputs, job.expected, job.allowed, job.allowed_mean)
    problem = failure(checks)
    samples = [float(value) for value in found["samples_ms"]]
    reason = instability(samples)
    document: dict[str, Any] = {
        "runtime": {"name": backend.name, "threads": job.threads, "server": str(address)},
        "selftest": {
            "passed": problem is None,
            "cases": len(job.inputs),
            "outputs": [check._asdict() for check in checks],
        },
    }
    if problem is not None:
        return DeviceRun(int(ExitCode.VERIFICATION), document, problem, 0)
    document["latency"] = {
        **summary(samples),
        "clock": "server",
        "load_ms": found["load_ms"],
        "stable": not reason,
        "reason": reason,
        "samples_ms": [round(value, 5) for value in samples],
    }
    if reason:
        sentence = f"the latency was not stable: {reason}"
        return DeviceRun(int(ExitCode.UNSTABLE), document, sentence, job.library.stat().st_size)
    return DeviceRun(int(ExitCode.OK), document, "", job.library.stat().st_size)


def _lost(
    server: RpcServer, address: RpcAddress, step: Path, error: StageFailed
) -> TargetUnavailable:
    """What a client that failed or waited for ever means."""
    waited = "was ended" in error.message
    at = step.read_text("utf-8") if step.is_file() else ""
    if at in ("", "connecting"):
        if waited and address.key:
            said = f"no board '{address.key}' became free in time"
        else:
            why = "" if waited else f": {_said(server, error)}"
            said = f"there is no {server.name} server or tracker{why}"
    elif waited:
        said = f"the {server.name} server stopped answering while {at}"
    else:
        said = f"the {server.name} server was lost while {at}: {_said(server, error)}"
    return TargetUnavailable(said, where=str(address), hint=f"on the board: {server.start}")


def _said(server: RpcServer, error: StageFailed) -> str:
    lines = error.message.splitlines() or [""]
    return lines[0].removeprefix(f"{server.name} cannot run there: ")[:200]


def _replay(
    answers: Mapping[str, NDArray[np.float32]],
) -> Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]:
    """The recorded answers, one case after another, as a run of the network."""
    cases: Sequence[int] = range(len(next(iter(answers.values()))))
    rest = iter(cases)

    def run(_images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        case = next(rest)
        return {name: values[case] for name, values in answers.items()}

    return run
