"""Three ways to run an expert layer, modelled (M3ViT paper section 3.4; Edge-MoE).

Tokens are routed to ``top_k`` of ``experts`` experts each, whose weights do not fit on the chip.

- *reordered*: all tokens are gated first and queued per expert; then expert by expert, the next
  one's weights loading into the other half of a buffer meanwhile. Two experts of memory, whatever
  the number of experts.
- *cached*: token by token; an expert that is not on the chip is loaded while the array waits.
- *resident*: token by token with all experts on the chip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.fpga.device import MoeSchedule
from edgemtl.backends.fpga.work import Array, Work

#: which experts a full cache drops: the longest unused, or for a token's hits before its misses
Policy = Literal["lru", "hits-first"]


@dataclass(frozen=True)
class ExpertRun:
    """An expert layer on the array.

    Attributes:
        compute_cycles: of the array.
        stall_cycles: that it waits for weights.
        loads: experts read from the external memory.
        ddr_bytes: of these.
        memory_bytes: on the chip for expert weights.
        stalls: reordered schedule: expert -> cycles waited before it begins.
    """

    compute_cycles: float
    stall_cycles: float
    loads: float
    ddr_bytes: float
    memory_bytes: int
    stalls: tuple[tuple[int, float], ...] = ()

    @property
    def cycles(self) -> float:
        """Of the whole layer."""
        return self.compute_cycles + self.stall_cycles


def queue_lengths(work: Work, chosen: NDArray[np.int64] | None) -> list[float]:
    """Tokens per expert: counted, or evenly spread where no routing is given.

    Args:
        work: kind "experts".
        chosen: (tokens, top_k) expert numbers.
    """
    if chosen is None:
        return [work.positions * work.top_k / work.experts] * work.experts
    return [float(n) for n in np.bincount(chosen.reshape(-1), minlength=work.experts)]


def expected_misses(work: Work, slots: int) -> float:
    """Loads of the cached schedule under even routing, hits served first: the closed form."""
    hit = min(slots / work.experts, 1.0)
    return work.positions * work.top_k * (1.0 - hit)


def simulated_misses(chosen: Sequence[Sequence[int]], slots: int, policy: Policy) -> int:
    """Loads of the cached schedule for a real routing, token by token."""
    kept: list[int] = []  # the longest unused first
    misses = 0
    for wanted in chosen:
        order = list(wanted)
        if policy == "hits-first":
            order.sort(key=lambda expert: expert not in kept)
        for expert in order:
            if expert in kept:
                kept.remove(expert)
            else:
                misses += 1
                if len(kept) == slots:
                    kept.pop(0)
            kept.append(expert)
    return misses


def run_experts(
    work: Work,
    array: Array,
    bytes_per_cycle: float,
    schedule: MoeSchedule,
    chosen: NDArray[np.int64] | None = None,
    slots: int = 4,
    policy: Policy = "hits-first",
) -> ExpertRun:
    """One expert layer.

    Args:
        work: kind "experts".
        array: that computes it.
        bytes_per_cycle: of the external memory.
        schedule: see the module.
        chosen: (tokens, top_k) expert numbers of a real picture; even routing by default.
        slots: experts that the cache holds.
        policy: of the cache, for a real routing.
    """
    expert = work.weight_bytes // work.experts
    load = expert / bytes_per_cycle
    compute = float(work.cycles(array))
    if schedule == "resident":
        return ExpertRun(compute, 0.0, 0.0, 0.0, work.weight_bytes)
    if schedule == "cached":
        misses = (
            expected_misses(work, slots)
            if chosen is None
            else float(simulated_misses(chosen.tolist(), slots, policy))
        )
        return ExpertRun(compute, misses * load, misses, misses * expert, slots * expert)
    queues = [(e, n) for e, n in enumerate(queue_lengths(work, chosen)) if n > 0]
    per_token = work.token_cycles(array)
    # The first expert's weights load during attention and gating; each next one's while the
    # queue before it is computed.
    stalls = tuple(
        (after, max(0.0, load - n * per_token)) for (_, n), (after, _) in pairwise(queues)
    )
    return ExpertRun(
        compute,
        sum(cycles for _, cycles in stalls),
        float(len(queues)),
        float(len(queues) * expert),
        2 * expert,
        tuple((e, cycles) for e, cycles in stalls if cycles > 0),
    )
