"""One layout through the whole network: pictures with channels last, kernels as they come."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from tvm import relax, tirx, transform

from edgemtl.backends.tvm.schedule.operators import constant


@relax.expr_functor.mutator
class Bounds(relax.PyExprMutator):  # type: ignore[misc] # TVM has no types
    """Clip, which TVM's importer writes as loops, as Relax calls that a layout passes through."""

    def visit_call_(self, call: Any) -> Any:
        visited = self.visit_expr_post_order(call)
        name = getattr(visited.op, "name", "")
        if name in _DONE_NOW:
            values = [self._constant(value) for value in visited.args]
            if all(value is not None for value in values):
                return relax.const(_DONE_NOW[name](*values))
        if name != "relax.call_tir":
            return visited
        values = list(visited.args[1].fields)
        if len(values) != 2:
            return visited
        bound = self._constant(values[1])
        made = _BOUNDS.get(_stored(self.builder_.get()[visited.args[0]]))
        if made is None or bound is None or bound.ndim:
            return visited
        return made(values[0], relax.const(bound, str(bound.dtype)))

    def _constant(self, value: Any) -> Any:
        found = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        return constant(value if found is None else found)


#: the importer asks whether a bound is a number even where it is a constant
_DONE_NOW: dict[str, Any] = {"relax.isnan": np.isnan, "relax.where": np.where}
_BOUNDS = {tirx.Max: relax.op.maximum, tirx.Min: relax.op.minimum}


def _stored(function: Any) -> type | None:
    """Kind of the one expression that a function stores."""
    from edgemtl.backends.tvm.schedule.fused import blocks_of

    blocks = blocks_of(function)
    if len(blocks) != 1 or not isinstance(blocks[0].body, tirx.BufferStore):
        return None
    value = blocks[0].body.value
    plain = all(
        hasattr(part, "indices") for part in (getattr(value, "a", 0), getattr(value, "b", 0))
    )
    return type(value) if plain else None


@relax.expr_functor.mutator
class Folded(relax.PyExprMutator):  # type: ignore[misc] # TVM has no types
    """Moves of constants done now, by NumPy: TVM's own pass compiles a program for each."""

    def visit_call_(self, call: Any) -> Any:
        visited = self.visit_expr_post_order(call)
        name = getattr(visited.op, "name", "")
        if name == "relax.permute_dims":
            axes = visited.attrs.axes
            order = [int(n) for n in axes] if axes is not None else None
            if order == list(range(len(order or ()))):
                return visited.args[0]
            values = constant(self._bound(visited.args[0]))
            if values is not None:
                return relax.const(np.ascontiguousarray(np.transpose(values, order)))
        if name in ("relax.reshape", "relax.expand_dims", "relax.squeeze"):
            values = constant(self._bound(visited.args[0]))
            shape = getattr(visited.ty if visited.ty is not None else call.ty, "shape", None)
            if values is not None and shape is not None:
                return relax.const(values.reshape([int(n) for n in shape.values]))
        return visited

    def _bound(self, value: Any) -> Any:
        found = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        return value if found is None else found


def mutated(name: str, mutator: Any, *arguments: Any) -> Any:
    """A pass that runs a mutator over every Relax function."""

    def run(module: Any, _: Any) -> Any:
        made = mutator(module, *arguments)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                made.builder_.update_func(variable, made.visit_expr(function))
        return made.builder_.get()

    return transform.module_pass(run, opt_level=0, name=name)


def _norms_planes(module: Any) -> bool:
    """Whether a norm over several axes has scales of several axes.

    ConvertLayout (TVM 0.27) moves such a norm's axes and leaves its scales and shifts in the old
    order: the norm then reads beyond them, and numbers are wrong without an error.
    """
    found = False

    def look(node: Any) -> None:
        nonlocal found
        name = getattr(getattr(node, "op", None), "name", "")
        if name in ("relax.nn.layer_norm", "relax.nn.rms_norm"):
            found = found or len(node.attrs.axes) > 1

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, look)
    return found


def channels_last(module: Any) -> Any:
    """The module with NHWC convolutions; as it was where TVM cannot convert it."""
    module = transform.Sequential(
        [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.CanonicalizeBindings(),
            mutated("EdgeBounds", Bounds),
            relax.transform.DeadCodeElimination(["main"]),
        ]
    )(module)
    convert = relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "OIHW"]})
    try:
        if not _norms_planes(module):
            module = convert(module)
    except Exception as error:  # TVM raises many kinds
        print(f"the layout stays as it is: {error}", file=sys.stderr)
    return transform.Sequential(
        [
            mutated("EdgeFolded", Folded),
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(["main"]),
        ]
    )(module)
