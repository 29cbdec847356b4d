"""The tables of docs/fpga.md: the model against the paper, and what networks take on the boards.

    python tools/bench_fpga.py paper
    python tools/bench_fpga.py network examples/mos_t.pt
    python tools/bench_fpga.py experts

Everything printed here is modelled and does not depend on the machine.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.backends.fpga import m3vit
from edgemtl.backends.fpga.design import Design, weight_half
from edgemtl.backends.fpga.device import FpgaOptions, MoeSchedule, options_of
from edgemtl.backends.fpga.encoder import Encoder
from edgemtl.backends.fpga.onnx_work import network_work
from edgemtl.backends.fpga.plan import Plan, make_plan
from edgemtl.backends.fpga.sweep import choose
from edgemtl.backends.fpga.work import Array
from edgemtl.errors import EdgemtlError
from edgemtl.models.checkpoint import load_network
from edgemtl.models.m3vit.network import M3ViT

BOARDS = ("zcu104", "zcu102")
#: 12 heads of 128 lanes, as the paper's design has them
PAPER_ARRAY = Array(12, 128)
MIB = 2**20
TOKENS = {"PASCAL": 1025, "NYUD": 1201}
#: row -> experts, schedule, then the paper's memory in MiB and its latencies in ms
PAPER: dict[str, tuple[bool, MoeSchedule, float, dict[str, float]]] = {
    "ViT-small": (False, "reordered", 4.828, {"PASCAL": 68.931, "NYUD": 84.418}),
    "experts, cached": (True, "cached", 4.840, {"PASCAL": 637.478, "NYUD": 750.557}),
    "experts, reordered": (True, "reordered", 4.840, {"PASCAL": 69.033, "NYUD": 84.538}),
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print Markdown; all columns but the first are numbers."""
    print(f"| {' | '.join(header)} |")
    print(f"|---|{'---:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def paper() -> None:
    """The paper's Table 4 beside the model."""
    rows = []
    for name, (experts, schedule, memory, latencies) in PAPER.items():
        for data, printed in latencies.items():
            shape = (16, 4, 384) if experts else (0, 0, 0)
            network = Encoder(384, 12, 12, 1536, TOKENS[data], max(TOKENS.values()), *shape)
            works = network.works()
            board = FpgaOptions(dsp=1728, bram36=312, uram=96, moe_schedule=schedule)
            half = weight_half(works, PAPER_ARRAY, 2)
            plan = make_plan(works, Design(PAPER_ARRAY, "ping-pong", half, None, 0, 2), board)
            held = network.memory_bytes(schedule) / MIB
            rows.append(
                [
                    f"{name}, {data}",
                    f"{printed:.3f}",
                    f"{plan.latency_ms:.3f}",
                    f"{100 * (plan.latency_ms / printed - 1):+.2f} %",
                    f"{plan.energy_j:.3f}",
                    f"{memory:.3f}",
                    f"{held:.3f}",
                    f"{100 * (held / memory - 1):+.2f} %",
                ]
            )
    header = ("row", "paper ms", "model ms", "off", "model W·s", "paper MiB", "model MiB", "off")
    table(header, rows)


def network(checkpoint: Path) -> None:
    """A network's convolutions and matrix products in int8 on each board."""
    import onnx

    from edgemtl.exporting.network import export_network

    loaded = load_network(checkpoint)
    with tempfile.TemporaryDirectory() as place:
        exported = export_network(loaded, targets.load(BOARDS[0]), Path(place))
        works = network_work(onnx.load(exported.path)).works
    rows = [_row(name, choose(works, options_of(targets.load(name)))[0]) for name in BOARDS]
    table(_HEADER, rows)


_HEADER = ("board", "array", "ms", "busy", "mJ", "traffic MB", "DSP", "BRAM", "URAM")


def _row(name: str, plan: Plan) -> list[str]:
    array, taken = plan.design.array, plan.resources
    macs = sum(layer.macs for layer in plan.layers)
    return [
        f"`{name}`",
        f"{array.rows} x {array.columns}",
        f"{plan.latency_ms:.2f}",
        f"{macs / plan.cycles / array.macs_per_cycle:.0%}",
        f"{plan.energy_j * 1e3:.1f}",
        f"{plan.ddr_bytes / 1e6:.2f}",
        f"{taken.dsp} / {plan.board.dsp}",
        f"{taken.bram36} / {plan.board.bram36}",
        f"{taken.uram} / {plan.board.uram}",
    ]


def experts() -> None:
    """M3ViT small for NYUD, int8, one task, under each expert schedule."""
    classes = [f"class {index}" for index in range(40)]
    tasks: list[dict[str, Any]] = [
        {"name": "seg", "kind": "segmentation", "options": {"classes": classes}},
        {"name": "depth", "kind": "depth"},
    ]
    works = m3vit.task_works(M3ViT(tasks, "small", (480, 640)), "seg")
    rows = []
    for name in BOARDS:
        board = options_of(targets.load(name))
        plan, _ = choose(works, board)
        array = plan.design.array
        for schedule, found in m3vit.schedules(works, plan, board).items():
            rows.append(
                [
                    f"`{name}`, {array.rows} x {array.columns}, {schedule}",
                    f"{found['latency_ms']:.1f}",
                    f"{found['energy_j'] * 1e3:,.0f}",
                    f"{found['ddr_bytes'] / 1e6:,.1f}",
                    f"{found['expert_memory_bytes'] / 1024:,.0f}",
                ]
            )
    table(("board, array, schedule", "ms", "mJ", "traffic MB", "expert memory KiB"), rows)


def main() -> int:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("paper", help="the model beside the paper's Table 4")
    of_network = verbs.add_parser("network", help="a checkpoint on the boards")
    of_network.add_argument("checkpoint", type=Path)
    verbs.add_parser("experts", help="M3ViT small under each expert schedule")
    options = parser.parse_args()
    try:
        if options.verb == "paper":
            paper()
        elif options.verb == "network":
            network(options.checkpoint)
        else:
            experts()
    except EdgemtlError as error:
        print(f"error: {error}")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
