"""The runtime's layers, told apart by what decides their time: operators, sizes of maps, widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgemtl.backends.layer_times import LayerTime
from edgemtl.compress.latency.widths import GraphWidths, Size

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ATTRIBUTES = ("kernel_shape", "strides", "dilations", "pads")


@dataclass(frozen=True)
class Layer:
    """One layer of the dense network.

    Attributes:
        name: of the node of the exported graph that it computes, the first one where several were
            fused.
        key: what it is, without its widths: two layers with one key and equal widths take as long.
        inputs, outputs: channels it reads and writes as functions of the widths.
    """

    name: str
    key: str
    inputs: Size
    outputs: Size


def layers_of(
    times: Sequence[LayerTime], model: ModelProto, widths: GraphWidths
) -> tuple[Layer, ...]:
    """The layers of a profile that lead back to the graph, in the order they were told.

    Args:
        times: profile of the dense network.
        model: its graph.
        widths: of that graph.
    """
    nodes = {node.name: node for node in model.graph.node}
    found: dict[str, Layer] = {}
    for time in times:
        parts = [nodes[name] for name in time.nodes if name in nodes]
        if not parts or parts[0].name in found:
            continue
        sizes = _sides(parts, widths)
        if sizes is not None:
            found[parts[0].name] = Layer(parts[0].name, _key(time.kind, parts, widths), *sizes)
    return tuple(found.values())


def times_of(
    times: Sequence[LayerTime], layers: Mapping[str, Layer]
) -> tuple[dict[str, float], float]:
    """(ms per layer, ms of everything else: what the runtime added, changes of layout mostly)."""
    found: dict[str, float] = {}
    rest = 0.0
    for time in times:
        # What an int8 graph has besides comes first in some layers.
        name = next((node for node in time.nodes if node in layers), None)
        if name is None:
            rest += time.ms
        else:
            found[name] = found.get(name, 0.0) + time.ms
    return found, rest


def _sides(parts: Sequence[NodeProto], widths: GraphWidths) -> tuple[Size, Size] | None:
    """Channels read and written; a concatenation reads what all its parts hold."""
    first, last = parts[0], parts[-1]
    read = [each for name in first.input if (each := widths.channels(name)) is not None]
    written = widths.channels(last.output[0])
    if not read or written is None:
        return None
    if first.op_type == "Concat":
        return np.sum(read, axis=0), written
    return max(read, key=lambda size: float(size @ widths.dense)), written


def _key(kind: str, parts: Sequence[NodeProto], widths: GraphWidths) -> str:
    """Runtime's kind, operators, attributes, how channels are connected, sizes of the maps."""
    first, last = parts[0], parts[-1]
    words = [kind, "+".join(part.op_type for part in parts)]
    for attribute in first.attribute:
        if attribute.name in _ATTRIBUTES:
            words.append(f"{attribute.name[0]}{'.'.join(map(str, attribute.ints))}")
        elif attribute.name == "group" and attribute.i > 1:
            weight = widths.weight(first)
            each = weight is not None and weight[1] == 1
            words.append("depthwise" if each else f"groups of {weight[1] if weight else '?'}")
    data = next((name for name in first.input if widths.shapes.get(name)), "")
    words.append(f"{_positions(data, widths)}>{_positions(last.output[0], widths)}")
    return " ".join(words)


def _positions(tensor: str, widths: GraphWidths) -> str:
    """What is left of a shape without its channels: 1x80x80 for (1, C, 80, 80)."""
    shape = widths.shapes.get(tensor, ())
    if len(shape) == 4:
        return "x".join(map(str, (shape[0], *shape[2:])))
    return str(widths.positions(tensor))
