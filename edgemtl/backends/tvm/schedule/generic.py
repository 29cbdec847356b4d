"""Functions that are none of our operators: vectors along the last dimension where possible."""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import s_tir

from edgemtl.backends.tvm.schedule.machine import Machine

#: elements below which a second thread is not worth its start
PARALLEL_FROM = 60_000


def scheduled(function: Any, machine: Machine) -> tuple[Any, str]:
    """The function with its loops reordered, and which way was taken: "plain" for none."""
    for way in (_elementwise, _reduction):
        try:
            made = way(function, machine)
        except Exception:  # a schedule refuses in many ways; the function stays right without it
            continue
        return made.with_attr("tirx.is_scheduled", True), way.__name__.strip("_")
    return function, "plain"


def _opened(function: Any) -> tuple[Any, list[Any]]:
    schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
    return schedule, list(schedule.get_child_blocks(schedule.get_sblock("root")))


def _vector(extent: int, machine: Machine) -> int:
    size = 2 * machine.lanes
    while size > 1 and extent % size:
        size //= 2
    return size


def _inlined(schedule: Any, blocks: list[Any], keep: Any = None) -> list[Any]:
    """The blocks that are left when all others are written into their readers."""
    left = []
    for block in blocks:
        if block is keep:
            left.append(block)
            continue
        try:
            schedule.compute_inline(block)
        except Exception:  # an output of the function, or a reduction
            left.append(block)
    return left


def _elementwise(function: Any, machine: Machine) -> Any:
    schedule, blocks = _opened(function)
    for block in _inlined(schedule, blocks):
        _spread(schedule, block, machine)
    return schedule.mod["main"]


def _spread(schedule: Any, block: Any, machine: Machine) -> None:
    loops = schedule.get_loops(block)
    if any(axis.iter_type != 0 for axis in schedule.get(block).iter_vars):
        raise ValueError("a reduction")
    extents = [int(schedule.get(one).extent) for one in loops]
    if not loops:
        raise ValueError("a scalar")
    width = _vector(extents[-1], machine)
    outer = loops[:-1]
    if width > 1:
        rest, inner = schedule.split(loops[-1], [None, width])
        schedule.vectorize(inner)
        outer = [*outer, rest]
    if prod(extents) >= PARALLEL_FROM and machine.cores > 1:
        _parallel(schedule, outer, extents)


def _parallel(schedule: Any, loops: list[Any], extents: list[int]) -> None:
    """The outermost loop that is not trivial becomes parallel."""
    for one, extent in zip(loops, extents, strict=False):
        if extent > 1:
            schedule.parallel(one)
            return


def _reduction(function: Any, machine: Machine) -> Any:
    """Pools and the like: the reduction outside, vectors of the last spatial dimension inside."""
    schedule, blocks = _opened(function)
    kinds = [any(axis.iter_type != 0 for axis in schedule.get(block).iter_vars) for block in blocks]
    if kinds.count(True) != 1:
        raise ValueError("not one reduction")
    at = kinds.index(True)
    block = blocks[at]
    behind = _inlined(schedule, blocks, keep=block)
    axes = [axis.iter_type for axis in schedule.get(block).iter_vars]
    loops = schedule.get_loops(block)
    if len(loops) != len(axes):
        raise ValueError("loops and axes differ")
    spatial = [one for one, kind in zip(loops, axes, strict=True) if kind == 0]
    reduced = [one for one, kind in zip(loops, axes, strict=True) if kind != 0]
    extents = [int(schedule.get(one).extent) for one in spatial]
    work = prod(extents) * prod(int(schedule.get(one).extent) for one in reduced)
    width = _vector(extents[-1], machine)
    outer, inner = spatial[:-1], spatial[-1]
    if width > 1:
        rest, inner = schedule.split(inner, [None, width])
        outer = [*outer, rest]
    schedule.reorder(*outer, *reduced, inner)
    if width > 1:
        schedule.vectorize(inner)
    if work >= PARALLEL_FROM and machine.cores > 1:
        _parallel(schedule, outer, extents)
    schedule.decompose_reduction(block, reduced[0])
    for one in behind:
        if one is not block:
            _spread(schedule, one, machine)
    return schedule.mod["main"]
