"""Questions to a program that stays on several workers; the workers' side is resident_worker.py."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from typing import Any

from edgemtl.devices.farm.client import Farm, given_up
from edgemtl.devices.farm.resident_worker import answer_question, end_program, key_of
from edgemtl.devices.farm.service import ALLOWED_FAILURES
from edgemtl.devices.farm.work import Job, from_worker
from edgemtl.errors import from_data

_LOOK_SECONDS = 1.0
#: for workers to end the programs that nobody needs any more
_CLOSING_SECONDS = 10.0


class ResidentProgram:
    """A job's program on every worker that can take the job.

    Args:
        farm: connected.
        job: see :func:`edgemtl.devices.farm.resident_worker.answer_question`; to an empty question
            its program answers anything.
    """

    def __init__(self, farm: Farm, job: Job) -> None:
        self.farm, self.job = farm, job
        self._present = self._look()
        self._width = max(1, len(self._present))
        #: slot -> address of the worker that is asked
        self._homes: dict[int, str] = {}
        self._used: set[str] = set()
        # All of them prepare themselves at once; what goes wrong comes again with the questions.
        self._greetings = [self.send(slot, b"") for slot in range(self._width)]

    @property
    def width(self) -> int:
        """How many questions are worked on at once: one per worker that was there at first."""
        return self._width

    def send(self, place: int, message: bytes) -> PendingAnswer:
        """Ask; questions of one place go to one worker while that is there."""
        return PendingAnswer(self, place % self._width, message)

    def close(self) -> None:
        """End the programs, as far as their workers are free to; the others leave by themselves."""
        for greeting in self._greetings:
            greeting.cancel()
        key = key_of(self.job)
        with contextlib.suppress(Exception):
            asked = [
                self.farm.submit(end_program, key, needs={}, worker=address)
                for address in self._used.intersection(self._look())
            ]
            ends = time.monotonic() + _CLOSING_SECONDS
            for future in asked:
                self.farm.wait(future, max(0.0, ends - time.monotonic()))
                future.cancel()

    def home(self, slot: int) -> str | None:
        """The worker of a slot; None where nobody is there."""
        if self._homes.get(slot) not in self._present:
            self._homes.pop(slot, None)
            if self._present:
                self._homes[slot] = self._present[slot % len(self._present)]
                self._used.add(self._homes[slot])
        return self._homes.get(slot)

    def present(self) -> list[str]:
        """Look who is there now."""
        self._present = self._look()
        return self._present

    def _look(self) -> list[str]:
        return [w.address for w in self.farm.workers() if w.offers(self.job.needs)]


class PendingAnswer:
    """A question that is on its way.

    Dask asks a worker that has the network and its outputs already; where that was lost, it is
    told of another.
    """

    def __init__(self, program: ResidentProgram, slot: int, message: bytes) -> None:
        self._program, self._slot, self._message = program, slot, message
        self._lost = 0
        self._submit()

    def _submit(self) -> None:
        program = self._program
        self._home = program.home(self._slot)
        self._future: Any = program.farm.submit(
            answer_question,
            asdict(program.job),
            self._message,
            needs=program.job.needs,
            worker=self._home,
        )

    def cancel(self) -> None:
        """The answer is not wanted any more."""
        with contextlib.suppress(Exception):
            self._future.cancel()

    def result(self) -> bytes:
        """Wait for the answer.

        Raises:
            StageFailed: too many workers were lost, or the program died.
            TargetUnavailable: nobody can take it for too long, or the scheduler was lost.
            EdgemtlError: what the program met.
        """
        program, since = self._program, None
        while not program.farm.wait(self._future, _LOOK_SECONDS):
            present = program.present()
            if present and self._home not in present:
                if self._home is not None:
                    self._lost += 1
                if self._lost > ALLOWED_FAILURES:
                    raise given_up(program.job)
                self.cancel()
                self._submit()
            now = time.monotonic()
            since = None if present else (since or now)
            if since is not None and now - since >= program.farm.patience:
                raise program.farm.nobody(program.job, self._home is not None)
        found = program.farm.outcome(program.job, self._future)
        with from_worker(program.job.name):
            if "error" in found:
                raise from_data(found["error"])
            return bytes(found["answer"])
