"""A farm as seen by whoever gives it work."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.devices.farm.probe import probe
from edgemtl.devices.farm.service import ALLOWED_FAILURES, configure
from edgemtl.devices.farm.store import plain_path
from edgemtl.devices.farm.work import Job, JobResult, answer_of, run_job, send
from edgemtl.errors import EdgemtlError, StageFailed, TargetUnavailable
from edgemtl.files import sha256_file, write_atomically

_log = logging.getLogger(__name__)

#: a job that no worker can take is given up after so long
PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 0.05
#: digests per question
_MANY = 2000


@dataclass(frozen=True)
class WorkerFacts:
    """A worker as the scheduler knows it.

    Attributes:
        name: unique in the farm.
        address: where Dask reaches it.
        resources: what it offers, in all.
        busy: jobs that it has been given.
    """

    name: str
    address: str
    resources: Mapping[str, float]
    busy: int

    def offers(self, needs: Mapping[str, float]) -> bool:
        """Whether a job with these needs could run there."""
        return all(self.resources.get(key, 0) >= amount for key, amount in needs.items())


class Farm:
    """A connection to a scheduler; use as a context manager.

    Args:
        address: of the scheduler.
        credentials: of a client.
        patience_seconds: how long a job may wait while no worker could take it.

    Raises (on entering):
        TargetUnavailable: Dask is not installed, nobody is there, one end does not trust the
            other, or it is not a scheduler of ours.
    """

    def __init__(
        self,
        address: FarmAddress,
        credentials: Credentials,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.address = address
        #: bytes of files sent
        self.sent_bytes = 0
        self._credentials = credentials
        #: how long a job may wait while no worker could take it
        self.patience = patience_seconds
        self._client: Any = None
        self._topic = f"edgemtl-{secrets.token_hex(8)}"
        self._hear: Callable[[str, str], None] = lambda job, line: None

    def __enter__(self) -> Farm:
        configure()
        from distributed import Client

        probe(self.address, self._credentials)
        try:
            self._client = Client(
                str(self.address),
                security=self._credentials.security(),
                timeout=10,
                set_as_default=False,
            )
            self._client.subscribe_topic(self._topic, self._heard)
        except (OSError, ValueError, RuntimeError) as error:
            raise TargetUnavailable(
                f"the farm's scheduler does not answer: {error}", where=str(self.address)
            ) from error
        try:
            self._ask("edgemtl_lacking", digests=[])
        except TargetUnavailable:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close(timeout=2)

    def _heard(self, event: Any) -> None:
        with contextlib.suppress(TypeError, ValueError, KeyError):
            _, message = event
            self._hear(str(message["job"]), str(message["line"]))

    def _ask(self, handler: str, **fields: Any) -> Any:
        try:
            answer = self._client.sync(getattr(self._client.scheduler, handler), **fields)
        except EdgemtlError:
            raise
        except Exception as error:
            raise TargetUnavailable(
                f"what answers there is not a scheduler of EdgeMTL: {error}",
                where=str(self.address),
                hint="start it by 'edgemtl farm scheduler', in this version",
            ) from error
        return answer_of(answer)

    def workers(self) -> list[WorkerFacts]:
        """The workers that are there now, by name.

        Raises:
            TargetUnavailable: the scheduler was lost.
        """
        try:
            found = self._client.sync(self._client.scheduler.identity, n_workers=-1)["workers"]
        except Exception as error:
            raise self._lost() from error
        facts = []
        for address, worker in found.items():
            told = worker.get("metrics", {}).get("task_counts", {})
            busy = sum(n for state, n in told.items() if state in ("executing", "constrained"))
            facts.append(
                WorkerFacts(str(worker["name"]), address, dict(worker["resources"]), int(busy))
            )
        return sorted(facts, key=lambda worker: worker.name)

    def put(self, paths: Iterable[Path], quiet: bool = False) -> dict[Path, str]:
        """Hand files to the farm, each only if it is not there; returns their digests.

        Raises:
            StageFailed: the farm's disk is full.
            TargetUnavailable: the scheduler was lost.
        """
        digests = {path: sha256_file(path) for path in paths}
        by_digest = {digest: path for path, digest in digests.items()}
        known = list(by_digest)
        lacking: list[str] = []
        for start in range(0, len(known), _MANY):
            lacking += self._ask("edgemtl_lacking", digests=known[start : start + _MANY])
        if lacking and not quiet:
            size = sum(by_digest[digest].stat().st_size for digest in lacking)
            _log.info(f"sending {len(lacking)} file(s), {size:,} bytes, to {self.address}")
        for digest in lacking:
            self.sent_bytes += send(self._ask, digest, by_digest[digest])
        return digests

    def fetch(self, files: Mapping[str, str], folder: Path) -> None:
        """Write files, relative path -> digest, below a folder.

        Raises:
            InputRefused: a path that leaves the folder, or a file that is gone.
            StageFailed: what came is not what was announced, or the disk is full.
        """
        for name, digest in files.items():
            path = folder / plain_path(name)

            def write(stream: Any, digest: str = digest) -> None:
                offset = 0
                while block := bytes(self._ask("edgemtl_get", digest=digest, offset=offset)):
                    stream.write(block)
                    offset += len(block)

            write_atomically(path, write)
            if sha256_file(path) != digest:
                path.unlink()
                raise StageFailed("a file came back damaged", where=name)

    def run(
        self,
        jobs: Sequence[Job],
        done: Callable[[JobResult], None] = lambda result: None,
        hear: Callable[[str, str], None] = lambda job, line: None,
    ) -> list[JobResult]:
        """Run jobs, as many at once as there are workers for; results in their order.

        What a job could not do is in its result; it does not keep the others from ending.

        Args:
            jobs: what to run.
            done: called with each result as soon as it is there.
            hear: called with the name of a job and a line that it printed, in another thread.

        Raises:
            TargetUnavailable: the scheduler was lost.
        """
        self._hear = hear
        waiting, running = list(range(len(jobs))), dict[int, Any]()
        results: dict[int, JobResult] = {}
        since: dict[int, float] = {}
        workers, look = list[WorkerFacts](), 0.0

        def end(index: int, result: JobResult) -> None:
            results[index] = result
            done(result)

        try:
            while waiting or running:
                now = time.monotonic()
                if now >= look:
                    workers, look = self.workers(), now + _LOOK_SECONDS
                for index in [*waiting, *running]:
                    able = sum(worker.offers(jobs[index].needs) for worker in workers)
                    if able:
                        since.pop(index, None)
                    elif index not in since:
                        since[index] = now
                        _log.info(f"{jobs[index].name}: waiting for a worker that can take it")
                    elif now - since[index] >= self.patience:
                        problem = self.nobody(jobs[index], index in running)
                        end(index, JobResult(jobs[index].name, error=problem))
                        (waiting.remove if index in waiting else running.pop)(index)
                        continue
                    alike = sum(jobs[other].needs == jobs[index].needs for other in running)
                    # Dask hands jobs with needs out at once; one that is handed to a slow worker
                    # would stay with it, so no more are given than can begin.
                    if index in waiting and alike < able:
                        running[index] = self._submit(jobs[index])
                        waiting.remove(index)
                for index, future in list(running.items()):
                    if future.status != "pending":
                        del running[index]
                        end(index, self._result(jobs[index], future))
                time.sleep(_PAUSE_SECONDS)
        finally:
            if running:
                with contextlib.suppress(Exception):
                    self._client.cancel(list(running.values()), force=True)
            self._hear = lambda job, line: None
        return [results[index] for index in range(len(jobs))]

    def _submit(self, job: Job) -> Any:
        return self.submit(run_job, asdict(job), self._topic, needs=job.needs)

    def submit(
        self,
        call: Callable[..., Any],
        *arguments: Any,
        needs: Mapping[str, float],
        worker: str | None = None,
    ) -> Any:
        """Have Dask call a function of ours on a worker; returns Dask's future.

        Args:
            call: the function.
            arguments: for it.
            needs: resources that are held meanwhile.
            worker: address of the only one that may take it; None for any.
        """
        return self._client.submit(
            call,
            *arguments,
            key=f"edgemtl-{secrets.token_hex(12)}",
            resources=dict(needs),
            workers=None if worker is None else [worker],
            pure=False,
        )

    def wait(self, future: Any, seconds: float) -> bool:
        """Whether a future came to an end within so long."""
        from distributed import CancelledError, wait

        with self._client.as_current(), contextlib.suppress(TimeoutError, CancelledError):
            wait([future], timeout=seconds)
        return str(future.status) != "pending"

    def outcome(self, job: Job, future: Any) -> Any:
        """What the function of a future that came to an end returned.

        Raises:
            StageFailed: too many workers were lost meanwhile, or the worker failed.
            TargetUnavailable: the scheduler was lost.
        """
        if future.status == "finished":
            try:
                return future.result(timeout=30)
            except Exception as error:
                raise StageFailed(f"a result was lost: {error}") from error
        if future.status != "error":
            raise self._lost()
        from distributed import KilledWorker

        problem = future.exception(timeout=30)
        if isinstance(problem, KilledWorker):
            raise given_up(job) from problem
        raise StageFailed(f"the worker failed: {type(problem).__name__}: {problem}") from problem

    def _result(self, job: Job, future: Any) -> JobResult:
        try:
            return JobResult.from_dict(self.outcome(job, future), job.name)
        except StageFailed as error:
            return JobResult(job.name, error=error)

    def nobody(self, job: Job, began: bool) -> TargetUnavailable:
        """What a job is told that no worker can take for longer than anybody waits."""
        needs = ", ".join(job.needs) or "anything"
        said = "its worker was lost, and no other" if began else "no worker"
        return TargetUnavailable(
            f"{said} offers {needs} within {self.patience:g} s",
            where=f"{job.name} on {self.address}",
            hint=job.advice or f"'edgemtl farm status {self.address}' lists the workers",
        )

    def _lost(self) -> TargetUnavailable:
        return TargetUnavailable(
            "the connection to the farm's scheduler was lost",
            where=str(self.address),
            hint="run it again when the scheduler is back: what was finished is kept",
        )


def given_up(job: Job) -> StageFailed:
    """What a job comes to that lost too many workers."""
    return StageFailed(
        f"the job was given up: {ALLOWED_FAILURES + 1} workers were lost while it ran",
        where=job.name,
        hint="their memory may have run out, or a runtime may crash there",
    )
