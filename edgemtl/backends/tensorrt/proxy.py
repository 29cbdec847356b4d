"""Parse and build by TensorRT-RTX, which needs no GPU for that, in a process of its own.

It stands in for the device's parser and builder: it shows that a graph is well typed and can be
planned by a TensorRT of its own age. It is no Jetson engine and says nothing about speed. NVIDIA's
libraries end the process on some failures, therefore never in ours.

As a program: ``python -m edgemtl.backends.tensorrt.proxy REQUEST.json``, answers JSON in a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from edgemtl.errors import StageFailed
from edgemtl.processes import environment, python_module

PACKAGE = "tensorrt_rtx"
LABEL = "parser/build proxy (TensorRT-RTX), not a Jetson engine"
TIME_LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Finding:
    """What the parser or builder said about a node; an empty node means the graph."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class ProxyResult:
    """How parse and build went.

    Attributes:
        parsed: whether the parser took the graph.
        built: whether the builder made a plan.
        findings: why not; empty when both went well.
    """

    parsed: bool
    built: bool
    findings: tuple[Finding, ...]


def installed_version() -> str | None:
    """Version of TensorRT-RTX, without loading it; None when it is not installed."""
    try:
        if util.find_spec(PACKAGE) is None:
            return None
        return metadata.version("tensorrt-rtx")
    except (ImportError, ValueError):  # ValueError: the module is barred from import
        return None


def run_proxy(
    onnx_path: Path,
    device: str,
    workspace_mb: int,
    plan: Path | None = None,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
) -> ProxyResult:
    """Parse and build in a process of its own.

    Args:
        onnx_path: the graph, static shapes.
        device: member of TensorRT-RTX's ``ComputeCapability``, "SM86" say.
        workspace_mb: scratch memory for the builder.
        plan: where to write the plan; not kept by default.
        time_limit_seconds: the process is ended after that.

    Raises:
        StageFailed: the process ran out of time or died.
    """
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        request.write_text(
            json.dumps(
                {
                    "onnx": str(onnx_path.absolute()),
                    "device": device,
                    "workspace_mb": workspace_mb,
                    "plan": str(plan.absolute()) if plan else None,
                    "answer": str(answer),
                }
            ),
            "utf-8",
        )
        command = python_module(__name__, str(request))
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
                timeout=time_limit_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StageFailed(
                f"TensorRT-RTX took more than {time_limit_seconds:.0f} s and was ended"
            ) from error
        try:
            data = json.loads(answer.read_text("utf-8"))
        except (OSError, ValueError) as error:
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise StageFailed(
                f"TensorRT-RTX died (exit code {done.returncode}): {''.join(last) or 'silently'}"
            ) from error
    findings = tuple(Finding(f["node"], f["op"], f["reason"]) for f in data["findings"])
    return ProxyResult(bool(data["parsed"]), bool(data["built"]), findings)


def _logger(trt: Any) -> tuple[Any, list[str]]:
    """A logger that keeps errors, and the list it keeps them in."""
    kept: list[str] = []

    class Keeping(trt.ILogger):  # type: ignore[misc] # known only when the package is there
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                kept.append(message.splitlines()[0] if message else "")

    return Keeping(), kept


def parse_and_build(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the child process does."""
    import tensorrt_rtx as trt

    logger, errors = _logger(trt)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(request["onnx"]).read_bytes()):
        refused = [parser.get_error(index) for index in range(parser.num_errors)]
        findings = [
            {
                "node": str(getattr(error, "node_name", lambda: "")()),
                "op": str(getattr(error, "node_operator", lambda: "")()),
                "reason": str(error.desc()).splitlines()[0],
            }
            for error in refused
        ]
        return {"parsed": False, "built": False, "findings": findings}
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(request["workspace_mb"]) << 20)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, request["device"]), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reasons = errors or ["the builder made no plan and said no reason"]
        findings = [{"node": "", "op": "", "reason": reason} for reason in reasons[:1]]
        return {"parsed": True, "built": False, "findings": findings}
    if request["plan"]:
        Path(request["plan"]).write_bytes(bytes(plan))
    return {"parsed": True, "built": True, "findings": []}


def main(arguments: list[str]) -> int:
    """Program of the child process."""
    request = json.loads(Path(arguments[0]).read_text("utf-8"))
    answer = parse_and_build(request)
    Path(request["answer"]).write_text(json.dumps(answer), "utf-8")
    sys.stdout.flush()
    # The libraries' destructors may crash where there is no driver; the answer is on the disk.
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
