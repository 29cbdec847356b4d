"""What backends are asked and what they answer, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgemtl.errors import UsageError


@dataclass(frozen=True)
class RpcServer:
    """A server of the runtime's own that runs an artefact on a board.

    Attributes:
        scheme: of its addresses, ``SCHEME://host:port``.
        name: of the runtime, for people.
        start: the command that starts one on the board.
        suffix: of the file that it runs, the artefact's first.
    """

    scheme: str
    name: str
    start: str
    suffix: str


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do. Who needs to know asks this, never the backend's name.

    Attributes:
        int8_as_float: why it computes an int8 graph in float32; empty where it computes in int8.
        unsigned_int8: it reads int8 tensors that cannot be negative as unsigned (backends/int8.py).
        host_int8: its int8 kernels run on this machine's processor, whose sums can be too narrow
            (backends/reduce_range.py).
        graph_nms: it can suppress detections inside the graph (``export.nms``).
        shares_weights: artefacts can take their weights from one file
            (:meth:`Backend.gather_impl`); it then folds what a graph computes from constants when
            it loads it.
        task_files: its artefact can hold a graph per task (backends/taskfiles.py).
        profiles: its runtime tells what each layer takes (:meth:`Backend.profile`).
        rpc: the runtime's own server, which runs its artefacts (:meth:`Backend.ask_server`).
        tunes: its kernels have tiles that ``edgemtl tune`` measures (:meth:`Backend.tuner`).
        unmeasured: why nothing measures it on its device; empty where something does.
        runner: module that runs its artefacts inside a bundle's runner. One of
            ``devices/runner/runtimes``, or the full name of one of your own, which is packed into
            the bundle: it has ``load`` as those do, and needs nothing but what is on the device.
            Empty where a bundle cannot run itself.
        packages: distributions that a device needs, beside Python, for the bill of materials.
        replaces: backend -> fields of its targets that change when this one builds for them
            (``--backend``).
    """

    int8_as_float: str = ""
    unsigned_int8: bool = False
    host_int8: bool = False
    graph_nms: bool = False
    shares_weights: bool = False
    task_files: bool = False
    profiles: bool = False
    rpc: RpcServer | None = None
    tunes: bool = False
    unmeasured: str = ""
    runner: str = ""
    packages: tuple[str, ...] = ("numpy",)
    replaces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Availability:
    """Whether a backend works here.

    Attributes:
        ok: whether :meth:`Backend.compile` and :meth:`Backend.load` can be called.
        version: of the runtime, empty when not ok.
        reason: why not, with the next step; empty when ok.
    """

    ok: bool
    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Problem:
    """A node that the backend cannot run, or runs otherwise than written.

    Attributes:
        node: ONNX node name, empty for the graph as a whole.
        op: ONNX operator.
        reason: one sentence.
        advice: what to do.
        fatal: False when it runs, but not as written (int8 as float, say).
        known: it is our own table that says so (backends/conformance), not the runtime.
    """

    node: str
    op: str
    reason: str
    advice: str
    fatal: bool = True
    known: bool = False


VariantKind = Literal["task", "precision", "prototype", "budget"]


@dataclass(frozen=True)
class Variant:
    """One of several graphs in an artefact, which share what they can.

    Attributes:
        name: no other variant of the artefact has it.
        kind: what they differ in: a task alone, a precision, a prototype behind a router, a budget.
        files: of the artefact that it needs; the first is what a runtime opens.
        outputs: that it computes; empty for all.
        facts: of its own; those of the artefact where it has none.
    """

    name: str
    kind: VariantKind
    files: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = {"name": self.name, "kind": self.kind, "facts": dict(self.facts)}
        return {**plain, "files": list(self.files), "outputs": list(self.outputs)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Variant:
        """Parse :meth:`to_dict`, written by this program."""
        return Variant(
            data["name"], data["kind"], tuple(data["files"]), tuple(data["outputs"]), data["facts"]
        )


@dataclass(frozen=True)
class Artefact:
    """What a backend compiled, as a folder of files.

    Attributes:
        backend: name of the backend that can load it.
        target: name of the target it is for.
        folder: where the files lie.
        files: their names relative to ``folder``, sorted; the first entry is what a runtime opens.
        reproducible: whether the same input gives the same bytes.
        facts: plain data worth keeping (tool versions, precision asked and granted, ...).
        variants: other graphs in it, beside the one that opens first.
    """

    backend: str
    target: str
    folder: Path
    files: tuple[str, ...]
    reproducible: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()

    def variant(self, name: str) -> Artefact:
        """The artefact as one that opens this variant.

        Raises:
            UsageError: there is none of this name.
        """
        found = next((one for one in self.variants if one.name == name), None)
        if found is None:
            known = ", ".join(one.name for one in self.variants) or "none"
            raise UsageError(f"there is no variant '{name}'", hint=f"there are: {known}")
        # Backends look for what lies beside a file by its plain name.
        places = {Path(name).parent for name in found.files}
        folder, files = self.folder, found.files
        if len(places) == 1:
            folder, files = folder / places.pop(), tuple(Path(name).name for name in files)
        return replace(
            self, folder=folder, files=files, facts=found.facts or self.facts, variants=()
        )


@dataclass(frozen=True)
class SessionOptions:
    """How an artefact is run.

    Attributes:
        threads: worker threads; 0 lets the runtime choose.
        precision_hint: "f32" computes as written; "auto" lets the runtime choose (OpenVINO takes
            bfloat16 on some machines, and then is not comparable with float32).
    """

    threads: int = 0
    precision_hint: str = "f32"
