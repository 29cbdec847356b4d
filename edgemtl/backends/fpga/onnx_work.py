"""The accelerator's layers of an ONNX graph, before or after quantisation.

Roundings, activations and concatenations cost nothing of their own: they are done where a layer
writes its result. What the accelerator does not take is listed, to be run by the processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgemtl.backends.fpga.work import Work

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: done while a layer writes its result
FUSED = frozenset({"Relu", "Clip", "Identity", "QuantizeLinear", "DequantizeLinear", "Concat"})
#: read and written once, without multiplications
MOVES = frozenset({"Add", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool"})
#: of a sum that the processor reads
WIDE_BYTES = 4


@dataclass(frozen=True)
class NetworkWork:
    """What a graph asks of the board.

    Attributes:
        works: layers of the accelerator, in order.
        host: operator -> nodes left to the processor, whose time is not modelled.
    """

    works: tuple[Work, ...]
    host: Mapping[str, int]


def network_work(model: ModelProto) -> NetworkWork:
    """Read a graph with static shapes; weights are counted as int8.

    Sums that the processor reads (heads, and whatever follows that is not the accelerator's) are
    written with four bytes.
    """
    return _Reader(model).read()


class _Reader:
    def __init__(self, model: ModelProto) -> None:
        import onnx

        inferred = onnx.shape_inference.infer_shapes(model)
        self._graph = inferred.graph
        self._shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for group in (self._graph.input, self._graph.value_info, self._graph.output)
            for value in group
        }
        self._constants = {tensor.name: tuple(tensor.dims) for tensor in self._graph.initializer}
        # tensor -> the tensors of the accelerator that it is made of
        self._roots: dict[str, tuple[str, ...]] = {
            value.name: (value.name,) for value in self._graph.input
        }
        self._bytes = {name: prod(self._shapes[name]) for name in self._roots}

    def read(self) -> NetworkWork:
        works: list[Work] = []
        host: dict[str, int] = {}
        for node in self._graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants:
                self._constants[node.output[0]] = self._constants[node.input[0]]
                continue
            known = all(self._roots.get(name) for name in self._activations(node))
            work = self._work(node) if known and self._activations(node) else None
            if work is not None:
                works.append(work)
                self._roots[work.output] = (work.output,)
                self._bytes[work.output] = work.output_bytes
            elif known and node.op_type in FUSED and self._activations(node):
                roots = [r for name in self._activations(node) for r in self._roots[name]]
                self._roots[node.output[0]] = tuple(dict.fromkeys(roots))
            elif self._activations(node):
                host[node.op_type] = host.get(node.op_type, 0) + 1
        return NetworkWork(tuple(self._widened(works)), host)

    def _activations(self, node: NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self._constants]

    def _work(self, node: NodeProto) -> Work | None:
        shape = self._shapes.get(node.output[0], ())
        if not shape or not all(shape):
            return None  # decided while running: not the accelerator's
        if node.op_type == "Conv":
            return self._conv(node, shape)
        if node.op_type in ("Gemm", "MatMul"):
            weight = self._constants.get(node.input[1])
            if weight is None or len(weight) != 2 or len(self._activations(node)) != 1:
                return None
            k = prod(weight) // shape[-1]
            return self._layer(node, "matmul", prod(shape[:-1]), k, shape[-1], 1, prod(weight))
        if node.op_type in MOVES:
            channels = shape[1] if len(shape) > 1 else 1
            return self._layer(node, "move", prod(shape) // channels, 1, channels, 1, 0)
        return None

    def _conv(self, node: NodeProto, shape: tuple[int, ...]) -> Work | None:
        weight = self._constants.get(node.input[1])
        if weight is None or len(weight) != 4 or len(self._activations(node)) != 1:
            return None
        outputs, reduction, *kernel = weight
        channels = self._shapes[node.input[0]][1]
        positions, taps = shape[0] * shape[2] * shape[3], prod(kernel)
        if reduction == channels:
            kind = "conv"
        elif reduction == 1 and channels == outputs:
            kind = "depthwise"
        else:
            return None
        return self._layer(node, kind, positions, reduction, outputs, taps, prod(weight))

    def _layer(
        self,
        node: NodeProto,
        kind: str,
        positions: int,
        reduction: int,
        outputs: int,
        taps: int,
        weights: int,
    ) -> Work:
        inputs = [r for name in self._activations(node) for r in self._roots[name]]
        inputs = list(dict.fromkeys(inputs))
        # A bias and the multiplier that rounds take four bytes each per output channel.
        extra = 8 * outputs if weights else 0
        return Work(
            node.name,
            kind,  # type: ignore[arg-type] # one of the kinds, from above
            positions,
            reduction,
            outputs,
            taps,
            tuple(inputs),
            node.output[0],
            tuple(self._bytes[name] for name in inputs),
            positions * outputs,
            weights + extra,
        )

    def _widened(self, works: list[Work]) -> list[Work]:
        """Results that no layer of the accelerator reads are sums for the processor."""
        from dataclasses import replace

        read = {name for work in works for name in work.inputs}
        return [
            work
            if work.output in read or not work.weight_bytes
            else replace(work, output_bytes=work.output_bytes * WIDE_BYTES)
            for work in works
        ]
