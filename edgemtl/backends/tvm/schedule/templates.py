"""The whole pass: from a Relax module as imported to one whose functions are scheduled loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tvm import IRModule, relax, tirx, transform

from edgemtl.backends.tvm.schedule.conv import conv
from edgemtl.backends.tvm.schedule.dense import batched, dense
from edgemtl.backends.tvm.schedule.depthwise import depthwise
from edgemtl.backends.tvm.schedule.fused import spec_of, take_apart
from edgemtl.backends.tvm.schedule.generic import scheduled
from edgemtl.backends.tvm.schedule.layout import channels_last, mutated
from edgemtl.backends.tvm.schedule.machine import Machine
from edgemtl.backends.tvm.schedule.nodes import NotTaken
from edgemtl.backends.tvm.schedule.operators import Operators
from edgemtl.backends.tvm.schedule.tuned import Tuned

TEMPLATES = {"conv": conv, "depthwise": depthwise, "dense": dense, "batched": batched}
#: TVM's kinds of a function: what follows it elementwise may join it; nothing may
_FUSABLE, _OPAQUE = 4, 8


def _patterns(module: Any, _: Any) -> Any:
    """What TVM may fuse, said for our own functions."""
    made = {}
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            if spec_of(function) is not None:
                function = function.with_attr("op_pattern", _FUSABLE)
            elif "tirx.is_scheduled" in function.attrs:
                function = function.with_attr("op_pattern", _OPAQUE)
        made[variable] = function
    return IRModule(made, attrs=module.attrs)


def prepared(module: Any, machine: Machine, tuned: Tuned) -> Any:
    """Layout, our operators, TVM's lowering of all others, and fusion."""
    return transform.Sequential(
        [
            mutated("EdgeOperators", Operators, machine, tuned),
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(["main"]),
            relax.backend.DispatchSampling(),
            relax.backend.DispatchSortScan(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            transform.module_pass(_patterns, opt_level=0, name="EdgePatterns"),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(["main"]),
        ]
    )(channels_last(module))


def loops_of(function: Any, machine: Machine) -> tuple[Any, dict[str, Any]]:
    """A fused function as loops, and what was done: its template, sizes and tile."""
    if "tirx.is_scheduled" in function.attrs:
        return function, {"template": "rows"}
    spec = spec_of(function)
    if spec is not None:
        try:
            made = TEMPLATES[spec["kind"]](take_apart(function), machine)
        except NotTaken as reason:
            return function, {"template": "plain", "reason": str(reason)}
        told: dict[str, Any] = {key: spec[key] for key in ("sizes", "tile", "macs") if key in spec}
        return made, {"template": spec["kind"], **told}
    made, way = scheduled(function, machine)
    return made, {"template": way}


def apply(
    module: Any, machine: Machine, records: Iterable[Mapping[str, Any]] = (), processor: str = ""
) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Schedule a module.

    Args:
        module: as TVM's importer made it, weights as constants.
        machine: that it is for.
        records: measured tiles, see tuned.py.
        processor: LLVM's name, whose records count.

    Returns:
        the module, ready for :func:`lowering`; function -> what was done to it.
    """
    module = prepared(module, machine, Tuned(records, processor))
    made, told = {}, {}
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            function, told[variable.name_hint] = loops_of(function, machine)
        made[variable] = function
    return IRModule(made, attrs=module.attrs), told


def lowering() -> Any:
    """What is left to be done by TVM; it fuses and schedules nothing again."""
    return transform.Sequential(
        [
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
