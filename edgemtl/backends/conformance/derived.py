"""Facts of a node that follow from several attributes and shapes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgemtl.backends.conformance.facts import NodeFacts
from edgemtl.backends.conformance.geometry import lengths, windows


def asked(facts: NodeFacts, name: str) -> Any:
    """A fact by the name that rules have for it; None where it is not known.

    Args:
        facts: of the node.
        name: ``opset``, ``attribute.X`` (with its default), ``given.X`` (whether the node has it),
            ``input.N`` ("constant", "computed", "absent"), ``inputs`` (how many), ``rank.N``,
            ``kind.N`` (element type), ``value.N`` (of a constant with one value), ``read.N``
            (whether that output is used), ``operator``, or one of ``DERIVED``.
    """
    kind, _, rest = name.partition(".")
    if name in DERIVED:
        return DERIVED[name](facts)
    if kind == "opset":
        return facts.opset
    if kind == "operator":
        return facts.proto.op_type
    if kind == "attribute":
        return facts.attributes.get(rest)
    if kind == "given":
        return rest in facts.given
    if kind == "inputs":
        return sum(one != "absent" for one in facts.inputs)
    index = int(rest)
    if kind == "input":
        return facts.inputs[index] if index < len(facts.inputs) else "absent"
    if kind == "rank":
        shape = facts.shape(index)
        return None if shape is None else len(shape)
    if kind == "kind":
        return facts.kinds[index] if index < len(facts.kinds) else 0
    if kind == "value":
        value = facts.value(index)
        return value.ravel()[0].item() if value is not None and value.size == 1 else None
    if kind == "read":
        return index < len(facts.read) and facts.read[index]
    raise KeyError(name)


def _ceil_differs(facts: NodeFacts) -> bool | None:
    """Whether ceil_mode makes a window that reaches beyond the padding."""
    found = windows(facts)
    if found is None:
        return None
    return bool(facts.attributes.get("ceil_mode")) and any(w.needed_end > w.end for w in found)


def _drops_window(facts: NodeFacts) -> bool | None:
    """Whether ceil_mode alone would make a window that begins in the padding, which is dropped."""
    found = windows(facts)
    if found is None:
        return None
    return bool(facts.attributes.get("ceil_mode")) and any(
        -(-(w.size + w.begin + w.end - w.reach) // w.stride) + 1 > w.out for w in found
    )


def _padded(facts: NodeFacts) -> bool | None:
    found = windows(facts)
    return None if found is None else any(w.begin or w.end for w in found)


def _dilated(facts: NodeFacts) -> bool:
    return any(step != 1 for step in facts.attributes.get("dilations") or ())


def _same(facts: NodeFacts) -> bool:
    return str(facts.attributes.get("auto_pad", "")).startswith("SAME")


def _fractional(facts: NodeFacts) -> bool | None:
    """Whether a length times its scale is not whole."""
    found = lengths(facts)
    if found is None:
        return None
    return any(abs(size * scale - out) > 1e-6 * max(1, out) for size, out, scale in found)


def _changes(facts: NodeFacts) -> bool | None:
    found = lengths(facts)
    return None if found is None else any(size != out for size, out, _ in found)


def _shrinks(facts: NodeFacts) -> bool | None:
    found = lengths(facts)
    return None if found is None else any(scale < 1 for _, _, scale in found)


def _to_one(facts: NodeFacts) -> bool | None:
    """Whether an axis of several places becomes one place."""
    found = lengths(facts)
    return None if found is None else any(out == 1 and size > 1 for size, out, _ in found)


def _beyond_plane(facts: NodeFacts) -> bool | None:
    """Whether an axis other than the last two is resized."""
    found = lengths(facts)
    return None if found is None else any(size != out for size, out, _ in found[:-2])


def _kinds_differ(facts: NodeFacts) -> bool | None:
    known = {kind for kind in facts.kinds if kind}
    return len(known) > 1 if known else None


def _whole_norm(facts: NodeFacts) -> bool | None:
    """Whether a norm runs over all axes, the first included."""
    shape = facts.shape(0)
    return None if not shape else int(facts.attributes.get("axis", -1)) % len(shape) == 0


def _numbers_inside(facts: NodeFacts) -> bool:
    """Whether a branch or body has a Constant that is no tensor."""
    return any(
        node.op_type == "Constant" and not any(a.name == "value" for a in node.attribute)
        for attribute in facts.proto.attribute
        if attribute.HasField("g")
        for node in attribute.g.node
    )


def _compared(facts: NodeFacts) -> bool:
    """Whether the result is looked at for being infinite."""
    return not facts.readers.isdisjoint(("Equal", "IsInf", "Greater", "Less"))


def _stretched(facts: NodeFacts) -> bool:
    """Whether a Resize keeps to the sizes that it is given."""
    return bool(facts.attributes.get("keep_aspect_ratio_policy", "stretch") == "stretch")


DERIVED: Mapping[str, Callable[[NodeFacts], Any]] = {
    "window.ceil_differs": _ceil_differs,
    "window.drops": _drops_window,
    "window.padded": _padded,
    "window.dilated": _dilated,
    "window.same": _same,
    "resize.fractional": _fractional,
    "body.numbers": _numbers_inside,
    "result.compared": _compared,
    "kinds.differ": _kinds_differ,
    "norm.whole": _whole_norm,
    "resize.stretched": _stretched,
    "resize.changes": _changes,
    "resize.shrinks": _shrinks,
    "resize.to_one": _to_one,
    "resize.beyond_plane": _beyond_plane,
}
