"""``bench --all-devices``: a bundle measured on every board of a farm."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.bundle.read import open_bundle
from edgemtl.devices.farm.client import Farm, WorkerFacts
from edgemtl.devices.farm.work import FOLDER, PYTHON, Job, JobResult
from edgemtl.errors import EdgemtlError, ExitCode, StageFailed, TargetUnavailable, UsageError
from edgemtl.files import read_json
from edgemtl.pipeline.benchmarking import BenchFiles
from edgemtl.pipeline.farm.members import BOARD, DEVICE
from edgemtl.pipeline.loaded_model import kind_of

_BUNDLE = "bundle.edgemtl"
_RESULTS = "results.json"
#: the runner's own exit codes, which mean the same as ours
_KNOWN = {int(code) for code in ExitCode}


@dataclass(frozen=True)
class BoardBench:
    """A bundle measured on a board.

    Attributes:
        device: what the board is.
        worker: which of them.
        exit_code: of the runner, or of what kept it from running.
        results: the runner's document; None when it stopped before it had one.
        message: why the code is not 0.
        began, ended: seconds since 1970 on the board.
    """

    device: str
    worker: str
    exit_code: ExitCode
    results: dict[str, Any] | None
    message: str
    began: float
    ended: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.__dict__, "exit_code": int(self.exit_code)}


def bench_on_farm(
    asked: BenchFiles,
    devices: list[str] | None,
    farm: Farm,
    done: Callable[[BoardBench], None],
) -> list[BoardBench]:
    """Measure a bundle on boards with the bundle's own runner, each board by itself.

    Args:
        asked: the bundle, threads, least runs and seconds, warm-up; the rest does not reach the
            boards.
        devices: names of devices; None for every board that is there.
        farm: connected.
        done: called with each board's results as soon as they are there.

    Returns:
        A result per board, in the order of their names.

    Raises:
        UsageError: not a bundle.
        InputRefused: the bundle is damaged.
        TargetUnavailable: no such board is there, or the scheduler was lost.
    """
    path = asked.path
    if kind_of(path) != "bundle":
        raise UsageError("a device measures bundles only", where=str(path))
    wanted = open_bundle(path).manifest_sha256
    boards = [
        (device, worker)
        for worker in farm.workers()
        for device in _devices(worker)
        if devices is None or device in devices
    ]
    missing = set(devices or ()) - {device for device, _ in boards}
    if missing or not boards:
        named = f"device '{sorted(missing)[0]}'" if missing else "device"
        raise TargetUnavailable(
            f"no {named} has joined the farm",
            where=str(farm.address),
            hint=f"on the board: edgemtl farm worker {farm.address} --device NAME",
        )
    digest = farm.put([path])[path]
    jobs = [board_job(device, worker.name, digest, asked) for device, worker in boards]
    by_name = {job.name: pair for job, pair in zip(jobs, boards, strict=True)}
    found: dict[str, BoardBench] = {}

    def end(answer: JobResult) -> None:
        device, worker = by_name[answer.name]
        found[answer.name] = _read(farm, device, worker.name, wanted, answer)
        done(found[answer.name])

    farm.run(jobs, end)
    return [found[job.name] for job in jobs]


def board_job(device: str, worker: str, digest: str, asked: BenchFiles) -> Job:
    """The job that runs a bundle's runner on one board, and has that board for itself."""
    return Job(
        f"{device} ({worker})",
        (
            PYTHON,
            f"{FOLDER}/{_BUNDLE}",
            "bench",
            "--output",
            f"{FOLDER}/out/{_RESULTS}",
            *asked.runner_flags(),
        ),
        {_BUNDLE: digest},
        {f"{DEVICE}{device}": 1.0, f"{BOARD}{worker}": 1.0},
        device=device,
    )


def _devices(worker: WorkerFacts) -> list[str]:
    return [key[len(DEVICE) :] for key in worker.resources if key.startswith(DEVICE)]


def _read(farm: Farm, device: str, worker: str, wanted: str, answer: JobResult) -> BoardBench:
    try:
        if answer.error is not None:
            raise answer.error
        results = None
        if _RESULTS in answer.files:
            with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
                farm.fetch({_RESULTS: answer.files[_RESULTS]}, Path(folder))
                results = read_json(Path(folder) / _RESULTS)
        if results is None and answer.exit_code not in _KNOWN:
            raise answer.problem() or StageFailed("the runner left no results", where=worker)
        if results is not None and results.get("manifest_sha256") != wanted:
            raise StageFailed("the device answered about another bundle", where=worker)
    except EdgemtlError as error:
        return BoardBench(
            device, worker, error.exit_code, None, str(error), answer.began, answer.ended
        )
    code = ExitCode(answer.exit_code) if answer.exit_code in _KNOWN else ExitCode.STAGE_FAILED
    last = (answer.said.strip().splitlines() or [""])[-1] if code else ""
    message = last.removeprefix("error: ")
    return BoardBench(device, worker, code, results, message, answer.began, answer.ended)
