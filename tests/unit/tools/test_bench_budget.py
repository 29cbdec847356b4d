"""The budget tool: what it measures, and what it makes of limits and failures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import bench_budget  # noqa: E402 - lies in tools/
from bench_budget import Measured, Row, measure  # noqa: E402

HUNDRED_MB = "import time; block = bytearray(100_000_000); time.sleep(0.6)"


def test_seconds_memory_and_exit_code_are_those_of_the_process(tmp_path: Path) -> None:
    program = f"{HUNDRED_MB}; import sys; print('done', file=sys.stderr); sys.exit(7)"
    run = measure([sys.executable, "-c", program], tmp_path)
    assert run.seconds >= 0.6
    assert run.peak_bytes > 100e6
    assert (run.code, run.said.strip()) == (7, "done")


def test_memory_of_processes_that_it_starts_counts(tmp_path: Path) -> None:
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{HUNDRED_MB}'])"
    assert measure([sys.executable, "-c", program], tmp_path).peak_bytes > 100e6


def test_the_environment_reaches_it(tmp_path: Path) -> None:
    program = "import os, sys; sys.exit(int(os.environ['CODE']))"
    assert measure([sys.executable, "-c", program], tmp_path, {"CODE": "5"}).code == 5


def test_rows_are_over_or_not() -> None:
    assert Row("a", 0.5, 0.5, "s").ok and not Row("a", 0.51, 0.5, "s").ok
    assert str(Row("a", 1.0, 2.0, "s")).endswith("ok")
    assert str(Row("a", 3.0, 2.0, "GB")).endswith("OVER")


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Measured]:
    """Verb -> what measuring it gives; all within their limits."""
    found = {
        "--help": Measured(0.3, 1e8, 0, ""),
        "inspect": Measured(3.0, 1e8, 0, ""),
        "compile": Measured(40.0, 2e9, 0, ""),
        "jetson": Measured(41.0, 2e9, 8, ""),
    }

    def pretend(command: list[object], folder: Path, environment: object = None) -> Measured:
        return found["jetson" if "jetson" in command else str(command[1])]

    pruned = tmp_path / "pruned.pt"
    pruned.write_bytes(b"pruned")
    monkeypatch.setattr(bench_budget, "PRUNED", pruned)

    monkeypatch.setattr(bench_budget, "measure", pretend)
    monkeypatch.setattr(sys, "argv", ["bench_budget.py", "--repeats=2"])
    return found


def test_all_within_their_limits(
    pretended: dict[str, Measured], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_budget.main() == 0
    told = capsys.readouterr().out
    assert told.count("  ok") == 6 and "OVER" not in told


@pytest.mark.parametrize(
    ("verb", "run"),
    [
        ("--help", Measured(0.6, 0, 0, "")),
        ("inspect", Measured(5.1, 0, 0, "")),
        ("compile", Measured(61.0, 0, 0, "")),
        ("compile", Measured(1.0, 3.1e9, 0, "")),
        ("jetson", Measured(61.0, 0, 8, "")),
    ],
)
def test_one_over_its_limit(
    pretended: dict[str, Measured],
    capsys: pytest.CaptureFixture[str],
    verb: str,
    run: Measured,
) -> None:
    pretended[verb] = run
    assert bench_budget.main() == 1
    told = capsys.readouterr().out
    assert told.count("OVER") == 1 and told.count("  ok") == 5


def test_a_command_that_does_not_work_is_no_figure(
    pretended: dict[str, Measured], capsys: pytest.CaptureFixture[str]
) -> None:
    pretended["compile"] = Measured(1.0, 0, 4, "error: no")
    assert bench_budget.main() == 1
    told = capsys.readouterr()
    assert "left with 4" in told.err and "error: no" in told.err and "ok" not in told.out
    # Gates that could not be judged are no failure for a Jetson, but one for this machine.
    pretended["compile"] = Measured(1.0, 0, 8, "")
    assert bench_budget.main() == 1


def test_the_smaller_network_stands_in_and_it_says_so(
    pretended: dict[str, Measured],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = tmp_path / "gone.pt"
    monkeypatch.setattr(bench_budget, "MODEL", gone)
    monkeypatch.setattr(sys, "argv", ["bench_budget.py", "--repeats=1", "--model", str(gone)])
    assert bench_budget.main() == 0
    told = capsys.readouterr().out
    assert "mos_t.pt stands in" in told and "inspect mos_t.pt" in told
