"""Targets: what a bundle is built for. One TOML file each, in ``targets/``.

A user's own target is a path to such a file, given wherever a target's name is. A package adds
targets that have a name by the entry point ``edgemtl.targets``.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgemtl.errors import UsageError
from edgemtl.fields import entry
from edgemtl.plugins import loaded, points, refused

_GROUP = "edgemtl.targets"


class Target(BaseModel):
    """A device family with its toolchain.

    Attributes:
        name: what the user writes after ``--target``.
        description: one line for ``edgemtl targets``.
        backend: name of the backend that compiles and runs for it.
        device: the backend's name of the device (``CPU``, ``GPU.0``, ``cortex-a76``, ...).
        opset: ONNX opset to export.
        precisions: precisions the target runs, first the default.
        channel_multiple: widths are kept at multiples of this, for the vector unit's sake.
        threads: of the runtime, where the recipe ([bench] threads) does not say; 0 lets the runtime
            choose, and without either it is one.
        deformable: how deformable convolution reaches the target.
        experts: how mixtures of experts reach the target (see models/m3vit/experts.py).
        measured_here: whether this machine is the device, so that latency can be measured at once.
        options: backend-specific settings.
        gates: default gates, same keys as the recipe's ``[gates]``.
        defaults: other recipe keys that hold where the user gives real pictures ([data] root);
            what is only worth doing, or only safe, with them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    backend: str
    device: str = "CPU"
    opset: int = entry(17, ge=13, le=25)
    precisions: tuple[str, ...] = ("fp32",)
    channel_multiple: int = entry(8, ge=1)
    threads: int | None = entry(None, ge=0, le=1024)
    deformable: Literal["native", "portable"] = "portable"
    experts: Literal["gather", "sorted", "static", "dense"] = "gather"
    measured_here: bool = True
    options: dict[str, Any] = Field(default_factory=dict)
    gates: dict[str, Any] = Field(default_factory=dict)
    defaults: dict[str, Any] = Field(default_factory=dict)


def _folder() -> Path:
    # In a checkout targets/ lies beside the package; in an installation inside it.
    inside = Path(__file__).with_name("_targets")
    return inside if inside.is_dir() else Path(__file__).parent.parent / "targets"


def shipped() -> list[str]:
    """Names of the targets that come with the product."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def names() -> list[str]:
    """Names of all targets: ours, then those of other packages."""
    ours = shipped()
    return ours + sorted({point.name for point in points(_GROUP)} - set(ours))


def load(name: str) -> Target:
    """A target by name, or from a user's TOML file by path.

    Of two targets of one name ours is taken: installing a package changes nothing for our targets.

    Raises:
        UsageError: no such target, or its file or package is not valid.
    """
    if name.endswith(".toml"):
        return _from_file(Path(name))
    if name in shipped():
        return _from_file(_folder() / f"{name}.toml")
    for point in points(_GROUP, name):
        found = loaded(point)
        if not isinstance(found, Target) or found.name != name:
            raise refused(point)
        return found
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    return UsageError(f"unknown target '{name}'", hint=f"targets: {', '.join(names())}")


def _from_file(path: Path) -> Target:
    if not path.is_file():
        raise _unknown(str(path))
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: Path, changed_ns: int) -> Target:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
        data.setdefault("name", path.stem)
        return Target.model_validate(data)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not a TOML file: {error}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"'{key}': {first['msg']}", where=str(path)) from error
