"""Compile, evaluate and bench on a farm of processes on the loopback, with TLS."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.command import Told, edgemtl
from support.dense_work import FACTORY, NO_BENCH, DenseWork, write_dense_work
from support.farm import Cluster, board, note, script, wait_until
from support.small_graphs import write_two_convolutions

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.processor import processor_name
from edgemtl.backends.tvm.schedule.tuned import key_of
from edgemtl.backends.tvm.tuner import options_here
from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.devices.farm.certificates import make_certificates
from edgemtl.devices.farm.resident_client import ResidentProgram
from edgemtl.devices.farm.resident_worker import CHANNEL
from edgemtl.devices.farm.service import ALLOWED_FAILURES, interface_towards
from edgemtl.devices.farm.work import PYTHON, Job, JobResult
from edgemtl.errors import InputRefused, StageFailed, TargetUnavailable, UsageError
from edgemtl.pipeline.farm.members import same_code
from edgemtl.pipeline.tuning import Log, read_records

pytest.importorskip("distributed", reason="the extra 'farm' is not installed")
pytest.importorskip("cryptography", reason="the extra 'farm' is not installed")

QUICK = ("--seconds=0.1", "--warmup-seconds=0", "--min-runs=20")
#: of jobs that any worker for compiling takes
ANY = {same_code(): 1.0}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers, and two boards that are an rpi4 and a jetson."""
    found = Cluster(tmp_path_factory.mktemp("farm"))
    found.start()
    try:
        boards = {"pi": "rpi4", "orin": "jetson"}
        for name in ("one", "two", *boards):
            found.join(name, boards.get(name), wait=False)
        for name in ("one", "two", *boards):
            found.joined(name)
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"), images=17)


@pytest.fixture(scope="module")
def local(work: DenseWork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one machine."""
    output = tmp_path_factory.mktemp("local") / "cpu"
    told = edgemtl("compile", *work.flags(), "--target=cpu", *NO_BENCH, "-o", output)
    assert told.code == 0, told.err
    return output


def test_a_killed_worker_loses_nothing_and_the_bundle_is_that_of_one_machine(
    cluster: Cluster, work: DenseWork, local: Path, tmp_path: Path
) -> None:
    told: list[Told] = []

    def run() -> None:
        flags = ["--target=cpu", *NO_BENCH, "-o", tmp_path / "out"]
        told.append(edgemtl("compile", *work.flags(), *flags, *cluster.flags()))

    thread = threading.Thread(target=run)
    thread.start()
    jobs = {cluster.folder / name / "farm" / "worker" / "jobs": name for name in ("one", "two")}

    def begun() -> list[Path]:
        return [folder for folder in jobs if [*folder.glob("*/out/run/*/stages/01-model")]]

    wait_until(begun)
    (folder,) = begun()
    words = {p: " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])}
    (program,) = [p for p, said in words.items() if f"{folder}/" in said and "guard.py" not in said]
    cluster.kill(jobs[folder])
    wait_until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE)
    thread.join()
    (found,) = told
    assert found.code == 0, found.err

    bundle = Path("bundle", "dense-cpu.edgemtl")
    out, other = tmp_path / "out", "two" if jobs[folder] == "one" else "one"
    assert (out / bundle).read_bytes() == (local / bundle).read_bytes()
    names = {str(path.relative_to(local)) for path in local.rglob("*")}
    assert {str(path.relative_to(out)) for path in out.rglob("*")} == names
    for file in ("accuracy.json", "parity.json", "cost.json", "gates.json", "recipe.resolved.toml"):
        assert (out / file).read_text("utf-8") == (local / file).read_text("utf-8"), file
    facts, plain = (json.loads((p / "run.json").read_text("utf-8")) for p in (out, local))
    assert facts["farm"] == {"scheduler": cluster.address, "worker": other}
    assert (facts["status"], facts["exit_code"]) == ("passed", 0)
    assert facts["model"] == plain["model"] and "--farm" in facts["command"]
    # No path of a worker is left in what a person reads.
    for path in out.rglob("*"):
        if path.suffix in (".json", ".html", ".md", ".toml", ".txt", ".xml"):
            text = path.read_text("utf-8")
            assert not [w for w in ("one", "two") if str(cluster.folder / w) in text], path
    cluster.join(jobs[folder])


def test_accuracy_in_parts_is_that_of_one_machine(cluster: Cluster, work: DenseWork) -> None:
    (work.data / "val" / "images" / "broken.png").write_bytes(b"no picture")
    flags = ["eval", work.model, "--factory=support.dense_family:build", "--data", work.data]
    whole = edgemtl(*flags, "--json")
    shared = edgemtl(*flags, "--json", *cluster.flags())
    assert shared.code == whole.code == 0, shared.err
    assert shared.out == whole.out
    assert shared.json()["images"] == 17


def test_a_job_per_target_and_an_error_is_the_error_here(
    cluster: Cluster, work: DenseWork, tmp_path: Path
) -> None:
    own = tmp_path / "own-board.toml"
    own.write_text('description = "d"\nbackend = "onnxruntime"\n', "utf-8")
    wrong = [*work.flags(), "--set=gates.tasks.hands.min=0.5"]
    both = ["--target=cpu", f"--target={own}", "-o", tmp_path / "out"]
    told = edgemtl("compile", *wrong, *both, *cluster.flags(), "--json")
    alone = edgemtl("compile", *wrong, "--target=cpu", "-o", tmp_path / "alone")
    assert told.code == alone.code == 2
    lines = [line for line in told.err.splitlines() if line.startswith("error:")]
    assert lines == [f"error: {alone.error()}"] * 2
    runs = [Path(found["run"]) for found in told.json()]
    assert [run.name for run in runs] == ["cpu", "own-board"]
    for run in runs:
        facts = json.loads((run / "run.json").read_text("utf-8"))
        assert (facts["status"], facts["exit_code"]) == ("failed", 2)


def test_bench_on_all_devices(cluster: Cluster, local: Path, tmp_path: Path) -> None:
    bundle = local / "bundle" / "dense-cpu.edgemtl"
    told = edgemtl("bench", bundle, "--all-devices", *QUICK, "--json", *cluster.flags())
    boards = told.json()["devices"]
    assert [(b["device"], b["worker"]) for b in boards] == [("jetson", "orin"), ("rpi4", "pi")]
    for found in boards:
        assert found["exit_code"] in (0, 9), found  # a shared machine may be unsteady
        assert found["results"]["latency"]["count"] >= 20
        assert found["results"]["selftest"]
    assert told.code == max(found["exit_code"] for found in boards)

    missing = edgemtl("bench", bundle, "--device=rpi5", *cluster.flags())
    assert missing.code == 8
    assert "no device 'rpi5' has joined the farm" in missing.error()
    assert edgemtl("bench", bundle, *cluster.flags()).code == 2
    assert edgemtl("bench", bundle, "--all-devices").code == 2


def test_tuning_in_parts_goes_on_and_one_machine_takes_its_log(
    cluster: Cluster, tmp_path: Path
) -> None:
    tvm = registry.get("tvm").availability()
    if not tvm.ok:
        pytest.skip(tvm.reason)
    graph, records = write_two_convolutions(tmp_path / "two.onnx"), tmp_path / "records.jsonl"
    level, machine = options_here(targets.load("tvm-x86")).mcpu, processor_name()
    kinds = {"conv": [1, 9, 11, 16, 3, 3, 3, 1, 1], "dense": [99, 24, 16]}
    # One operator was measured before, the other by another kind of processor only.
    before = [
        {"processor": level, "kind": kind, "sizes": sizes, "tile": [8, 8], "seconds": 1e-9}
        | {"machine": machine if kind == "dense" else "Another"}
        for kind, sizes in kinds.items()
    ]
    known = "".join(json.dumps(one) + "\n" for one in before)
    records.write_text(known, "utf-8")
    flags = ["tune", graph, "-o", records, "--tiles=2", "--seconds=0.01", "--json"]
    told = edgemtl(*flags, *cluster.flags())
    assert told.code == 0, told.err
    assert (told.json()["operators"], told.json()["measured"]) == (2, 1)
    assert records.read_text("utf-8").startswith(known)
    tuner = registry.get("tvm").tuner()
    first, second = found = read_records(records, tuner)[2:]
    assert {(one.data["kind"], one.machine, one.processor) for one in found} == {
        ("conv", machine, level)
    }
    best = min(first, second, key=lambda one: one.seconds).data
    assert targets.load(told.json()["target"]).options["tiles"] == [best, before[1]]
    # And by what the farm measured one machine of its kind has nothing left to do.
    known_here = Log.open(records, tuner).measured(level, machine)
    assert known_here == {key_of(kind, sizes) for kind, sizes in kinds.items()}


def test_pruning_with_a_worker_killed_is_that_of_one_machine(
    cluster: Cluster, work: DenseWork, tmp_path: Path
) -> None:
    flags = ["prune", work.model, f"--factory={FACTORY}", "--data", work.data]
    flags += ["--steps=0", "--set=prune.oracle_images=9", "--set=prune.calibration_images=7"]
    flags += ["--set=prune.channel_multiple=4", "--budget=parts=1.2", "--budget=distance=1.2"]
    whole = edgemtl(*flags, "-o", tmp_path / "whole.pt")
    assert whole.code == 0, whole.err
    told: list[Told] = []

    def run() -> None:
        told.append(edgemtl(*flags, "-o", tmp_path / "shared.pt", *cluster.flags()))

    thread = threading.Thread(target=run)
    thread.start()
    jobs = {name: cluster.folder / name / "farm" / "worker" / "jobs" for name in ("one", "two")}
    wait_until(lambda: told or all([*folder.glob("*/pictures.pt")] for folder in jobs.values()))
    cluster.kill("two")
    thread.join()
    (shared,) = told
    assert shared.code == 0, shared.err
    assert "looked at by 2 worker(s)" in shared.err
    assert (tmp_path / "shared.pt").read_bytes() == (tmp_path / "whole.pt").read_bytes()
    stories = []
    for name in ("shared", "whole"):
        text = (tmp_path / f"{name}.pt.prune.json").read_text("utf-8")
        stories.append(re.sub(r'"((search_)?seconds|peak_mib)": [^,}\n]*', "", text))
    assert stories[0] == stories[1] and '"steps": []' not in stories[0]
    # The other one has ended its program and removed its files.
    wait_until(lambda: not [*jobs["one"].glob("*/pictures.pt")])
    cluster.join("two")


def test_status_lists_workers_and_what_they_offer(cluster: Cluster) -> None:
    told = edgemtl("farm", "status", cluster.address, "--certificates", cluster.certificates)
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines] == ["one", "orin", "pi", "two"]
    assert "device:rpi4=1" in lines[2] and "device" not in lines[0]
    listed = edgemtl("devices", "--farm", cluster.address, "--certificates", cluster.certificates,
                     "--json").json()  # fmt: skip
    boards = {board["device"]: board["worker"] for board in listed["farm"]}
    assert boards == {"jetson": "orin", "rpi4": "pi"}


def test_a_board_has_one_bench_at_a_time_and_a_slow_one_stalls_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    # A slow bench ends only after all quick ones of the other board have: were they stalled by it,
    # nobody would ever end.
    slow = f"import time\nwhile open({str(log)!r}).read().count('quick') < 8: time.sleep(0.02)"

    def bench(name: str, device: str, which: str, meanwhile: str) -> Job:
        text = "\n".join((note(log, f"{which} begins"), meanwhile, note(log, f"{which} ends")))
        return script(which, text, board(name, device), device=device)

    results: list[JobResult] = []

    def client(which: str) -> None:
        jobs = [
            bench("pi", "rpi4", f"slow-{which}", slow),
            *(bench("orin", "jetson", f"quick-{which}{i}", "pass") for i in range(2)),
        ]
        with cluster.farm() as farm:
            results.extend(farm.run(jobs))

    both = [threading.Thread(target=client, args=(which,)) for which in "ab"]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [result.problem() for result in results] == [None] * 6
    events = [line.split() for line in log.read_text("utf-8").splitlines()]
    assert len(events) == 12
    for device in ("slow", "quick"):
        seen = [(name, what) for name, what in events if name.startswith(device)]
        for (first, begins), (second, ends) in zip(seen[::2], seen[1::2], strict=True):
            assert (first, begins, ends) == (second, "begins", "ends"), seen


def test_a_killed_board_is_free_again_and_its_bench_is_run_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    cluster.join("doomed", "doomed")
    once = (
        note(log, "begins")
        + "; import time, pathlib, sys; "
        + f"again = open({str(log)!r}).read().count('begins') > 1; time.sleep(0 if again else 60)"
    )
    with cluster.farm() as farm:
        found: list[JobResult] = []
        job = script("bench", once, board("doomed", "doomed"), device="doomed")
        thread = threading.Thread(target=lambda: found.extend(farm.run([job])))
        thread.start()
        wait_until(lambda: log.exists() and "begins" in log.read_text("utf-8"))
        cluster.kill("doomed")
        cluster.join("doomed", "doomed")
        thread.join()
    assert [result.problem() for result in found] == [None]
    assert log.read_text("utf-8").count("begins") == 2
    cluster.kill("doomed")


def test_a_job_that_takes_its_workers_along_is_given_up(cluster: Cluster) -> None:
    names = [f"mortal-{number}" for number in range(ALLOWED_FAILURES + 2)]
    for name in names:
        cluster.join(name, "mortal", wait=False)
    for name in names:
        cluster.joined(name)
    # the parent of the program's parent, which guards it, is the worker
    text = (
        "import os, signal, pathlib; "
        "stat = pathlib.Path(f'/proc/{os.getppid()}/stat').read_text().rpartition(')')[2]; "
        "os.kill(int(stat.split()[1]), signal.SIGKILL)"
    )
    with cluster.farm() as farm:
        (result,) = farm.run([script("mortal", text, {"device:mortal": 1.0})])
        assert isinstance(result.error, StageFailed)
        assert f"{ALLOWED_FAILURES + 1} workers were lost" in result.error.message
        left = [worker.name for worker in farm.workers() if worker.name in names]
    assert len(left) == 1
    for name in names:
        cluster.kill(name)


def test_what_no_worker_offers_and_what_dies_is_told(cluster: Cluster) -> None:
    with cluster.farm(patience_seconds=0.5) as farm:
        lonely, crash, escape, fine = farm.run(
            [
                script("lonely", "pass", {"device:nowhere": 1.0}),
                script("crash", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ANY),
                script("escape", "pass", ANY, files={"../outside": "0" * 64}),
                script("fine", "open('out/word', 'w').write('here')", ANY),
            ]
        )
    assert isinstance(lonely.error, TargetUnavailable)
    assert "no worker offers device:nowhere" in lonely.error.message
    told = crash.problem()
    assert isinstance(told, StageFailed) and "SIGSEGV" in told.message
    assert isinstance(escape.error, InputRefused)
    assert fine.problem() is None and list(fine.files) == ["word"]


def test_questions_to_a_program_that_stays(cluster: Cluster) -> None:
    text = """
import os, sys
from edgemtl.devices.farm.channel import serve
from edgemtl.errors import UsageError
asked = []
def answer(question):
    asked.append(question)
    if question == b"no":
        raise UsageError("not that")
    if question == b"die":
        sys.exit("dead")
    return question + str(len(asked)).encode()
serve(int(sys.argv[1]), lambda: answer, 60)
"""
    job = Job("stays", (PYTHON, "-c", text, CHANNEL), {}, ANY)
    with cluster.farm() as farm:
        program = ResidentProgram(farm, job)
        assert program.width == 2
        replies = [program.send(place, b"x") for place in range(4)]
        # Each of the two was greeted, and asked twice; Dask keeps no order among these.
        assert {reply.result() for reply in replies} <= {b"x1", b"x2", b"x3"}
        with pytest.raises(UsageError, match="not that"):
            program.send(0, b"no").result()
        # One that has gone is started again, one that goes at once is told of.
        with pytest.raises(StageFailed, match="exit code 1; it said: dead"):
            program.send(0, b"die").result()
        assert program.send(0, b"y").result() in (b"y1", b"y2")
        assert program.send(1, b"y").result() in (b"y3", b"y4")
        program.close()
    with cluster.farm(patience_seconds=0.2) as farm:
        lonely = replace(job, needs={"device:nowhere": 1.0})
        with pytest.raises(TargetUnavailable, match="no worker offers device:nowhere"):
            ResidentProgram(farm, lonely).send(0, b"x").result()


def test_a_file_is_sent_once_and_comes_back_whole(cluster: Cluster, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(9_000_000))  # more than two blocks
    copy = "import shutil; shutil.copy('in/big', 'out/big')"
    with cluster.farm() as farm:
        digest = farm.put([big])[big]
        assert farm.sent_bytes == 9_000_000
        (first,) = farm.run([script("copy", copy, ANY, {"in/big": digest})])
        farm.fetch(first.files, tmp_path / "back")
    assert (tmp_path / "back" / "big").read_bytes() == big.read_bytes()
    with cluster.farm() as farm:
        assert farm.put([big]) == {big: digest}
        assert farm.sent_bytes == 0
        with pytest.raises(InputRefused):
            farm.fetch({"../big": digest}, tmp_path / "back")
        with pytest.raises(InputRefused):
            farm.fetch({"gone": "0" * 64}, tmp_path / "back")


def test_who_is_not_of_this_farm_is_refused(cluster: Cluster, local: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    make_certificates(others, ["client", "worker"], days=1)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "ca.pem").write_bytes((cluster.certificates / "ca.pem").read_bytes())
    for name in ("client.pem", "client-key.pem"):
        (mixed / name).write_bytes((others / name).read_bytes())
    ours = ["farm", "status", cluster.address]
    for folder, said in ((others, "not of this farm"), (mixed, "does not take this certificate")):
        told = edgemtl(*ours, "--certificates", folder)
        assert told.code == 8
        assert said in told.error()
    told = edgemtl("farm", "worker", cluster.address, "--certificates", others)
    assert (told.code, "not of this farm" in told.error()) == (8, True)
    assert edgemtl(*ours, "--certificates", tmp_path).code == 3
    # Dask itself refuses, too, and does not only time out in our own first look.
    from distributed import Client

    with pytest.raises(OSError):
        address = FarmAddress.parse(cluster.address)
        Client(
            cluster.address,
            security=Credentials.of(address, others, "client").security(),
            timeout=1,
            set_as_default=False,
        )


def _listening(process: psutil.Process) -> set[str]:
    """Addresses where a process and its children accept connections, or datagrams."""
    members = [process, *process.children(recursive=True)]
    return {
        found.laddr.ip
        for member in members
        for found in member.net_connections("inet")
        if found.status == psutil.CONN_LISTEN or found.type == socket.SOCK_DGRAM
    }


@contextlib.contextmanager
def _job_at_work(found: Cluster, folder: Path) -> Iterator[None]:
    """A job that runs meanwhile, so that the programs of its worker are looked at too."""
    begun, over = folder / "begun", folder / "over"
    text = (
        f"import pathlib, time; pathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(over)!r}).exists(): time.sleep(0.02)"
    )

    def run() -> None:
        with found.farm() as farm:
            farm.run([script("at work", text, ANY)])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(begun.exists)
        yield
    finally:
        over.touch()
        thread.join()


@pytest.mark.parametrize("plain", [False, True])
def test_a_farm_on_the_loopback_listens_nowhere_else(plain: bool, tmp_path: Path) -> None:
    found = Cluster(tmp_path / "farm", plain=plain)
    found.folder.mkdir()
    found.start()
    try:
        found.join("one")
        found.join("pi", "rpi4")
        with _job_at_work(found, tmp_path):
            for name, process in found.members.items():
                assert process.pid is not None
                listening = _listening(psutil.Process(process.pid))
                assert listening, name
                assert all(ipaddress.ip_address(ip).is_loopback for ip in listening), (
                    name,
                    listening,
                )
            assert all(ipaddress.ip_address(ip).is_loopback for ip in _listening(psutil.Process()))
    finally:
        found.stop()


def test_a_worker_listens_on_its_way_to_the_scheduler_only() -> None:
    assert interface_towards(FarmAddress("tls", "127.0.0.1", 8786)) == "127.0.0.1"
    elsewhere = interface_towards(FarmAddress("tls", "192.0.2.1", 8786))
    assert ipaddress.ip_address(elsewhere) not in (
        ipaddress.ip_address("0.0.0.0"),
        ipaddress.ip_address("127.0.0.1"),
    )


def test_a_port_in_use_is_told(cluster: Cluster, tmp_path: Path) -> None:
    told = edgemtl(
        *["farm", "scheduler", cluster.address, "--certificates", cluster.certificates],
        *["--folder", tmp_path / "scheduler"],
    )
    assert told.code == 4
    assert "cannot listen" in told.error()


def test_without_certificates_or_without_tls(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEMTL_FARM_CERTIFICATES", raising=False)
    told = edgemtl("farm", "status", cluster.address)
    assert (told.code, "a farm needs certificates" in told.error()) == (2, True)
    plain = cluster.address.replace("tls://", "tcp://")
    assert edgemtl("farm", "status", plain).code == 2
    assert edgemtl("farm", "status", "tcp://192.0.2.1:8786", "--without-tls").code == 2
    told = edgemtl("farm", "status", plain, "--without-tls")
    assert told.code == 8
    assert "does not answer" in told.error()


def test_a_scheduler_that_is_not_there_or_goes_away(
    cluster: Cluster, local: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bundle = local / "bundle" / "dense-cpu.edgemtl"
    flags = ["--farm", f"tls://127.0.0.1:{port}", "--certificates", cluster.certificates]
    for words in (
        ["bench", bundle, "--all-devices"],
        ["tune", bundle, "-o", tmp_path / "records.jsonl"],
        ["prune", bundle, "-o", tmp_path / "pruned.pt"],
    ):
        told = edgemtl(*words, *flags)
        assert told.code == 8
        assert "cannot be reached" in told.error()
        assert told.hint().startswith("start it there")

    with cluster.farm() as farm:

        def kill() -> None:
            time.sleep(0.5)
            process = cluster.members["scheduler"]
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

        threading.Thread(target=kill).start()
        with pytest.raises(TargetUnavailable, match="was lost"):
            farm.run([script("long", "import time; time.sleep(60)", ANY)])

    # Who was there comes back when it does.
    process = cluster.members["scheduler"]
    process.join()
    joined = cluster.log("pi").read_text("utf-8").count("joined")
    cluster.start_scheduler(cluster.address)
    wait_until(lambda: cluster.log("pi").read_text("utf-8").count("joined") > joined)
    with cluster.farm() as farm:
        (result,) = farm.run([script("again", "pass", board("pi", "rpi4"))])
    assert result.problem() is None
