"""Run a split network: the processor's turns by ONNX Runtime, the accelerator's by an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.fpga.arith import Integers
from edgemtl.backends.fpga.partition import Partition
from edgemtl.backends.fpga.program import Tensor
from edgemtl.backends.fpga.reference import run_stage
from edgemtl.errors import StageFailed

#: runs a stage of the accelerator: reads and extends tensor -> (height, width, channels)
Engine = Callable[[int, dict[str, Integers]], None]


def reference_engine(found: Partition) -> Engine:
    """The NumPy reference."""
    return lambda stage, memory: run_stage(found.program, stage, memory)


def to_real(values: Integers, tensor: Tensor, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The accelerator's integers as the graph's tensor."""
    real = (values.astype(np.float64) * tensor.scale).astype(np.float32)
    if tensor.rank == 4:
        real = real.transpose(2, 0, 1)
    return np.ascontiguousarray(real).reshape(shape)


def from_graph(values: NDArray[np.int8], tensor: Tensor) -> NDArray[np.int8]:
    """The graph's int8 tensor in the accelerator's order."""
    if tensor.rank == 4:
        return np.ascontiguousarray(values[0].transpose(1, 2, 0))
    return values.reshape(tensor.shape)


class Execution:
    """A split network ready to run.

    Args:
        found: the split.
        shapes: graph tensor -> shape, for what the accelerator hands back.
        engine: that plays the accelerator.
        threads: of ONNX Runtime.
    """

    def __init__(
        self,
        found: Partition,
        shapes: dict[str, tuple[int, ...]],
        engine: Engine,
        threads: int = 1,
    ) -> None:
        self._found, self._shapes, self._engine = found, shapes, engine
        self._hosts = {
            host.stage: (host, _open(host.model.SerializeToString(), threads))
            for host in found.hosts
            if host.model is not None
        }
        stages = [step.stage for step in found.program.steps] + list(self._hosts)
        self._last = max(stages, default=0)

    def run(self, name: str, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name, in the graph's order, for one input."""
        return self.trace(name, images)[0]

    def trace(
        self, name: str, images: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Integers]]:
        """The same, and everything that was in the accelerator's memory."""
        real: dict[str, NDArray[Any]] = {name: images}
        memory: dict[str, Integers] = {}
        for stage in range(self._last + 1):
            if stage % 2:
                self._engine(stage, memory)
                continue
            if stage not in self._hosts:
                continue
            host, session = self._hosts[stage]
            fed = {read: self._real(read, real, memory) for read in host.inputs}
            for left, value in zip(host.outputs, session.run(host.outputs, fed), strict=True):
                tensor = self._found.program.tensors.get(left)
                if tensor is None:
                    real[left] = value
                else:
                    memory[left] = from_graph(value, tensor)
        return {out: self._real(out, real, memory) for out in self._found.outputs}, memory

    def _real(
        self, name: str, real: dict[str, NDArray[Any]], memory: dict[str, Integers]
    ) -> NDArray[Any]:
        if name in real:
            return real[name]
        tensor = self._found.program.tensors[self._found.read[name]]
        return to_real(memory[tensor.name], tensor, self._shapes[name])


def _open(model: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageFailed(f"the processor's part cannot run: {reason}") from error
