"""Nothing reaches for the network unless a device is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import offline
from support.dense_work import FACTORY, QUICK_BENCH, DenseWork

_PROGRAM = """
import sys
from edgemtl.cli.main import main
for words in sys.argv[1].split("\\n"):
    sys.argv = ["edgemtl", *words.split("\\t")]
    try:
        main()
    except SystemExit as leaving:
        print("left with", leaving.code)
"""


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Log of attempts, and the environment of a process that keeps it."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(offline.SITECUSTOMIZE, "utf-8")
    tests = Path(offline.__file__).parents[1]
    path = os.pathsep.join([str(tmp_path / "hook"), str(tests)])
    log = tmp_path / "network.log"
    return log, {
        **os.environ,
        "PYTHONPATH": path,
        offline.LOG: str(log),
        "EDGEMTL_CACHE": str(tmp_path / "cache"),
    }


def test_compile_verify_gate_and_report_stay_at_home(
    dense_work: DenseWork, tmp_path: Path, run: tuple[Path, dict[str, str]]
) -> None:
    log, environment = run
    out = tmp_path / "out"
    bundle = out / "bundle" / "dense-cpu.edgemtl"
    commands: list[list[object]] = [
        ["compile", *dense_work.flags(), "--target=cpu", *QUICK_BENCH, "-o", out],
        ["verify", bundle],
        ["gate", out, "--baseline", out],
        ["report", out],
        ["inspect", dense_work.model, "--factory", FACTORY],
        ["doctor"],
        ["targets"],
    ]
    words = "\n".join("\t".join(map(str, command)) for command in commands)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, words], env=environment, capture_output=True, text=True
    )
    assert bundle.is_file(), done.stderr
    assert done.stdout.count("left with 0") >= len(commands) - 1, done.stdout + done.stderr
    lines = log.read_text("utf-8").splitlines()
    assert lines.count("listening") >= 2  # the bench's worker is a process of its own
    assert [line for line in lines if line != "listening"] == []


def test_the_listener_hears(tmp_path: Path, run: tuple[Path, dict[str, str]]) -> None:
    log, environment = run
    program = (
        "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert any("socket.connect" in line for line in log.read_text("utf-8").splitlines())
