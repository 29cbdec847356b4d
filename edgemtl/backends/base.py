"""What compiles an ONNX file for a target, and what runs the result.

Public methods are final and check what every backend must guarantee (shapes, types, names);
subclasses override the ``*_impl`` methods only. Third parties join by the entry point
``edgemtl.backends``. Heavy packages are imported inside the ``*_impl`` methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import StageFailed, TargetUnavailable
from edgemtl.targets import Target

if TYPE_CHECKING:
    from edgemtl.models.base import MultiTaskNetwork


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
    """

    node: str
    op: str
    reason: str
    advice: str
    fatal: bool = True


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
    """

    backend: str
    target: str
    folder: Path
    files: tuple[str, ...]
    reproducible: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)


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


class Session(ABC):
    """A loaded artefact.

    Args:
        input_shape: (B, 3, H, W) of the one input.
        outputs: output names in the order of the graph.

    Attributes:
        kind: "measured" when this is the target itself; "proxy" when something else stands in for
            it here, whose outputs are right but whose latency says nothing.
    """

    kind: ClassVar[str] = "measured"

    def __init__(self, input_shape: tuple[int, ...], outputs: tuple[str, ...]) -> None:
        self.input_shape = input_shape
        self.outputs = outputs

    @final
    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run once.

        Args:
            images: ``input_shape`` float32, normalised, C-contiguous.

        Returns:
            output name -> array, batch first, in the order of ``outputs``.

        Raises:
            StageFailed: wrong shape or type, or the runtime failed.
        """
        if images.shape != self.input_shape or images.dtype != np.float32:
            raise StageFailed(
                f"input is {images.dtype} {images.shape}, the artefact wants float32 "
                f"{self.input_shape}"
            )
        results = self.run_impl(images)
        if tuple(results) != self.outputs:
            raise StageFailed(f"the runtime returned {tuple(results)}, expected {self.outputs}")
        return results

    @abstractmethod
    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run once; the input is already checked."""

    def close(self) -> None:  # noqa: B027 - nothing to release is a valid default
        """Release the runtime's resources; the session is not used afterwards."""


class Backend(ABC):
    """A compiler and runtime."""

    name: ClassVar[str]
    #: the extra that installs it (``pip install edgemtl[extra]``), empty when it is in the core
    extra: ClassVar[str] = ""
    #: whether it reads int8 tensors that cannot be negative as unsigned (backends/int8.py)
    unsigned_int8: ClassVar[bool] = False
    #: whether artefacts can take their weights from one file (:meth:`gather_impl`); it then folds
    #: what a graph computes from constants when it loads it
    shares_weights: ClassVar[bool] = False

    @final
    def availability(self) -> Availability:
        """Whether it works here; never raises."""
        try:
            return self.availability_impl()
        except Exception as error:  # a broken installation is an answer, not a crash
            return Availability(False, reason=f"{type(error).__name__}: {error}")

    @final
    def devices(self) -> dict[str, str]:
        """Devices of this machine that the runtime sees: its name of each -> what it is.

        Empty where the backend does not work here, or runs nothing on this machine itself.
        """
        return self.devices_impl() if self.availability().ok else {}

    @final
    def require(self) -> None:
        """Raise :class:`TargetUnavailable` with the reason unless available."""
        state = self.availability()
        if not state.ok:
            hint = f"pip install 'edgemtl[{self.extra}]'" if self.extra else None
            raise TargetUnavailable(
                f"backend '{self.name}' is not available: {state.reason}", hint=hint
            )

    @final
    def problems(self, onnx_path: Path, target: Target) -> list[Problem]:
        """What of this graph the target cannot run as written; asked before compiling."""
        from edgemtl.backends.int8 import int8_problems

        return [*self.problems_impl(onnx_path, target), *int8_problems(self.name, onnx_path)]

    @final
    def modelled(
        self, onnx_path: Path, target: Target, network: MultiTaskNetwork | None = None
    ) -> dict[str, Any] | None:
        """How the target would run this graph, as plain data, where the backend has a model of it.

        Its ``kind`` is "modelled": nothing in it was measured. None for all other backends.

        Args:
            onnx_path: the graph, in float32 or int8.
            target: what it is for.
            network: that the graph was made from, where its structure says more than the graph.

        Raises:
            TargetUnavailable: the backend does not work here.
            StageFailed: the graph cannot be modelled, or fits no design.
        """
        self.require()
        return self.modelled_impl(onnx_path, target, network)

    @final
    def compile(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        """Compile an ONNX file into ``folder`` (which exists and is empty).

        A file named ``routing.json`` stands for several networks behind a router, see
        ``backends/routed.py``.

        Raises:
            TargetUnavailable: the backend does not work here.
            StageFailed: the graph has fatal problems, or the compiler failed.
        """
        from edgemtl.backends.routed import ROUTING, compile_routed
        from edgemtl.backends.sharedweights import whole

        self.require()
        if onnx_path.name == ROUTING:
            return compile_routed(self, onnx_path, target, folder)
        # Weights may lie beside the graph; artefacts hold what they need.
        with whole(onnx_path, self.shares_weights) as source:
            fatal = [problem for problem in self.problems(source, target) if problem.fatal]
            if fatal:
                raise _refusal(fatal, target)
            artefact = self.compile_impl(source, target, folder)
        for name in artefact.files:
            if not (folder / name).is_file():
                raise StageFailed(f"backend '{self.name}' did not write '{name}'")
        return artefact

    @final
    def load(self, artefact: Artefact, options: SessionOptions | None = None) -> Session:
        """Load an artefact of this backend.

        Raises:
            TargetUnavailable: the backend or the device does not work here.
            StageFailed: the artefact cannot be loaded.
        """
        from edgemtl.backends.routed import ROUTING, load_routed

        self.require()
        if artefact.backend != self.name:
            raise StageFailed(f"this artefact is for backend '{artefact.backend}'")
        if artefact.files[:1] == (ROUTING,):
            return load_routed(self, artefact, options or SessionOptions())
        return self.load_impl(artefact, options or SessionOptions())

    @abstractmethod
    def availability_impl(self) -> Availability:
        """Import the runtime and tell its version."""

    def devices_impl(self) -> dict[str, str]:
        """See :meth:`devices`; called only where the backend works."""
        return {}

    @abstractmethod
    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        """See :meth:`problems`."""

    def modelled_impl(
        self, onnx_path: Path, target: Target, network: MultiTaskNetwork | None
    ) -> dict[str, Any] | None:
        """See :meth:`modelled`."""
        return None

    @abstractmethod
    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        """See :meth:`compile`."""

    def gather_impl(self, artefacts: Mapping[str, Artefact], folder: Path) -> dict[str, Artefact]:
        """Copies of artefacts, named as asked, with their weights in one file; equal ones once.

        Asked only of a backend that says :attr:`shares_weights`.

        Args:
            artefacts: name -> artefact of this backend.
            folder: exists and is empty.
        """
        raise NotImplementedError(f"backend '{self.name}' does not share weights")

    @abstractmethod
    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        """See :meth:`load`."""


def _refusal(fatal: Sequence[Problem], target: Target) -> StageFailed:
    """What is told of a graph with fatal problems."""
    first = fatal[0]
    where = f"{len(fatal)} node(s) cannot run on '{target.name}', first {first.op} '{first.node}'"
    if not first.op and not first.node:
        where = f"it cannot run on '{target.name}'"
    return StageFailed(f"{where}: {first.reason}", hint=first.advice)
