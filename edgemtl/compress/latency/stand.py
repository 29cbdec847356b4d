"""Networks as they are timed: exported, in the precision that will ship, compiled for a target."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for, session_options
from edgemtl.backends.processor import processor_name
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.compress.latency.profiles import Setting
from edgemtl.compress.quantize.layers import find_layers
from edgemtl.compress.quantize.qdq import insert_qdq
from edgemtl.errors import TargetUnavailable
from edgemtl.exporting.network import export_network
from edgemtl.files import write_atomically
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.targets import Target

Precision = Literal["fp32", "int8"]
#: range of every tensor of an int8 graph that is only timed: what the numbers are takes no time
_RANGE = 6.0


@dataclass(frozen=True)
class Stand:
    """Where and how networks are timed.

    Attributes:
        target: measured by this process.
        threads: of the runtime.
        precision: of the graphs; int8 ones are rounded without looking at pictures.
    """

    target: Target
    threads: int = 1
    precision: Precision = "fp32"

    def require(self) -> None:
        """Raise unless latency can be measured here.

        Raises:
            TargetUnavailable: this machine is not the target, its backend does not work here, or it
                does not run this precision.
        """
        target = self.target
        if not target.measured_here:
            raise TargetUnavailable(
                f"latency on '{target.name}' cannot be measured on this machine",
                hint="prune by multiply-accumulates (--flops), or for a target that runs here",
            )
        if self.precision not in target.precisions:
            raise TargetUnavailable(f"target '{target.name}' does not run {self.precision}")
        registry.get(target.backend).require()

    @property
    def options(self) -> SessionOptions:
        """Of the sessions."""
        return session_options(self.target, self.threads)

    @property
    def setting(self) -> Setting:
        """What layers' times depend on besides the layers."""
        backend = registry.get(self.target.backend)
        return Setting(
            self.target.backend,
            backend.availability().version,
            f"{self.precision}/{self.options.precision_hint}",
            self.threads,
            processor_name(),
            json.dumps([self.target.device, dict(self.target.options)], sort_keys=True),
        )

    def graph(self, network: MultiTaskNetwork, folder: Path) -> Path:
        """Export in float32; the path of the ONNX file.

        Raises:
            StageFailed: the network cannot be exported.
        """
        return export_network(network, self.target, folder).path

    def artefact(self, network: MultiTaskNetwork, folder: Path) -> Artefact:
        """Export, round where the precision asks for it, and compile.

        Raises:
            TargetUnavailable: the target's backend does not work here.
            StageFailed: the network cannot be exported or compiled.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = self.graph(network, folder)
        if self.precision == "int8":
            path = _rounded(path)
        return compile_for(self.target, path, folder / "artefact")


def _rounded(path: Path) -> Path:
    """The graph in int8, beside it."""
    import onnx

    model = onnx.load(path)
    layers = find_layers(model)
    quantised = insert_qdq(model, layers, {layer.source: _RANGE for layer in layers})
    rounded = path.with_name("int8.onnx")
    write_atomically(rounded, lambda stream: stream.write(quantised.SerializeToString()))
    return rounded
