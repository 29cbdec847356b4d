"""Measure a bundle on a device over SSH, by the system's own OpenSSH client.

OpenSSH knows the user's keys, agents, jump hosts and known hosts; nothing of that is done again
here. A host whose key is not known is refused and nothing is ever asked on a terminal, so there is
no password to keep. The run is detached on the device: a connection that drops is taken up again,
and a run that is killed there is noticed at the next look.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgemtl.devices.results import MOST_BYTES, check_exit, parse_results, printable
from edgemtl.errors import ExitCode, StageFailed, TargetUnavailable, UsageError
from edgemtl.files import sha256_file
from edgemtl.processes import run_bounded

_log = logging.getLogger(__name__)

#: on the device, below its home folder; bundles stay there under their hash, so that none is
#: copied twice
FOLDER = ".cache/edgemtl/bundles"
#: exit code by which ssh tells its own failures
_SSH_FAILED = 255
#: a shell adds this to the number of the signal that ended a program
_SIGNALLED = 128
#: of a number that a device tells; no file and no code has more
_MOST_DIGITS = 15
#: copies that arrive damaged before giving up
_COPIES = 3
#: for the runner to leave its process number
_START_SECONDS = 15.0
#: a device that is lost is tried again for so long before what it holds is left behind
_LAST_SECONDS = 5.0
#: bundles that no run has used for so long are removed from the device
_KEPT_DAYS = 30
#: what a runner says on standard error
_MOST_SAID = 64 << 10
#: what any command on the device may answer: a little more than the largest file that is read
_MOST_ANSWER = MOST_BYTES + (1 << 20)
#: for one command without a file to send; ssh itself notices a dead connection within 15 s
_COMMAND_SECONDS = 120.0
#: a copy that moves fewer bytes a second than this is not going on
_SLOWEST_BYTES = 50_000
#: changes when the device is restarted: process numbers mean something else then
_BOOT = "/proc/sys/kernel/random/boot_id"
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
}


@dataclass(frozen=True)
class Address:
    """Where a device is: ``ssh://[user@]host[:port]``."""

    host: str
    user: str | None = None
    port: int | None = None

    @staticmethod
    def parse(text: str) -> Address:
        """Read an address.

        Raises:
            UsageError: not of that form, or with a password in it.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"not a device address: {error}", where=text) from error
        if parts.scheme != "ssh" or parts.path.strip("/") or parts.query or parts.fragment:
            raise UsageError("not a device address", where=text, hint="ssh://user@host[:port]")
        if parts.password is not None:
            raise UsageError(
                "a device address takes no password", hint="put a key on the device: ssh-copy-id"
            )
        # Neither may be read as an option or by a shell.
        for part in (parts.hostname or "", parts.username or "user"):
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._:-]*", part):
                raise UsageError("not a device address", hint="ssh://user@host[:port]")
        return Address(str(parts.hostname), parts.username, port)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{self.host}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class DeviceRun:
    """What the runner did on a device.

    Attributes:
        exit_code: of the runner.
        results: its JSON document; None when it stopped before it had one.
        message: its sentence on standard error, without "error:"; empty when all is well.
        copied: bytes of copies that came through; 0 when the bundle was there already.
    """

    exit_code: int
    results: dict[str, Any] | None
    message: str
    copied: int


class SshDevice:
    """A device and the commands sent to it.

    Args:
        address: where it is.
        python: the interpreter there that has the target's runtime.
        config: configuration file for OpenSSH instead of the user's own.
        pause_seconds: between two tries, and between two looks whether the run is over.
        patience_seconds: a device that was reached once and is lost is tried again for so long.
    """

    def __init__(
        self,
        address: Address,
        python: str = "python3",
        config: Path | None = None,
        pause_seconds: float = 1.0,
        patience_seconds: float = 60.0,
    ) -> None:
        self.address = address
        self._python = python
        self._config = config
        self._pause = pause_seconds
        self._patience = patience_seconds
        self._reached = False

    def bench(
        self,
        bundle: Path,
        arguments: Sequence[str],
        limit_seconds: float = 3600.0,
    ) -> DeviceRun:
        """Copy the bundle, run its runner, bring the results back, clean up.

        Args:
            bundle: checked by the runner there, byte by byte.
            arguments: of the runner's ``bench``.
            limit_seconds: the run is ended after that.

        Raises:
            TargetUnavailable: the device cannot be reached, its key is not known, the connection
                was lost for good, or the run was killed there.
            StageFailed: the copy arrives damaged, or the device has no room or no time left.
        """
        digest = sha256_file(bundle)
        copied = self._send(bundle, digest)
        job = f"run-{secrets.token_hex(8)}"
        try:
            self._start(digest, job, arguments)
            _log.info(f"running on {self.address}")
            code = self._wait(job, limit_seconds)
            results = self._read(f"{job}.json", MOST_BYTES)
            message = self._read(f"{job}.err", _MOST_SAID).decode("utf-8", "replace")
        finally:
            # Also after Ctrl-C: what was started there is ended, what was written is removed.
            with contextlib.suppress(TargetUnavailable, StageFailed):
                self._run(_clean_up(job), min(self._patience, _LAST_SECONDS))
        if _SIGNALLED < code < 256:
            raise TargetUnavailable(
                f"the runner was ended on the device by signal {code - _SIGNALLED}",
                where=str(self.address),
                hint="its memory may have run out: 'dmesg' there tells",
            )
        document = parse_results(results, str(self.address))
        check_exit(code, document, str(self.address))
        last = printable((message.strip().splitlines() or [""])[-1]).removeprefix("error: ")
        # A defect there is a run that failed, not a defect of the program that is here.
        told = int(ExitCode.STAGE_FAILED) if code == ExitCode.UNEXPECTED else code
        return DeviceRun(told, document, last or ("no reason told" if code else ""), copied)

    def _send(self, bundle: Path, digest: str) -> int:
        """Copy by hash, going on where an earlier copy stopped; returns the bytes sent."""
        size, sent, copies = bundle.stat().st_size, 0, 0
        name = f"{digest}.edgemtl"
        before, ends = 0, time.monotonic() + self._patience
        while True:
            state = self._run(
                f"umask 077; mkdir -p {FOLDER} && cd {FOLDER} && if [ -f {name} ]; then "
                f"touch {name}; echo whole; else cat {name}.part 2>/dev/null | wc -c; fi"
            )
            found = state.decode("ascii", "replace").strip()
            if found == "whole":
                return sent
            if copies == _COPIES:
                raise StageFailed("the copy on the device is damaged", where=str(self.address))
            held = _number(found) or 0
            offset = held if held <= size else 0
            if offset > before:  # an attempt that was cut off got somewhere
                before, ends = offset, time.monotonic() + self._patience
            _log.info(f"copying {size - offset:,} bytes to {self.address}")
            how = ">>" if offset else ">"
            try:
                with bundle.open("rb") as stream:
                    stream.seek(offset)
                    self._once(f"cat {how} {FOLDER}/{name}.part", stream)
            except TargetUnavailable:
                if time.monotonic() > ends:
                    raise
                time.sleep(self._pause)
                continue
            except StageFailed:
                # A full disk, say: what is there is of no use to a later copy.
                self._run(f"rm -f {FOLDER}/{name}.part")
                raise
            sent += size - offset
            copies += 1
            self._run(
                f"cd {FOLDER} && if echo '{digest}  {name}.part' | sha256sum -c >/dev/null 2>&1; "
                f"then mv -f {name}.part {name}; else rm -f {name}.part; fi"
            )

    def _start(self, digest: str, job: str, arguments: Sequence[str]) -> None:
        """Start the runner in a session of its own, which outlives the connection."""
        runner = shlex.join(
            [self._python, f"{digest}.edgemtl", "bench", "--output", f"{job}.json", *arguments]
        )
        script = (
            f"cat {_BOOT} > {job}.boot; echo $$ > {job}.pid; "
            # Given up before it began: its number was not there yet to be ended by.
            f"[ -d {job}.begun ] || {{ rm -f {job}.*; exit; }}; "
            f"{runner} > /dev/null 2> {job}.err; "
            f"echo $? > {job}.part; mv {job}.part {job}.code"
        )
        # Asked again after a lost answer it must not start twice: a folder is made only once.
        self._run(
            f"cd {FOLDER} && if mkdir {job}.begun 2>/dev/null; then "
            f"setsid sh -c {shlex.quote(script)} < /dev/null > /dev/null 2>&1 & fi"
        )

    def _wait(self, job: str, limit_seconds: float) -> int:
        """The runner's exit code, as soon as it is there."""
        # The shell that runs the runner bears the job's name: another process that was given its
        # number after a restart does not.
        look = (
            f"cd {FOLDER}; told() {{ cat {job}.code 2>/dev/null; }}; "
            f"if told; then :; elif [ ! -s {job}.pid ]; then echo starting; "
            f"elif grep -q {job} /proc/$(cat {job}.pid)/cmdline 2>/dev/null; then echo runs; "
            "else told || echo gone; fi"
        )
        began = time.monotonic()
        while (passed := time.monotonic() - began) < limit_seconds:
            state = self._run(look).decode("ascii", "replace").strip()
            if (code := _number(state)) is not None:
                return code
            if state not in ("runs", "starting", "gone"):
                raise StageFailed(
                    f"the device answered '{printable(state)[:40]}' when asked how the run goes",
                    where=str(self.address),
                )
            if state == "gone" or (state == "starting" and passed > _START_SECONDS):
                raise TargetUnavailable(
                    "the run was killed on the device, or the device was restarted",
                    where=str(self.address),
                    hint="its memory may have run out: 'dmesg' there tells",
                )
            time.sleep(self._pause)
        raise StageFailed(
            f"the run took more than {limit_seconds:.0f} s and was ended", where=str(self.address)
        )

    def _read(self, name: str, most_bytes: int) -> bytes:
        """The start of a file there; one byte more than allowed tells that it is too long."""
        return self._run(f"head -c {most_bytes + 1} {FOLDER}/{name} 2>/dev/null || true")

    def _run(self, command: str, patience_seconds: float | None = None) -> bytes:
        """Run a command that may be repeated; a lost connection is tried again."""
        patience = self._patience if patience_seconds is None else patience_seconds
        ends = time.monotonic() + patience
        while True:
            try:
                answer = self._once(command)
            except TargetUnavailable as error:
                final = "key" in error.message or "denied" in error.message
                if final or not self._reached or time.monotonic() > ends:
                    raise
                time.sleep(self._pause)
            else:
                self._reached = True
                return answer

    def _once(self, command: str, stdin: Any = subprocess.DEVNULL) -> bytes:
        options = [f"-o{key}={value}" for key, value in _OPTIONS.items()]
        if self._config is not None:
            options = ["-F", str(self._config), *options]
        if self.address.port is not None:
            options += ["-p", str(self.address.port)]
        if self.address.user is not None:
            options += ["-l", self.address.user]
        seconds = _COMMAND_SECONDS
        if stdin is not subprocess.DEVNULL:
            seconds += os.fstat(stdin.fileno()).st_size / _SLOWEST_BYTES
        try:
            done = run_bounded(
                ["ssh", *options, "--", self.address.host, command],
                seconds,
                _MOST_ANSWER,
                stdin,
                {**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError as error:
            raise TargetUnavailable(
                "there is no 'ssh' here", hint="install the OpenSSH client"
            ) from error
        if done.late:
            raise TargetUnavailable(
                f"the device did not answer within {seconds:.0f} s", where=str(self.address)
            )
        if done.too_much:
            raise StageFailed(
                f"the device answered more than {_MOST_ANSWER >> 20} MiB", where=str(self.address)
            )
        text = done.errors.decode("utf-8", "replace")
        last = printable((text.strip().splitlines() or ["no reason told"])[-1])
        if done.code == _SSH_FAILED:
            known = "Host key verification failed" in text
            raise TargetUnavailable(
                "the device's host key is not the known one" if known else last,
                where=str(self.address),
                hint="log in once with ssh and compare the key" if known else None,
            )
        if done.code:
            raise StageFailed(last, where=str(self.address))
        return done.answer


def _number(text: str) -> int | None:
    """A count or a code that a device told; None for anything else, a million digits included."""
    return int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else None


def _clean_up(job: str) -> str:
    """The command that ends a run, if it still runs, and removes what it and old runs left."""
    return (
        f"cd {FOLDER} && rm -rf {job}.begun && "
        f"if [ -s {job}.pid ] && [ ! -f {job}.code ] && "
        f'[ "$(cat {job}.boot)" = "$(cat {_BOOT})" ]; '
        f"then kill -s TERM -- -$(cat {job}.pid); fi; rm -rf {job}.*; "
        f"find . -name '*.edgemtl*' -mtime +{_KEPT_DAYS} -exec rm -f {{}} +"
    )
