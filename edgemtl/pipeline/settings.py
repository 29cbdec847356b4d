"""What a verb's flags and the keywords of the Python API mean: recipe keys, in one table per verb.

The command line and :mod:`edgemtl.api` both fill these in, so that ``--flops 0.4`` and
``flops=0.4`` cannot come to differ. A field that is None, or an empty sequence or mapping, leaves
its key to the recipe and the target.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


def _key(name: str, default: Any = None) -> Any:
    """A field that stands for this recipe key."""
    return field(default=default, metadata={"key": name})


@dataclass(frozen=True)
class Settings:
    """What all verbs with a recipe have.

    Attributes:
        data: folders with labelled pictures.
        seed: of every random choice.
    """

    data: Sequence[Path] = _key("data.root", ())
    seed: int | None = _key("data.seed")

    def assignments(self) -> list[str]:
        """The same as values of ``--set``."""
        return [
            f"{key}={toml_value(value)}"
            for one in fields(self)
            for key, value in _keys(one.metadata["key"], getattr(self, one.name))
        ]


@dataclass(frozen=True)
class CompileSettings(Settings):
    """``compile``."""

    tasks: Sequence[str] = _key("model.tasks", ())
    prune: bool | None = _key("prune.enabled")


@dataclass(frozen=True)
class PruneSettings(Settings):
    """``prune``."""

    tasks: Sequence[str] = _key("model.tasks", ())
    method: str | None = _key("prune.method")
    flops: float | None = _key("prune.flops")
    params: float | None = _key("prune.params")
    latency_ratio: float | None = _key("prune.latency_ratio")
    budgets: Mapping[str, float] | None = _key("prune.budgets")
    compensate: bool | None = _key("prune.compensate")
    keep_whole: Sequence[str] = _key("prune.keep_whole", ())
    only: Sequence[str] = _key("prune.only", ())
    steps: int | None = _key("recover.steps")
    recover: str | None = _key("recover.train")


@dataclass(frozen=True)
class QuantizeSettings(Settings):
    """``quantize``."""

    precision: str | None = _key("quantize.precision")
    budgets: Mapping[str, float] | None = _key("quantize.budgets")
    method: str | None = _key("quantize.method")
    images: int | None = _key("quantize.images")
    keep_float: Sequence[str] = _key("quantize.keep_float", ())


@dataclass(frozen=True)
class MaskSettings(Settings):
    """``mask``."""

    keep: float | None = _key("mask.macs")
    prototypes: int | None = _key("mask.prototypes")
    threshold: float | None = _key("mask.threshold")
    nested: bool | None = _key("mask.nested")
    images: int | None = _key("mask.images")
    router_images: int | None = _key("mask.router_images")
    steps: int | None = _key("mask.steps")
    shared: bool | None = _key("mask.shared")
    precision: float | None = _key("mask.precision")
    multiple: int | None = _key("mask.channel_multiple")
    force: bool | None = _key("mask.force")


def _keys(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Recipe keys and what is to stand there."""
    if isinstance(value, Mapping):
        yield from ((f"{key}.{name}", one) for name, one in value.items())
    elif value is not None and (isinstance(value, str) or not isinstance(value, Sequence) or value):
        yield key, value


def toml_value(value: Any) -> str:
    """A flag, a number, a text or a list of texts, as TOML."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = [str(one) for one in value]
    # JSON of these is TOML too, whatever quotes or backslashes a path has. NumPy's numbers, which
    # it does not know, are written as text, and read as well.
    return json.dumps(value, ensure_ascii=False, default=str)
