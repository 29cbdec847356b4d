"""What other packages add by entry points: backends, data sets, networks, pruning methods, tasks.

A package names its object under one of the groups of :data:`GROUPS` in its own ``pyproject.toml``;
CONTRIBUTING.md has an example of each. Nothing is imported before it is asked for by name, but for
data sets, whose layout has to be recognised, and the lists of names of tasks and methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edgemtl.errors import UsageError

#: group -> what its entry points refer to
GROUPS = {
    "edgemtl.backends": "a subclass of edgemtl.backends.base.Backend",
    "edgemtl.datasets": "an edgemtl.data.open.DatasetFormat",
    "edgemtl.models": "a MultiTaskNetwork with @register_family",
    "edgemtl.pruning_methods": "a function of an edgemtl.compress.context.PruneContext",
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
