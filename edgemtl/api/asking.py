"""What callers may give, brought into the form that the operations take."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.errors import UsageError
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.pipeline.settings import Settings, toml_value
from edgemtl.recipes import Recipe
from edgemtl.targets import Target

#: a path; loaded models and bundles, runs, and results that are files can stand for theirs
AnyPath = str | os.PathLike[str]
#: one folder or several
Data = AnyPath | Sequence[AnyPath] | None
#: one name or several
Names = str | Sequence[str] | None
#: a shipped target's name, a TOML file, or a loaded target
AnyTarget = AnyPath | Target
#: ``package.module:function``, or the function
Factory = str | Callable[..., Any] | None
#: a TOML file, or a recipe of which the keys that were set count
AnyRecipe = AnyPath | Recipe | None
#: recipe key (``"bench.threads"``) -> value, as ``--set`` takes them
Overrides = Mapping[str, object] | None


def path_of(given: AnyPath) -> Path:
    """A path; ``~`` is not expanded, as nowhere in the product."""
    return Path(os.fspath(given))


def optional_path(given: AnyPath | None) -> Path | None:
    """The same where there may be none."""
    return None if given is None else path_of(given)


def folders(given: Data) -> tuple[Path, ...]:
    """Folders with labelled pictures."""
    if given is None:
        return ()
    if isinstance(given, str | os.PathLike):
        return (path_of(given),)
    return tuple(map(path_of, given))


def names(given: Names) -> tuple[str, ...]:
    """Names of tasks, or patterns."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def load_target(name: AnyPath) -> Target:
    """A target by the name that ``edgemtl targets`` lists, or from a TOML file of your own.

    Raises:
        UsageError: no such target, or its file is not valid.
    """
    return targets.load(os.fspath(name))


def target_of(given: AnyTarget) -> Target:
    """A target.

    Raises:
        UsageError: no such target, or its file is not valid.
    """
    return given if isinstance(given, Target) else load_target(given)


def factory_of(given: Factory, model: object = None) -> str | None:
    """Where the user's own network is built; by default where the loaded model was.

    Raises:
        UsageError: a function that no other process could find by its name.
    """
    if given is None:
        return getattr(model, "factory", None)
    if isinstance(given, str):
        return given
    module, name = getattr(given, "__module__", ""), getattr(given, "__qualname__", "")
    if not module or not name or "<" in name or "." in name:
        raise UsageError(
            f"'{name or given!r}' is no function of a module",
            where="factory",
            hint="define it at the top of a module, or give 'package.module:function'",
        )
    return f"{module}:{name}"


def resolved(
    target: Target, recipe: AnyRecipe, settings: Settings, overrides: Overrides = None
) -> Recipe:
    """The recipe as the command line would resolve it; keywords come before ``overrides``.

    Raises:
        UsageError: the recipe, a keyword or an override is not valid.
    """
    file = recipe if recipe is None or isinstance(recipe, Recipe) else path_of(recipe)
    try:
        return recipe_for(target, file, [*settings.assignments(), *assignments(overrides)])
    except UsageError as error:
        if error.where == "--set":
            error.where = "keywords and overrides"
        raise


def assignments(overrides: Overrides) -> list[str]:
    """Values of ``--set``."""
    return [f"{key}={toml_value(value)}" for key, value in (overrides or {}).items()]


def call_of(verb: str, **given: object) -> str:
    """A call in words, for the record of a run; what was left out is left out here."""
    words = [
        f"{name}={_word(value)}"
        for name, value in given.items()
        if value is not None and value != ()
    ]
    return f"edgemtl.{verb}({', '.join(words)})"


def _word(value: object) -> str:
    if isinstance(value, Target):
        return repr(value.name)
    if isinstance(value, Recipe):
        return "Recipe(...)"
    return repr(os.fspath(value)) if isinstance(value, os.PathLike) else repr(value)
