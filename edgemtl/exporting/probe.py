"""Look at the tensors inside an ONNX graph: ONNX Runtime as written, nothing fused away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import StageFailed

if TYPE_CHECKING:
    from onnx import NodeProto


def open_plain(source: Path | bytes) -> Any:
    """An ONNX Runtime session with graph optimisations off.

    Raises:
        StageFailed: the graph cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # the runtime raises many kinds
        raise StageFailed(
            f"ONNX Runtime cannot load the graph: {str(error).splitlines()[0]}",
            where=source.name if isinstance(source, Path) else None,
        ) from error


class Probe:
    """The float32 tensors that the nodes of a graph write.

    Args:
        path: an ONNX file with one input.

    Attributes:
        nodes: all nodes, in the order of the file (which is topological).
        outputs: names of the graph's outputs.
        writer: tensor name -> position in ``nodes`` of the node that writes it; float32 only.
        readers: tensor name -> names of the nodes that read it.

    Raises:
        StageFailed: the file is no ONNX graph.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        try:
            self._model = onnx.load(path)
            typed = onnx.shape_inference.infer_shapes(self._model)
        except Exception as error:  # protobuf and onnx raise many kinds
            raise StageFailed("this is not a readable ONNX file", where=path.name) from error
        graph = self._model.graph
        self.outputs = frozenset(value.name for value in graph.output)
        self._typed = {
            value.name: value
            for value in (*typed.graph.value_info, *typed.graph.output)
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        self.nodes: tuple[NodeProto, ...] = tuple(graph.node)
        self.writer = {
            name: position
            for position, node in enumerate(self.nodes)
            if node.op_type != "Constant"
            for name in node.output
            if name in self._typed
        }
        self.readers: dict[str, list[str]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node.name)

    def read(
        self, names: Sequence[str], images: NDArray[np.float32]
    ) -> dict[str, NDArray[np.float32]]:
        """Values of these tensors.

        Raises:
            StageFailed: the graph cannot run on this input.
        """
        graph = self._model.graph
        original = list(graph.output)
        try:
            del graph.output[:]
            graph.output.extend(self._typed[name] for name in names)
            session = open_plain(self._model.SerializeToString())
        finally:
            del graph.output[:]
            graph.output.extend(original)
        try:
            values = session.run(list(names), {session.get_inputs()[0].name: images})
        except Exception as error:  # the runtime raises many kinds
            raise StageFailed(f"the graph cannot run: {str(error).splitlines()[0]}") from error
        return dict(zip(names, values, strict=True))
