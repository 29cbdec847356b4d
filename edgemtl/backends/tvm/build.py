"""The program that compiles: ``python -m edgemtl.backends.tvm.build REQUEST.json``.

It runs in a process of its own (child.py), because TVM ends its process on some failures.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemtl.backends.tvm.child import serve
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


def machine_of(options: TvmOptions) -> Any:
    """The processor that loops are shaped for; None where a target does not describe one."""
    from edgemtl.backends.tvm.schedule.machine import Machine

    if not options.schedule or options.vector_bytes < 8 or options.registers < 8:
        return None
    return Machine(
        options.vector_bytes // 4,
        options.registers,
        options.cores,
        options.l2_kib << 10,
    )


def compiled(module: Any, options: TvmOptions) -> tuple[Any, dict[str, Any]]:
    """The executable, and what became of every function.

    A network that the schedule pass fails on is compiled by TVM's own pipeline: slow, but right.
    """
    import tvm

    from edgemtl.backends.tvm.schedule.templates import apply, lowering

    target, machine, reason = llvm_target(options), machine_of(options), "no processor described"
    if machine is not None:
        try:
            with target:
                records = [tile.model_dump() for tile in options.tiles]
                scheduled, told = apply(module, machine, records, options.mcpu)
            # LLVM finds common subexpressions too, and sooner.
            with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_cse_tir": True}):
                executable = tvm.compile(scheduled, target=target, relax_pipeline=lowering())
            return executable, {"functions": told}
        except Exception as error:  # TVM raises many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            print(f"not scheduled: {error}", file=sys.stderr)
    return tvm.compile(module, target=target), {"functions": {}, "not_scheduled": reason}


def build(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compile ``request["onnx"]`` into the shared library ``request["library"]``.

    Returns:
        what became of every function, see schedule/templates.py.
    """
    from tvm.support import cc

    options = TvmOptions.model_validate(request["options"])
    module = imported(Path(request["onnx"]))
    executable, told = compiled(module, options)
    executable.export_library(
        request["library"],
        fcompile=cc.cross_compiler(options.compiler, options=["-shared", "-fPIC", "-s"]),
    )
    return told


if __name__ == "__main__":
    serve(build, sys.argv[1])
