"""Where the work goes: nodes summed up by the module that they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemtl.record.rundata import NodeFacts

Path = tuple[str, ...]


@dataclass(frozen=True)
class ModuleWork:
    """A module with everything inside it.

    Attributes:
        module: dotted path; empty for nodes that came from no module.
        macs, parameters: of what came out.
        macs_before: of what went in, None when that was not counted per node.
        share: of all MACs of what came out, 0 to 1.
        share_before: ``macs_before`` as a share of the same, so that both draw on one scale.
    """

    module: str
    macs: float
    parameters: float
    macs_before: float | None
    share: float
    share_before: float | None


def costly_modules(
    after: Sequence[NodeFacts], before: Sequence[NodeFacts] = (), wanted: int = 14
) -> tuple[ModuleWork, ...]:
    """At most about ``wanted`` modules that together hold all nodes, the costliest first.

    Modules are opened from the top, the costliest first, as long as the list stays short: a
    module that is most of the network shows its parts, one that costs little stays closed.
    """
    paths = [_path(node) for node in after]
    macs = [node.macs for node in after]
    opened = _open(paths, macs, wanted)
    sums: dict[Path, list[float]] = {}
    for node in after:
        entry = sums.setdefault(_owner(_path(node), opened), [0.0, 0.0, 0.0])
        entry[0] += node.macs
        entry[1] += node.parameters
    for node in before:
        sums.setdefault(_owner(_path(node), opened), [0.0, 0.0, 0.0])[2] += node.macs
    total = sum(macs) or 1.0
    ordered = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    return tuple(
        ModuleWork(
            ".".join(path),
            now,
            parameters,
            then if before else None,
            now / total,
            then / total if before else None,
        )
        for path, (now, parameters, then) in ordered
        if now or then
    )


def _path(node: NodeFacts) -> Path:
    return tuple(node.module.split(".")) if node.module else ()


def _open(paths: Sequence[Path], macs: Sequence[float], wanted: int) -> set[Path]:
    """The modules whose parts are shown instead of themselves."""
    opened: set[Path] = {()}
    closed: set[Path] = set()
    while True:
        sums: dict[Path, float] = {}
        parts: dict[Path, set[Path]] = {}
        for path, value in zip(paths, macs, strict=True):
            owner = _owner(path, opened)
            sums[owner] = sums.get(owner, 0.0) + value
            parts.setdefault(owner, set()).add(path[: len(owner) + 1])
        splits = [p for p in sums if p not in opened | closed and parts[p] != {p}]
        if not splits:
            return opened
        costliest = max(splits, key=lambda p: (sums[p], p))
        if len(sums) - 1 + len(parts[costliest]) > wanted:
            closed.add(costliest)
        else:
            opened.add(costliest)


def _owner(path: Path, opened: set[Path]) -> Path:
    """The shown module that a path belongs to: the first on the way down that is not opened."""
    for length in range(1, len(path) + 1):
        if path[:length] not in opened:
            return path[:length]
    return path
