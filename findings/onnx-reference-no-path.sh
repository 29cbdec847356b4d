#!/usr/bin/env bash
# Expected: onnx.reference.ReferenceEvaluator takes a file as onnx.load, onnx.save and onnx.checker do: a string or a pathlib.Path.
# What happens: a string is opened, the same Path is refused: TypeError "Unexpected type <class 'pathlib.PosixPath'> for proto."
# Versions: onnx 1.23.2, Python 3.11.
# Why it matters: all of onnx's other doors take a Path, so code that hands one path to several of them works until it asks for reference answers, and the message speaks of a proto, not of a path.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 2>/dev/null
cat > "$folder/ask.py" <<'PYTHON'
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
path = Path(sys.argv[1]) / "model.onnx"
onnx.save(helper.make_model(graph), path)
print("onnx", onnx.__version__)
onnx.checker.check_model(path)
print("onnx.load, onnx.checker: take a Path:", onnx.load(path).graph.name == "g")
print("ReferenceEvaluator(str):", ReferenceEvaluator(str(path)).output_names)
try:
    ReferenceEvaluator(path)
except TypeError as error:
    print("ReferenceEvaluator(Path): TypeError:", error)
else:
    sys.exit("it takes a Path now")
PYTHON
"$folder/venv/bin/python" "$folder/ask.py" "$folder"
