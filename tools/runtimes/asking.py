"""One case through one backend, as the product takes it: asked, compiled, loaded, run.

TensorRT-RTX parses and builds without a GPU, and nothing runs: "right" there means that it built,
"early" that its parser refused, "late" that its builder did.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.base import Backend
from edgemtl.backends.conformance import rules
from edgemtl.backends.rewriting import settle
from edgemtl.backends.tensorrt import proxy
from edgemtl.backends.tensorrt.lowering import lower
from edgemtl.backends.tensorrt.optable import table_problems
from edgemtl.backends.tensorrt.settings import options_of
from edgemtl.backends.types import SessionOptions
from edgemtl.errors import EdgemtlError
from runtimes.cases import Case, difference

#: runtime -> target that it is asked for
TARGETS: Mapping[str, str] = {
    "onnxruntime": "cpu",
    "openvino": "intel-cpu",
    "tvm": "tvm-x86",
    "tensorrt-rtx": "rtx",
}
#: the operator table that stands for TensorRT-RTX's parser
PARSER_TABLE = options_of(targets.load("rtx")).version
#: how a case can end
OUTCOMES = ("right", "ours", "early", "late", "wrong", "died")


def prepare(runtime: str) -> str | None:
    """Import what the runtime needs, before cases are forked; None where it is not here."""
    os.environ["EDGEMTL_ISOLATED"] = "1"
    backend = registry.get(runtime)
    state = backend.availability()
    if not state.ok:
        return None
    if runtime == "openvino":
        import openvino.frontend.onnx  # noqa: F401 - imported for the children
    if runtime == "tensorrt-rtx":
        import tensorrt_rtx  # noqa: F401
    if runtime == "tvm":
        import edgemtl.backends.tvm.build
        import edgemtl.backends.tvm.schedule.templates  # noqa: F401

        _build_here()
    return version(runtime)


def _build_here() -> None:
    """TVM compiles in this very process, which is a child already."""
    from edgemtl.backends.tvm import build, child
    from edgemtl.errors import StageFailed

    def ask(module: str, request: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        try:
            return build.build(request)
        except Exception as error:  # TVM raises many kinds
            lines = (str(error).strip() or type(error).__name__).splitlines()
            raise StageFailed(f"TVM cannot compile: {lines[-1]}") from error

    child.ask = ask


def reason(runtime: str) -> str:
    """Why the runtime is not here."""
    return registry.get(runtime).availability().reason


def touched(runtime: str, case: Case) -> bool:
    """Whether a rule names a node of the case; if none does, "product" is what "plain" is."""
    from onnx import load_from_string

    return bool(rules.known_problems(load_from_string(case.model), runtime, str))


def version(runtime: str) -> str:
    """Version of the runtime itself that is here; empty when it is not."""
    if runtime == "tensorrt-rtx":
        return proxy.installed_version() or ""
    return registry.get(runtime).availability().version.partition("-")[0]


def ask(runtime: str, case: Case, mode: str) -> dict[str, Any]:
    """How the case ends: ``outcome`` and ``why``.

    Args:
        runtime: name of the backend.
        case: the question.
        mode: "plain" leaves out our table and rewritings, "product" is as users have it.
    """
    backend, target = registry.get(runtime), targets.load(TARGETS[runtime])
    if runtime == "tensorrt-rtx":
        return _parse(case, target, mode)
    if mode == "plain":  # of this process only, which is the case's own
        rules.all_rules = settle.all_rules = dict
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as place:
        path, folder = Path(place) / "model.onnx", Path(place) / "artefact"
        path.write_bytes(case.model)
        folder.mkdir()
        return _ask(backend, target, case, path, folder)


def _ask(
    backend: Backend, target: targets.Target, case: Case, path: Path, folder: Path
) -> dict[str, Any]:
    fatal = [problem for problem in backend.problems(path, target) if problem.fatal]
    if fatal:
        first = fatal[0]
        outcome = "ours" if first.known else "early"
        return {"outcome": outcome, "why": f"{first.op} '{first.node}': {first.reason}"[:300]}
    try:
        artefact = backend.compile(path, target, folder)
        session = backend.load(artefact, SessionOptions(threads=1))
        answers = session.run(case.image)
    except EdgemtlError as error:
        return {"outcome": "late", "why": error.message[:300]}
    except Exception as error:  # a defect of ours: it would be a traceback
        return {"outcome": "late", "why": f"{type(error).__name__}: {error}"[:300]}
    off = difference(case, list(answers.values()))
    return {"outcome": "wrong" if off else "right", "why": off}


def _parse(case: Case, target: targets.Target, mode: str) -> dict[str, Any]:
    import onnx

    options, model = options_of(target), onnx.load_from_string(case.model)
    if mode == "product":
        fatal = [p for p in table_problems(model, options.version) if p.fatal]
        if fatal:
            why = f"{fatal[0].op} '{fatal[0].node}': {fatal[0].reason}"
            return {"outcome": "ours", "why": why[:300]}
        lower(model, options.version)
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as place:
        path = Path(place) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        told = proxy.parse_and_build(
            {"onnx": str(path), "device": target.device, "workspace_mb": 256, "plan": None}
        )
    if told["built"]:
        return {"outcome": "right", "why": ""}
    first = told["findings"][0]
    why = f"{first['op']} '{first['node']}': {first['reason']}"
    return {"outcome": "late" if told["parsed"] else "early", "why": why[:300]}
