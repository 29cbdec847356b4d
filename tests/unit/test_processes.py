"""Python processes that this package starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgemtl.processes import environment, python_module, run_bounded


@pytest.mark.parametrize("module", ["pip", "edgemtl.cli.main"])
def test_a_file_of_the_current_folder_is_never_run(module: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    trap = f"open({str(marker)!r}, 'w').close()\n"
    (tmp_path / "pip.py").write_text(trap, "utf-8")
    (tmp_path / "edgemtl.py").write_text(trap, "utf-8")
    (tmp_path / "json.py").write_text(trap, "utf-8")
    subprocess.run(
        python_module(module, "--version"), cwd=tmp_path, env=environment(), capture_output=True
    )
    assert not marker.exists()
    # The trap works: without the flag it is run.
    command = [word for word in python_module(module, "--version") if word != "-P"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert marker.exists()


def test_a_command_that_keeps_its_limits_is_brought_back_whole() -> None:
    done = run_bounded(["sh", "-c", "printf answer; printf said >&2; exit 3"], 20, 6)
    assert (done.code, done.answer, done.errors) == (3, b"answer", b"said")
    assert not done.late and not done.too_much


def test_who_looks_closely_sees_what_is_started(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "edgemtl"):
        run_bounded(["true", "two words"], 20, 6)
    assert caplog.messages == ["running true 'two words'"]


def test_a_command_that_never_ends_is_ended() -> None:
    assert run_bounded(["sleep", "600"], 0.2, 10).late


def test_a_command_that_never_stops_talking_is_ended() -> None:
    done = run_bounded(["yes"], 60, 1000)
    assert done.too_much and not done.late
