"""Which sockets of the network every verb opens, with all that it starts: strace sees them all."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import dense_family
from support.dense_work import FACTORY, NO_BENCH, QUICK_BENCH, DenseWork, write_dense_work

from edgemtl.backends.tvm import board
from edgemtl.devices.farm.certificates import make_certificates
from edgemtl.models import checkpoint

PROGRAM = "import sys; from edgemtl.cli.main import main; sys.argv[0] = 'edgemtl'; main()"
#: an address of the network in a call that strace writes down
_PLACE = re.compile(r'inet_(?:addr|pton)\((?:AF_INET6, )?"([^"]+)"')
_CALL = re.compile(r"\d+ +(?:<\.\.\. )?(\w+)")
_CALLS = "execve,socket,bind,listen,connect,sendto,sendmsg,sendmmsg"
LOOPBACK = ("127.", "::1", "::ffff:127.")


@dataclass(frozen=True)
class Seen:
    """What a verb did.

    Attributes:
        code: it left with.
        programs: how many it started, itself included.
        opened: sockets of the network.
        bound: addresses that it listened on or sent from.
        reached: addresses that it connected or sent to.
    """

    code: int
    programs: int
    opened: int
    bound: frozenset[str]
    reached: frozenset[str]

    def outside(self) -> list[str]:
        """Addresses that are not this machine's alone."""
        return sorted(a for a in self.bound | self.reached if not a.startswith(LOOPBACK))


def read_trace(text: str, code: int = 0) -> Seen:
    """What strace wrote down about a process and all that it started."""
    opened, programs, bound, reached = 0, 0, set[str](), set[str]()
    for line in text.splitlines():
        call = _CALL.match(line)
        if call is None:
            continue
        if call[1] == "socket" and re.search(r"\(AF_INET6?,", line):
            opened += 1
        if call[1] == "execve" and line.endswith(" = 0"):
            programs += 1
        for place in _PLACE.findall(line):
            (bound if call[1] == "bind" else reached).add(place)
    return Seen(code, programs, opened, frozenset(bound), frozenset(reached))


class Traced:
    """``edgemtl WORDS`` under strace, in a folder that gets what it says.

    Args:
        words: verb and flags.
        folder: where it runs.
    """

    def __init__(self, words: Sequence[object], folder: Path) -> None:
        self._trace, self._said = folder / "trace.txt", folder / "said.log"
        command = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={_CALLS}"]
        command += ["-o", str(self._trace), sys.executable, "-c", PROGRAM, *map(str, words)]
        with self._said.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def said(self, wanted: str) -> str:
        """What it has said, as soon as ``wanted`` is in it."""
        ends = time.monotonic() + 120
        while wanted not in (text := self._said.read_text("utf-8")) and time.monotonic() < ends:
            time.sleep(0.1)
        return text

    def stop(self) -> Seen:
        """End it by SIGTERM, as a service is."""
        first = int(self._trace.read_text("utf-8").split(" ", 1)[0])
        os.kill(first, signal.SIGTERM)
        return self.end()

    def end(self) -> Seen:
        """Wait until it has ended."""
        code = self._process.wait(600)
        return read_trace(self._trace.read_text("utf-8"), code)


def commands(folder: Path) -> Mapping[str, Sequence[object]]:
    """One command per verb, in an order in which each finds what it needs."""
    work = write_dense_work(folder / "in", images=18)
    checkpoint.save(checkpoint.from_network(dense_family.build()), folder / "model.pt")
    image = next((work.data / "val" / "images").iterdir())
    net = [work.model, "--factory", FACTORY]
    on_data, plain = ["--data", work.data], "--set=quantize.enabled=false"
    quick = ["--seconds=0.1", "--warmup-seconds=0", "--min-runs=5"]
    small = ["--set=prune.oracle_images=4", "--set=prune.calibration_images=4", "--steps=0"]
    any_size = "--set=gates.cost.size_ratio=false"
    found: dict[str, Sequence[object]] = {}
    for target in ("cpu", "intel-cpu", "jetson", "tvm-x86"):
        more = [plain, *(QUICK_BENCH if target == "cpu" else NO_BENCH)]
        found[f"compile --target {target}"] = [
            *("compile", *net, *on_data, "--target", target, *more, "-o", target)
        ]
    found["compile --target zcu104"] = [
        *("compile", *net, *on_data, "--target=zcu104", *NO_BENCH, any_size, "-o", "zcu104")
    ]
    bundles = {t: f"{t}/bundle/dense-{t}.edgemtl" for t in ("cpu", "intel-cpu", "tvm-x86")}
    for target, bundle in bundles.items():
        found[f"verify ({target})"] = ["verify", bundle]
    bundle = bundles["cpu"]
    return found | {
        "run": ["run", bundle, image, "-o", "out.png"],
        "bench": ["bench", bundle, *quick],
        "inspect": ["inspect", *net],
        "eval": ["eval", *net, *on_data, "--split", "val"],
        "export": ["export", *net, "-o", "x.onnx"],
        "parity": ["parity", *net[:1], "x.onnx", *net[1:], *on_data, "--split", "val"],
        "prune": ["prune", *net, *on_data, *small, "--flops=0.9", "-o", "small.pt"],
        "quantize": ["quantize", *net, *on_data, "--target=intel-cpu", "-o", "int8.onnx"],
        "mask": ["mask", *net, *on_data, "--analyse", "--images=16"],
        "tune": ["tune", "x.onnx", "-o", "r.jsonl", "--tiles=1", "--seconds=0.01"],
        "sign": ["sign", bundle, "--sign-key", "key.pem"],
        "gate": ["gate", "cpu", "--save-baseline", "b.json"],
        "diff": ["diff", "cpu", "intel-cpu"],
        "report": ["report", "cpu"],
        "history": ["history", "t.jsonl", "--add", "cpu"],
        "import": ["import", work.model, "--family", "mos-s", "-o", "y.pt"],
        "init": ["init", "-o", "recipe.toml"],
        "schema": ["schema"],
        "targets": ["targets"],
        "devices": ["devices"],
        "doctor": ["doctor"],
        "cache": ["cache"],
        "farm certificates": ["farm", "certificates", "certs"],
    }


def of_all_verbs(root: Path) -> int:
    """Run every verb under strace; the number of those that reach beyond this machine."""
    if shutil.which("strace") is None:
        print("not run: 'strace' is not here")
        return 1
    tests = Path(dense_family.__file__).parents[1]
    inherited = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tests.parent), str(tests), *inherited])
    os.environ["EDGEMTL_CACHE"] = str(root / "cache")
    # The one exception that docs/trust.md names: they are fetched before, or by who has no network.
    os.environ[board.WHEELS] = str(root / "wheels")
    board.download_wheels(root / "wheels")
    _make_key(root / "key.pem")
    findings = 0
    print(f"{'verb':<28} {'code':>4} {'programs':>8} {'sockets':>7}  addresses")
    for name, words in commands(root).items():
        findings += _told(name, Traced(words, root).end(), allowed=0)
    make_certificates(root / "certs", ["scheduler", "worker", "client"], days=1)
    for address, proof in (
        ("tls://127.0.0.1:0", ["--certificates", root / "certs"]),
        ("tcp://127.0.0.1:0", ["--without-tls"]),
    ):
        for name, seen in _farm(root, address, proof).items():
            findings += _told(f"{name} ({address[:3]})", seen, allowed=None)
    return findings


def _farm(root: Path, address: str, proof: Sequence[object]) -> dict[str, Seen]:
    """A scheduler, a worker that compiles, and who asks both, each under strace."""
    folders = {name: root / f"{address[:3]}-{name}" for name in ("scheduler", "worker")}
    for folder in folders.values():
        folder.mkdir()
    scheduler = Traced(["farm", "scheduler", address, *proof], folders["scheduler"])
    found = re.search(r"scheduler at (\S+)", scheduler.said("scheduler at"))
    if found is None:
        raise RuntimeError("the scheduler did not start")
    worker = Traced(["farm", "worker", found[1], *proof], folders["worker"])
    worker.said("joined")
    work = DenseWork(root / "in" / "dense.pt", root / "in" / "data")
    flags = [*work.flags(), "--target=cpu", *NO_BENCH, "-o", f"farm-{address[:3]}"]
    there = ["--farm", found[1], *([] if address.startswith("tcp") else proof)]
    seen = {"farm status": Traced(["farm", "status", found[1], *proof], root).end()}
    if there[-1] != found[1]:  # without TLS a farm is only tried out
        seen["compile --farm"] = Traced(["compile", *flags, *there], root).end()
    return {**seen, "farm worker": worker.stop(), "farm scheduler": scheduler.stop()}


def _told(name: str, seen: Seen, allowed: int | None) -> bool:
    """A line of the table; whether it is a finding."""
    wrong = bool(seen.outside()) or (allowed is not None and seen.opened > allowed)
    places = ", ".join(sorted(seen.bound | seen.reached)) or "none"
    note = "  FINDING" if wrong else ""
    print(f"{name:<28} {seen.code:>4} {seen.programs:>8} {seen.opened:>7}  {places}{note}")
    sys.stdout.flush()
    return wrong


def _make_key(place: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    place.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
