"""``manifest.json``: what a bundle is, where it came from and what was found out about it.

Measured latency is not in it, on purpose: the same inputs must give the same bytes, and no two
measurements are equal. Latency samples lie beside the bundle, in the run folder's ``bench/``, and
name the manifest by its hash. For the same reason there is no time of day in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from edgemtl.devices.runner.container import MANIFEST, check_distinct, check_name
from edgemtl.devices.runner.errors import RunnerError
from edgemtl.devices.runner.manifest import OWN_HASH, READABLE, SCHEMA_VERSION, own_hash
from edgemtl.errors import InputRefused, VerificationFailed

#: members with a fixed place
MODEL = "model.onnx"
RUNNER = "runner.pyz"
MAIN = "__main__.py"
SBOM = "sbom.cdx.json"
README = "README.txt"
ARTEFACT_FOLDER = "artefact"
REFERENCE_FOLDER = "reference"
SELFTEST_INPUT = "selftest/input.npy"

__all__ = ["MANIFEST", "SCHEMA_VERSION", "Manifest", "parse_manifest"]


def _safe(name: str) -> str:
    try:
        return check_name(name)
    except RunnerError as error:
        raise ValueError(error.message) from error


def _distinct(names: Iterable[str]) -> None:
    try:
        check_distinct(names)
    except RunnerError as error:
        raise ValueError(error.message) from error


Member = Annotated[str, AfterValidator(_safe)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Shape = tuple[Annotated[int, Field(ge=0)], ...]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(_Entry):
    """Hash and size in bytes of a member."""

    sha256: Sha256
    size: int = Field(ge=0)


class TargetEntry(_Entry):
    """What the bundle was compiled for, as in ``edgemtl.targets``."""

    name: str
    backend: str
    device: str
    opset: int


class SessionEntry(_Entry):
    """How the artefact was run when its self-test was recorded."""

    threads: int = Field(ge=0)
    precision_hint: Literal["f32", "auto"]


class InputEntry(_Entry):
    """An input; ``spec`` is :meth:`edgemtl.data.preprocess.InputSpec.to_dict`."""

    name: str
    shape: Shape = Field(min_length=4, max_length=4)
    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"
    spec: dict[str, JsonValue]


class OutputEntry(_Entry):
    """An output and its shape, batch first."""

    name: str
    shape: Shape


class TaskEntry(_Entry):
    """A task (``TaskSpec.to_dict()``) and the outputs it owns."""

    task: dict[str, JsonValue]
    outputs: tuple[OutputEntry, ...]


class ArtefactFile(_Entry):
    """A file of the artefact: its name there, and the member of the bundle that holds it."""

    name: Member
    member: Member


class ArtefactEntry(_Entry):
    """What the backend compiled; the first file is what the runtime opens."""

    backend: str
    files: tuple[ArtefactFile, ...] = Field(min_length=1)
    reproducible: bool
    facts: dict[str, JsonValue]


class VariantEntry(_Entry):
    """One of several graphs in the artefact (:class:`edgemtl.backends.types.Variant`)."""

    name: str = Field(min_length=1, max_length=200)
    kind: Literal["task", "precision", "prototype", "budget"]
    files: tuple[Member, ...] = Field(min_length=1)
    outputs: tuple[str, ...] = ()
    facts: dict[str, JsonValue] = Field(default_factory=dict)


class ExpectedEntry(_Entry):
    """A recorded output, the largest absolute error and the largest mean one that still pass."""

    output: str
    member: Member
    max_abs_error: float = Field(ge=0)
    max_mean_error: float | None = Field(None, ge=0)


class SelfTestEntry(_Entry):
    """Recorded inputs (cases, B, 3, H, W) and, per output, (cases, ...)."""

    input: Member
    expected: tuple[ExpectedEntry, ...] = Field(min_length=1)


class AccuracyEntry(_Entry):
    """``AccuracyReport.to_dict()`` of the uncompressed network and of the artefact."""

    reference: dict[str, JsonValue] | None = None
    bundle: dict[str, JsonValue] | None = None


class CostEntry(_Entry):
    """Cost (MACs, parameters, bytes) before and after compression."""

    before: dict[str, JsonValue] | None = None
    after: dict[str, JsonValue] | None = None


class GoalEntry(_Entry):
    """A goal of pruning: shares of the uncompressed network."""

    left: float = Field(ge=0)
    asked: float = Field(ge=0)
    missed: bool


class PruningEntry(_Entry):
    """What came of the pruning, as ``prune.json`` has it: each goal, and what stopped the search.

    ``goals`` are named by their recipe key; ``stopped_by`` is empty where none was missed.
    """

    goals: dict[str, GoalEntry] = Field(default_factory=dict)
    stopped_by: str = ""


class Manifest(_Entry):
    """The manifest.

    Attributes:
        schema_version: of this format.
        name: of the bundle.
        created_by: tool -> version; no time of day.
        source_sha256: hash of the weights that the run started from.
        target: what it was compiled for.
        session: how the artefact was run when the self-test was recorded.
        inputs: the one input.
        tasks: tasks and the outputs they own.
        artefact: what the backend compiled.
        variants: other graphs in the artefact (a task alone, a precision, a prototype, a budget),
            named by its files; since version 2.
        reference: the same of the uncompressed network, so that the device can time one against
            the other; None where this machine is the device, or nothing was compressed.
        selftest: recorded inputs and outputs.
        accuracy: before and after, None where it was not measured.
        cost: before and after, None where it was not counted.
        parity: what the parity stage found.
        gates: the limits that the run was judged by.
        pruning: goals that gates judge too; None where nothing was pruned, and before version 3.
        seeds: every seed that a random choice took.
        recipe: the resolved recipe, plain.
        files: member -> hash and size, of every member but the manifest.
        own_sha256: of all other fields; empty in bundles of before it was written.
    """

    schema_version: Literal[1, 2, 3]
    name: str = Field(min_length=1, max_length=200)
    created_by: dict[str, str]
    source_sha256: Sha256
    target: TargetEntry
    session: SessionEntry
    inputs: tuple[InputEntry, ...] = Field(min_length=1, max_length=1)
    tasks: tuple[TaskEntry, ...]
    artefact: ArtefactEntry
    variants: tuple[VariantEntry, ...] = ()
    reference: ArtefactEntry | None = None
    selftest: SelfTestEntry
    accuracy: AccuracyEntry = AccuracyEntry()
    cost: CostEntry = CostEntry()
    parity: dict[str, JsonValue] = Field(default_factory=dict)
    gates: dict[str, JsonValue] = Field(default_factory=dict)
    pruning: PruningEntry | None = None
    seeds: dict[str, int] = Field(default_factory=dict)
    recipe: dict[str, JsonValue] = Field(default_factory=dict)
    files: dict[Member, FileEntry]
    own_sha256: Sha256 | Literal[""] = ""

    @model_validator(mode="after")
    def _members_exist(self) -> Manifest:
        wanted = [file.member for file in self.artefact.files]
        wanted += [file.member for file in self.reference.files] if self.reference else []
        wanted += [self.selftest.input, *(entry.member for entry in self.selftest.expected), MODEL]
        for member in wanted:
            if member not in self.files:
                raise ValueError(f"'{member}' is not among the files")
        if MANIFEST in self.files:
            raise ValueError("the manifest cannot hold its own hash")
        _distinct(self.files)
        for files in (self.artefact.files, self.reference.files if self.reference else ()):
            _distinct(file.name for file in files)
        inside = {file.name for file in self.artefact.files}
        for variant in self.variants:
            for name in variant.files:
                if name not in inside:
                    raise ValueError(f"variant '{variant.name}' names '{name}', no file of it")
        if len({variant.name for variant in self.variants}) < len(self.variants):
            raise ValueError("two variants have one name")
        recorded = {entry.output for entry in self.selftest.expected}
        for task in self.tasks:
            for output in task.outputs:
                if output.name not in recorded:
                    raise ValueError(f"the self-test does not record output '{output.name}'")
        return self

    def to_bytes(self) -> bytes:
        """UTF-8 JSON: sorted keys, two spaces, equal for equal manifests.

        Raises:
            ValueError: a figure is NaN or infinite.
        """
        data = self.model_dump(mode="json")
        data[OWN_HASH] = own_hash(data)
        text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse untrusted bytes.

    Args:
        data: content of ``manifest.json``.
        where: path of the bundle, for the message.

    Raises:
        InputRefused: not JSON, another schema version, or a field that is missing, unknown or of
            the wrong type.
        VerificationFailed: a field is not what was written.
    """
    try:
        plain: Any = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        version = plain.get("schema_version")
    except (ValueError, RecursionError, AttributeError) as error:
        raise InputRefused("manifest.json is not readable", where=where) from error
    if version not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise InputRefused(
            f"the manifest has schema version {str(version)[:40]}, this EdgeMTL reads {known}",
            where=where,
            hint="use the EdgeMTL that wrote the bundle, or compile it again",
        )
    try:
        manifest = Manifest.model_validate_json(data, strict=True)
    except (ValidationError, RecursionError) as error:
        problem = "too deeply nested"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"'{'.'.join(str(part) for part in first['loc'])}': {first['msg']}"
        raise InputRefused(f"manifest.json does not fit: {problem}", where=where) from error
    if manifest.own_sha256 and manifest.own_sha256 != own_hash(plain):
        raise VerificationFailed("manifest.json was changed since it was written", where=where)
    return manifest


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
