"""Kinds of tasks by name; third parties add theirs by the entry point ``edgemtl.tasks``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from edgemtl.errors import EdgemtlError, InputRefused, UsageError
from edgemtl.plugins import loaded, points
from edgemtl.sinks import check_name
from edgemtl.tasks.base import Task, TaskSpec

TaskT = TypeVar("TaskT", bound=Task)

_KINDS: dict[str, type[Task]] = {}


def register_task(cls: type[TaskT]) -> type[TaskT]:
    """Class decorator: make ``cls.kind`` buildable from a :class:`TaskSpec`."""
    _KINDS[cls.kind] = cls
    return cls


def kinds() -> dict[str, type[Task]]:
    """All known kinds, built in and from entry points."""
    for point in points("edgemtl.tasks"):
        if point.name not in _KINDS:
            loaded(point)
    return dict(_KINDS)


def build(spec: TaskSpec) -> Task:
    """Build the task that a spec describes.

    Raises:
        InputRefused: unknown kind or options the kind does not take.
    """
    known = _KINDS if spec.kind in _KINDS else kinds()
    if spec.kind not in known:
        raise InputRefused(
            f"task '{spec.name}' is of unknown kind '{spec.kind}'",
            hint=f"known kinds: {', '.join(sorted(known))}",
        )
    try:
        return known[spec.kind](name=spec.name, **dict(spec.options))
    except EdgemtlError:
        raise
    except Exception as error:  # options come from a file: any way they do not fit refuses it
        raise InputRefused(
            f"task '{spec.name}' of kind '{spec.kind}' has options that do not fit: "
            f"{type(error).__name__}: {error}"
        ) from error


def spec_from_dict(data: Mapping[str, Any]) -> TaskSpec:
    """Parse :meth:`TaskSpec.to_dict`.

    Raises:
        InputRefused: a field is missing or of the wrong type.
    """
    try:
        name, kind, options = data["name"], data["kind"], data.get("options", {})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputRefused(f"a task description is not readable: {error}") from error
    if not isinstance(name, str) or not isinstance(kind, str) or not isinstance(options, Mapping):
        raise InputRefused("a task description has fields of the wrong type")
    check_name(name, "the name of a task")
    check_name(kind, "the kind of a task")
    return TaskSpec(name, kind, dict(options))


def select(tasks: Sequence[Task], wanted: Iterable[str] | None) -> tuple[Task, ...]:
    """The tasks of these names plus those they require, in the network's order.

    Raises:
        UsageError: a name the network does not have.
    """
    if wanted is None:
        return tuple(tasks)
    by_name = {task.name: task for task in tasks}
    pending, keep = list(wanted), set[str]()
    while pending:
        name = pending.pop()
        if name not in by_name:
            raise UsageError(
                f"the network has no task '{name}'", hint=f"its tasks: {', '.join(by_name)}"
            )
        if name not in keep:
            keep.add(name)
            pending.extend(by_name[name].requires)
    return tuple(task for task in tasks if task.name in keep)
