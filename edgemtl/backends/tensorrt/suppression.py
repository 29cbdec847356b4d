"""Non-maximum suppression inside the graph, for those who want it there.

By default the host suppresses: it is a few boxes by then, and every TensorRT gives the same answer.
Asked for, each detection task gets one more output of fixed size, ``<task>.kept`` (1, 750) float32:
indices of the priors that are kept, best first, -1 where there are no more. Landmarks and pose are
read at these indices. The raw outputs stay: accuracy and self-test are those of the same network.

The plugin EfficientNMS_TRT would not do: it returns boxes without their indices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemtl.errors import StageFailed
from edgemtl.tasks.anchors import priors
from edgemtl.tasks.detection import NMS_IOU, SCORE_FLOOR, TOP_KEPT, Detection
from edgemtl.tasks.registry import build, spec_from_dict

if TYPE_CHECKING:
    from onnx import ModelProto

#: property of an exported file that holds its tasks (edgemtl.exporting.metadata)
_PROPERTY = "edgemtl"
#: sizes are exp of this at most (edgemtl.tasks.anchors.decode_boxes)
_CLIP = 10.0


def add_suppression(model: ModelProto) -> dict[str, str]:
    """Append the suppression of every detection task, in place.

    Args:
        model: exported by EdgeMTL, one picture per run, opset 13 to 17.

    Returns:
        task name -> name of the new output; empty when there is no detection task.

    Raises:
        StageFailed: the file does not say what its outputs mean.
    """
    found = {entry.key: entry.value for entry in model.metadata_props}
    if _PROPERTY not in found:
        raise StageFailed(
            "suppression inside the graph needs a file that says what its outputs mean",
            hint="use one that 'edgemtl export' or 'edgemtl compile' wrote",
        )
    tasks = [build(spec_from_dict(task)) for task in json.loads(found[_PROPERTY])["tasks"]]
    added = {}
    for task in tasks:
        if isinstance(task, Detection):
            added[task.name] = _append(model, task)
    return added


def _append(model: ModelProto, task: Detection) -> str:
    from onnx import TensorProto, helper, numpy_helper

    graph, stem = model.graph, f"{task.name}.suppression"
    height, width = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[2:])
    grid = priors(task.anchors, (height, width))
    variances = task.anchors.variances

    def constant(name: str, value: Any, kind: type = np.float32) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, kind), f"{stem}.{name}")
        graph.initializer.append(tensor)
        return tensor.name

    def add(op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        node = helper.make_node(op, inputs, [f"{stem}/{name}.out"], f"{stem}/{name}", **attributes)
        graph.node.append(node)
        return str(node.output[0])

    scores, boxes = task.outputs
    chances = add("Softmax", "chances", [scores], axis=-1)
    face = add("Gather", "face", [chances, constant("one", [1], np.int64)], axis=2)
    ranked = add("Transpose", "ranked", [face], perm=[0, 2, 1])
    zero, two = constant("zero", [0], np.int64), constant("two", [2], np.int64)
    four, axis = constant("four", [4], np.int64), constant("axis", [2], np.int64)
    shift = add("Slice", "shift", [boxes, zero, two, axis])
    size = add("Slice", "size", [boxes, two, four, axis])
    side = grid[None, :, 2:]
    moved = add("Mul", "moved", [shift, constant("reach", side * variances[0])])
    centre = add("Add", "centre", [moved, constant("centres", grid[None, :, :2])])
    limits = [constant("least", -_CLIP), constant("most", _CLIP)]
    scaled = add("Mul", "scaled", [size, constant("spread", variances[1])])
    grown = add("Exp", "grown", [add("Clip", "clipped", [scaled, *limits])])
    half = add("Mul", "half", [grown, constant("sides", side / 2)])
    corners = [add("Sub", "low", [centre, half]), add("Add", "high", [centre, half])]
    # x and y are swapped for both corners alike: overlaps stay what they are.
    drawn = add("Concat", "corners", corners, axis=2)
    limit = constant("limit", [TOP_KEPT], np.int64)
    rules = [limit, constant("overlap", [NMS_IOU]), constant("floor", [SCORE_FLOOR])]
    chosen = add("NonMaxSuppression", "nms", [drawn, ranked, *rules])
    index = add("Gather", "index", [chosen, two], axis=1)
    number = add("Cast", "number", [index], to=TensorProto.FLOAT)
    padding = constant("padding", np.full((TOP_KEPT, 1), -1.0))
    padded = add("Concat", "padded", [number, padding], axis=0)
    first = add("Slice", "first", [padded, zero, limit, zero])
    output = f"{task.name}.kept"
    shape = constant("shape", [1, TOP_KEPT], np.int64)
    graph.node.append(helper.make_node("Reshape", [first, shape], [output], f"{stem}/kept"))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, TOP_KEPT]))
    return output


def suppressed_by(facts: Mapping[str, Any]) -> Mapping[str, str]:
    """Of an artefact's facts: task name -> output that holds what is kept."""
    return dict(facts.get("suppressed") or {})
