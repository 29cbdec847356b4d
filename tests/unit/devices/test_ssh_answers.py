"""What a device may say while a run goes; a real connection is in tests/integration."""

from __future__ import annotations

from typing import Any

import pytest

from edgemtl.devices.ssh import Address, SshDevice
from edgemtl.errors import StageFailed, TargetUnavailable


def device(monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> SshDevice:
    """One that gives these answers in turn, whatever it is asked."""
    made = SshDevice(Address.parse("ssh://board"), "python3", None, 0.0, 1.0)
    left = iter(answers)

    def run(self: SshDevice, command: str, patience_seconds: float | None = None) -> Any:
        return next(left)

    monkeypatch.setattr(SshDevice, "_run", run)
    return made


def test_a_code_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device(monkeypatch, b"starting\n", b"runs\n", b"9\n")._wait("run-1", 60.0) == 9


@pytest.mark.parametrize("answer", [b"9" * 5000, b"-1", b"", b"\x1b[2J", b"1 2", b"\xff", b"no"])
def test_what_is_no_state_ends_the_run_at_once(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StageFailed, match="when asked how the run goes") as found:
        device(monkeypatch, answer)._wait("run-1", 60.0)
    assert found.value.message.isprintable() and len(found.value.message) < 200


def test_a_run_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetUnavailable, match="was killed"):
        device(monkeypatch, b"gone")._wait("run-1", 60.0)
