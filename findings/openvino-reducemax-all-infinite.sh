#!/usr/bin/env bash
# Expected: ReduceMax over values that are all minus infinity is minus infinity, as by numpy.max, by ONNX's reference evaluator and by ONNX Runtime.
# What happens: OpenVINO's CPU plugin answers -3.4028235e+38, the most negative finite float32. "Is this row masked out?", written as ReduceMax and Equal with -inf (the ONNX function body of Attention does), is then False, and the softmax behind it gives NaN.
# Versions: openvino 2026.4.1, onnx 1.23.2 (reference evaluator), numpy 2.x, Python 3.11.
# Why it matters: a fully masked row (padding, an empty window) turns from zeros into NaN in the compiled network only; on pictures without such a row every comparison passes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 2>/dev/null
cat > "$folder/compare.py" <<'PY'
import numpy as np, onnx, openvino, sys
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

inf = numpy_helper.from_array(np.float32(-np.inf), "inf")
nodes = [helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0), helper.make_node("Equal", ["most", "inf"], ["masked"])]
info = helper.make_tensor_value_info
graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, [2, 3])], [info("most", TensorProto.FLOAT, [2]), info("masked", TensorProto.BOOL, [2])], [inf])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
x = np.array([[-np.inf] * 3, [-np.inf, 2, -np.inf]], np.float32)
wanted = ReferenceEvaluator(model).run(None, {"x": x})
core = openvino.Core()
answer = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)
found = [answer["most"], answer["masked"]]
print("openvino", openvino.__version__, "onnx", onnx.__version__)
print("wanted", wanted[0], wanted[1], "found", found[0], found[1])
sys.exit(not (np.isneginf(wanted[0][0]) and wanted[1][0] and found[0][0] == np.finfo(np.float32).min and not found[1][0]))
PY
"$folder/venv/bin/python" "$folder/compare.py" || { echo "the behaviour has changed"; exit 1; }
