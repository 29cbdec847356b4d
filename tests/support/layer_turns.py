"""A runtime that tells what its layers take, without one: times are computed from the graphs.

Convolutions are computed in blocks of four channels, four blocks of output channels at once, and
everything takes time by what it reads and writes. The machine can be made slower from call to call,
and what waits for memory slower than what computes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from edgemtl import targets
from edgemtl.backends.layer_times import LayerTime
from edgemtl.compress.latency.turns import Turns
from edgemtl.exporting.network import export_network
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash

BLOCK = 4
#: ms per block of multiply-accumulates, per number read or written, per layer, and for the rest
COMPUTE, MEMORY, LAYER, REST = 3e-6, 2e-7, 2e-3, 0.05
_EXPORTED: dict[str, Any] = {}


class ModelledTurns:
    """See the module.

    Args:
        slower: call number, from 0 -> factors on (computing, waiting for memory).
        refuses: call number that is killed.
    """

    def __init__(
        self,
        slower: Callable[[int], tuple[float, float]] = lambda call: (1.0, 1.0),
        refuses: int | None = None,
    ) -> None:
        self.calls = 0
        self._slower, self.refuses = slower, refuses

    def dense_graph(self, network: MultiTaskNetwork) -> Any:
        """The exported graph."""
        return exported(network)

    def __call__(self, network: MultiTaskNetwork, dense: MultiTaskNetwork) -> Turns:
        if self.calls == self.refuses:
            self.refuses = None
            raise KeyboardInterrupt
        compute, memory = self._slower(self.calls)
        self.calls += 1
        both = [layer_times(exported(each), compute, memory) for each in (network, dense)]
        whole = [sum(layer.ms for layer in layers) for layers in both]
        return Turns((both[0], both[1]), (whole[0], whole[1]))


def latency(network: MultiTaskNetwork) -> float:
    """What the whole takes in ms on an undisturbed machine."""
    return sum(layer.ms for layer in layer_times(exported(network), 1.0, 1.0))


def exported(network: MultiTaskNetwork) -> Any:
    """The simplified graph; equal networks are exported once."""
    key = weights_hash(network)
    if key not in _EXPORTED:
        with tempfile.TemporaryDirectory() as folder:
            path = export_network(network, targets.load("cpu"), Path(folder)).path
            _EXPORTED[key] = onnx.load(path)
    return _EXPORTED[key]


def layer_times(model: Any, compute: float, memory: float) -> tuple[LayerTime, ...]:
    """One layer per node, and one that the runtime added."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    found = [LayerTime("reorder", "Reorder", (), REST * memory)]
    for node in model.graph.node:
        moved = sum(math.prod(sizes[name]) for name in (*node.input, *node.output) if name in sizes)
        ms = LAYER + MEMORY * moved * memory
        if node.op_type == "Conv":
            outputs, inputs, *kernel = weights[node.input[1]]
            blocks = -(-inputs // BLOCK) * -(-outputs // BLOCK)
            positions = math.prod(sizes[node.output[0]][2:])
            ms += COMPUTE * BLOCK**2 * blocks * math.prod(kernel) * positions * compute
        found.append(LayerTime(node.name, node.op_type, (node.name,), ms))
    return tuple(found)
