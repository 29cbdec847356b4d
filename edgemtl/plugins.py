"""What other packages add by entry points: backends, data sets, networks, methods, targets, tasks.

A package names its object under one of the groups of :data:`GROUPS` in its own ``pyproject.toml``;
docs/plugins.md has a worked example of each. Nothing is imported before it is asked for by name,
but for data sets, whose layout has to be recognised, and the lists of names of tasks and methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edgemtl.errors import UsageError

#: group -> what its entry points refer to
GROUPS = {
    "edgemtl.backends": "a subclass of edgemtl.backends.base.Backend",
    "edgemtl.datasets": "an edgemtl.data.open.DatasetFormat",
    "edgemtl.models": "a MultiTaskNetwork with @register_family",
    "edgemtl.pruning_methods": "a function of an edgemtl.compress.context.PruneContext",
    "edgemtl.targets": "an edgemtl.targets.Target",
    "edgemtl.tasks": "a Task with @register_task",
}


def points(group: str, name: str | None = None) -> Iterator[EntryPoint]:
    """The entry points of a group, of this name where one is given, sorted by name."""
    found = entry_points(group=group) if name is None else entry_points(group=group, name=name)
    yield from sorted(found, key=lambda point: point.name)


def loaded(point: EntryPoint) -> Any:
    """What an entry point refers to; its package is imported.

    Raises:
        UsageError: it cannot be imported.
    """
    try:
        return point.load()
    except Exception as error:  # whatever another package does when it is imported
        package = point.dist.name if point.dist is not None else point.module
        raise UsageError(
            f"'{point.name}' of the installed package '{package}' cannot be imported: "
            f"{type(error).__name__}: {error}",
            where=f"{point.group}: {point.value}",
            hint="repair that package, or uninstall it",
        ) from error


def refused(point: EntryPoint) -> UsageError:
    """What is said of an entry point that refers to something else than its group holds."""
    return UsageError(
        f"'{point.name}' is not {GROUPS[point.group]}", where=f"{point.group}: {point.value}"
    )


def packages(modules: Iterable[str] | None = None) -> dict[str, str]:
    """Installed packages that add something to EdgeMTL: name -> version, sorted by name.

    Args:
        modules: only the packages that these modules belong to; all packages by default.
    """
    wanted = None if modules is None else {_top(module) for module in modules}
    found = {
        point.dist.name: point.dist.version
        for group in GROUPS
        for point in points(group)
        if point.dist is not None and (wanted is None or _top(point.module) in wanted)
    }
    return dict(sorted(found.items()))


def _top(module: str) -> str:
    return module.partition(".")[0]
