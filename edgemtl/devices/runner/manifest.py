"""What the runner reads of ``manifest.json``, in plain Python (a device has no pydantic)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .container import MANIFEST, Files, check_distinct, check_name, read_small
from .detection import DetectionTask, tasks_of
from .errors import INPUT_REFUSED, VERIFICATION, RunnerError

#: version 3 has ``pruning``, which matters to gates alone; version 2 has ``variants``; version 1
#: named the graphs of single tasks among the artefact's facts
SCHEMA_VERSION = 3
READABLE = (1, 2, 3)
#: field of the manifest with :func:`own_hash`; bundles of before it was written have none
OWN_HASH = "own_sha256"
MAX_MANIFEST_BYTES = 64 << 20


class Expected(NamedTuple):
    """A recorded output: its name, the file that holds it, the errors allowed (mean: or None)."""

    output: str
    member: str
    max_abs_error: float
    max_mean_error: float | None = None


class Variant(NamedTuple):
    """One of several graphs in the artefact.

    Attributes:
        name: no other has it.
        kind: "task", "precision", "prototype" or "budget".
        artefact: (name inside the artefact, member of the bundle); the first is opened.
        outputs: that it computes; empty for all.
    """

    name: str
    kind: str
    artefact: list[tuple[str, str]]
    outputs: list[str]


class Manifest(NamedTuple):
    """The part of the manifest that matters on a device.

    Attributes:
        sha256: of ``manifest.json``; results carry it, so that they can be matched to the bundle.
        name: of the bundle.
        target: name of the target.
        backend: which runtime module runs it.
        device: the runtime's name of the device.
        input_name: of the one input.
        input_shape: (B, 3, H, W).
        threads: worker threads, 0 lets the runtime choose.
        precision_hint: "f32" or "auto".
        artefact: (name inside the artefact, member of the bundle); the first is opened.
        variants: other graphs in the artefact.
        reference: the same of the uncompressed network, to be timed against; empty when it is not
            in the bundle.
        selftest_input: member with the recorded inputs, (cases, B, 3, H, W) float32.
        expected: the recorded outputs, in the order of the graph.
        detection: the detection tasks, whose answers are decoded and counted here.
        files: member -> {"sha256", "size"}.
    """

    sha256: str
    name: str
    target: str
    backend: str
    device: str
    input_name: str
    input_shape: tuple[int, ...]
    threads: int
    precision_hint: str
    artefact: list[tuple[str, str]]
    variants: list[Variant]
    reference: list[tuple[str, str]]
    selftest_input: str
    expected: list[Expected]
    detection: list[DetectionTask]
    files: dict[str, Mapping[str, Any]]


def own_hash(data: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's contents but for the hash itself; shows accidents, not intent.

    Args:
        data: the parsed manifest.

    Raises:
        ValueError: it holds what JSON has no way to write.
    """
    bare = {**data, OWN_HASH: ""}
    text = json.dumps(bare, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_manifest(files: Files) -> Manifest:
    """Read and check the manifest.

    Raises:
        RunnerError: it is missing, not readable, or of another schema version.
    """
    raw = read_small(files, MANIFEST, MAX_MANIFEST_BYTES)
    try:
        data = json.loads(raw.decode("utf-8"))
        version = data["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunnerError(INPUT_REFUSED, f"{files.path}: manifest.json is not readable") from error
    if version not in READABLE:
        raise RunnerError(
            INPUT_REFUSED,
            f"{files.path}: the manifest has schema version {str(version)[:40]}, this runner reads "
            f"{' and '.join(map(str, READABLE))}; use the runner inside that bundle",
        )
    try:
        if data.get(OWN_HASH) and data[OWN_HASH] != own_hash(data):
            raise RunnerError(VERIFICATION, f"{files.path}: manifest.json was changed")
        return _parse(data, hashlib.sha256(raw).hexdigest())
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RunnerError(
            INPUT_REFUSED, f"{files.path}: manifest.json lacks or garbles a field ({error})"
        ) from error


def _parse(data: Mapping[str, Any], sha256: str) -> Manifest:
    entries: dict[str, Mapping[str, Any]] = {}
    for name, entry in data["files"].items():
        if not re.match(r"^[0-9a-f]{64}$", entry["sha256"]) or int(entry["size"]) < 0:
            raise ValueError(f"files.{name}")
        entries[check_name(name)] = {"sha256": entry["sha256"], "size": int(entry["size"])}
    check_distinct(entries)
    artefact = _members(data["artefact"])
    reference = _members(data["reference"]) if data.get("reference") else []
    expected = [
        Expected(
            str(e["output"]),
            str(e["member"]),
            float(e["max_abs_error"]),
            None if e.get("max_mean_error") is None else float(e["max_mean_error"]),
        )
        for e in data["selftest"]["expected"]
    ]
    first_input = data["inputs"][0]
    manifest = Manifest(
        sha256=sha256,
        name=str(data["name"]),
        target=str(data["target"]["name"]),
        backend=str(data["artefact"]["backend"]),
        device=str(data["target"]["device"]),
        input_name=str(first_input["name"]),
        input_shape=tuple(int(v) for v in first_input["shape"]),
        threads=int(data["session"]["threads"]),
        precision_hint=str(data["session"]["precision_hint"]),
        artefact=artefact,
        variants=_variants(data, artefact),
        reference=reference,
        selftest_input=str(data["selftest"]["input"]),
        expected=expected,
        detection=tasks_of(data),
        files=entries,
    )
    named = [member for _, member in artefact + reference] + [e.member for e in expected]
    for member in [*named, manifest.selftest_input]:
        if member not in entries:
            raise ValueError(f"'{member}' is not in files")
    if not artefact or not expected:
        raise ValueError("artefact or selftest is empty")
    return manifest


def _variants(data: Mapping[str, Any], artefact: Sequence[tuple[str, str]]) -> list[Variant]:
    members = dict(artefact)
    if data["schema_version"] == 1:
        owned = {
            str(t["task"]["name"]): [str(o["name"]) for o in t["outputs"]] for t in data["tasks"]
        }
        named = task_files(data["artefact"].get("facts", {}), [name for name, _ in artefact])
        return [
            Variant(task, "task", [(n, members[n]) for n in names], owned.get(task, []))
            for task, names in named.items()
        ]
    return [
        Variant(
            str(one["name"]),
            str(one["kind"]),
            [(check_name(name), members[name]) for name in one["files"]],
            [str(name) for name in one["outputs"]],
        )
        for one in data.get("variants", [])
    ]


def task_files(facts: Mapping[str, Any], files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Task -> files of its graph, of a manifest of version 1: its own first, then all others."""
    found = {}
    for task, own in (facts.get("task_files") or {}).items():
        if own in files:
            found[str(task)] = (str(own), *(name for name in files if name != own))
    return found


def _members(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    check_distinct(f["name"] for f in entry["files"])
    return [(check_name(f["name"]), str(f["member"])) for f in entry["files"]]
