"""Programs that stay on a worker and answer questions: what is dear to prepare is prepared once.

Dask hands out the questions. A question names the job whose program answers it, so that every
worker can: one whose program is not there (any more) starts it. What a program remembers only saves
time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edgemtl.devices.farm import channel
from edgemtl.devices.farm.work import (
    Job,
    Workspace,
    end,
    ended,
    lay_out,
    new_folder,
    start,
    workspace_of,
)
from edgemtl.errors import StageFailed, as_data
from edgemtl.files import as_told

#: in a command: the number of the open socket that questions come from
CHANNEL = "{channel}"
#: programs of this worker by key; one at a time, for the sake of memory
_PROGRAMS: dict[str, _Program] = {}


def key_of(job: Job) -> str:
    """What tells one program from another."""
    return hashlib.sha256(json.dumps(asdict(job), sort_keys=True).encode()).hexdigest()


def answer_question(job: Mapping[str, Any], question: bytes) -> dict[str, Any]:
    """The function that Dask calls on a worker.

    Args:
        job: fields of :class:`Job`; its program answers questions on ``{channel}``.
        question: for it.

    Returns:
        ``answer``, or ``error``; nothing is raised, so that Dask asks again only when the worker
        was lost.
    """
    from distributed import get_worker

    worker = get_worker()
    try:
        workspace = workspace_of(worker, lambda line: None)
        return {"worker": str(worker.name), "answer": _answer(Job(**job), workspace, question)}
    except Exception as problem:
        return {"worker": str(worker.name), "error": as_data(as_told(problem))}


def end_program(key: str) -> None:
    """End a program that is not needed any more (called by Dask)."""
    program = _PROGRAMS.pop(key, None)
    if program is not None:
        program.end()


def _answer(job: Job, workspace: Workspace, question: bytes) -> bytes:
    key = key_of(job)
    for other in [other for other in _PROGRAMS if other != key]:
        end_program(other)
    if key in _PROGRAMS:
        answer = _PROGRAMS[key].ask(question)
        if answer is not None:
            return answer
        # It had nothing to do for long and left, or was ended when the scheduler was lost.
        end_program(key)
    program = _PROGRAMS[key] = _Program(job, workspace)
    answer = program.ask(question)
    if answer is None:
        del _PROGRAMS[key]
        raise program.problem()
    return answer


class _Program:
    """A program that runs.

    Args:
        job: its files and its command.
        workspace: where this worker works.
    """

    def __init__(self, job: Job, workspace: Workspace) -> None:
        self._job = job
        self._folder = new_folder(workspace)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        self._channel, theirs = socket.socketpair()
        try:
            lay_out(job, workspace, self._folder)
            number = theirs.fileno()
            words = [word.replace(CHANNEL, str(number)) for word in job.command]
            command = Job(job.name, words)
            self._process = start(
                command, self._folder, self._errors, (number,), stdout=subprocess.DEVNULL
            )
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()

    def ask(self, question: bytes) -> bytes | None:
        """The answer; None where the program is gone."""
        return channel.ask(self._channel, question)

    def problem(self) -> StageFailed:
        """What a program that is gone died of."""
        code, said = ended(self._process, self._errors)
        self._close()
        last = f"; it said: {said[-600:].strip()}" if said.strip() else ""
        return StageFailed(f"a program ended with exit code {code}{last}", where=self._job.name)

    def end(self) -> None:
        """End it, and remove its folder."""
        end(self._process)
        self._close()

    def _close(self) -> None:
        self._channel.close()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)
