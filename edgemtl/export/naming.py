"""Names in an exported graph that say which layer of the network each node came from.

A node is named ``<module path>/<operator>[_<n>]`` (``backbone.stem.conv/Conv``), so the name alone
maps it back: it survives simplification, other runtimes show it in their profiles, and
:func:`module_of` needs no side file. Weights are named after their parameter where there is one,
else after the node that reads them; intermediate tensors after the node that writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

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


def _scope_atom(path: str) -> str:
    """The part of a module path that the exporter writes for one call.

    It is the last component, and when that is a number also what precedes it: ``levels.0`` for
    ``head.levels.0``.
    """
    atoms = path.split(".")
    start = len(atoms) - 1
    while start > 0 and atoms[start].isdigit():
        start -= 1
    return ".".join(atoms[start:])


class _ScopeReader:
    """Turns the exporter's call scopes into module paths of the network.

    The exporter writes one component per module *called*, so containers that are only indexed
    (``nn.ModuleList``, ``nn.ModuleDict``) are missing from a scope and have to be found again.
    """

    def __init__(self, root: nn.Module) -> None:
        self._paths = [name for name, _ in root.named_modules() if name]
        self._known: dict[tuple[str, str], str] = {}

    def _step(self, parent: str, atom: str) -> str:
        """Path of the module that ``parent`` called and the exporter wrote as ``atom``.

        The nearest descendant of that name; the parent itself when two are equally near, which
        names the layer less exactly but never wrongly.
        """
        key = (parent, atom)
        if key not in self._known:
            prefix = f"{parent}." if parent else ""
            found = [p for p in self._paths if p.startswith(prefix) and _scope_atom(p) == atom]
            depth = min((path.count(".") for path in found), default=0)
            nearest = [path for path in found if path.count(".") == depth]
            self._known[key] = nearest[0] if len(nearest) == 1 else parent
        return self._known[key]

    def path(self, scope: list[str]) -> str:
        """Module path of a scope such as ``["network", "levels.0", "box"]``."""
        current = ""
        for atom in scope:
            current = self._step(current, atom)
        return current


def name_after_modules(model: ModelProto, root: nn.Module, prefix: str) -> None:
    """Rename nodes, weights and intermediate tensors of a freshly exported graph, in place.

    Args:
        model: as the exporter wrote it.
        root: the module that was exported.
        prefix: path of the network within ``root``, with the dot; left away in all names.
    """
    reader = _ScopeReader(root)
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
        path = (reader.path(scope) + ".").removeprefix(prefix).rstrip(".")
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
