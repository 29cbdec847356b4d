"""Name the first layer that differs between two forms of a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.errors import StageFailed
from edgemtl.exporting.differences import Difference, difference
from edgemtl.exporting.naming import module_of
from edgemtl.exporting.onnx_export import prepare
from edgemtl.exporting.probe import Probe
from edgemtl.models.base import MultiTaskNetwork

#: a layer differs when it is off by more than this share of its output's range. Another
#: order of summation moves layers of a trained network by up to 1e-5; the end may be off by 1e-4.
LAYER_TOLERANCE = 5e-5
#: tensors looked at in one run, which bounds the memory
_AT_ONCE = 64


@dataclass(frozen=True)
class BisectResult:
    """What was found.

    Attributes:
        found: whether a layer differs.
        compared: tensors compared until then.
        node, op: ONNX node and operator that write the first tensor that differs.
        module: torch module path of that node.
        tensor: name of that tensor.
        difference: how far it is off.
    """

    found: bool
    compared: int
    node: str = ""
    op: str = ""
    module: str = ""
    tensor: str = ""
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "found": self.found,
            "compared": self.compared,
            "node": self.node,
            "op": self.op,
            "module": self.module,
            "tensor": self.tensor,
            "difference": None if self.difference is None else self.difference.to_dict(),
        }


def bisect(
    a: Path | MultiTaskNetwork,
    b: Path,
    images: NDArray[np.float32],
    tolerance: float = LAYER_TOLERANCE,
) -> BisectResult:
    """Walk ``b`` in the order it computes and name its first node whose output is not ``a``'s.

    Tensors of two graphs are matched by name, which simplification keeps; modules of a torch
    network by the names of the nodes (exporting/naming.py). Layers without a counterpart are passed
    over: the first *matched* tensor after them tells.

    Args:
        a: the reference, an ONNX file or the torch network.
        b: an ONNX file made from it.
        images: (B, 3, H, W) float32, as ``b`` wants it.
        tolerance: largest error of a layer, as a share of its output's range.

    Raises:
        StageFailed: a graph cannot be read or run, or the two have nothing in common.
    """
    probe = Probe(b)
    pairs = (
        _module_pairs(prepare(a), probe, images)
        if isinstance(a, MultiTaskNetwork)
        else _graph_pairs(Probe(a), probe, images)
    )
    compared = 0
    for tensor, expected, found in pairs:
        compared += 1
        off = difference(expected, found)
        if not off.within(tolerance):
            node = probe.nodes[probe.writer[tensor]]
            return BisectResult(
                True, compared, node.name, node.op_type, module_of(node.name), tensor, off
            )
    if compared == 0:
        raise StageFailed(
            "the two have no layer in common to compare",
            where=b.name,
            hint="compare files of one export: their nodes carry the same names",
        )
    return BisectResult(False, compared)


Pair = tuple[str, NDArray[np.float32], NDArray[np.float32]]


def _in_order(probe: Probe, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: probe.writer[name])


def _graph_pairs(reference: Probe, probe: Probe, images: NDArray[np.float32]) -> Iterator[Pair]:
    """Tensors of the same name, in the order of ``probe``'s nodes."""
    common = _in_order(probe, reference.writer.keys() & probe.writer.keys())
    for start in range(0, len(common), _AT_ONCE):
        names = common[start : start + _AT_ONCE]
        expected, found = reference.read(names, images), probe.read(names, images)
        for name in names:
            yield name, expected[name], found[name]


def _module_pairs(
    network: MultiTaskNetwork, probe: Probe, images: NDArray[np.float32]
) -> Iterator[Pair]:
    """Module outputs and the tensors that hold them, in the order of ``probe``'s nodes."""
    leaving = _leaving(probe)
    pairs = {
        leaving[path][0]: answer
        for path, answer in _module_outputs(network, set(leaving), images).items()
        if len(leaving[path]) == 1
    }
    ordered = _in_order(probe, pairs)
    for start in range(0, len(ordered), _AT_ONCE):
        names = ordered[start : start + _AT_ONCE]
        found = probe.read(names, images)
        for name in names:
            # A tensor of another shape is not this module's answer but something computed from it.
            if pairs[name].shape == found[name].shape:
                yield name, pairs[name], found[name]


def _leaving(probe: Probe) -> dict[str, list[str]]:
    """Module path -> tensors that its nodes write and nodes outside it read."""

    def inside(node: str, path: str) -> bool:
        return f"{module_of(node)}.".startswith(f"{path}.")

    leaving: dict[str, list[str]] = {}
    for tensor, position in probe.writer.items():
        readers = probe.readers.get(tensor, [])
        path = module_of(probe.nodes[position].name)
        while path:
            tensors = leaving.setdefault(path, [])
            if tensor in probe.outputs or any(not inside(name, path) for name in readers):
                tensors.append(tensor)
            path = path.rpartition(".")[0]
    return leaving


@torch.no_grad()
def _module_outputs(
    network: MultiTaskNetwork, with_nodes: set[str], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Path -> output of every module that is called once and returns one tensor.

    A module without nodes of its own (a batch norm that was folded) stands for the module that fed
    it: the graph holds the two as one, under the name of the first.
    """
    outputs: dict[str, NDArray[np.float32]] = {}
    written: dict[int, tuple[str, Tensor]] = {}  # keeps the tensors alive, so that ids stay unique
    called: set[str] = set()
    repeated: set[str] = set()

    def record(path: str, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if path not in with_nodes:
            source = written.get(id(inputs[0])) if inputs else None
            if source is None:
                return
            path = source[0]
        elif path in called:
            repeated.add(path)
        called.add(path)
        outputs[path] = output.detach().clone().numpy()
        written[id(output)] = (path, output)

    def hook(path: str) -> Any:
        return lambda module, inputs, output: record(path, inputs, output)

    handles = [
        module.register_forward_hook(hook(path)) for path, module in network.named_modules() if path
    ]
    try:
        network(torch.from_numpy(np.ascontiguousarray(images)))
    finally:
        for handle in handles:
            handle.remove()
    return {path: value for path, value in outputs.items() if path not in repeated}


__all__ = ["LAYER_TOLERANCE", "BisectResult", "bisect"]
