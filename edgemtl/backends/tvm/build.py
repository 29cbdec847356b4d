"""The program that compiles: ``python -m edgemtl.backends.tvm.build REQUEST.json``.

It runs in a process of its own (child.py), because TVM ends its process on some failures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemtl.backends.tvm.child import answer_with
from edgemtl.backends.tvm.settings import TvmOptions


def llvm_target(options: TvmOptions) -> Any:
    """TVM's target for these options."""
    import tvm

    config: dict[str, Any] = {
        "kind": "llvm",
        "mcpu": options.mcpu,
        "num-cores": options.cores,
    }
    if options.mtriple:
        config["mtriple"] = options.mtriple
    return tvm.target.Target(config)


def imported(onnx_path: Path) -> Any:
    """The graph as a Relax module with its weights as constants."""
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    return from_onnx(onnx.load(onnx_path), keep_params_in_input=False)


def build(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compile ``request["onnx"]`` into the shared library ``request["library"]``."""
    import tvm
    from tvm.support import cc

    options = TvmOptions.model_validate(request["options"])
    target = llvm_target(options)
    executable = tvm.compile(imported(Path(request["onnx"])), target=target)
    executable.export_library(
        request["library"],
        fcompile=cc.cross_compiler(options.compiler, options=["-shared", "-fPIC", "-s"]),
    )
    return {}


def main(arguments: list[str]) -> int:
    """Program of the child process."""
    sys.modules["torch"] = None  # type: ignore[assignment] # TVM would load it for nothing
    request = json.loads(Path(arguments[0]).read_text("utf-8"))
    try:
        answer = build(request)
    except Exception as error:  # TVM raises many kinds; its last line says what, the others where
        lines = (str(error).strip() or type(error).__name__).splitlines()
        print(error, file=sys.stderr)
        answer = {"error": lines[-1]}
    answer_with(request, answer)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
