"""A bundle measured over SSH: a real sshd on the loopback, with the cpu runtime as the device."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.command import edgemtl
from support.matrix import only
from support.tiny_bundle import make_contents

from edgemtl.bundle.write import write_bundle
from edgemtl.devices.ssh import FOLDER, Address, SshDevice
from edgemtl.errors import StageFailed, TargetUnavailable, UsageError
from edgemtl.files import sha256_file

SSHD = shutil.which("sshd") or (p if Path(p := "/usr/sbin/sshd").exists() else None)
LONG = ["--warm-up", "600"]
QUICK = ["--warm-up", "0", "--min-seconds", "0", "--min-runs", "30"]
SETTINGS = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host
AuthorizedKeysFile {root}/authorized
PidFile {root}/pid
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
ForceCommand cd {root}/home && exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
CLIENT = """\
Host *
  IdentityFile {root}/user
  IdentitiesOnly yes
  UserKnownHostsFile {root}/{known}
  GlobalKnownHostsFile /dev/null
"""


@dataclass(frozen=True)
class Server:
    """An sshd of our own; its home folder is ``root/home``."""

    root: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start it, and skip the test where it does not."""
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(
                [str(SSHD), "-D", "-e", "-f", str(self.root / "sshd_config")],
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.skip(f"sshd does not start: {(self.root / 'log').read_text('utf-8')[-200:]}")

    def stop(self) -> None:
        """Stop listening; connections that are open go on."""
        process = self.processes.pop()
        process.terminate()
        process.wait()

    def runs(self) -> list[Path]:
        """What runs have left in the home folder."""
        return sorted(self.place.glob("run-*"))

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def place(self) -> Path:
        return self.root / "home" / FOLDER

    def device(self, config: str = "config", patience: float = 60.0) -> SshDevice:
        return SshDevice(
            Address.parse(self.address), sys.executable, self.root / config, 0.2, patience
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd here (Debian: openssh-server)")
    root = tmp_path_factory.mktemp("sshd")
    (root / "home").mkdir()
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    shutil.copy(root / "user.pub", root / "authorized")
    host_key = (root / "host.pub").read_text("utf-8")
    (root / "known").write_text(f"[127.0.0.1]:{port} {host_key}", "utf-8")
    other = (root / "user.pub").read_text("utf-8")
    (root / "changed").write_text(f"[127.0.0.1]:{port} {other}", "utf-8")
    for config, known in (("config", "known"), ("stranger", "nobody"), ("imposter", "changed")):
        (root / config).write_text(CLIENT.format(root=root, known=known), "utf-8")
    (root / "sshd_config").write_text(SETTINGS.format(root=root, port=port), "utf-8")
    made = Server(root, port)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "net.edgemtl"
    write_bundle(path, make_contents(tmp_path / "contents"))
    return path


def test_copied_run_and_brought_back(server: Server, bundle: Path) -> None:
    run = server.device().bench(bundle, QUICK)
    assert run.results is not None
    assert run.exit_code == (0 if run.results["latency"]["stable"] else 9)
    assert run.results["latency"]["count"] == 30
    assert run.copied == bundle.stat().st_size
    # The bundle stays under its hash; nothing else does. It is not sent twice.
    name = f"{sha256_file(bundle)}.edgemtl"
    assert [path.name for path in server.place.iterdir()] == [name]
    assert server.device().bench(bundle, QUICK).copied == 0


def test_a_copy_that_was_cut_off_goes_on(server: Server, bundle: Path, tmp_path: Path) -> None:
    write_bundle(bundle, make_contents(tmp_path / "other", name="cut"))
    server.place.mkdir(parents=True, exist_ok=True)
    part = server.place / f"{sha256_file(bundle)}.edgemtl.part"
    part.write_bytes(bundle.read_bytes()[:1000])
    assert server.device().bench(bundle, QUICK).copied == bundle.stat().st_size - 1000


def test_a_damaged_part_is_sent_anew(server: Server, bundle: Path, tmp_path: Path) -> None:
    write_bundle(bundle, make_contents(tmp_path / "other", name="damaged"))
    server.place.mkdir(parents=True, exist_ok=True)
    part = server.place / f"{sha256_file(bundle)}.edgemtl.part"
    part.write_bytes(b"x" * 1000)
    run = server.device().bench(bundle, QUICK)
    assert run.copied == 2 * bundle.stat().st_size - 1000
    assert run.results is not None


@pytest.mark.parametrize("config", ["stranger", "imposter"])
def test_a_host_key_that_is_not_the_known_one(server: Server, bundle: Path, config: str) -> None:
    with pytest.raises(TargetUnavailable, match="host key"):
        server.device(config).bench(bundle, QUICK)


def test_the_runner_s_refusal_comes_back(server: Server, bundle: Path) -> None:
    run = server.device().bench(bundle, ["--min-runs", "0"])
    assert (run.exit_code, run.results) == (2, None)
    assert "--min-runs must be at least 1" in run.message


@pytest.mark.matrix  # a server that is started anew loses it, too
def test_a_lost_connection_is_taken_up_again(
    server: Server, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, seen = server.device(), [0]
    original = SshDevice._once

    def flaky(self: SshDevice, *arguments: object) -> bytes:
        seen[0] += 1
        answer = original(self, *arguments)  # type: ignore[arg-type]
        if seen[0] % 3 == 0:  # the device has done it, the answer is lost
            raise TargetUnavailable("Connection reset by peer")
        return answer

    monkeypatch.setattr(SshDevice, "_once", flaky)
    run = device.bench(bundle, QUICK)
    assert run.results is not None and run.results["latency"]["count"] == 30


def once_it_runs(server: Server, act: Callable[[int], None]) -> threading.Thread:
    """Call ``act`` with the number of the run's shell as soon as its runner works."""

    def wait() -> None:
        for _ in range(300):
            files = list(server.place.glob("run-*.pid"))
            text = files[0].read_text("ascii").strip() if files else ""
            if text and children(int(text)):
                act(int(text))
                return
            time.sleep(0.1)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def children(parent: int) -> list[int]:
    return [child.pid for child in psutil.Process(parent).children()]


def ended(pid: int) -> bool:
    """Whether it has ended, or does so soon."""
    try:
        process = psutil.Process(pid)
        for _ in range(100):
            if process.status() == psutil.STATUS_ZOMBIE:  # its parent has yet to ask how
                return True
            time.sleep(0.1)
    except psutil.NoSuchProcess:
        return True
    return False


def test_a_run_that_takes_too_long_is_ended(server: Server, bundle: Path) -> None:
    worker: list[int] = []
    thread = once_it_runs(server, lambda shell: worker.extend(children(shell)))
    with pytest.raises(StageFailed, match="took more than"):
        server.device().bench(bundle, LONG, limit_seconds=2.0)
    thread.join()
    assert server.runs() == []
    assert all(ended(pid) for pid in worker)


@pytest.mark.parametrize("victim", only(["runner"], ["runner", "shell"]))
def test_a_run_that_is_killed_is_noticed(server: Server, bundle: Path, victim: str) -> None:
    worker: list[int] = []

    def kill(shell: int) -> None:
        worker.extend(children(shell))
        os.kill(worker[0] if victim == "runner" else shell, signal.SIGKILL)

    thread = once_it_runs(server, kill)
    with pytest.raises(TargetUnavailable, match=r"by signal 9|was killed") as error:
        server.device().bench(bundle, LONG, limit_seconds=60.0)
    thread.join()
    assert int(error.value.exit_code) == 8
    assert server.runs() == []
    # What the shell left behind is ended, too.
    assert ended(worker[0])


def test_a_server_that_comes_back_is_found_again(server: Server, bundle: Path) -> None:
    def restart(shell: int) -> None:
        server.stop()
        time.sleep(0.3)
        server.start()

    thread = once_it_runs(server, restart)
    slow = ["--warm-up", "1.5", "--min-seconds", "0", "--min-runs", "30"]
    run = server.device().bench(bundle, slow)
    thread.join()
    assert run.results is not None and run.results["latency"]["count"] >= 30
    assert server.runs() == []


def test_a_server_that_does_not_come_back_is_exit_code_8(server: Server, bundle: Path) -> None:
    shells: list[int] = []

    def stop(shell: int) -> None:
        shells.append(shell)
        server.stop()

    thread = once_it_runs(server, stop)
    try:
        with pytest.raises(TargetUnavailable, match="refused") as error:
            server.device(patience=0.5).bench(bundle, LONG)
        assert int(error.value.exit_code) == 8
    finally:
        thread.join()
        os.killpg(shells[0], signal.SIGKILL)
        for path in server.runs():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        server.start()


def test_old_bundles_are_removed(server: Server, bundle: Path) -> None:
    server.place.mkdir(parents=True, exist_ok=True)
    old = server.place / f"{'0' * 64}.edgemtl"
    old.write_bytes(b"old")
    long_ago = time.time() - 40 * 86400
    os.utime(old, (long_ago, long_ago))
    server.device().bench(bundle, QUICK)
    assert not old.exists()
    assert (server.place / f"{sha256_file(bundle)}.edgemtl").exists()


def test_a_full_disk_is_told_and_leaves_nothing(
    server: Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(bundle, make_contents(tmp_path / "other", name="full"))
    original = SshDevice._once

    def full(self: SshDevice, command: str, stdin: Any = subprocess.DEVNULL) -> bytes:
        # /dev/full takes nothing, like a disk without room
        there = "; cat > /dev/full" if command.startswith("cat >") else ""
        return original(self, command.replace("cat >", "head -c 9 >") + there, stdin)

    monkeypatch.setattr(SshDevice, "_once", full)
    with pytest.raises(StageFailed, match="No space left"):
        server.device().bench(bundle, QUICK)
    assert list(server.place.glob("*.part")) == []


def test_a_connection_lost_for_good_is_exit_code_8(
    server: Server, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    gone = SshDevice(
        Address("127.0.0.1", getpass.getuser(), port),
        config=server.root / "config",
        pause_seconds=0.0,
    )
    with pytest.raises(TargetUnavailable, match="refused") as error:
        gone.bench(bundle, QUICK)
    assert int(error.value.exit_code) == 8


def test_the_verb(
    server: Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMTL_SSH_CONFIG", str(server.root / "config"))
    output = tmp_path / "results.json"
    told = edgemtl(
        "bench",
        bundle,
        f"--device={server.address}",
        f"--device-python={sys.executable}",
        "--min-runs=30",
        "--seconds=0.1",
        "--warmup-seconds=0",
        "-o",
        output,
    )
    assert told.code in (0, 9)
    assert json.loads(output.read_text("utf-8"))["latency"]["count"] >= 30


@pytest.mark.parametrize(
    "text",
    [
        "board",
        "ssh://",
        "ssh://u:secret@board",
        "ssh://-oProxyCommand=x",
        "ssh://board/x",
        "ssh://board:99999",
        "ssh://a;b@board",
        "http://board",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Address.parse(text)
    assert "secret" not in str(error.value)
