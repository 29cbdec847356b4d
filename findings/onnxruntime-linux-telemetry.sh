#!/usr/bin/env bash
# Expected: on Linux, loading a network with ONNX Runtime's CPU wheel leaves nothing behind in the user's home.
# What happens: the first session writes a device id and a database of queued telemetry events under ~/.cache/Microsoft; ORT_DISABLE_TELEMETRY=1 before the import stops it.
# Versions: onnxruntime 1.32.0 (its earlier Linux wheels collected nothing), onnx 1.23.2, Python 3.11, Linux x86-64.
# Why it matters: a build machine or a board "that never talks to anybody" does prepare to, and read-only homes and hash-checked images change; the switch has to be set before anything imports the package.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 2>/dev/null
cat > "$folder/once.py" <<'PY'
import numpy, onnx, onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.ones((1, 3), numpy.float32)})
print("onnxruntime", onnxruntime.__version__)
PY
left() { # NAME [VARIABLE=VALUE]: files in the home folder after one run
  home="$folder/home-$1"
  mkdir "$home"
  shift
  env -u ORT_DISABLE_TELEMETRY -u XDG_CACHE_HOME "$@" HOME="$home" "$folder/venv/bin/python" -B "$folder/once.py" >&2
  (cd "$home" && find . -type f | sort)
}
default=$(left default)
switched=$(left switched ORT_DISABLE_TELEMETRY=1)
printf 'files left in the home folder by default:\n%s\n' "${default:-none}"
printf 'and with ORT_DISABLE_TELEMETRY=1:\n%s\n' "${switched:-none}"
case "$default" in *deviceid*onnxruntime.db*) ;; *) echo "it no longer does"; exit 1 ;; esac
[ -z "$switched" ] || { echo "the switch no longer works"; exit 1; }
