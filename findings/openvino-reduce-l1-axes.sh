#!/usr/bin/env bash
# Expected: ReduceL1, ReduceLogSum and ReduceLogSumExp reduce the axes that the node's attribute `axes` names, at every opset up to 17, as ReduceSum and ReduceL2 do.
# What happens: OpenVINO's ONNX front end ignores the attribute at opsets 13 to 17 and reduces everything to one number; at opset 11, and from 18 on where axes are an input, it is right. No error, no warning, also for static shapes.
# Versions: openvino 2026.4.1, onnx 1.23.2 (reference evaluator), numpy 2.x, Python 3.11.
# Why it matters: F.normalize(p=1) and torch.logsumexp export to these operators at opset 17, the usual one; the network compiles, runs fast and answers nonsense.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 2>/dev/null
cat > "$folder/compare.py" <<'PY'
import numpy as np, onnx, openvino, sys
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4) / 10
core, seen = openvino.Core(), {}
for op in ("ReduceL1", "ReduceLogSum", "ReduceLogSumExp", "ReduceL2"):
    for opset in (11, 13, 17, 18):
        given = {"axes": [1]} if opset < 18 else {}
        extra = [] if opset < 18 else [helper.make_tensor("a", TensorProto.INT64, [1], [1])]
        node = helper.make_node(op, ["x", "a"] if extra else ["x"], ["y"], keepdims=1, **given)
        graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], extra)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        wanted = ReferenceEvaluator(model).run(None, {"x": x})[0]
        with open(sys.argv[1], "wb") as stream:
            stream.write(model.SerializeToString())
        got = core.compile_model(core.read_model(sys.argv[1]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
        right = got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-4)
        seen[op, opset] = right
        print(f"{op:16} opset {opset}: shape {got.shape}, wanted {wanted.shape}: {'right' if right else 'WRONG'}")
print("openvino", openvino.__version__, "onnx", onnx.__version__)
wrong = {key for key, right in seen.items() if not right}
expected = {(op, opset) for op in ("ReduceL1", "ReduceLogSum", "ReduceLogSumExp") for opset in (13, 17)}
sys.exit(wrong != expected)
PY
"$folder/venv/bin/python" "$folder/compare.py" "$folder/m.onnx" || { echo "the behaviour has changed"; exit 1; }
