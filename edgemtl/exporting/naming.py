"""Names in an exported graph that say which layer of the network each node came from.

A node is named ``<module path>/<operator>[_<n>]`` (``backbone.stem.conv/Conv``), so the name alone
maps it back: it survives simplification, other runtimes show it in their profiles, and
:func:`module_of` needs no side file. Weights are named after their parameter where there is one,
else after the node that reads them; intermediate tensors after the node that writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

#: inputs of these operators that hold weights, by position
_WEIGHT_ROLES = {1: "weight", 2: "bias"}
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def module_of(node_name: str) -> str:
    """Torch module path of a node of an exported graph; empty for the network's own forward."""
    return node_name.rpartition("/")[0]


def modules_of(model: ModelProto) -> dict[str, str]:
    """Node name -> torch module path, for every node that computes something."""
    return {
        node.name: module_of(node.name)
        for node in model.graph.node
        if node.op_type not in ("Constant", "Identity")
    }


def tell_full_paths(root: nn.Module) -> None:
    """Make the trace that is under way name each called module by its full path.

    To be called from ``root``'s forward. Left alone the exporter shortens paths (``first.same`` and
    ``second.same`` both to ``same``), so that a node could not be traced back for certain. The map
    it reads is internal to torch; without it nodes get names, but no module.
    """
    scopes = getattr(torch.jit._trace, "_trace_module_map", None)
    if scopes is None:
        return
    for path, module in root.named_modules():
        if path and module in scopes:
            kind = scopes[module].partition("::")[0]
            scopes[module] = f"{kind}::{path}"


def _module_path(scope: str, paths: set[str]) -> str:
    """The module of a call scope; the second call of ``stem`` has the scope ``stem_1``."""
    if scope in paths:
        return scope
    first = scope.rpartition("_")[0]
    return first if first in paths else ""


def name_after_modules(model: ModelProto, root: nn.Module, prefix: str) -> None:
    """Rename nodes, weights and intermediate tensors of a freshly exported graph, in place.

    Args:
        model: as the exporter wrote it.
        root: the module that was exported, having called :func:`tell_full_paths`.
        prefix: path of the network within ``root``, with the dot; left away in all names.
    """
    paths = {path for path, _ in root.named_modules()}
    outside = {value.name for value in (*model.graph.input, *model.graph.output)}
    weights = {initializer.name for initializer in model.graph.initializer}
    used: set[str] = set()
    tensors: dict[str, str] = {name: name for name in outside}

    def unique(name: str) -> str:
        candidate, count = name, 0
        while candidate in used:
            count += 1
            candidate = f"{name}_{count}"
        used.add(candidate)
        return candidate

    for node in model.graph.node:
        *scope, operator = [part for part in node.name.split("/") if part] or [node.op_type]
        path = _module_path(scope[-1], paths) if scope else ""
        path = f"{path}.".removeprefix(prefix).rstrip(".")
        node.name = unique(f"{path}/{operator}" if path else operator)
        _name_weights(node, weights, tensors, prefix, unique)
        for index, name in enumerate(node.output):
            if name and name not in tensors:
                tensors[name] = f"{node.name}_output_{index}"
    _rename_tensors(model.graph, tensors)
    for initializer in model.graph.initializer:
        initializer.name = tensors.get(initializer.name, initializer.name)
    del model.graph.value_info[:]


def _rename_tensors(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Apply new tensor names to all nodes, those of branches and loops too."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_tensors(attribute.g, names)


def _name_weights(
    node: NodeProto,
    weights: set[str],
    tensors: dict[str, str],
    prefix: str,
    unique: Callable[[str], str],
) -> None:
    """Add the new names of the weights that this node reads first."""
    for index, name in enumerate(node.input):
        if name not in weights or name in tensors:
            continue
        if name.startswith(prefix):
            tensors[name] = unique(name.removeprefix(prefix))
        else:
            # A fused weight has no parameter of its own; the layer it is read by names it.
            role = _WEIGHT_ROLES.get(index) if node.op_type in _WEIGHTED else None
            owner = module_of(node.name) or node.name
            tensors[name] = unique(f"{owner}.{role}" if role else f"{node.name}_input_{index}")
