"""Public architectures with random weights: the tables of docs/networks.md.

    python tools/bench_networks.py                      # all
    python tools/bench_networks.py --only resnet18 dpt --kept build/networks

Each network (``tools/networks/zoo.py``) gets two dense heads. It is exported and compared with ONNX
Runtime, its channel groups are found, half of every group is cut, masked and cut are compared, and
Torch-Pruning halves the same network. It runs in a process of its own; what ``--kept`` holds of a
network is not measured again. The packages of networks are no part of the project: an environment
beside its own has them (timm, torchvision without its operators, segmentation-models-pytorch,
transformers). Exit code 1 when a network neither exports nor is refused by name, when masked and
cut differ, or when Torch-Pruning keeps fewer channels by an exact cut.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from networks.torchvision_stub import declare_operators

declare_operators()

from networks.measure import Measured, measure  # noqa: E402
from networks.zoo import ZOO  # noqa: E402

PACKAGES = (
    "torch", "torch-pruning", "onnxruntime", "timm", "torchvision",
    "segmentation-models-pytorch", "transformers",
)  # fmt: skip
#: what a network may take
LIMIT_SECONDS = 900
#: largest difference between masked and cut
SAME = 1e-5


def tell(line: str) -> None:
    """Print with the time of day, apart from the tables."""
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


def apart(name: str, kept: Path) -> Measured | None:
    """Measure a network in a process of its own, or read what is kept of it; None if it died."""
    path = kept / f"{name}.json"
    if not path.exists():
        command = [sys.executable, __file__, "--one", name, "--kept", str(kept)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            tell(f"{name}: over {LIMIT_SECONDS} s")
            return None
        if done.returncode or not path.exists():
            tell(f"{name}: {done.stderr.strip()[-600:]}")
            return None
    return Measured.from_dict(json.loads(path.read_text("utf-8")))


def share(value: float) -> str:
    """A share in per cent, or a dash."""
    return "-" if value != value else f"{100 * value:.1f} %"


def small(value: float) -> str:
    """A difference, or a dash."""
    return "-" if value != value else f"{value:.0e}"


def table(rows: Sequence[Measured]) -> list[str]:
    """The table, as Markdown."""
    lines = [
        "| network | parameters | M MACs | export | groups | parameters kept | MACs kept "
        "| masked / cut | s | Torch-Pruning | its parameters | its MACs |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        export = row.export if row.export != "ok" else row.cut_export or "ok"
        peer = row.peer if row.peer == "exact" or row.peer.startswith("off") else "fails"
        cells = [
            f"{row.name} ({ZOO[row.name][0]})",
            f"{row.params:,}",
            f"{row.macs / 1e6:.0f}",
            f"{export} ({small(row.parity)})" if export == "ok" else export,
            str(row.groups),
            row.failure or share(row.kept_params),
            share(row.kept_macs),
            small(row.difference),
            "-" if row.seconds != row.seconds else f"{row.seconds:.1f}",
            peer,
            share(row.peer_params),
            share(row.peer_macs),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return lines


def header() -> list[str]:
    """Versions and machine."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return [
        f"{', '.join(found)}; Python {platform.python_version()}.",
        f"{processor()}, {os.cpu_count()} logical processors. Random weights, seed 0. Seconds are "
        "of one processor's time, to find the groups.",
    ]


def processor() -> str:
    """The CPU's own name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def summary(rows: Sequence[Measured], asked: int) -> tuple[list[str], bool]:
    """What came of it, and whether all goals were met."""
    exported = [row for row in rows if row.exported]
    refused = [row for row in rows if not row.exported and _by_name(row)]
    exact = [row for row in rows if row.peer == "exact"]
    level = [row for row in exact if row.level]
    same = [row for row in rows if row.difference <= SAME]
    fails = [row for row in rows if row.peer != "exact" and not row.peer.startswith("off")]
    lines = [
        f"{len(exported)} of {asked} export, whole and cut; {len(refused)} are refused by name.",
        f"Masked and cut agree to {SAME:g} in {len(same)} of {asked}.",
        f"Torch-Pruning cuts {len(exact)} exactly, {len(rows) - len(exact) - len(fails)} otherwise "
        f"than masked, and fails on {len(fails)}; of its exact cuts {len(level)} keep as many "
        "channels as ours or more.",
    ]
    short = [row.name for row in exact if not row.level]
    if short:
        lines.append(f"It keeps fewer channels, exactly, in: {', '.join(short)}.")
    good = len(exported) + len(refused) == asked == len(rows) and not short
    return lines, good and len(same) == len([row for row in rows if row.groups])


def _by_name(row: Measured) -> bool:
    return "'" in (row.export if row.export != "ok" else row.cut_export)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(ZOO), help="these networks")
    parser.add_argument("--kept", type=Path, help="folder of what was measured already")
    parser.add_argument("--one", choices=list(ZOO), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        found = measure(arguments.one)
        text = json.dumps(found.to_dict(), indent=1)
        (arguments.kept / f"{arguments.one}.json").write_text(text, "utf-8")
        return 0
    with tempfile.TemporaryDirectory(prefix="edgemtl-networks-") as folder:
        kept = arguments.kept or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        names = arguments.only or list(ZOO)
        rows = []
        for name in names:
            row = apart(name, kept)
            if row is not None:
                rows.append(row)
                tell(f"{name}: {row.export}, {row.groups} groups, {row.failure or 'cut'}")
    lines, good = summary(rows, len(names))
    print("\n".join([*header(), "", *table(rows), "", *lines]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
