"""Bundles: read and verified."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemtl.api.asking import AnyPath, path_of
from edgemtl.api.outcome import Cost, TaskResult, task_result
from edgemtl.bundle.read import open_bundle
from edgemtl.bundle.verify import verify as verify_bundle
from edgemtl.measure.accuracy import AccuracyReport


@dataclass(frozen=True)
class Bundle:
    """A bundle's manifest; the bundle can stand wherever its path can.

    Attributes:
        path: of the file.
        name: of the network.
        target: name of what it was built for.
        backend: whose runtime runs it.
        tasks: task -> its figure, beside that of the uncompressed network; ``value`` is None where
            no accuracy was measured.
        macs: multiply-accumulates for one picture, of the uncompressed network and the artefact.
        parameters: values that they store, likewise.
        size_bytes: of the artefacts' files, likewise.
        sha256: of the manifest; identifies the bundle.
        files: name -> bytes of every file in it.
        recipe: that it was compiled with, as plain data.
    """

    path: Path
    name: str
    target: str
    backend: str
    tasks: Mapping[str, TaskResult]
    macs: Cost
    parameters: Cost
    size_bytes: Cost
    sha256: str
    files: Mapping[str, int] = field(repr=False)
    recipe: Mapping[str, Any] = field(repr=False)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        head = f"{self.path}: {self.name} for {self.target} ({self.backend}), {self.sha256[:12]}"
        costs = (("MACs", self.macs), ("parameters", self.parameters), ("bytes", self.size_bytes))
        return "\n".join(
            [head, *map(str, self.tasks.values()), *(f"{word}: {cost}" for word, cost in costs)]
        )


def load_bundle(path: AnyPath) -> Bundle:
    """Read a bundle's manifest. Nothing in the bundle is run; :func:`verify` checks its files.

    Raises:
        InputRefused: not a bundle, an unsafe one, or one of a later version.
        VerificationFailed: the manifest is damaged.
    """
    place = path_of(path)
    bundle = open_bundle(place)
    manifest = bundle.manifest
    after, before = (
        AccuracyReport.from_dict(side).tasks if side else {}
        for side in (manifest.accuracy.bundle, manifest.accuracy.reference)
    )
    tasks = {}
    for task in bundle.tasks():
        found, reference = after.get(task.name), before.get(task.name)
        tasks[task.name] = task_result(
            task.name,
            task.primary,
            found.values if found else {},
            reference.values if reference else None,
            found.count if found else 0,
            found.note if found else "not measured",
        )

    def cost(key: str) -> Cost:
        sides = (manifest.cost.before or {}).get(key), (manifest.cost.after or {}).get(key)
        before, after = (float(v) if isinstance(v, int | float) else None for v in sides)
        return Cost(before, after)

    return Bundle(
        path=place,
        name=manifest.name,
        target=manifest.target.name,
        backend=manifest.artefact.backend,
        tasks=tasks,
        macs=cost("macs"),
        parameters=cost("parameters"),
        size_bytes=cost("size_bytes"),
        sha256=bundle.manifest_sha256,
        files={name: entry.size for name, entry in manifest.files.items()},
        recipe=manifest.recipe,
    )


@dataclass(frozen=True)
class Verified:
    """What was verified; it exists only where everything held.

    Attributes:
        path: of the bundle.
        sha256: of its manifest.
        files: how many files have the hash that the manifest names.
        cases: self-test inputs that were run.
        signed: whether there is a signature, trusted or not.
        signed_by: fingerprint of the trusted key that signed it; None when no key was given.
    """

    path: Path
    sha256: str
    files: int
    cases: int
    signed: bool
    signed_by: str | None

    def __str__(self) -> str:
        by = f", signed by the trusted key {self.signed_by}" if self.signed_by else ""
        return (
            f"{self.path}: {self.files} files whole, {self.cases} self-test case(s) reproduced{by}"
        )


def verify(bundle: AnyPath, *, trusted_keys: AnyPath | Sequence[AnyPath] = ()) -> Verified:
    """Check every hash and run the self-test.

    Args:
        bundle: to check.
        trusted_keys: public Ed25519 keys (PEM), one of which must have signed it.

    Raises:
        VerificationFailed: something does not hold; the message names it.
        InputRefused: not a bundle, an unsafe one, or a key that is none.
        TargetUnavailable: its runtime does not work here; the hashes held until then.
    """
    if isinstance(trusted_keys, str | os.PathLike):
        trusted_keys = (trusted_keys,)
    found = verify_bundle(path_of(bundle), trusted_keys=[path_of(key) for key in trusted_keys])
    return Verified(
        found.path, found.manifest_sha256, found.files, found.cases, found.signed, found.signed_by
    )
