"""What compiles an ONNX file for a target, and what runs the result.

Public methods are final and check what every backend must guarantee (shapes, types, names);
subclasses override the ``*_impl`` methods only. Third parties join by the entry point
``edgemtl.backends``. Heavy packages are imported inside the ``*_impl`` methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from edgemtl.backends.int8 import int8_problems
from edgemtl.backends.profile import Profile, told
from edgemtl.backends.rewriting.settle import settled
from edgemtl.backends.routed import ROUTING, compile_routed, load_routed
from edgemtl.backends.session import Session
from edgemtl.backends.tuner import Tuner
from edgemtl.backends.types import Artefact, Availability, Capabilities, Problem, SessionOptions
from edgemtl.errors import StageFailed, TargetUnavailable
from edgemtl.targets import Target

if TYPE_CHECKING:
    from edgemtl.models.base import MultiTaskNetwork


class Backend(ABC):
    """A compiler and runtime."""

    name: ClassVar[str]
    #: the extra that installs it (``pip install edgemtl[extra]``), empty when it is in the core
    extra: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities] = Capabilities()

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
        """What of this graph the target cannot run as written; asked before compiling.

        What this runtime is known to do otherwise than ONNX says (backends/conformance) comes
        first: where that is fatal the runtime itself is not asked any more, which might end it.
        """
        with settled(onnx_path, self.name, self._version) as (path, known):
            if any(problem.fatal for problem in known):
                return known
            return [
                *known,
                *self.problems_impl(path, target),
                *int8_problems(self.capabilities, path),
            ]

    def _version(self) -> str:
        return self.availability().version

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
        from edgemtl.backends.sharedweights import whole

        self.require()
        if onnx_path.name == ROUTING:
            gather = self.gather_impl if self.capabilities.shares_weights else None
            return compile_routed(self.name, self.compile, gather, onnx_path, target, folder)
        # Weights may lie beside the graph; artefacts hold what they need.
        with whole(onnx_path, self.capabilities.shares_weights) as source:
            fatal = [problem for problem in self.problems(source, target) if problem.fatal]
            if fatal:
                raise _refusal(fatal, target)
            with settled(source, self.name, self._version) as (path, _):
                artefact = self.compile_impl(path, target, folder)
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
        self.require()
        if artefact.backend != self.name:
            raise StageFailed(f"this artefact is for backend '{artefact.backend}'")
        if artefact.files[:1] == (ROUTING,):
            chosen = options or SessionOptions()
            return load_routed(artefact, lambda part: self.load(part, chosen))
        return self.load_impl(artefact, options or SessionOptions())

    @final
    def profile(self, artefact: Artefact, options: SessionOptions) -> Profile:
        """Load an artefact, one graph, with the runtime's profiler on.

        Asked only of a backend that says ``capabilities.profiles``.

        Raises:
            StageFailed: the runtime failed.
        """
        with told():
            return self.profile_impl(artefact, options)

    @final
    def ask_server(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Have a server of ``capabilities.rpc`` run an artefact, and time it by its clock.

        Args:
            request: as :func:`edgemtl.devices.rpc.bench` makes it.
            seconds: after which it is given up.

        Returns:
            ``samples_ms`` and ``load_ms``; outputs lie where the request says.

        Raises:
            StageFailed: it is not there, refused, was lost, or took too long.
        """
        return self.ask_server_impl(request, seconds)

    @final
    def tuner(self) -> Tuner:
        """What measures its kernels; asked only of a backend that says ``capabilities.tunes``."""
        return self.tuner_impl()

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

        Asked only of a backend that says ``capabilities.shares_weights``.

        Args:
            artefacts: name -> artefact of this backend.
            folder: exists and is empty.
        """
        raise NotImplementedError(f"backend '{self.name}' does not share weights")

    def ask_server_impl(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """See :meth:`ask_server`."""
        raise NotImplementedError(f"backend '{self.name}' has no server")

    def tuner_impl(self) -> Tuner:
        """See :meth:`tuner`."""
        raise NotImplementedError(f"backend '{self.name}' does not tune")

    def profile_impl(self, artefact: Artefact, options: SessionOptions) -> Profile:
        """See :meth:`profile`."""
        raise NotImplementedError(f"backend '{self.name}' has no profiler")

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
