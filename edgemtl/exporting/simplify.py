"""Simplify an exported graph: constants folded, shapes made static, batch norms absorbed.

Two ways. onnxslim simplifies most, but works in Python over the whole graph several times: a
mixture-of-experts network of 3300 nodes took 12 s of one processor and left its shared weights in
as many copies as there are tasks (73 MB for 20). ONNX Runtime's basic level, which uses standard
operators only, takes 0.4 s for it, leaves as few nodes (2022 against 1985) and one copy. So graphs
of more than :data:`MANY` nodes take the second way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.errors import StageFailed
from edgemtl.exporting.folds import fold_batch_norms
from edgemtl.exporting.naming import module_of, modules_of
from edgemtl.files import write_atomically

#: nodes (constants not counted) from which on the runtime simplifies instead of onnxslim
MANY = 1000


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
    exporting/parity.py compares the two.

    Raises:
        StageFailed: the graph cannot be read or simplified, or the result is not valid.
    """
    import onnx
    import onnxslim

    try:
        model = onnx.load(path_in)
        before = len(model.graph.node)
        interface = _interface(model)
        large = sum(node.op_type != "Constant" for node in model.graph.node) > MANY
        slim = _by_runtime(path_in, model) if large else onnxslim.slim(model)
        fold_batch_norms(slim)
        _share_equal_weights(slim)
        del slim.graph.value_info[:]
        for node in slim.graph.node:
            node.ClearField("doc_string")
        onnx.checker.check_model(slim, full_check=True)
    except Exception as error:  # onnxslim raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageFailed(
            f"the graph cannot be simplified: {reason}", where=path_in.name
        ) from error
    if not _same_interface(interface, _interface(slim)):
        raise StageFailed("simplifying changed the graph's inputs or outputs", where=path_in.name)
    data = slim.SerializeToString(deterministic=True)
    write_atomically(path_out, lambda stream: stream.write(data))
    return SimplifyResult(path_out, before, len(slim.graph.node), modules_of(slim))


def _interface(model: Any) -> list[tuple[str, int, list[int | None]]]:
    """Name, element type and sizes (None: left open) of inputs and outputs, in order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [v for v in model.graph.input if v.name not in weights] + list(model.graph.output)
    found = []
    for value in values:
        kind = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        found.append((value.name, int(kind.elem_type), sizes))
    return found


def _same_interface(
    before: list[tuple[str, int, list[int | None]]], after: list[tuple[str, int, list[int | None]]]
) -> bool:
    """Whether names, types and sizes are the same; a size that was open may have been settled."""
    return len(before) == len(after) and all(
        a[:2] == b[:2]
        and len(a[2]) == len(b[2])
        and all(m is None or m == n for m, n in zip(a[2], b[2], strict=True))
        for a, b in zip(before, after, strict=True)
    )


def _share_equal_weights(model: Any) -> None:
    """One stored tensor for all that hold the same values, in place: tasks share experts."""
    graph = model.graph
    first: dict[tuple[Any, ...], str] = {}
    names: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if not tensor.raw_data or key not in first:
            first[key] = tensor.name
            kept.append(tensor)
        else:
            names[tensor.name] = first[key]
    if not names or any(a.HasField("g") for node in graph.node for a in node.attribute):
        return  # what branches read is not looked at
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _by_runtime(path: Path, source: Any) -> Any:
    """The graph after ONNX Runtime's basic level, with the operators and versions of the source."""
    import onnx
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        written = Path(folder) / "basic.onnx"
        settings.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        model = onnx.load(written)
    versions = [entry for entry in model.opset_import if entry.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(versions)
    model.ir_version = source.ir_version
    model.producer_name, model.producer_version = source.producer_name, source.producer_version
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    _name_by_readers(model)
    return model


def _name_by_readers(model: Any) -> None:
    """Give nodes that the runtime put in the module of the node that reads them, in place."""
    used = {node.name for node in model.graph.node}
    readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    for node in reversed(model.graph.node):
        if "/" in node.name:
            continue
        reader = readers.get(node.output[0])
        path = module_of(reader.name) if reader is not None else ""
        base = f"{path}/{node.op_type}" if path else node.op_type
        name, count = base, 0
        while name in used:
            count += 1
            name = f"{base}_{count}"
        used.add(name)
        node.name = name
