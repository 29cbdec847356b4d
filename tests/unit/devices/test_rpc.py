"""Measuring on TVM's servers: addresses, and a server and a tracker on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.tvm.child import environment
from edgemtl.devices import rpc
from edgemtl.devices.rpc import RpcAddress, RpcJob
from edgemtl.errors import TargetUnavailable, UsageError

TVM = registry.get("tvm")
SCHEME = "tvm-rpc"
IMAGES = np.random.default_rng(0).standard_normal((2, 1, 3, 4, 4)).astype(np.float32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens there."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("it does not listen")


def started(module: str, port: int, *more: str) -> subprocess.Popen[bytes]:
    program = (
        f"import sys; sys.modules['torch'] = None; import runpy; runpy.run_module('{module}', "
    )
    program += "run_name='__main__', alter_sys=True)"
    ports = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    return subprocess.Popen(
        [sys.executable, "-c", program, *ports, *more],
        env=environment(1),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import onnx
    from onnx import TensorProto, helper

    backend = registry.get("tvm")
    if not backend.availability().ok:
        pytest.skip(backend.availability().reason)
    if util.find_spec("tornado") is None or util.find_spec("cloudpickle") is None:
        pytest.skip("TVM's server needs the packages 'tornado' and 'cloudpickle'")
    place = tmp_path_factory.mktemp("rpc")
    shape = list(IMAGES.shape[1:])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("in", "out")]
    graph = helper.make_graph([helper.make_node("Relu", ["in"], ["out"])], "g", *zip(values))
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), place / "relu.onnx")
    (place / "out").mkdir()
    backend.compile(place / "relu.onnx", targets.load("tvm-x86"), place / "out")
    return place / "out" / "model.so"


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    port = free_port()
    process = started("tvm.exec.rpc_server", port)
    try:
        listens(port, process)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def steps(folder: Path) -> bytes:
    """What the clients that work below a folder have reached."""
    found = b""
    for path in folder.glob("edgemtl-*/step"):
        with contextlib.suppress(OSError):
            found += path.read_bytes()
    return found


def job(library: Path, expected: np.ndarray | None = None, runs: int = 30) -> RpcJob:
    wanted = np.maximum(IMAGES, 0) if expected is None else expected
    return RpcJob(library, IMAGES, {"out": wanted}, {"out": 1e-6}, {}, 1, 0.0, 0.0, runs)


def test_an_address_leads_to_the_backend_whose_server_it_is() -> None:
    found = registry.with_server("tvm-rpc://board:9090")
    assert found is not None and found.name == "tvm"
    assert registry.with_server("ssh://board") is None
    for name in set(registry.names()) - {"tvm"}:
        with pytest.raises(NotImplementedError, match="has no server"):
            registry.get(name).ask_server({}, 1.0)


def test_addresses_are_read() -> None:
    assert RpcAddress.parse("tvm-rpc://board:9090", SCHEME) == RpcAddress(SCHEME, "board", 9090)
    tracked = RpcAddress.parse("tvm-rpc://farm.local:9190?key=rpi4", SCHEME)
    assert tracked == RpcAddress(SCHEME, "farm.local", 9190, "rpi4")
    assert RpcAddress.parse(str(tracked), SCHEME) == tracked


@pytest.mark.parametrize(
    "text",
    [
        "tvm-rpc://board",
        "tvm-rpc://board:99999",
        "tvm-rpc://me@board:1",
        "tvm-rpc://board:1/x",
        "tvm-rpc://board:1?key=a b",
        "tvm-rpc://board:1?other=a",
        "tvm-rpc://board:1?key",
        "tvm-rpc://-o:1",
        "ssh://board:1",
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        RpcAddress.parse(text, SCHEME)


def test_a_network_is_checked_and_timed_on_a_server(server: int, library: Path) -> None:
    address = RpcAddress(SCHEME, "127.0.0.1", server)
    run = rpc.bench(TVM, address, job(library))
    assert run.results is not None and run.results["selftest"]["passed"]
    assert run.results["latency"]["count"] >= 30 and run.results["latency"]["clock"] == "server"
    wrong = rpc.bench(TVM, address, job(library, IMAGES))
    assert wrong.exit_code == 10 and "out" in wrong.message
    assert wrong.results is not None and "latency" not in wrong.results


def test_the_client_accepts_connections_nowhere(server: int, library: Path) -> None:
    ended, looked, listening = threading.Event(), set[int](), list[object]()

    def look() -> None:
        while not ended.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "edgemtl.backends.tvm.remote" in child.cmdline():
                        looked.add(child.pid)
                        listening.extend(
                            found
                            for found in child.net_connections("inet")
                            if found.status == psutil.CONN_LISTEN
                        )

    thread = threading.Thread(target=look)
    thread.start()
    rpc.bench(TVM, RpcAddress(SCHEME, "127.0.0.1", server), job(library))
    ended.set()
    thread.join()
    assert looked and listening == []


def test_a_tracker_gives_a_board_by_name_and_a_lost_one_is_told(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    port, at = free_port(), free_port()
    tracker = started("tvm.exec.rpc_tracker", port)
    board = None
    try:
        listens(port, tracker)
        board = started(
            "tvm.exec.rpc_server", at, "--tracker", f"127.0.0.1:{port}", "--key", "rpi4"
        )
        listens(at, board)
        run = rpc.bench(TVM, RpcAddress(SCHEME, "127.0.0.1", port, "rpi4"), job(library))
        assert run.results is not None and run.results["selftest"]["passed"]
        with pytest.raises(TargetUnavailable, match="no board 'other' became free"):
            other = RpcAddress(SCHEME, "127.0.0.1", port, "other")
            rpc.bench(TVM, other, job(library, runs=1), 4.0)
        # The board is switched off while it measures.
        lost = board
        long = dataclasses.replace(job(library), min_seconds=300.0)
        cut = threading.Timer(0.3, lambda: os.killpg(lost.pid, signal.SIGKILL))

        def connected(seconds: float) -> None:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends and b"running" not in steps(tmp_path):
                time.sleep(0.1)
            cut.start()

        watch = threading.Thread(target=connected, args=(60.0,))
        watch.start()
        began = time.monotonic()
        with pytest.raises(TargetUnavailable, match="the TVM server was lost while running"):
            rpc.bench(TVM, RpcAddress(SCHEME, "127.0.0.1", port, "rpi4"), long)
        assert time.monotonic() - began < 200
        watch.join()
    finally:
        for process in (tracker, board):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_no_server_is_told_at_once(library: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TargetUnavailable, match=r"no TVM server or tracker: .*refused"):
        rpc.bench(TVM, RpcAddress(SCHEME, "127.0.0.1", free_port()), job(library))
    assert time.monotonic() - began < 60  # TVM itself would try for longer than the time limit


def test_a_server_that_says_nothing_is_given_up(library: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = RpcAddress(SCHEME, "127.0.0.1", silent.getsockname()[1])
        with pytest.raises(TargetUnavailable, match="no TVM server or tracker"):
            rpc.bench(TVM, address, job(library, runs=1), 4.0)
