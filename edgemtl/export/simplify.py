"""Simplify an exported graph: constants folded, shapes made static, batch norms absorbed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.errors import StageFailed
from edgemtl.export.folds import fold_batch_norms
from edgemtl.export.naming import modules_of
from edgemtl.files import write_atomically


@dataclass(frozen=True)
class SimplifyResult:
    """A simplified graph.

    Attributes:
        path: the ONNX file.
        nodes_before, nodes_after: number of nodes.
        modules: ONNX node name -> torch module path, for the nodes that are left. A node that took
            another in (convolution and batch norm) keeps its own name.
    """

    path: Path
    nodes_before: int
    nodes_after: int
    modules: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the path is reduced to its name."""
        return {
            "file": self.path.name,
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "modules": dict(self.modules),
        }


def simplify(path_in: Path, path_out: Path) -> SimplifyResult:
    """Write a smaller equal graph; the same input gives the same bytes.

    Names, types and order of inputs and outputs stay. Whether it is equal is not taken on trust:
    export/parity.py compares the two.

    Raises:
        StageFailed: the graph cannot be read or simplified, or the result is not valid.
    """
    import onnx
    import onnxslim

    try:
        model = onnx.load(path_in)
        before = len(model.graph.node)
        interface = _interface(model)
        slim = onnxslim.slim(model)
        fold_batch_norms(slim)
        del slim.graph.value_info[:]
        for node in slim.graph.node:
            node.ClearField("doc_string")
        onnx.checker.check_model(slim, full_check=True)
    except Exception as error:  # onnxslim raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageFailed(
            f"the graph cannot be simplified: {reason}", where=path_in.name
        ) from error
    if _interface(slim) != interface:
        raise StageFailed("simplifying changed the graph's inputs or outputs", where=path_in.name)
    data = slim.SerializeToString(deterministic=True)
    write_atomically(path_out, lambda stream: stream.write(data))
    return SimplifyResult(path_out, before, len(slim.graph.node), modules_of(slim))


def _interface(model: Any) -> list[tuple[str, bytes]]:
    """Names, types and shapes of inputs and outputs, in order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [v for v in model.graph.input if v.name not in weights] + list(model.graph.output)
    return [(value.name, value.type.SerializeToString(deterministic=True)) for value in values]
