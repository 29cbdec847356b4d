"""A graph as a runtime computes it rightly: what is known to go wrong is written otherwise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgemtl.backends.conformance.facts import NodeFacts
from edgemtl.backends.conformance.rules import all_rules, first_rule, known_problems
from edgemtl.backends.rewriting.constants import stored_shape, tensor_constant
from edgemtl.backends.rewriting.folding import fold_sizes
from edgemtl.backends.rewriting.reductions import infinite_maximum, reduction
from edgemtl.backends.rewriting.resampling import resize
from edgemtl.backends.rewriting.windows import explicit_padding, explicit_transpose
from edgemtl.backends.rewriting.writer import Rewrite, rewrite
from edgemtl.backends.types import Problem

if TYPE_CHECKING:
    from onnx import ModelProto

#: as rules.json names them
REWRITES: Mapping[str, Rewrite] = {
    "by definition": reduction,
    "infinite maximum": infinite_maximum,
    "explicit padding": explicit_padding,
    "explicit transpose": explicit_transpose,
    "weights": resize,
    "tensor": tensor_constant,
    "stored shape": stored_shape,
}
#: once these are constants, so is what is computed from them
_MAKE_SIZES = ("Shape", "Size", "Constant")


def settle(model: ModelProto, runtime: str) -> Mapping[str, int]:
    """Write, in place, what this runtime is known to compute wrongly and we can write otherwise.

    Returns:
        operator -> how many nodes of it; empty where nothing had to be.
    """
    known = all_rules().get(runtime)
    operators = (
        {op for rule in known.rules if rule.rewrite for op in rule.operators} if known else ()
    )
    if known is None or not any(node.op_type in operators for node in model.graph.node):
        return {}

    def chosen(facts: NodeFacts) -> Rewrite | None:
        rule = first_rule(facts, known)
        return REWRITES[rule.rewrite] if rule is not None and rule.rewrite else None

    counts = rewrite(model, chosen)
    if any(op in counts for op in _MAKE_SIZES):
        fold_sizes(model)
    return counts


@contextmanager
def settled(
    path: Path, runtime: str, version: Callable[[], str]
) -> Iterator[tuple[Path, list[Problem]]]:
    """The file to give to a runtime, and what is known of its nodes.

    Args:
        path: an ONNX file; it stays as it is.
        runtime: name of the backend.
        version: tells the one that is here; asked only where something is known of it.

    Returns:
        ``path`` itself where nothing is written otherwise, else a file for the time of the block.
        Problems that remain are fatal, those that were written otherwise are not.
    """
    import onnx

    if runtime not in all_rules():
        yield path, []
        return
    try:
        model = onnx.load(path)
    except Exception:  # what cannot be read is the backend's own problem to tell
        yield path, []
        return
    before = known_problems(model, runtime, version)
    counts = settle(model, runtime) if before else {}
    if not counts:
        yield path, before
        return
    after = known_problems(model, runtime, version)
    still = {problem.node for problem in after}
    written = [
        replace(
            problem,
            advice="nothing to do: compile writes it with other operators",
            fatal=False,
        )
        for problem in before
        if problem.node not in still
    ]
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        rewritten = Path(folder) / path.name
        rewritten.write_bytes(model.SerializeToString(deterministic=True))
        yield rewritten, [*after, *written]
