"""Dask's scheduler and worker as we run them: TLS, one thread, resources, our file store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from edgemtl.devices.farm.address import Credentials, FarmAddress, require_farm
from edgemtl.devices.farm.store import FileStore
from edgemtl.devices.farm.work import end_all
from edgemtl.errors import EdgemtlError, StageFailed, TargetUnavailable, as_data
from edgemtl.files import as_told

_log = logging.getLogger(__name__)

#: a job whose worker was lost so often is given up
ALLOWED_FAILURES = 3
#: before a worker that lost its scheduler looks for it again
_AGAIN_SECONDS = 2.0
#: what no user's configuration of Dask may change
SETTINGS: Mapping[str, Any] = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    "distributed.scheduler.worker-ttl": "60s",
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.preload": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.preload": [],
    "distributed.worker.profile.enabled": False,
    "distributed.client.preload": [],
    "distributed.comm.timeouts.connect": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
}
#: Dask's page for people is not encrypted: it stays on the machine, with nothing on it
_NO_PAGE: Mapping[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


def configure() -> None:
    """Settings and quiet loggers for this process.

    Raises:
        TargetUnavailable: Dask is not installed.
    """
    require_farm()
    import dask

    dask.config.set(dict(SETTINGS))
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_scheduler(address: FarmAddress, credentials: Credentials, folder: Path) -> None:
    """Run a scheduler until SIGINT or SIGTERM.

    Args:
        address: where it listens; ``0.0.0.0`` for every interface, port 0 for a free one.
        credentials: of the scheduler.
        folder: its files.

    Raises:
        StageFailed: the address is in use, or the folder is not writable.
        TargetUnavailable: Dask is not installed.
    """
    configure()
    security, store = credentials.security(), FileStore(folder)

    async def serve() -> None:
        from distributed import Scheduler

        leaving = _leaving()
        try:
            scheduler = await Scheduler(
                host=address.host,
                port=address.port,
                protocol=f"{address.scheme}://",
                security=security,
                **_NO_PAGE,
            )
        except (OSError, RuntimeError) as error:  # Dask wraps the one in the other
            raise StageFailed(
                f"cannot listen: {_reason(error)}",
                where=str(address),
                hint="a scheduler may be running there already; another port: tls://HOST:PORT",
            ) from error
        scheduler.handlers.update(_handlers(store))
        _log.info(f"scheduler at {scheduler.address}")
        await leaving.wait()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(scheduler.close(), 5)

    _run(serve())


def _handlers(store: FileStore) -> dict[str, Callable[..., Any]]:
    """The store as operations of the scheduler; an answer is a value or an error of ours."""

    def answered(do: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        def answer(**fields: Any) -> dict[str, Any]:
            try:
                return {"value": do(**fields)}
            except Exception as problem:
                return {"error": as_data(as_told(problem))}

        return answer

    return {
        "edgemtl_lacking": answered(lambda digests: store.lacking(digests)),
        "edgemtl_begin": answered(lambda digest: store.begin(digest)),
        "edgemtl_append": answered(
            lambda digest, token, block: store.append(digest, token, bytes(block))
        ),
        "edgemtl_finish": answered(lambda digest, token: store.finish(digest, token)),
        "edgemtl_get": answered(lambda digest, offset: store.read(digest, offset)),
    }


def run_worker(
    address: FarmAddress,
    credentials: Credentials,
    folder: Path,
    name: str,
    resources: Mapping[str, float],
) -> None:
    """Run a worker until SIGINT or SIGTERM; a scheduler that goes away is looked for again.

    Args:
        address: of the scheduler.
        credentials: of the worker.
        folder: its files and the folders of its jobs.
        name: unique in the farm; a board that is started again keeps it.
        resources: what it offers.

    Raises:
        TargetUnavailable: the scheduler cannot be reached at the start, or refuses this worker.
        StageFailed: the folder is not writable.
    """
    from edgemtl.devices.farm.probe import probe

    configure()
    security, store = credentials.security(), FileStore(folder / "files")
    _sweep(folder / "jobs")
    probe(address, credentials)

    async def serve() -> None:
        leaving, joined = _leaving(), False
        while not leaving.is_set():
            try:
                worker = await _joined(address, security, folder, name, resources)
            except (TimeoutError, OSError, ValueError, RuntimeError) as error:
                if not joined:
                    raise TargetUnavailable(
                        f"the scheduler did not take this worker: {_reason(error)}",
                        where=str(address),
                    ) from error
            else:
                worker.edgemtl_folder, worker.edgemtl_store = folder, store
                joined = True
                offered = ", ".join(f"{k}={v:g}" for k, v in resources.items()) or "nothing"
                _log.info(f"worker '{name}' joined {address} with {offered}")
                await _first(leaving.wait(), worker.finished())
                end_all()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(worker.close(timeout=2, executor_wait=False), 5)
                if not leaving.is_set():
                    _log.info("lost the scheduler; looking for it again")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(leaving.wait(), _AGAIN_SECONDS)

    _run(serve())


async def _joined(
    address: FarmAddress, security: Any, folder: Path, name: str, resources: Mapping[str, float]
) -> Any:
    from distributed import Worker

    return await Worker(
        str(address),
        host=interface_towards(address),
        name=name,
        nthreads=1,
        resources=dict(resources),
        security=security,
        memory_limit=0,
        local_directory=str(folder),
        death_timeout=10,
        **_NO_PAGE,
    )


def interface_towards(address: FarmAddress) -> str:
    """This machine's own address on the way to a scheduler: where a worker of it listens.

    The loopback's for a scheduler on the loopback; no other interface is opened.

    Raises:
        OSError: there is no way to that host.
    """
    family, kind, protocol, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind, protocol) as towards:
        towards.connect(place)  # picks a route; a datagram socket sends nothing for that
        return str(towards.getsockname()[0])


def worker_name(device: str | None) -> str:
    """Name by default: a board's stays the same when it is started again."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()) or "worker"
    return f"{host}-{os.getpid()}" if device is None else f"{host}-{device}"


def _leaving() -> asyncio.Event:
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, event.set)
    return event


async def _first(*ones: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(one) for one in ones]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _run(work: Any) -> None:
    try:
        asyncio.run(work)
    except EdgemtlError:
        end_all()
        raise


def _reason(error: BaseException) -> str:
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    lines = str(inner).strip().splitlines()
    return lines[-1] if lines else type(inner).__name__


def _sweep(jobs: Path) -> None:
    """Remove what killed workers left."""
    import psutil

    for left in jobs.glob("*"):
        owner = left.name.partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
