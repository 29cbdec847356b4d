"""What a worker does: lay out a job's files, run its program, keep what it leaves.

A job has no other effect than its result, so that it may be run again after a worker was lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from edgemtl.devices.farm import guard
from edgemtl.devices.farm.store import BLOCK, FileStore
from edgemtl.errors import EdgemtlError, StageFailed, TargetUnavailable, as_data, from_data
from edgemtl.files import as_told, sha256_file
from edgemtl.processes import environment

#: in a command: the interpreter of the worker, and the job's folder there
PYTHON, FOLDER = "{python}", "{folder}"
#: below the job's folder: what comes back
OUT = "out"
#: how much of a program's standard error comes back
TAIL_BYTES = 4000
#: for another program of this machine to leave a device
DEVICE_SECONDS = 900.0
_LOCK_PAUSE = 0.2
#: process groups of the programs that run now, to be ended with the worker
_RUNNING: set[int] = set()


@dataclass(frozen=True)
class Job:
    """A program to be run on a worker.

    Attributes:
        name: for people, in progress and errors.
        command: words of the command; ``{python}`` and ``{folder}`` in them are filled in.
        files: relative path in the job's folder -> SHA-256 of its contents.
        needs: resources; an amount of each is held while the job runs.
        device: the device that the job has for itself, or None.
        advice: the next step where no worker can take it.
    """

    name: str
    command: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    advice: str = ""


@dataclass(frozen=True)
class JobResult:
    """What came of a job.

    Attributes:
        name: of the job.
        worker: name of the worker; empty when none took it.
        folder: of the job, on that worker.
        exit_code: of the program.
        files: relative path below ``out`` -> SHA-256.
        said: the end of its standard error.
        began, ended: seconds since 1970 on the worker.
        error: what kept the job from being run, or its files from coming back.
    """

    name: str
    worker: str = ""
    folder: str = ""
    exit_code: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    said: str = ""
    began: float = 0.0
    ended: float = 0.0
    error: EdgemtlError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the way back."""
        error = None if self.error is None else as_data(self.error)
        return {**self.__dict__, "files": dict(self.files), "error": error}

    @staticmethod
    def from_dict(data: Any, name: str) -> JobResult:
        """Read :meth:`to_dict`, whatever a worker made of it.

        Args:
            data: what came back.
            name: of the job.

        Raises:
            StageFailed: it is no result, or another job's.
        """
        with from_worker(name):
            error = data["error"]
            made = JobResult(**{**data, "error": None if error is None else from_data(error)})
            texts = [made.name, made.worker, made.folder, made.said, *made.files]
            texts += made.files.values()
            numbers = (made.exit_code, made.began, made.ended)
            if made.name != name or not all(isinstance(one, str) for one in texts):
                raise ValueError("it is another job's, or holds something else than names")
            if not all(isinstance(one, int | float) for one in numbers):
                raise ValueError("it holds something else than numbers")
            return made

    def problem(self) -> EdgemtlError | None:
        """What a program that died without a result is told as; None where it ended by itself."""
        if self.error is not None or self.exit_code == 0:
            return self.error
        how = f"exit code {self.exit_code}"
        if self.exit_code > 128:
            with contextlib.suppress(ValueError):
                how = f"signal {signal.Signals(self.exit_code - 128).name}"
        said = f"; it said: {self.said[-600:].strip()}" if self.said.strip() else ""
        return StageFailed(f"the job ended with {how}{said}", where=f"{self.name} on {self.worker}")


@contextlib.contextmanager
def from_worker(where: str) -> Iterator[None]:
    """Around whatever reads what a worker sent, which may be anything.

    Raises:
        StageFailed: it is not what it should be.
    """
    try:
        yield
    except EdgemtlError:
        raise
    except Exception as error:  # each parser has kinds of its own
        kind = type(error).__name__
        raise StageFailed(
            f"what came from a worker is not readable: {kind}: {error}",
            where=where,
            hint="does it run this version, on a disk and in memory that are sound?",
        ) from error


@dataclass(frozen=True)
class Workspace:
    """Where a worker works: its files, and how it reaches those of the farm.

    Attributes:
        store: the worker's own files.
        jobs: folder of the jobs' folders.
        locks: folder of the locks of devices.
        get: a block of a file of the farm.
        keep: hand a file to the farm.
        say: a line for whoever asked for the job.
    """

    store: FileStore
    jobs: Path
    locks: Path
    get: Callable[[str, int], bytes]
    keep: Callable[[str, Path], None]
    say: Callable[[str], None]


def run_job(job: Mapping[str, Any], topic: str) -> dict[str, Any]:
    """The one function that Dask calls on a worker.

    Args:
        job: fields of :class:`Job`.
        topic: where lines of progress go.

    Returns:
        :class:`JobResult` as plain data; failures are in it and never raised, so that Dask runs a
        job again only when its worker was lost.
    """
    from distributed import get_worker

    worker = get_worker()
    workspace = workspace_of(
        worker, lambda line: worker.log_event(topic, {"job": job["name"], "line": line})
    )
    return work(Job(**job), str(worker.name), workspace).to_dict()


def workspace_of(worker: Any, say: Callable[[str], None]) -> Workspace:
    """Where this worker of Dask's works."""
    from distributed.utils import sync

    folder: Path = worker.edgemtl_folder

    def ask(handler: str, **fields: Any) -> Any:
        answer = sync(worker.loop, getattr(worker.scheduler, handler), **fields)
        return answer_of(answer)

    def keep(digest: str, path: Path) -> None:
        send(ask, digest, path)

    return Workspace(
        worker.edgemtl_store,
        folder / "jobs",
        folder.parent / "devices",
        lambda digest, offset: bytes(ask("edgemtl_get", digest=digest, offset=offset)),
        keep,
        say,
    )


def send(ask: Callable[..., Any], digest: str, path: Path) -> int:
    """Hand a file to the scheduler's store unless it has it; returns the bytes sent."""
    if not ask("edgemtl_lacking", digests=[digest]):
        return 0
    token, sent = ask("edgemtl_begin", digest=digest), 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            ask("edgemtl_append", digest=digest, token=token, block=block)
            sent += len(block)
    ask("edgemtl_finish", digest=digest, token=token)
    return sent


def answer_of(answer: Mapping[str, Any]) -> Any:
    """The value of an answer of the scheduler's store.

    Raises:
        EdgemtlError: it refused.
    """
    if "error" in answer:
        raise from_data(answer["error"])
    return answer["value"]


def work(job: Job, worker: str, workspace: Workspace) -> JobResult:
    """Run a job in a folder of its own, which is gone afterwards."""
    began, folder = time.time(), None
    try:
        folder = new_folder(workspace)
        lay_out(job, workspace, folder)
        (folder / OUT).mkdir(exist_ok=True)
        with _held(job.device, workspace.locks) as lock:
            began = time.time()
            code, said = _run(job, folder, lock, workspace.say)
            ended = time.time()
        files = {}
        for path in sorted(p for p in (folder / OUT).rglob("*") if p.is_file()):
            digest = sha256_file(path)
            workspace.keep(digest, path)
            files[path.relative_to(folder / OUT).as_posix()] = digest
        return JobResult(job.name, worker, str(folder), code, files, said, began, ended)
    except Exception as problem:
        error = as_told(problem)
        return JobResult(
            job.name, worker, str(folder or ""), began=began, ended=time.time(), error=error
        )
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def new_folder(workspace: Workspace) -> Path:
    """A folder for one job; a later worker sweeps it away if this one is killed."""
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=workspace.jobs)).resolve()


def lay_out(job: Job, workspace: Workspace, folder: Path) -> None:
    """Put a job's files into its folder; what the worker does not have comes from the farm."""
    for digest in set(job.files.values()):
        workspace.store.take(digest, workspace.get)
    workspace.store.lay_out(job.files, folder)


def start(
    job: Job, folder: Path, errors: IO[bytes], inherited: Sequence[int] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """Start a job's program under a guard that ends it with the worker.

    Args:
        job: with its files in ``folder``.
        folder: where it runs.
        errors: gets its standard error.
        inherited: open files that it has, too.
        options: of ``subprocess.Popen``.
    """
    words = [
        word.replace(PYTHON, sys.executable).replace(FOLDER, str(folder)) for word in job.command
    ]
    process = subprocess.Popen(
        [sys.executable, "-I", guard.__file__, *words],
        cwd=folder,
        stdin=subprocess.PIPE,
        stderr=errors,
        env=environment(),
        pass_fds=inherited,
        start_new_session=True,
        **options,
    )
    _RUNNING.add(process.pid)
    return process


def ended(process: subprocess.Popen[bytes], errors: IO[bytes]) -> tuple[int, str]:
    """Wait for the end of a program: exit code, and the end of its standard error."""
    code = process.wait()
    end(process)
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - TAIL_BYTES))
    said = errors.read().decode("utf-8", "replace")
    return (code if code >= 0 else 128 - code), said


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _RUNNING.discard(process.pid)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _run(job: Job, folder: Path, lock: int | None, say: Callable[[str], None]) -> tuple[int, str]:
    """Exit code, and the end of standard error."""
    with tempfile.TemporaryFile() as errors:
        inherited = () if lock is None else (lock,)
        process = start(job, folder, errors, inherited, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                say(line.decode("utf-8", "replace").rstrip())
        except BaseException:
            end(process)
            raise
        return ended(process, errors)


def end_all() -> None:
    """End the programs that run now; the worker is leaving."""
    for group in list(_RUNNING):
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


@contextlib.contextmanager
def _held(device: str | None, locks: Path) -> Iterator[int | None]:
    """The device for this job alone, whoever else on this machine wants it.

    The programs of the job hold it too: a worker that is killed leaves it locked until they have
    ended.

    Raises:
        TargetUnavailable: another program keeps it.
    """
    if device is None:
        yield None
        return
    locks.mkdir(parents=True, exist_ok=True)
    place = locks / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', device)}.lock"
    handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        ends = time.monotonic() + DEVICE_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise TargetUnavailable(
                        "the device is in use by another program", where=device
                    ) from None
                time.sleep(_LOCK_PAUSE)
        yield handle
    finally:
        os.close(handle)
