"""Writing a bundle: a deterministic zip, whole or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgemtl.backends import registry
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle import manifest as m
from edgemtl.bundle.archive import BUNDLE_MAIN, runner_bytes, write_zip
from edgemtl.bundle.sbom import sbom_bytes, tool_versions
from edgemtl.bundle.selftest import SelfTest, npy_bytes
from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import StageFailed
from edgemtl.files import write_atomically
from edgemtl.targets import Target
from edgemtl.tasks.base import Task

_OUR_NOTICE = """\
runner.pyz and __main__.py are part of EdgeMTL and licensed under the Apache License, Version 2.0
(SPDX-License-Identifier: Apache-2.0); the text is at https://www.apache.org/licenses/LICENSE-2.0
They are provided on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND.
"""


@dataclass(frozen=True)
class BundleContents:
    """All that goes into a bundle.

    Attributes:
        name: of the bundle, for people.
        source_sha256: hash of the weights that the run started from.
        onnx: the exported ONNX file.
        artefact: what the backend compiled from it.
        target: what it was compiled for.
        input_name: name of the graph's input.
        input_spec: how a picture becomes the input.
        tasks: the network's tasks; each output must be recorded by the self-test.
        selftest: recorded inputs and outputs of the artefact.
        session: how the artefact was run when the self-test was recorded.
        accuracy_reference: ``AccuracyReport.to_dict()`` of the uncompressed network, if measured.
        accuracy_bundle: the same of the artefact.
        cost_before: cost of the uncompressed network, if counted.
        cost_after: cost of the exported one.
        parity: what the parity stage found.
        gates: limits that the run was judged by.
        pruning: ``prune.json``, if the network was pruned; its goals are taken.
        seeds: every seed that a random choice took.
        recipe: the resolved recipe, plain.
        licence_note: what the checkpoint says about its licence; empty when it says nothing.
        reference: what the backend compiled from the uncompressed network, for a device that times
            one against the other.
    """

    name: str
    source_sha256: str
    onnx: Path
    artefact: Artefact
    target: Target
    input_name: str
    input_spec: InputSpec
    tasks: Sequence[Task]
    selftest: SelfTest
    session: SessionOptions = field(default_factory=SessionOptions)
    accuracy_reference: Mapping[str, Any] | None = None
    accuracy_bundle: Mapping[str, Any] | None = None
    cost_before: Mapping[str, Any] | None = None
    cost_after: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] = field(default_factory=dict)
    gates: Mapping[str, Any] = field(default_factory=dict)
    pruning: Mapping[str, Any] | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    licence_note: str = ""
    reference: Artefact | None = None


def write_bundle(path: Path, contents: BundleContents) -> None:
    """Write a bundle; equal contents give equal bytes.

    Raises:
        StageFailed: an input file is missing, the self-test is not usable, a figure is NaN, or the
            place cannot be written.
    """
    contents.selftest.check()
    members = {
        m.MODEL: _read(contents.onnx),
        m.RUNNER: runner_bytes(registry.get(contents.artefact.backend)),
        m.MAIN: BUNDLE_MAIN,
        m.README: _readme(contents).encode(),
        "LICENSES/edgemtl.txt": _OUR_NOTICE.encode(),
    }
    if contents.licence_note:
        members["LICENSES/model.txt"] = contents.licence_note.rstrip().encode() + b"\n"
    artefact = _entry(contents.artefact, _add_artefact(contents.artefact, members))
    reference = None
    if contents.reference is not None:
        files = _add_files(contents.reference, members, m.REFERENCE_FOLDER)
        reference = _entry(contents.reference, files)
    expected = _add_selftest(contents.selftest, members)
    members[m.SBOM] = sbom_bytes(
        contents.name,
        contents.artefact.backend,
        hashlib.sha256(members[m.MODEL]).hexdigest(),
        contents.source_sha256,
        contents.licence_note,
    )
    try:
        manifest = _manifest(contents, artefact, reference, expected, members)
        members[m.MANIFEST] = manifest.to_bytes()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StageFailed(f"the manifest cannot be written: '{key}': {first['msg']}") from error
    except ValueError as error:
        raise StageFailed(f"the manifest cannot be written: {error}") from error
    write_atomically(path, lambda stream: write_zip(stream, members, m.MANIFEST))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StageFailed(f"cannot read: {error.strerror}", where=str(path)) from error


def _add_artefact(artefact: Artefact, members: dict[str, bytes]) -> list[m.ArtefactFile]:
    contents = {name: _read(artefact.folder / name) for name in artefact.files}
    if list(contents.values()) == [members[m.MODEL]]:
        # ONNX Runtime opens the ONNX file itself: stored once. An artefact of several files stays
        # together, because they name each other.
        return [m.ArtefactFile(name=artefact.files[0], member=m.MODEL)]
    return _add_files(artefact, members, m.ARTEFACT_FOLDER)


def _add_files(artefact: Artefact, members: dict[str, bytes], folder: str) -> list[m.ArtefactFile]:
    files = []
    for name in artefact.files:
        member = f"{folder}/{name}"
        members[member] = _read(artefact.folder / name)
        files.append(m.ArtefactFile(name=name, member=member))
    return files


def _entry(artefact: Artefact, files: list[m.ArtefactFile]) -> m.ArtefactEntry:
    return m.ArtefactEntry(
        backend=artefact.backend,
        files=tuple(files),
        reproducible=artefact.reproducible,
        facts=_plain(artefact.facts),
    )


def _add_selftest(selftest: SelfTest, members: dict[str, bytes]) -> list[m.ExpectedEntry]:
    members[m.SELFTEST_INPUT] = npy_bytes(selftest.inputs)
    entries = []
    for index, (output, values) in enumerate(selftest.expected.items()):
        # Output names may hold anything, file names may not.
        member = f"selftest/expected-{index:02d}.npy"
        members[member] = npy_bytes(values)
        entries.append(
            m.ExpectedEntry(
                output=output,
                member=member,
                max_abs_error=selftest.max_abs_error[output],
                max_mean_error=selftest.max_mean_error.get(output),
            )
        )
    return entries


def _plain(data: Mapping[str, Any] | None) -> Any:
    """Tuples as lists and no NaN: what JSON would make of it, checked now."""
    return None if data is None else json.loads(json.dumps(dict(data), allow_nan=False))


def _pruning(story: Mapping[str, Any] | None) -> m.PruningEntry | None:
    """The part of ``prune.json`` that gates judge."""
    if story is None:
        return None
    part = {"goals": story.get("goals", {}), "stopped_by": story.get("stopped_by", "")}
    return m.PruningEntry.model_validate(part)


def _manifest(
    contents: BundleContents,
    artefact: m.ArtefactEntry,
    reference: m.ArtefactEntry | None,
    expected: list[m.ExpectedEntry],
    members: Mapping[str, bytes],
) -> m.Manifest:
    target, selftest = contents.target, contents.selftest
    shapes = {name: values.shape[1:] for name, values in selftest.expected.items()}
    tasks = []
    for task in contents.tasks:
        missing = [name for name in task.outputs if name not in shapes]
        if missing:
            raise StageFailed(
                f"the artefact has no output '{missing[0]}', which task '{task.name}' reads"
            )
        outputs = tuple(m.OutputEntry(name=name, shape=shapes[name]) for name in task.outputs)
        tasks.append(m.TaskEntry(task=_plain(task.spec().to_dict()), outputs=outputs))
    return m.Manifest(
        schema_version=m.SCHEMA_VERSION,
        name=contents.name,
        created_by=tool_versions(),
        source_sha256=contents.source_sha256,
        target=m.TargetEntry(
            name=target.name, backend=target.backend, device=target.device, opset=target.opset
        ),
        session=m.SessionEntry.model_validate(
            {
                "threads": contents.session.threads,
                "precision_hint": contents.session.precision_hint,
            }
        ),
        inputs=(
            m.InputEntry(
                name=contents.input_name,
                shape=selftest.inputs.shape[1:],
                spec=_plain(contents.input_spec.to_dict()),
            ),
        ),
        tasks=tuple(tasks),
        artefact=artefact,
        variants=tuple(
            m.VariantEntry.model_validate(_plain(one.to_dict()))
            for one in contents.artefact.variants
        ),
        reference=reference,
        selftest=m.SelfTestEntry(input=m.SELFTEST_INPUT, expected=tuple(expected)),
        accuracy=m.AccuracyEntry(
            reference=_plain(contents.accuracy_reference), bundle=_plain(contents.accuracy_bundle)
        ),
        cost=m.CostEntry(before=_plain(contents.cost_before), after=_plain(contents.cost_after)),
        parity=_plain(contents.parity),
        gates=_plain(contents.gates),
        pruning=_pruning(contents.pruning),
        seeds=dict(contents.seeds),
        recipe=_plain(contents.recipe),
        files={
            name: m.FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for name, data in members.items()
        },
    )


def _readme(contents: BundleContents) -> str:
    return f"""\
{contents.name}: a network compiled by EdgeMTL for target '{contents.target.name}'.
The device needs Python 3.8 or later, NumPy and the runtime '{contents.artefact.backend}'.

  python BUNDLE verify                         hashes and self-test
  python BUNDLE bench --output results.json    the same, then the latency on this device
  python BUNDLE info                           what this bundle and this device are

BUNDLE is this file as you got it; unpacked, write runner.pyz in its place.
Each prints one JSON document. Exit codes: 0 good, 2 wrong usage, 3 not a usable bundle,
4 the runtime failed, 8 runtime or device not here, 9 latency not stable, 10 verification failed.
"""
