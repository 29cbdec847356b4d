"""All designs worth asking about, and the one that is taken: latency against memory, modelled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgemtl.backends.fpga.design import design_for
from edgemtl.backends.fpga.device import FpgaOptions, WeightBuffer
from edgemtl.backends.fpga.placement import outside_bytes
from edgemtl.backends.fpga.plan import KIND, Plan, make_plan
from edgemtl.backends.fpga.work import Array, Work
from edgemtl.errors import StageFailed

SIDES = (8, 16, 32, 64)
WEIGHT_BUFFERS: tuple[WeightBuffer, ...] = ("single", "ping-pong", "resident")
#: the weight buffer of the emitted code
EMITTED: WeightBuffer = "ping-pong"
ACTIVATION_KIB = (256, 512, 1024, 2048)
#: a design that is slower by this share at most is as fast, and the smaller one is taken
EVEN = 0.01


@dataclass(frozen=True)
class Point:
    """One design of a sweep.

    Attributes:
        rows, columns, weight_buffer, activation_kib: of the design.
        latency_ms, ddr_bytes: per picture, modelled.
        dsp, bram36, uram, memory_bytes: taken.
        refused: why it does not fit; empty when it does.
    """

    rows: int
    columns: int
    weight_buffer: str
    activation_kib: int
    latency_ms: float
    ddr_bytes: float
    dsp: int
    bram36: int
    uram: int
    memory_bytes: int
    refused: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"kind": KIND, **self.__dict__, "refused": list(self.refused)}


def plans(
    works: Sequence[Work], board: FpgaOptions, outside: Collection[str] = ()
) -> Iterator[Plan]:
    """Every design of the sweep; what the target fixes stays fixed."""
    rows = (board.rows,) if board.rows else SIDES
    columns = (board.columns,) if board.columns else SIDES
    buffers = (board.weight_buffer,) if board.weight_buffer else WEIGHT_BUFFERS
    experts = any(work.kind == "experts" for work in works)
    if board.weight_buffer is None and (experts or board.weight_buffer_kib):
        # The expert schedule says which experts are resident; a size given is that of a half.
        buffers = ("single", "ping-pong")
    activations = (board.activation_buffer_kib,) if board.activation_buffer_kib else ACTIVATION_KIB
    moved = {kib: outside_bytes(works, kib * 1024, outside) for kib in activations}
    for r in rows:
        for c in columns:
            for buffer in buffers:
                for kib in activations:
                    design = design_for(works, board, Array(r, c), buffer, kib * 1024)
                    yield make_plan(works, design, board, moved=moved[kib])


def point_of(plan: Plan) -> Point:
    """What a chart needs of a plan."""
    design, taken = plan.design, plan.resources
    return Point(
        design.array.rows,
        design.array.columns,
        design.weight_buffer,
        (design.activation_bytes or 0) // 1024,
        plan.latency_ms,
        plan.ddr_bytes,
        taken.dsp,
        taken.bram36,
        taken.uram,
        taken.memory_bytes,
        taken.refused,
    )


def choose(
    works: Sequence[Work], board: FpgaOptions, outside: Collection[str] = ()
) -> tuple[Plan, list[Point]]:
    """The fastest design that fits, the smallest of those as fast; and all that were looked at.

    Where the target names no weight buffer it is the ping-pong one, which the emitted code has.

    Raises:
        StageFailed: none fits, naming the resource that the nearest one lacks.
    """
    if not works:
        raise StageFailed("the graph has no layer that the accelerator takes")
    found = list(plans(works, board, outside))
    points = [point_of(plan) for plan in found]
    if board.weight_buffer is None:
        found = [plan for plan in found if plan.design.weight_buffer == EMITTED]
    fitting = [plan for plan in found if plan.resources.fits]
    if not fitting:
        nearest = min(found, key=lambda plan: (len(plan.resources.refused), plan.resources.dsp))
        raise StageFailed(
            f"the design does not fit: {nearest.resources.refused[0]}",
            hint="smaller rows, columns or buffers in the target's [options], or a larger board",
        )
    best = min(plan.cycles for plan in fitting)
    even = [plan for plan in fitting if plan.cycles <= best * (1 + EVEN)]
    return min(
        even,
        key=lambda plan: (plan.resources.dsp, plan.resources.memory_bytes, plan.cycles),
    ), points
