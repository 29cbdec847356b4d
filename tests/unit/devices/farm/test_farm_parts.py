"""The parts of a farm that need no farm: addresses, certificates, files, programs, paths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from edgemtl.devices.farm import guard
from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.devices.farm.certificates import make_certificates
from edgemtl.devices.farm.client import Farm
from edgemtl.devices.farm.store import BLOCK, KEPT_DAYS, FileStore, plain_path
from edgemtl.devices.farm.work import FOLDER, PYTHON, Job, JobResult, Workspace, work
from edgemtl.errors import EdgemtlError, InputRefused, StageFailed, TargetUnavailable, UsageError
from edgemtl.files import sha256_file
from edgemtl.pipeline.farm.evaluating import FEWEST_IMAGES, _ranges
from edgemtl.pipeline.farm.members import offered, same_code
from edgemtl.pipeline.farm.shipping import Luggage, _files


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("tls://pi:8786", False),
        ("tls://[::1]:1", False),
        ("tls://10.0.0.1", False),
        ("tcp://127.0.0.1:8786", True),
        ("tcp://localhost", True),
    ],
)
def test_addresses_that_are_taken(text: str, plain: bool) -> None:
    address = FarmAddress.parse(text, plain)
    assert FarmAddress.parse(str(address), plain) == address
    assert address.port in (1, 8786)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("pi:8786", False),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://10.0.0.1:8786", True),
        ("tcp://example.org", True),
        ("tls://127.0.0.1", True),
        ("tls://user@pi", False),
        ("tls://pi/path", False),
        ("tls://pi:99999", False),
        ("tls://", False),
        ("ssh://pi", False),
    ],
)
def test_addresses_that_are_not(text: str, plain: bool) -> None:
    with pytest.raises(UsageError):
        FarmAddress.parse(text, plain)


def test_certificates_are_made_once_and_keys_are_private(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="the extra 'farm' is not installed")
    first = make_certificates(tmp_path, ["worker", "client"], days=1)
    assert {path.name for path in first} == {
        *("ca.pem", "ca-key.pem", "worker.pem", "worker-key.pem", "client.pem", "client-key.pem")
    }
    for path in first:
        assert path.stat().st_mode & 0o077 == 0 or not path.name.endswith("-key.pem")
    before = {path: path.read_bytes() for path in first}
    second = make_certificates(tmp_path, ["worker", "board-7"], days=1)
    assert {path.name for path in second} == {"board-7.pem", "board-7-key.pem"}
    assert {path: path.read_bytes() for path in first} == before
    with pytest.raises(UsageError):
        make_certificates(tmp_path, ["../worker"], days=1)
    for days in (0, 36_501, 10**12):
        with pytest.raises(UsageError, match="days"):
            make_certificates(tmp_path, ["worker"], days=days)
    (tmp_path / "ca-key.pem").write_text("not a key", "utf-8")
    with pytest.raises(InputRefused):
        make_certificates(tmp_path, ["another"], days=1)


def test_credentials_say_what_is_missing(tmp_path: Path) -> None:
    address = FarmAddress.parse("tls://pi")
    with pytest.raises(InputRefused, match=r"no ca\.pem"):
        Credentials.of(address, tmp_path, "worker")


def fill(store: FileStore, data: bytes, digest: str) -> None:
    store.take(digest, lambda _, offset: data[offset : offset + BLOCK])


def test_a_file_that_arrives_damaged_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"what was meant")
    digest = sha256_file(tmp_path / "source")
    store = FileStore(tmp_path / "store")
    with pytest.raises(StageFailed, match="damaged"):
        fill(store, b"what came", digest)
    assert not store.has(digest)
    assert [*(tmp_path / "store").rglob("*.part")] == []
    fill(store, b"what was meant", digest)
    assert store.lacking([digest, "0" * 64]) == ["0" * 64]
    assert store.read(digest, 5) == b"was meant"
    for bad in ("short", "../" + "0" * 61, "G" * 64):
        with pytest.raises(InputRefused):
            store.has(bad)
    with pytest.raises(StageFailed):
        store.append(digest, "no token", b"")


def test_files_that_nobody_used_for_long_go(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"old")
    store = FileStore(tmp_path / "store")
    digest = store.add(tmp_path / "source")
    long_ago = time.time() - (KEPT_DAYS + 1) * 86400
    os.utime(store.path(digest), (long_ago, long_ago))
    assert not FileStore(tmp_path / "store").has(digest)


@pytest.mark.parametrize("name", ["../up", "/absolute", "a/../../b", "", ".."])
def test_no_path_leaves_its_folder(name: str) -> None:
    with pytest.raises(InputRefused):
        plain_path(name)


def bench_in(folder: Path, lines: list[str]) -> Workspace:
    def nothing(digest: str, offset: int) -> bytes:
        raise InputRefused("not there", where=digest)

    store = FileStore(folder / "files")
    return Workspace(
        store, folder / "jobs", folder / "locks", nothing, lambda digest, path: None, lines.append
    )


def test_a_job_leaves_its_files_its_lines_and_no_folder(tmp_path: Path) -> None:
    lines: list[str] = []
    bench = bench_in(tmp_path, lines)
    (tmp_path / "word").write_text("hello", "utf-8")
    digest = bench.store.add(tmp_path / "word")
    text = "import sys; print(sys.argv[1]); open('out/copy', 'w').write(open('in/word').read())"
    job = Job("copy", (PYTHON, "-c", text, FOLDER), {"in/word": digest})
    result = work(job, "here", bench)
    assert result.problem() is None
    assert dict(result.files) == {"copy": digest}
    assert lines == [result.folder]
    assert not Path(result.folder).exists()
    assert JobResult.from_dict(result.to_dict(), result.name) == result


def test_a_job_whose_files_are_gone_says_so(tmp_path: Path) -> None:
    result = work(Job("lost", (PYTHON,), {"x": "0" * 64}), "here", bench_in(tmp_path, []))
    assert isinstance(result.error, InputRefused)
    assert JobResult.from_dict(result.to_dict(), result.name).error.__class__ is InputRefused


def test_a_device_is_held_until_the_last_program_has_ended(tmp_path: Path) -> None:
    bench = bench_in(tmp_path, [])
    spans: list[JobResult] = []

    def run() -> None:
        text = "import time; time.sleep(0.3)"
        spans.append(work(Job("b", (PYTHON, "-c", text), device="rpi4"), "here", bench))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = sorted(spans, key=lambda span: span.began)
    assert first.problem() is second.problem() is None
    assert first.ended <= second.began


def test_a_program_ends_with_whoever_holds_the_other_end() -> None:
    text = (
        "import subprocess, sys, time; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, guard.__file__, sys.executable, "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    below = psutil.Process(int(process.stdout.readline()))
    process.stdin.close()
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()
    deadline = time.monotonic() + 10
    while below.is_running() and below.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_crash_is_told_by_its_signal() -> None:
    told = JobResult("x", "one", exit_code=128 + signal.SIGSEGV, said="oops").problem()
    assert isinstance(told, StageFailed)
    assert "SIGSEGV" in told.message and "oops" in told.message


def test_what_machines_and_boards_offer() -> None:
    assert offered("rpi4", "pi-1") == {"device:rpi4": 1, "board:pi-1": 1}
    assert {same_code(), "backend:onnxruntime"} <= offered(None, "x").keys()
    for bad in ("", "a b", "a=1", "device:x"):
        with pytest.raises(UsageError):
            offered(bad, "x")


@pytest.mark.parametrize("lengths", [[1], [0, 5], [100], [7, 93], [1000, 8, 9], [3, 3, 3]])
@pytest.mark.parametrize("workers", [1, 3, 40])
def test_ranges_cover_every_image_once_and_in_order(lengths: list[int], workers: int) -> None:
    found = _ranges(lengths, workers)
    positions = [p for of_one in found for begin, end in of_one for p in range(begin, end)]
    assert positions == list(range(sum(lengths)))
    start = 0
    for length, of_one in zip(lengths, found, strict=True):
        assert (of_one[0][0], of_one[-1][1]) == (start, start + length)
        start += length
        assert len(of_one) == 1 or min(e - b for b, e in of_one) >= FEWEST_IMAGES


def test_only_the_splits_that_are_used_go_along(tmp_path: Path) -> None:
    for name in ("classes.json", "train/images/a.png", "val/images/b.png", "test/images/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "val" / "up").symlink_to(tmp_path)  # a circle ends
    found = _files(tmp_path, ["val", "val"])
    assert {"classes.json", "val/images/b.png"} <= found.keys()
    assert not {"train/images/a.png", "test/images/c.png"} & found.keys()
    assert _files(tmp_path, ["other"]).keys() >= {"train/images/a.png", "classes.json"}


def test_paths_of_a_worker_become_the_users() -> None:
    luggage = Luggage({}, {"inputs/model/m.pt": "my/m.pt", "inputs/0/Däta": "../Däta"})
    assert luggage.put_right("/job/inputs/model/m.pt: bad", "/job") == "my/m.pt: bad"
    assert luggage.put_right('"/job/inputs/0/D\\u00e4ta/val"', "/job") == '"../D\\u00e4ta/val"'
    assert luggage.put_right("/job/inputs/0/Däta", "/job") == "../Däta"


def test_errors_keep_their_class_and_exit_code_between_processes() -> None:
    from edgemtl.errors import as_data, from_data

    class Special(TargetUnavailable):
        pass

    error = Special("no", where="there", hint="go")
    back = from_data(as_data(error))
    assert type(back) is TargetUnavailable
    assert (back.message, back.where, back.hint) == ("no", "there", "go")
    assert type(from_data({"kind": "Unknown", "message": "x"})) is StageFailed
    assert issubclass(type(from_data(as_data(EdgemtlError("x")))), EdgemtlError)


def test_without_dask_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(TargetUnavailable) as refused:
        Farm(FarmAddress.parse("tcp://127.0.0.1:1", plain=True), Credentials(None)).__enter__()
    assert refused.value.exit_code == 8
    assert "edgemtl[farm]" in str(refused.value.hint)
