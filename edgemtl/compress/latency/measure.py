"""Measure a network's layers at many widths, and make the table of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.latency.cuts import measured_cuts
from edgemtl.compress.latency.durations import duration
from edgemtl.compress.latency.layer_table import (
    LayerTable,
    Samples,
    fit_table,
    samples_of,
)
from edgemtl.compress.latency.layers import Layer, layers_of, times_of
from edgemtl.compress.latency.profiles import CutTimes, Profile, ProfileStore
from edgemtl.compress.latency.turns import LayerTurns, Turns
from edgemtl.compress.latency.widths import GraphWidths
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash
from edgemtl.progress import Progress, report

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)

#: cuts that are measured of a network none of whose layers are known, and of one whose are
CUTS, FEW_CUTS = 16, 4
#: share of the dense latency that unknown layers may take in a network whose layers are "known"
UNKNOWN = 0.03
#: of a kind that is known: samples at least, and how far its widths reach, relative to the layer's
SAMPLES, REACH = 6, 0.9
#: predicted against measured latency with other networks' curves; above it they are not used
STRANGE = 0.08


@dataclass(frozen=True)
class Measurement:
    """What is measured and how.

    Attributes:
        network: the dense one.
        groups: of it.
        graph: it, exported for the target.
        multiple: widths are multiples of it.
        block: channels that the runtime computes at once.
        target: name of the target, for the record.
        turns: times layers.
        store: of profiles.
        seed: of the drawn cuts.
    """

    network: MultiTaskNetwork
    groups: Sequence[ChannelGroup]
    graph: ModelProto
    multiple: int
    block: int
    target: str
    turns: LayerTurns | None
    store: ProfileStore
    seed: int = 0


def layer_table(asked: Measurement) -> LayerTable:
    """Measure what is not known yet, and fit the table.

    A killed measurement goes on after its last cut; a network that was measured before is not
    measured again; one whose layers are all known from others is measured in a few cuts, which say
    whether the others' times hold here.

    Raises:
        StageFailed: a network cannot be exported, compiled or run.
    """
    network = weights_hash(asked.network)
    cuts = measured_cuts(asked.groups, asked.multiple, CUTS, asked.seed)
    found = asked.store.of(network, asked.multiple)
    if found is not None and [one.widths for one in found.cuts] != cuts[: len(found.cuts)]:
        found = None  # of another version of ours, which drew other cuts
    done = 0 if found is None else len(found.cuts)
    began, before = time.monotonic(), done
    while done < len(cuts):
        if found is not None and done == FEW_CUTS:
            known = _known(found, asked.store.others(network, asked.multiple))
            if known is not None:
                table = fit_table(found, asked.block, asked.target, known)
                if table.error is None or table.error <= STRANGE:
                    _log.info("the layers of this network are known from others")
                    return table
        found = _with_cut(asked, found, cuts[done])
        asked.store.write(found)
        done += 1
        report(Progress(f"timing layers on {asked.target}", done, len(cuts), "cuts"))
        if done == before + 1 and done < len(cuts):
            left = (time.monotonic() - began) * (len(cuts) - done)
            _log.info(
                f"timing the layers on {asked.target} in {len(cuts) - before} cuts of the network: "
                f"about {duration(left)}"
            )
    assert found is not None
    return fit_table(found, asked.block, asked.target)


def _with_cut(asked: Measurement, found: Profile | None, widths: dict[str, int]) -> Profile:
    keep = {group.name: torch.arange(group.width) < widths[group.name] for group in asked.groups}
    assert asked.turns is not None
    turns = asked.turns(cut(asked.network, keep, asked.groups), asked.network)
    if found is None:
        sizes = GraphWidths(asked.graph, asked.groups)
        found = Profile(
            asked.store.setting,
            weights_hash(asked.network),
            asked.multiple,
            {group.name: group.width for group in asked.groups},
            layers_of(turns.layers[1], asked.graph, sizes),
        )
    return found.plus(_times(turns, widths, {layer.name: layer for layer in found.layers}))


def _times(turns: Turns, widths: dict[str, int], layers: dict[str, Layer]) -> CutTimes:
    (cut_ms, cut_rest), (dense_ms, dense_rest) = (times_of(one, layers) for one in turns.layers)
    both = {
        name: (cut_ms[name], dense_ms[name]) for name in layers if name in cut_ms.keys() & dense_ms
    }
    return CutTimes(widths, both, (cut_rest, dense_rest), turns.whole)


def _known(found: Profile, others: Sequence[Profile]) -> dict[str, dict[str, Samples]] | None:
    """Samples of other networks for the layers of this one; None where they do not cover them."""
    pooled: dict[str, dict[str, Samples]] = {}
    for number, other in enumerate(others):
        for key, layers in samples_of(other, other.cuts).items():
            named = pooled.setdefault(key, {})
            named |= {f"{number} {name}": one for name, one in layers.items()}
    dense, full = found.dense, np.array([1.0, *found.groups.values()])
    missing = 0.0
    for layer in found.layers:
        if not (layer.inputs[1:].any() or layer.outputs[1:].any()):
            continue
        parts = list(pooled.get(layer.key, {}).values())
        if not _covered(parts, float(layer.inputs @ full), float(layer.outputs @ full)):
            missing += dense.get(layer.name, 0.0)
    if missing > UNKNOWN * sum(dense.values()):
        return None
    return {layer.key: pooled[layer.key] for layer in found.layers if layer.key in pooled}


def _covered(parts: Sequence[Samples], inputs: float, outputs: float) -> bool:
    """Whether a layer of these widths, and all narrower ones, lie among what was measured."""
    if not parts:
        return False
    read = np.concatenate([one.inputs for one in parts])
    written = np.concatenate([one.outputs for one in parts])
    different = len(set(zip(read.tolist(), written.tolist(), strict=True)))
    wide = read.max() >= REACH * inputs and written.max() >= REACH * outputs
    return different >= SAMPLES and bool(wide)
