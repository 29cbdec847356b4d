"""Where the time goes: the runtime's layers, summed up by the torch modules they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from edgemtl.record.rundata import LayerFacts, NodeFacts, RunData
from edgemtl.report import charts
from edgemtl.report.figures import Figure, percent, plain, pointer
from edgemtl.report.modules import costly_modules

#: rows of the table of layers
MOST_LAYERS = 200


@dataclass(frozen=True)
class TimeRow:
    """A module: its time, its share of all, drawn."""

    module: str
    ms: Figure
    share: Figure
    bar: Markup


def layer_times(run: RunData) -> dict[str, Any] | None:
    """The tables; None when no layer was timed."""
    total = sum(layer.ms for layer in run.layers)
    if not total:
        return None
    works = costly_modules(
        [NodeFacts(layer.layer, layer.kind, layer.module, layer.ms, 0.0) for layer in run.layers]
    )
    widest = max(work.share for work in works) or 1.0
    modules = [
        TimeRow(
            work.module or "(added by the runtime)",
            plain(work.macs, "ms"),
            Figure(work.share, percent(work.share)),
            charts.draw_bar(work.share / widest),
        )
        for work in works
    ]
    slowest = sorted(enumerate(run.layers), key=lambda item: (-item[1].ms, item[0]))[:MOST_LAYERS]
    layers = [_row(position, layer, total) for position, layer in slowest]
    return {"modules": modules, "layers": layers, "total": plain(total, "ms").text}


def _row(position: int, layer: LayerFacts, total: float) -> dict[str, Any]:
    return {
        "module": layer.module,
        "nodes": ", ".join(layer.nodes),
        "layer": layer.layer,
        "kind": layer.kind,
        "ms": plain(layer.ms, "ms", pointer("bench/layers.json", "layers", position, "ms")),
        "share": Figure(layer.ms / total, percent(layer.ms / total)),
    }
