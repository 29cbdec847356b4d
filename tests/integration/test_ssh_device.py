"""A bundle measured over SSH: a real sshd on the loopback, with the cpu runtime as the device."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command import edgemtl

from edgemtl.devices.ssh import FOLDER, Address, SshDevice
from edgemtl.errors import TargetUnavailable, UsageError
from edgemtl.files import sha256_file

sys.path.append(str(Path(__file__).parent.parent / "unit" / "bundle"))
from tiny_bundle import make_contents

from edgemtl.bundle.write import write_bundle

SSHD = shutil.which("sshd") or (p if Path(p := "/usr/sbin/sshd").exists() else None)
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

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def place(self) -> Path:
        return self.root / "home" / FOLDER

    def device(self, config: str = "config") -> SshDevice:
        return SshDevice(
            Address.parse(self.address), sys.executable, self.root / config, pause_seconds=0.2
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
    log = (root / "log").open("wb")
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(root / "sshd_config")], stdout=log, stderr=log
    )
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        if process.poll() is not None:
            break
        time.sleep(0.1)
    if process.poll() is not None:
        pytest.skip(f"sshd does not start: {(root / 'log').read_text('utf-8').strip()[-200:]}")
    yield Server(root, port)
    process.terminate()
    process.wait()
    log.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "net.edgemtl"
    write_bundle(path, make_contents(tmp_path / "contents"))
    return path


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def test_copied_run_and_brought_back(server: Server, bundle: Path) -> None:
    run = server.device().bench(bundle, QUICK, quiet)
    assert run.results is not None
    assert run.exit_code == (0 if run.results["latency"]["stable"] else 9)
    assert run.results["latency"]["count"] == 30
    assert run.copied == bundle.stat().st_size
    # The bundle stays under its hash; nothing else does. It is not sent twice.
    name = f"{sha256_file(bundle)}.edgemtl"
    assert [path.name for path in server.place.iterdir()] == [name]
    assert server.device().bench(bundle, QUICK, quiet).copied == 0


def test_a_copy_that_was_cut_off_goes_on(server: Server, bundle: Path, tmp_path: Path) -> None:
    write_bundle(bundle, make_contents(tmp_path / "other", name="cut"))
    server.place.mkdir(parents=True, exist_ok=True)
    part = server.place / f"{sha256_file(bundle)}.edgemtl.part"
    part.write_bytes(bundle.read_bytes()[:1000])
    assert server.device().bench(bundle, QUICK, quiet).copied == bundle.stat().st_size - 1000


def test_a_damaged_part_is_sent_anew(server: Server, bundle: Path, tmp_path: Path) -> None:
    write_bundle(bundle, make_contents(tmp_path / "other", name="damaged"))
    server.place.mkdir(parents=True, exist_ok=True)
    part = server.place / f"{sha256_file(bundle)}.edgemtl.part"
    part.write_bytes(b"x" * 1000)
    run = server.device().bench(bundle, QUICK, quiet)
    assert run.copied == 2 * bundle.stat().st_size - 1000
    assert run.results is not None


@pytest.mark.parametrize("config", ["stranger", "imposter"])
def test_a_host_key_that_is_not_the_known_one(server: Server, bundle: Path, config: str) -> None:
    with pytest.raises(TargetUnavailable, match="host key"):
        server.device(config).bench(bundle, QUICK, quiet)


def test_the_runner_s_refusal_comes_back(server: Server, bundle: Path) -> None:
    run = server.device().bench(bundle, ["--min-runs", "0"], quiet)
    assert (run.exit_code, run.results) == (2, None)
    assert "--min-runs must be at least 1" in run.message


def test_a_run_that_takes_too_long_is_ended(server: Server, bundle: Path) -> None:
    from edgemtl.errors import StageFailed

    with pytest.raises(StageFailed, match="took more than"):
        server.device().bench(bundle, ["--min-seconds", "600"], quiet, limit_seconds=1.0)
    assert [path.suffix for path in server.place.iterdir()] == [".edgemtl"] * len(
        list(server.place.iterdir())
    )


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
    run = device.bench(bundle, QUICK, quiet)
    assert run.results is not None and run.results["latency"]["count"] == 30


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
        gone.bench(bundle, QUICK, quiet)
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
