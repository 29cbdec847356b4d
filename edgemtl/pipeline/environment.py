"""What there is on this machine, and what a recipe may say."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edgemtl import plugins, targets
from edgemtl.backends import registry
from edgemtl.backends.base import Backend
from edgemtl.data import calibration
from edgemtl.errors import TargetUnavailable, UsageError
from edgemtl.pipeline.cache import default_folder
from edgemtl.recipes import Recipe
from edgemtl.targets import Target


def target_list() -> list[dict[str, Any]]:
    """Every target with the state of its backend; :func:`examine` names those that are broken."""
    found = []
    for name, target, backend in _usable_targets():
        state = backend.availability()
        found.append(
            {
                "name": name,
                "description": target.description,
                "backend": target.backend,
                "device": target.device,
                "opset": target.opset,
                "precisions": list(target.precisions),
                "ok": state.ok,
                "version": state.version,
                "reason": state.reason,
            }
        )
    return found


def device_list() -> list[dict[str, Any]]:
    """Every device that a target is for: here, where it runs; elsewhere, how to measure there.

    A target's device is here when this machine is the device (``measured_here``) or its runtime
    sees one (an Intel GPU or NPU with a driver). Nothing is measured or contacted.
    """
    seen = {name: backend.devices() for name, backend in registry.importable().items()}
    found = []
    for name, target, backend in _usable_targets():
        present = {
            own: what
            for own, what in seen[target.backend].items()
            if target.device in (own, own.split(".")[0])
        }
        if present and (target.measured_here or target.device != "CPU"):
            here, how = True, f"edgemtl bench BUNDLE; {', '.join(present.values())}"
        elif target.measured_here:
            here, how = False, backend.availability().reason
        else:
            here, how = False, "edgemtl bench BUNDLE --device ssh://USER@HOST"
            how = backend.capabilities.unmeasured or how
        found.append({"target": name, "device": target.device, "here": here, "how": how})
    return found


def examine() -> dict[str, Any]:
    """Checks of this installation; none of them changes anything."""
    checks = []

    def add(name: str, ok: bool, detail: str, advice: str = "") -> None:
        checks.append({"name": name, "ok": ok, "detail": detail, "advice": advice})

    for name, backend in registry.importable().items():
        state = backend.availability()
        advice = "" if state.ok or not backend.extra else f"pip install 'edgemtl[{backend.extra}]'"
        add(f"backend {name}", state.ok, state.version if state.ok else state.reason, advice)
    for package, version in plugins.packages().items():
        ok, detail = _added(package, version)
        add(f"package {package}", ok, detail, "" if ok else f"repair or uninstall {package}")
    place = default_folder()
    add(
        "cache",
        _writable(place),
        str(place),
        "" if _writable(place) else "set EDGEMTL_CACHE to a writable folder",
    )
    embedded = calibration.folder() / "faces"
    add("embedded calibration set", embedded.is_dir(), str(embedded))
    add("processors", True, f"{os.cpu_count()} seen by Python")
    return {"checks": checks}


def _usable_targets() -> Iterator[tuple[str, Target, Backend]]:
    """Targets with their backends, but for other packages' that cannot be imported."""
    for name in targets.names():
        try:
            target = targets.load(name)
            yield name, target, registry.get(target.backend)
        except (UsageError, TargetUnavailable):
            if name in targets.shipped():
                raise


def _added(package: str, version: str) -> tuple[bool, str]:
    """Whether all that another package adds can be imported, and what it is."""
    added = []
    for group in plugins.GROUPS:
        for point in plugins.points(group):
            if point.dist is None or point.dist.name != package:
                continue
            added.append(f"{group.partition('.')[2]}: {point.name}")
            try:
                plugins.loaded(point)
            except UsageError as error:
                return False, f"{version}, {error.message}"
    return True, f"{version}, adds {', '.join(added)}"


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def commented_recipe() -> str:
    """A TOML recipe in which every key stands as a comment with its default and meaning."""
    lines = ["# EdgeMTL recipe. Every key is optional; remove the '#' to set one.", ""]
    for name, section in Recipe.model_fields.items():
        model = section.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        lines += _section(name, model)
    return "\n".join(lines).rstrip() + "\n"


def _section(path: str, model: type[BaseModel]) -> list[str]:
    lines = [f"[{path}]"]
    nested: list[str] = []
    for name, key in model.model_fields.items():
        kind = key.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            nested += _section(f"{path}.{name}", kind)
        elif name == "tasks" and path == "gates":
            nested += ["# [gates.tasks.NAME]", "# max_relative_drop = 0.02", ""]
        else:
            lines.append(_line(name, key))
    return [*lines, "", *nested]


def _line(name: str, key: FieldInfo) -> str:
    default = key.get_default(call_default_factory=True)
    meaning = f"  # {key.description}" if key.description else ""
    if default is None:
        return f"# {name} ={meaning}"
    if isinstance(default, bool):
        return f"# {name} = {str(default).lower()}{meaning}"
    if isinstance(default, tuple):
        return f"# {name} = {list(default)}{meaning}"
    return f"# {name} = {default!r}{meaning}"
