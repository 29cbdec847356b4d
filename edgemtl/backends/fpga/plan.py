"""How long a network takes on a design, layer by layer: modelled, nothing here was measured.

The layers run one after the other on one array. Weights come from the external memory, part by
part; with a ping-pong buffer the next part loads while the array computes. Activations stay on the
chip where they fit (placement.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.fpga.design import Design, Resources, resources, weight_half
from edgemtl.backends.fpga.device import FpgaOptions
from edgemtl.backends.fpga.moe import ExpertRun, run_experts
from edgemtl.backends.fpga.placement import outside_bytes
from edgemtl.backends.fpga.work import Work

#: steps until the array's first result comes out: multiply, add up, round, write
FILL_CYCLES = 32
KIND = "modelled"


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a plan.

    Attributes:
        name, kind: of the layer.
        macs: of one picture.
        compute_cycles: of the array.
        stall_cycles: that it waits for weights or activations.
        weight_bytes, activation_bytes: read from and written to the external memory.
        busy: share of the multipliers that do something while the layer runs.
        bound_by: "array", "weights" or "activations".
    """

    name: str
    kind: str
    macs: int
    compute_cycles: float
    stall_cycles: float
    weight_bytes: float
    activation_bytes: float
    busy: float
    bound_by: str

    @property
    def cycles(self) -> float:
        """With what it waits."""
        return self.compute_cycles + self.stall_cycles


@dataclass(frozen=True)
class Plan:
    """A network on a design on a board, modelled.

    Attributes:
        design, board: what it is modelled for.
        resources: that the design takes.
        layers: in order.
        experts: layer -> its expert schedule.
    """

    design: Design
    board: FpgaOptions
    resources: Resources
    layers: tuple[LayerPlan, ...]
    experts: Mapping[str, ExpertRun]

    @property
    def cycles(self) -> float:
        """Of one picture."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def latency_ms(self) -> float:
        """Of one picture, accelerator alone; the processor's part is not modelled."""
        return self.cycles / (self.board.clock_mhz * 1e3)

    @property
    def ddr_bytes(self) -> float:
        """Read and written per picture."""
        return sum(layer.weight_bytes + layer.activation_bytes for layer in self.layers)

    @property
    def energy_j(self) -> float:
        """Of one picture: the board's power times the latency."""
        return self.latency_ms * self.board.power_w / 1e3

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        design = self.design
        return {
            "kind": KIND,
            "design": {
                "rows": design.array.rows,
                "columns": design.array.columns,
                "weight_buffer": design.weight_buffer,
                "weight_buffer_bytes": design.weight_bytes,
                "activation_buffer_bytes": design.activation_bytes,
            },
            "board": self.board.model_dump(mode="json"),
            "resources": asdict(self.resources),
            "latency_ms": self.latency_ms,
            "energy_j": self.energy_j,
            "cycles": self.cycles,
            "ddr_bytes": self.ddr_bytes,
            "macs": sum(layer.macs for layer in self.layers),
            "layers": [asdict(layer) | {"cycles": layer.cycles} for layer in self.layers],
            "experts": {name: asdict(run) for name, run in self.experts.items()},
        }


def make_plan(
    works: Sequence[Work],
    design: Design,
    board: FpgaOptions,
    routing: Mapping[str, NDArray[np.int64]] | None = None,
    moved: Sequence[float] | None = None,
) -> Plan:
    """Model a network on a design, whether it fits the board or not (``resources.refused``).

    Args:
        works: layers in order.
        design: array and buffers.
        board: what there is.
        routing: expert layer -> (tokens, top_k) experts of a real picture; even by default.
        moved: activation bytes per layer to and from the external memory, where they are known
            already (:func:`outside_bytes`).
    """
    rate = board.bytes_per_cycle
    spilled = outside_bytes(works, design.activation_bytes) if moved is None else moved
    experts: dict[str, ExpertRun] = {}
    layers = []
    for index, work in enumerate(works):
        following = works[index + 1] if index + 1 < len(works) else None
        if work.kind == "experts":
            run = run_experts(
                work,
                design.array,
                rate,
                board.moe_schedule,
                (routing or {}).get(work.name),
                board.cache_slots,
            )
            experts[work.name] = run
            compute, weights = run.compute_cycles, run.ddr_bytes
            cycles = max(run.cycles, spilled[index] / rate)
        else:
            compute = work.cycles(design.array) + FILL_CYCLES
            weights = 0.0 if design.weight_buffer == "resident" else float(work.weight_bytes)
            cycles = _cycles(work, following, compute, spilled[index], design, rate, index == 0)
        layers.append(
            LayerPlan(
                work.name,
                work.kind,
                work.macs,
                compute,
                cycles - compute,
                weights,
                spilled[index],
                work.macs / (cycles * design.array.macs_per_cycle),
                _bound(compute, weights / rate, spilled[index] / rate),
            )
        )
    found = resources(design, board)
    need = weight_half(works, design.array, design.value_bytes)
    if design.weight_buffer != "resident" and design.weight_bytes < need:
        short = (
            f"weight buffer: one half must hold {need} bytes, the design's holds "
            f"{design.weight_bytes}"
        )
        found = Resources(
            found.dsp, found.bram36, found.uram, found.memory_bytes, (*found.refused, short)
        )
    return Plan(design, board, found, tuple(layers), experts)


def _bound(compute: float, weights: float, activations: float) -> str:
    if compute >= max(weights, activations):
        return "array"
    return "weights" if weights >= activations else "activations"


def _part(work: Work | None, design: Design, rate: float) -> float:
    """Cycles to load the first part of a layer's weights.

    Nothing for an expert layer: which expert is first is known beforehand, so its weights load
    while attention and the gate are computed.
    """
    if work is None or design.weight_buffer == "resident" or work.kind == "experts":
        return 0.0
    return work.weight_bytes / work.tiles(design.array) / rate


def _cycles(
    work: Work,
    following: Work | None,
    compute: float,
    spilled: float,
    design: Design,
    rate: float,
    first: bool,
) -> float:
    """Of a layer with what it waits for; the first layer's first weights load before it."""
    tiles = work.tiles(design.array)
    step, load, moved = compute / tiles, _part(work, design, rate), spilled / tiles / rate
    if design.weight_buffer == "single":
        return tiles * (load + max(step, moved))
    ahead = (tiles - 1) * max(step, load + moved)
    ahead += max(step, _part(following, design, rate) + moved)
    return ahead + (load if first else 0.0)
