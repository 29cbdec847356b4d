"""The Python API: what ``edgemtl compile``, ``prune``, ... do, as functions with typed results.

``import edgemtl`` gives every name below; docs/python.md explains them. Functions and verbs call
the same operations (:mod:`edgemtl.pipeline`) and read recipes and flags by the same table
(:mod:`edgemtl.pipeline.settings`), so that they cannot differ. A part is imported when one of its
names is first used.

To add a name: the function in a file here, its rows below ``TYPE_CHECKING``, in ``_PARTS`` and in
``__all__``, and its place in docs/python.md; a test compares them. No file here is called as a
public name is: importing such a file would put the module in the name's place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemtl.api.asking import load_target as load_target
    from edgemtl.api.bundles import Bundle as Bundle
    from edgemtl.api.bundles import Verified as Verified
    from edgemtl.api.bundles import load_bundle as load_bundle
    from edgemtl.api.bundles import verify as verify
    from edgemtl.api.compiling import compile as compile
    from edgemtl.api.compressing import Masked as Masked
    from edgemtl.api.compressing import Pruned as Pruned
    from edgemtl.api.compressing import Quantized as Quantized
    from edgemtl.api.compressing import mask as mask
    from edgemtl.api.compressing import prune as prune
    from edgemtl.api.compressing import quantize as quantize
    from edgemtl.api.evaluating import Evaluated as Evaluated
    from edgemtl.api.evaluating import evaluate as evaluate
    from edgemtl.api.judging import Judged as Judged
    from edgemtl.api.judging import gate as gate
    from edgemtl.api.models import Exported as Exported
    from edgemtl.api.models import Inspected as Inspected
    from edgemtl.api.models import Model as Model
    from edgemtl.api.models import export as export
    from edgemtl.api.models import inspect as inspect
    from edgemtl.api.models import load_model as load_model
    from edgemtl.api.outcome import Cost as Cost
    from edgemtl.api.outcome import Latency as Latency
    from edgemtl.api.outcome import Outcome as Outcome
    from edgemtl.api.outcome import TaskResult as TaskResult
    from edgemtl.api.runs import Run as Run
    from edgemtl.api.runs import load_run as load_run
    from edgemtl.api.timing import Compared as Compared
    from edgemtl.api.timing import Timed as Timed
    from edgemtl.api.timing import bench as bench
    from edgemtl.api.timing import parity as parity
    from edgemtl.errors import EdgemtlError as EdgemtlError
    from edgemtl.errors import ExitCode as ExitCode
    from edgemtl.errors import GatesFailed as GatesFailed
    from edgemtl.errors import InputRefused as InputRefused
    from edgemtl.errors import ParityFailed as ParityFailed
    from edgemtl.errors import StageFailed as StageFailed
    from edgemtl.errors import TargetUnavailable as TargetUnavailable
    from edgemtl.errors import UsageError as UsageError
    from edgemtl.errors import VerificationFailed as VerificationFailed
    from edgemtl.progress import Progress as Progress
    from edgemtl.recipes import Recipe as Recipe
    from edgemtl.targets import Target as Target

#: module, as seen from here -> public names that it holds
_PARTS = {
    ".asking": ("load_target",),
    ".bundles": ("Bundle", "Verified", "load_bundle", "verify"),
    ".compiling": ("compile",),
    ".compressing": ("Masked", "Pruned", "Quantized", "mask", "prune", "quantize"),
    ".evaluating": ("Evaluated", "evaluate"),
    ".judging": ("Judged", "gate"),
    ".models": ("Exported", "Inspected", "Model", "export", "inspect", "load_model"),
    ".outcome": ("Cost", "Latency", "Outcome", "TaskResult"),
    ".runs": ("Run", "load_run"),
    ".timing": ("Compared", "Timed", "bench", "parity"),
    "..errors": (
        "EdgemtlError",
        "ExitCode",
        "GatesFailed",
        "InputRefused",
        "ParityFailed",
        "StageFailed",
        "TargetUnavailable",
        "UsageError",
        "VerificationFailed",
    ),
    "..progress": ("Progress",),
    "..recipes": ("Recipe",),
    "..targets": ("Target",),
}

__all__ = [
    "Bundle",
    "Compared",
    "Cost",
    "EdgemtlError",
    "Evaluated",
    "ExitCode",
    "Exported",
    "GatesFailed",
    "InputRefused",
    "Inspected",
    "Judged",
    "Latency",
    "Masked",
    "Model",
    "Outcome",
    "ParityFailed",
    "Progress",
    "Pruned",
    "Quantized",
    "Recipe",
    "Run",
    "StageFailed",
    "Target",
    "TargetUnavailable",
    "TaskResult",
    "Timed",
    "UsageError",
    "VerificationFailed",
    "Verified",
    "bench",
    "compile",
    "evaluate",
    "export",
    "gate",
    "inspect",
    "load_bundle",
    "load_model",
    "load_run",
    "load_target",
    "mask",
    "parity",
    "prune",
    "quantize",
    "verify",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        for part, names in _PARTS.items():
            if name in names:
                return getattr(import_module(part, __name__), name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
