"""Nothing reaches for the network unless a device is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
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


def _listener(folder: Path) -> dict[str, str]:
    """What makes a process and its children tell what their C and C++ libraries do as well."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is missing: what C++ libraries do cannot be heard")
    source = Path(offline.__file__).with_name("network_listener.c")
    library = folder / "liblistener.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True
    )
    return {"LD_PRELOAD": str(library)}


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Log of attempts, and the environment of a process that keeps it."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(offline.SITECUSTOMIZE, "utf-8")
    tests = Path(offline.__file__).parents[1]
    path = os.pathsep.join([str(tmp_path / "hook"), str(tests)])
    log = tmp_path / "network.log"
    (tmp_path / "home").mkdir()
    inherited = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    return log, {
        **inherited,
        **_listener(tmp_path),
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "home" / ".cache"),
        "PYTHONPATH": path,
        offline.LOG: str(log),
        "EDGEMTL_CACHE": str(tmp_path / "cache"),
    }


def _run(
    commands: list[list[object]], run: tuple[Path, dict[str, str]]
) -> subprocess.CompletedProcess[str]:
    """Run verbs one after the other in a process that is listened to."""
    words = "\n".join("\t".join(map(str, command)) for command in commands)
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, words], env=run[1], capture_output=True, text=True
    )


def test_compile_verify_gate_and_report_stay_at_home(
    dense_work: DenseWork, tmp_path: Path, run: tuple[Path, dict[str, str]]
) -> None:
    log, _ = run
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
    done = _run(commands, run)
    assert bundle.is_file(), done.stderr
    assert done.stdout.count("left with 0") >= len(commands) - 1, done.stdout + done.stderr
    lines = log.read_text("utf-8").splitlines()
    assert lines.count("listening") >= 2  # the bench's worker is a process of its own
    assert [line for line in lines if line != "listening"] == []
    # Where a runtime queues what it would tell its maker.
    assert not list((tmp_path / "home").rglob("*onnxruntime*"))


def test_the_runner_in_a_bundle_tells_nobody(
    dense_work: DenseWork, tmp_path: Path, run: tuple[Path, dict[str, str]]
) -> None:
    log, environment = run
    out = tmp_path / "out"
    _run([["compile", *dense_work.flags(), "--target=cpu", *QUICK_BENCH, "-o", out]], run)
    bundle = out / "bundle" / "dense-cpu.edgemtl"
    with zipfile.ZipFile(bundle) as files:
        files.extract("runner.pyz", tmp_path)
    log.unlink()
    done = subprocess.run(
        [sys.executable, str(tmp_path / "runner.pyz"), "verify", "--bundle", str(bundle)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert log.read_text("utf-8").split() == ["listening"]
    assert not list((tmp_path / "home").rglob("*onnxruntime*"))


def test_the_listener_hears(tmp_path: Path, run: tuple[Path, dict[str, str]]) -> None:
    log, environment = run
    program = (
        "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    lines = log.read_text("utf-8").splitlines()
    assert any("socket.connect" in line for line in lines)
    assert any("native connect" in line for line in lines)
