#!/usr/bin/env bash
# Expected: Attention of opset 25 attends to at most left_window_size keys before and right_window_size keys after each query; a runtime that does not know the attributes refuses the node.
# What happens: OpenVINO reads the node, ignores both attributes and attends to everything. No error, no warning, also for static shapes.
# Versions: openvino 2026.4.1, onnx 1.23.2 (reference evaluator), numpy 2.x, Python 3.11.
# Why it matters: sliding-window attention is what makes long inputs affordable; the converted network is fast to load, plausible on short inputs and off by tens of percent of its range on longer ones.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 2>/dev/null
cat > "$folder/compare.py" <<'PY'
import numpy as np, onnx, openvino, sys
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

shape = (1, 2, 8, 4)
rng = np.random.default_rng(0)
feeds = {name: rng.normal(size=shape).astype(np.float32) for name in "qkv"}
info = helper.make_tensor_value_info

def model(**window):
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], **window)
    graph = helper.make_graph([node], "g", [info(n, TensorProto.FLOAT, shape) for n in "qkv"], [info("y", TensorProto.FLOAT, shape)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=11)

def by_openvino(made):
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(made.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(feeds)["y"]

narrow, whole = model(left_window_size=1, right_window_size=1), model()
wanted, everything = (ReferenceEvaluator(m).run(None, feeds)[0] for m in (narrow, whole))
found = by_openvino(narrow)
off = np.abs(found - wanted).max() / np.abs(wanted).max()
ignored = np.allclose(found, everything, atol=1e-4) and not np.allclose(wanted, everything, atol=1e-2)
print("openvino", openvino.__version__, "onnx", onnx.__version__)
print(f"off by {off:.0%} of the range with a window; equal to attention without one: {ignored}")
sys.exit(not ignored)
PY
"$folder/venv/bin/python" "$folder/compare.py" || { echo "the behaviour has changed"; exit 1; }
