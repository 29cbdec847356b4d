"""The list of channels that cannot be cut, each with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from edgemtl.compress.channels.discovery import WholeChannels, Work
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.channels.trace_data import Origin, Trace
from edgemtl.models.base import MultiTaskNetwork

_UNREAD = "no weight reads them, so that there is nowhere to switch them off"
_ONE = "can only go all at once"
_UNSEEN = "no forward pass reads this weight"
_UNKNOWN = "what computes with this weight is not known"


def uncuttable(
    network: MultiTaskNetwork,
    traced: Trace,
    groups: Sequence[ChannelGroup],
    refused: Mapping[str, tuple[ChannelGroup, str]],
    wanted: set[str],
) -> tuple[WholeChannels, ...]:
    """Channels of every weight that are in no group.

    Args:
        network: the network.
        traced: what its pass told.
        groups: what can be cut.
        refused: name -> group that the graph allows and the trial does not, and why.
        wanted: tasks; what no output of these needs is left out.
    """
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    taken = _places(groups)
    tried: dict[tuple[str, int, int], str] = {}
    for group, reason in refused.values():
        tried.update(dict.fromkeys(_places([group]), reason))
    total = sum(traced.macs.values()) or 1.0
    needed = {name for task in wanted for name in traced.tasks[task]}
    found = []
    for tensor, dim in _written(traced, shapes, {tensor for tensor, _, _ in taken}):
        if tensor not in needed and any(tensor in names for names in traced.tasks.values()):
            continue
        size = shapes[tensor][dim]
        places = [p for p in range(size) if (tensor, dim, p) not in taken]
        if not places:
            continue
        reasons = Counter(
            tried.get((tensor, dim, p)) or _reason(traced, (tensor, dim), p) for p in places
        )
        share = traced.macs.get(tensor, 0.0) / total * len(places) / size
        module = tensor.rpartition(".")[0]
        reason = reasons.most_common(1)[0][0]
        found.append(WholeChannels(module, tensor, dim, len(places), reason, share))
    return tuple(found)


def work_of(network: MultiTaskNetwork, traced: Trace) -> tuple[Work, ...]:
    """What each weight costs, what goes with channels it writes, and what reads none."""
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    alone = traced.macs.get("", 0.0) - sum(traced.products.values())
    macs = traced.macs | ({"": alone} if "" in traced.macs else {})
    own = [Work(name, shapes.get(name, ()), value) for name, value in macs.items()]
    return (*own, *(Work(n, shapes.get(n, ())[:1], value) for n, value in traced.products.items()))


def _places(groups: Sequence[ChannelGroup]) -> set[tuple[str, int, int]]:
    return {(m.tensor, m.dim, p) for g in groups for m in g.members for p in m.positions}


def _written(
    traced: Trace, shapes: Mapping[str, tuple[int, ...]], shrinking: set[str]
) -> list[Origin]:
    """Dimensions that write channels; the last one of weights of which nothing more is known."""
    found = [origin for origin in traced.produced if origin[0] in shapes]
    known = {name for name, _ in (*traced.produced, *traced.consumed)} | shrinking
    for name, shape in shapes.items():
        wide = [dim for dim, size in enumerate(shape) if size > 1]
        if name not in known and len(wide) > 1:
            found.append((name, max(d for d in wide if (name, d) in traced.starts or d == wide[0])))
    return found


def _reason(traced: Trace, origin: Origin, place: int) -> str:
    if origin not in traced.starts:
        return _UNSEEN
    atom = int(traced.starts[origin][place])
    root = int(traced.atoms.roots(traced.starts[origin][place : place + 1])[0])
    if root == 0:
        return traced.atoms.why(atom) or _UNKNOWN
    if origin not in traced.produced:
        return _UNKNOWN
    read = any((traced.atoms.roots(traced.starts[o]) == root).any() for o in traced.consumed)
    return _ONE if read else _UNREAD
