"""Families of networks by name; third parties add theirs by the entry point ``edgemtl.models``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from edgemtl.errors import EdgemtlError, InputRefused, UsageError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.plugins import loaded, points
from edgemtl.sinks import check_name

NetworkT = TypeVar("NetworkT", bound=MultiTaskNetwork)

_FAMILIES: dict[str, type[MultiTaskNetwork]] = {}
#: built-in families and the module that registers each, imported only when asked for
_BUILT_IN = {
    "m3vit": "edgemtl.models.m3vit.network",
    "mos": "edgemtl.models.mos.network",
}


def register_family(name: str) -> Callable[[type[NetworkT]], type[NetworkT]]:
    """Class decorator: networks of this class are family ``name``.

    The class is built as ``cls(**arguments)``, ``arguments`` being plain data from a checkpoint.
    """

    def register(cls: type[NetworkT]) -> type[NetworkT]:
        cls.family = name
        _FAMILIES[name] = cls
        return cls

    return register


def families() -> list[str]:
    """Names of all families that can be built here."""
    names = set(_FAMILIES) | set(_BUILT_IN)
    return sorted(names | {point.name for point in points("edgemtl.models")})


def family(name: str) -> type[MultiTaskNetwork]:
    """The class of a family.

    Raises:
        InputRefused: there is no such family.
        UsageError: its package cannot be imported.
    """
    check_name(name, "the name of a family")
    if name not in _FAMILIES:
        if name in _BUILT_IN:
            importlib.import_module(_BUILT_IN[name])
        else:
            for point in points("edgemtl.models", name):
                loaded(point)
    if name not in _FAMILIES:
        raise InputRefused(
            f"unknown network family '{name}'",
            hint=f"known families: {', '.join(families())}; add your own by the entry point "
            "'edgemtl.models' or by --factory package.module:build",
        )
    return _FAMILIES[name]


def build(name: str, arguments: Mapping[str, Any]) -> MultiTaskNetwork:
    """Build an untrained network of a family.

    Raises:
        InputRefused: unknown family, or arguments that it does not take.
    """
    cls = family(name)
    try:
        return cls(**dict(arguments))
    except EdgemtlError:
        raise
    except Exception as error:  # arguments come from a file: any way they do not fit refuses it
        raise InputRefused(
            f"family '{name}' cannot be built with the stored arguments: "
            f"{type(error).__name__}: {error}"
        ) from error


def from_factory(reference: str) -> MultiTaskNetwork:
    """Call the user's own ``package.module:function``; only ever reached by ``--factory``.

    Raises:
        UsageError: the reference cannot be imported or does not give a MultiTaskNetwork.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UsageError(
            f"'{reference}' is not a factory", hint="write --factory package.module:function"
        )
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UsageError(
            f"the factory '{reference}' cannot be imported: {type(error).__name__}: {error}",
            hint="is its folder on PYTHONPATH?",
        ) from error
    try:
        network = factory()
    except EdgemtlError:
        raise
    except Exception as error:
        raise UsageError(
            f"the factory '{reference}' failed: {type(error).__name__}: {error}",
            hint=f"call it alone: python -c 'import {module_name}; {module_name}.{attribute}()'",
        ) from error
    if not isinstance(network, MultiTaskNetwork):
        raise UsageError(
            f"the factory '{reference}' returned {type(network).__name__}",
            hint="it must return an edgemtl.models.MultiTaskNetwork",
        )
    return network
