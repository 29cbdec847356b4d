"""Moments and curves of a network, kept on disk so that a killed run goes on."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgemtl.compress.compensation.curves import Curve, curve
from edgemtl.compress.compensation.layouts import Layout
from edgemtl.compress.compensation.moments import Moments, collect
from edgemtl.compress.compensation.readers import Reader
from edgemtl.compress.compensation.timed_loop import TimedLoop
from edgemtl.compress.context import PruneContext
from edgemtl.compress.search_cost import SearchCost
from edgemtl.files import write_atomically
from edgemtl.models.threads import torch_threads

_log = logging.getLogger(__name__)

#: curves that are made between two looks at the disk
SAVE_EVERY = 8


@dataclass
class Evidence:
    """What the widths are chosen by.

    Attributes:
        moments: of the network.
        curves: group -> what it costs at each width.
        spent: what both took.
    """

    moments: Moments
    curves: dict[str, Curve]
    spent: SearchCost


def moments_of(context: PruneContext) -> tuple[Moments, SearchCost]:
    """The moments of the network: from disk, or from one pass over its calibration pictures."""
    path = None if context.evidence is None else context.evidence / "moments.pt"
    if path is not None and path.is_file():
        _log.info("the search goes on behind the pass over the calibration pictures")
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        return _moments_from(stored), SearchCost.from_dict(stored["spent"])
    started = time.monotonic()
    found = collect(
        context.network, context.groups, context.calibration_images, context.options.seed
    )
    images = found.images
    spent = SearchCost(
        round(context.cost.of({}).macs * images * found.passes),
        images,
        0,
        time.monotonic() - started,
        found.passes,
    )
    if path is not None:
        content = {**_moments_to(found), "spent": spent.to_dict()}
        write_atomically(path, lambda stream: torch.save(content, stream))
    return found, spent


def evidence_of(context: PruneContext) -> Evidence:
    """Moments, and a curve per group."""
    moments, spent = moments_of(context)
    started = time.monotonic()
    path = None if context.evidence is None else context.evidence / "curves.pt"
    curves: dict[str, Curve] = {}
    before = 0.0
    if path is not None and path.is_file():
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        before = float(stored["seconds"])
        curves = {
            name: Curve(tuple(order), error) for name, (order, error) in stored["curves"].items()
        }

    def save() -> None:
        if path is None:
            return
        content = {
            "seconds": before + time.monotonic() - started,
            "curves": {name: (list(one.order), one.error) for name, one in curves.items()},
        }
        write_atomically(path, lambda stream: torch.save(content, stream))

    scale = torch.from_numpy(1 / moments.losses)
    loop = TimedLoop("groups of channels")
    loop.start(len(curves))
    new = 0
    for group in context.groups:
        if group.name in curves:
            continue
        narrowest = min(context.choices[group.name])
        # Many small products take twice as long on two. Systems of several blocks, which curves
        # solve in one call, need it too: see ``solve.py``.
        with torch_threads(1):
            curves[group.name] = curve(context.network, group, moments, scale, narrowest)
        new += 1
        loop(len(curves), len(context.groups))
        if new % SAVE_EVERY == 0:
            save()
    if new:
        save()
    seconds = before + time.monotonic() - started
    return Evidence(moments, curves, spent.plus(SearchCost(seconds=seconds)))


def _moments_to(moments: Moments) -> dict[str, Any]:
    return {
        "readers": [
            {
                "tensor": reader.layout.tensor,
                "kind": reader.layout.kind,
                "dim": reader.layout.dim,
                "shape": list(reader.layout.shape),
                "blocks": reader.layout.blocks,
                "stack": reader.layout.stack,
                "constant": None if reader.constant is None else list(reader.constant),
            }
            for reader in moments.readers.values()
        ],
        "grams": moments.grams,
        "fisher": moments.fisher,
        "losses": torch.from_numpy(moments.losses.copy()),
        "labelled": list(moments.labelled),
        "strange": list(moments.strange),
        "images": moments.images,
        "notes": list(moments.notes),
        "passes": moments.passes,
    }


def _moments_from(stored: dict[str, Any]) -> Moments:
    readers = {}
    for one in stored["readers"]:
        layout = Layout(
            one["tensor"], one["kind"], one["dim"], tuple(one["shape"]), one["blocks"], one["stack"]
        )
        constant = None if one["constant"] is None else (one["constant"][0], one["constant"][1])
        readers[layout.tensor] = Reader(layout, constant)
    return Moments(
        readers,
        stored["grams"],
        stored["fisher"],
        np.asarray(stored["losses"].numpy(), np.float64),
        tuple(bool(value) for value in stored["labelled"]),
        tuple(stored["strange"]),
        int(stored["images"]),
        tuple(stored["notes"]),
        float(stored["passes"]),
    )
