"""A farm on the loopback: a scheduler and workers in processes of their own, with TLS."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.devices.farm.certificates import make_certificates
from edgemtl.devices.farm.client import Farm
from edgemtl.devices.farm.work import FOLDER, PYTHON, Job
from support import doomed

SECONDS = 120.0


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait for it, and no longer than that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@dataclass
class Cluster:
    """Processes of one farm.

    Attributes:
        folder: certificates, files and logs.
        address: of the scheduler.
        members: name -> process.
        plain: without TLS.
        environment: variables that its members have, besides those of all tests.
    """

    folder: Path
    address: str = ""
    members: dict[str, BaseProcess] = field(default_factory=dict)
    plain: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def certificates(self) -> Path:
        """Their folder."""
        return self.folder / "certificates"

    def flags(self) -> list[object]:
        """The farm, for a verb."""
        proof = ["--without-tls"] if self.plain else ["--certificates", self.certificates]
        return ["--farm", self.address, *proof]

    def start(self) -> None:
        """Make certificates and start the scheduler on a free port."""
        if not self.plain:
            make_certificates(self.certificates, ["scheduler", "worker", "client"], days=1)
        self.start_scheduler("tcp://127.0.0.1:0" if self.plain else "tls://127.0.0.1:0")

    def start_scheduler(self, address: str) -> None:
        """Start it and note its address."""
        self._member("scheduler", ["scheduler", address])
        said = self.log("scheduler")
        wait_until(lambda: "scheduler at" in said.read_text("utf-8"))
        found = re.search(r"scheduler at ((?:tls|tcp)://\S+)", said.read_text("utf-8"))
        assert found is not None
        self.address = found[1]

    def join(self, name: str, device: str | None = None, wait: bool = True) -> None:
        """Start a worker."""
        as_board = [] if device is None else ["--device", device]
        self._member(name, ["worker", self.address, "--name", name, *as_board])
        if wait:
            self.joined(name)

    def joined(self, name: str) -> None:
        """Wait until a worker has joined."""
        wait_until(lambda: "joined" in self.log(name).read_text("utf-8"))

    def log(self, name: str) -> Path:
        """What a member said."""
        return self.folder / f"{name}.log"

    def _member(self, name: str, words: Sequence[object]) -> None:
        self.log(name).write_text("", "utf-8")
        proof = ["--without-tls"] if self.plain else ["--certificates", self.certificates]
        arguments = ["farm", *words, *proof]
        self.members[name] = doomed.start(
            arguments, self.folder / name, self.log(name), environment=self.environment
        )

    def kill(self, name: str) -> None:
        """``kill -9`` of a member; its jobs have process groups of their own."""
        process = self.members.pop(name)
        if process.is_alive():
            doomed.kill(process)

    def stop(self) -> None:
        """End all of them as Ctrl-C would."""
        for process in self.members.values():
            assert process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        for process in self.members.values():
            process.join(10)
            if process.is_alive():
                doomed.kill(process)

    def farm(self, patience_seconds: float = SECONDS) -> Farm:
        """A connection, to be entered."""
        address = FarmAddress.parse(self.address, self.plain)
        credentials = Credentials.of(address, self.certificates, "client")
        return Farm(address, credentials, patience_seconds)


def script(
    name: str,
    text: str,
    needs: Mapping[str, float],
    files: Mapping[str, str] | None = None,
    device: str | None = None,
) -> Job:
    """A job that runs a line of Python in its folder; it may write below ``out``."""
    return Job(name, (PYTHON, "-c", text, FOLDER), files or {}, needs, device)


def board(name: str, device: str) -> dict[str, float]:
    """What a job needs that is for one board."""
    return {f"device:{device}": 1.0, f"board:{name}": 1.0}


def note(place: Path, text: str) -> str:
    """Python that adds a line to a file in one write."""
    return (
        "import os; "
        f"h = os.open({json.dumps(str(place))}, os.O_WRONLY | os.O_CREAT | os.O_APPEND); "
        f"os.write(h, {json.dumps(text + chr(10))}.encode()); os.close(h)"
    )
