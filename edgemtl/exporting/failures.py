"""Say which operator of which module an exporter's failure is about."""

from __future__ import annotations

import re
import traceback
from typing import Any

from torch import nn

from edgemtl.errors import EdgemtlError, StageFailed
from edgemtl.models.user_code import raised_at, said_by

_OPERATOR = re.compile(r"'?(aten|prim|torchvision|[a-z_]+)::(\w+)'?")


def export_failure(error: Exception, network: nn.Module, opset: int) -> EdgemtlError:
    """The sentence for what went wrong while a network that runs was exported.

    Args:
        error: what the exporter raised.
        network: what was exported.
        opset: that was asked.
    """
    if isinstance(error, EdgemtlError):
        return error
    node = _failed_node(error)
    if node is not None:
        operator, module = node
        said = re.sub(r"\s+", " ", str(error).strip()).partition(" Please feel free")[0]
        said = "" if "is not supported" in said and operator in said else f": {said[:200]}"
        kind = _kind(network, module)
        return StageFailed(
            f"the network cannot be exported to ONNX opset {opset}: the operator '{operator}' has "
            f"no ONNX form{' here' if said else ''}{said}",
            where=f"module '{module}'{kind}" if module else "the network's forward",
            hint="compute it with other operators, or outside of the network",
        )
    place = raised_at(network, error)
    if place.file or place.module:
        return StageFailed(
            f"the network runs, but not while it is traced: {said_by(error)}",
            where=str(place),
            hint="sizes are tensors while tracing; int(x.shape[1]) turns one into a number",
        )
    return StageFailed(f"the network cannot be exported to ONNX opset {opset}: {said_by(error)}")


def _failed_node(error: Exception) -> tuple[str, str] | None:
    """Operator and module path of the traced node that was being written; None outside of that."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_run_symbolic_function":
            found = frame.f_locals.get("node", found)
    if found is None:
        match = _OPERATOR.search(str(error))
        return (f"{match[1]}::{match[2]}", "") if match else None
    return str(found.kind()), _path(found)


def _path(node: Any) -> str:
    """The innermost module of a node's scope, as named by ``naming.tell_full_paths``."""
    scope = str(node.scopeName()).rpartition("/")[2]
    return scope.rpartition("::")[2].removeprefix("network").lstrip(".")


def _kind(network: nn.Module, path: str) -> str:
    named = dict(network.named_modules())
    return f" ({type(named[path]).__name__})" if path in named else ""
