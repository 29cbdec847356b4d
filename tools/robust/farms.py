"""Farms whose workers lie, stop answering or are killed, and two farms on one machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from support import doomed
from support.command import Told, edgemtl
from support.dense_work import NO_BENCH, DenseWork, write_dense_work
from support.farm import Cluster, wait_until

from edgemtl.devices.farm import service, work
from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.pipeline.farm.members import offered
from robust.kills import KINDS

#: what workers answer that lie
LIES: dict[str, Callable[[str], Any]] = {
    "garbage": lambda name: [name, 7],
    "another job's result": lambda name: work.JobResult("another").to_dict(),
    "a wrong hash": lambda name: work.JobResult(
        name, "liar", "/", files={"result.json": "0" * 64}
    ).to_dict(),
    "no result": lambda name: work.JobResult(name, "liar", "/").to_dict(),
}


def lie(address: str, certificates: str, folder: str, how: str) -> None:
    """A worker of the farm that answers every job at once, with one of :data:`LIES`."""

    def run_job(job: dict[str, Any], topic: str) -> Any:
        return LIES[how](job["name"])

    work.run_job = run_job  # what Dask imports here when it is told to call it
    place = FarmAddress.parse(address)
    credentials = Credentials.of(place, Path(certificates), "worker")
    service.run_worker(place, credentials, Path(folder), "liar", offered(None, "liar"))


def try_farms(root: Path) -> int:
    """Each in turn; the number of findings."""
    dense = write_dense_work(root / "in", images=10)
    whole = edgemtl("compile", *_flags(dense), "-o", root / "whole")
    if whole.code:
        raise RuntimeError(whole.err)
    wanted = _bundle(root / "whole")
    tries: dict[str, Callable[[Path], str]] = {
        f"a worker answers {how}": lambda place, how=how: _liar(place, dense, how) for how in LIES
    }
    tries["a worker never answers"] = lambda place: _silent(place, dense, wanted)
    tries["three workers, the one at work is killed"] = lambda place: _killed(place, dense, wanted)
    tries["two farms on one machine"] = lambda place: _two(place, dense, wanted)
    findings = 0
    for number, (name, attempt) in enumerate(tries.items()):
        place = root / f"farm-{number}"
        place.mkdir()
        try:
            found = attempt(place)
        except AssertionError as error:
            found = str(error)
        findings += bool(found)
        print(f"{name:<44} {found or 'as it should be'}", flush=True)
    print(f"{len(tries)} farms, {findings} findings")
    return findings


def _flags(dense: DenseWork) -> list[object]:
    """A compile that prunes."""
    return [*dense.flags_of_the_target(), *KINDS["pruning"], *NO_BENCH]


def _bundle(run: Path) -> bytes:
    return (run / "bundle" / "dense-cpu.edgemtl").read_bytes()


def _cluster(folder: Path, workers: Sequence[str]) -> Cluster:
    found = Cluster(folder)
    folder.mkdir(exist_ok=True)
    found.start()
    for name in workers:
        found.join(name)
    return found


def _compile(cluster: Cluster, dense: DenseWork, out: Path) -> Told:
    return edgemtl("compile", *_flags(dense), "-o", out, *cluster.flags())


def _liar(place: Path, dense: DenseWork, how: str) -> str:
    cluster = _cluster(place / "farm", ())
    try:
        words = (cluster.address, str(cluster.certificates), str(place / "liar"), how)
        liar: BaseProcess = multiprocessing.get_context("spawn").Process(target=lie, args=words)
        liar.start()
        with cluster.farm() as farm:
            wait_until(farm.workers)
        told = _compile(cluster, dense, place / "out")
        liar.kill()
        liar.join()
    finally:
        cluster.stop()
    errors = [line for line in told.err.splitlines() if line.startswith("error:")]
    if told.code not in (3, 4) or len(errors) != 1 or "Traceback" in told.err:
        return f"exit code {told.code}, {len(errors)} errors: {told.err[-600:]}"
    return ""


def _at_work(cluster: Cluster) -> str:
    """The worker that has begun a job's first stage."""
    jobs = {n: cluster.folder / n / "farm" / "worker" / "jobs" for n in cluster.members}

    def begun() -> list[str]:
        return [n for n, jobs_of in jobs.items() if [*jobs_of.glob("*/out/run/*/stages/0*")]]

    wait_until(begun)
    return begun()[0]


def _meanwhile(cluster: Cluster, dense: DenseWork, out: Path, do: Callable[[str], None]) -> Told:
    told: list[Told] = []
    thread = threading.Thread(target=lambda: told.append(_compile(cluster, dense, out)))
    thread.start()
    do(_at_work(cluster))
    thread.join()
    return told[0]


def _verdict(told: Told, out: Path, wanted: bytes) -> str:
    if told.code:
        return f"exit code {told.code}: {told.err[-600:]}"
    return "" if _bundle(out) == wanted else "another bundle"


def _killed(place: Path, dense: DenseWork, wanted: bytes) -> str:
    cluster = _cluster(place / "farm", ("one", "two", "three"))
    try:
        told = _meanwhile(cluster, dense, place / "out", cluster.kill)
    finally:
        cluster.stop()
    return _verdict(told, place / "out", wanted)


def _silent(place: Path, dense: DenseWork, wanted: bytes) -> str:
    """It is stopped, not killed: its connections stay open, and nothing comes over them."""
    cluster = _cluster(place / "farm", ("one", "two"))
    stopped: list[BaseProcess] = []

    def stop(name: str) -> None:
        process = cluster.members[name]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        stopped.append(process)

    try:
        told = _meanwhile(cluster, dense, place / "out", stop)
    finally:
        for process in stopped:
            doomed.kill(process)
        cluster.stop()
    return _verdict(told, place / "out", wanted)


def _two(place: Path, dense: DenseWork, wanted: bytes) -> str:
    """Each job stays in its farm, and who is of one farm is refused by the other."""
    farms = [_cluster(place / name, (f"{name}-worker",)) for name in ("first", "second")]
    told: list[Told] = []
    try:
        told += [_compile(farm, dense, place / f"out-{n}") for n, farm in enumerate(farms)]
        mixed = edgemtl("farm", "status", farms[0].address, "--certificates", farms[1].certificates)
    finally:
        for farm in farms:
            farm.stop()
    if mixed.code != 8:
        return f"a client of the one got exit code {mixed.code} from the other"
    return next((v for n in range(2) if (v := _verdict(told[n], place / f"out-{n}", wanted))), "")
