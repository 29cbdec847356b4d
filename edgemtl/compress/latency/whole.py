"""The table of a runtime that does not tell what its layers take, from whole networks alone.

What a layer costs is then taken to be its multiply-accumulates, in blocks of channels, at one speed
per kind of layer, what it reads and writes at another, and some time for being called. The few
unknown speeds come from the latencies of a few cuts, held to what one speed for all kinds would say
where the cuts do not tell them apart. That is coarser than curves per layer, and costs no more cuts
than unknowns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgemtl.backends.layer_times import LayerTime
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.latency.curves import Numbers, terms
from edgemtl.compress.latency.cuts import measured_cuts
from edgemtl.compress.latency.durations import duration
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency.layers import layers_of
from edgemtl.compress.latency.measure import Measurement
from edgemtl.compress.latency.profiles import CutTimes, Profile
from edgemtl.compress.latency.widths import GraphWidths
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash
from edgemtl.progress import Progress, report

if TYPE_CHECKING:
    from onnx import NodeProto

_log = logging.getLogger(__name__)

#: times one network against another: (a, b) -> (median ms of a, a's latency relative to b, half
#: width of the interval)
Timer = Callable[[MultiTaskNetwork, MultiTaskNetwork], tuple[float, float, float]]
#: cuts that are timed: compiling takes half a minute on some of these runtimes
WHOLE_CUTS = 5
#: how firmly a speed is held to the one for all kinds
HOLD = 0.1
#: kinds of layers with a speed each: by windows, by points, by channel, and everything else
_KINDS = ("window", "point", "depthwise", "other")
#: shares of the dense latency, before anything was measured: computing, memory, calls
_PRIOR = (0.8, 0.15, 0.05)
#: places of the terms of curves.py
_CALLED, _READ, _WRITTEN, _WORK = 0, 1, 2, 4


@dataclass(frozen=True)
class _Parts:
    """Layers as unknowns.

    Attributes:
        factors: (unknowns, layers, terms) of the curves, per unit of each unknown.
        inputs, outputs: (layers, 1 + groups) channels as functions of the widths.
    """

    factors: Numbers
    inputs: Numbers
    outputs: Numbers

    def at(self, argument: Numbers, block: int) -> Numbers:
        """(unknowns,) what each contributes with these widths, per unit of it."""
        found = terms(self.inputs @ argument, self.outputs @ argument, block)
        total: Numbers = np.einsum("lt,ult->u", found, self.factors)
        return total


def whole_table(asked: Measurement, timer: Timer) -> LayerTable:
    """Time a few cuts, and fit the table; a killed measurement goes on after its last cut.

    Args:
        asked: what is measured; its ``turns`` are not used.
        timer: how two networks are compared.

    Raises:
        StageFailed: a network cannot be exported, compiled or run.
    """
    network = weights_hash(asked.network)
    sizes = GraphWidths(asked.graph, asked.groups)
    nodes = [LayerTime(n.name, n.op_type, (n.name,), 0.0) for n in asked.graph.graph.node]
    layers = layers_of(nodes, asked.graph, sizes)
    cuts = measured_cuts(asked.groups, asked.multiple, WHOLE_CUTS, asked.seed)
    found = asked.store.of(network, asked.multiple)
    if found is None or [one.widths for one in found.cuts] != cuts[: len(found.cuts)]:
        groups = {group.name: group.width for group in asked.groups}
        found = Profile(asked.store.setting, network, asked.multiple, groups, layers)
    done = before = len(found.cuts)
    began = time.monotonic()
    noise = 0.0
    while done < len(cuts):
        widths = cuts[done]
        keep = {g.name: torch.arange(g.width) < widths[g.name] for g in asked.groups}
        ms, ratio, half = timer(cut(asked.network, keep, asked.groups), asked.network)
        noise = max(noise, half / ratio)
        found = found.plus(CutTimes(widths, {}, (0.0, 0.0), (ms, ms / ratio)))
        asked.store.write(found)
        done += 1
        report(Progress(f"timing cuts on {asked.target}", done, len(cuts), "cuts"))
        if done == before + 1 and done < len(cuts):
            left = (time.monotonic() - began) * (len(cuts) - done)
            _log.info(
                f"timing {len(cuts) - before} cuts of the network on {asked.target}: about "
                f"{duration(left)}"
            )
    parts = _parts(asked, sizes, found)
    table = _fitted(parts, found, found.cuts, asked)
    off = []
    for index, one in enumerate(found.cuts):
        others = [*found.cuts[:index], *found.cuts[index + 1 :]]
        without = _fitted(parts, found, others, asked)
        off.append(abs(without.predict_widths(one.widths) / without.dense_ms / one.ratio - 1))
    return replace(table, noise=max(table.noise, noise), error=float(np.median(off)))


def _fitted(
    parts: _Parts, profile: Profile, cuts: Sequence[CutTimes], asked: Measurement
) -> LayerTable:
    """Speeds, none negative, such that the cuts and the dense network come out."""
    from scipy.optimize import nnls

    turns = np.array([one.whole[1] for one in profile.cuts])
    dense_ms = float(np.median(turns))
    full = np.array([1.0, *profile.groups.values()])
    rows, wanted = [parts.at(full, asked.block)], [dense_ms]
    for one in cuts:
        widths = (one.widths.get(name, width) for name, width in profile.groups.items())
        rows.append(parts.at(np.array([1.0, *widths]), asked.block))
        wanted.append(one.ratio * dense_ms)
    columns, ms = np.array(rows), np.array(wanted)
    prior = _prior(columns[0], dense_ms)
    held = HOLD * np.diag(1 / prior)
    stacked = np.concatenate([columns / ms[:, None], held])
    speeds, _ = nnls(stacked, np.concatenate([np.ones(len(ms)), np.full(len(prior), HOLD)]))
    return LayerTable(
        target=asked.target,
        dense_ms=dense_ms,
        network=profile.network,
        threads=profile.setting.threads,
        precision=profile.setting.precision.partition("/")[0],
        noise=1.96 * 1.4826 * float(np.median(np.abs(turns / dense_ms - 1))),
        error=None,
        cuts=len(profile.cuts),
        block=asked.block,
        groups=profile.groups,
        factors=np.einsum("u,ult->lt", speeds, parts.factors),
        inputs=parts.inputs,
        outputs=parts.outputs,
        rest_ms=0.0,
        scale=1.0,
        offset=0.0,
    )


def _prior(dense: Numbers, dense_ms: float) -> Numbers:
    """One speed for all kinds of computing, one for memory, one for calls: (unknowns,)."""
    kinds = len(_KINDS) - 1
    computing = dense[:kinds].sum()
    found = [dense_ms * _PRIOR[0] / max(computing, 1e-9)] * kinds
    found += [dense_ms * _PRIOR[1] / max(dense[kinds], 1e-9)]
    found += [dense_ms * _PRIOR[2] / max(dense[kinds + 1], 1e-9)]
    return np.array(found)


def _parts(asked: Measurement, sizes: GraphWidths, profile: Profile) -> _Parts:
    nodes = {node.name: node for node in asked.graph.graph.node}
    count = len(_KINDS) + 1
    width = terms(np.ones(1), np.ones(1), 1).shape[-1]
    factors = np.zeros((count, len(profile.layers), width))
    for at, layer in enumerate(profile.layers):
        node = nodes[layer.name]
        kind, window = _kind(node, sizes)
        positions = sizes.positions(node.output[0])
        if kind == "depthwise":
            factors[_KINDS.index(kind), at, _WRITTEN] = positions * window
        elif kind != "other":
            factors[_KINDS.index(kind), at, _WORK] = positions * window * asked.block
        factors[-2, at, _READ] = sizes.positions(_data_of(node, sizes))
        factors[-2, at, _WRITTEN] = positions
        factors[-1, at, _CALLED] = 1.0
    inputs = np.array([layer.inputs for layer in profile.layers])
    outputs = np.array([layer.outputs for layer in profile.layers])
    return _Parts(factors, inputs, outputs)


def _kind(node: NodeProto, sizes: GraphWidths) -> tuple[str, int]:
    """What a node computes like, and the positions of its window."""
    weight = sizes.weight(node)
    if weight is None:
        return "other", 1
    window = int(np.prod(weight[2:]))
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if groups > 1 and weight[1] == 1:
        return "depthwise", window
    return ("window", window) if window > 1 else ("point", 1)


def _data_of(node: NodeProto, sizes: GraphWidths) -> str:
    return next((name for name in node.input if sizes.shapes.get(name)), "")
