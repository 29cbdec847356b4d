"""Runs the backend's artefacts on a device. It is packed into bundles, and never imported here.

Inside a bundle it lies beside the modules of ``edgemtl/devices/runner/runtimes``; like those it
needs Python 3.8, NumPy and its runtime, and imports from the runner by relative imports.
"""

from __future__ import annotations

from ..errors import STAGE_FAILED, UNAVAILABLE, RunnerError
from . import Session


class ReferenceSession(Session):
    """A graph that answers."""

    runtime = "onnx-reference"

    def __init__(self, evaluator, version, outputs):
        super().__init__()
        self.version = version
        self._evaluator, self._outputs = evaluator, list(outputs)
        self._input = evaluator.input_names[0]

    def run(self, images):
        values = self._evaluator.run(self._outputs, {self._input: images})
        return {name: values[index] for index, name in enumerate(self._outputs)}


def load(model, device, threads, precision_hint, outputs):
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        said = f"ONNX is not usable here: {error} (python -m pip install onnx)"
        raise RunnerError(UNAVAILABLE, said) from error
    try:
        return ReferenceSession(ReferenceEvaluator(model), onnx.__version__, outputs)
    except Exception as error:  # ONNX raises many kinds
        raise RunnerError(STAGE_FAILED, f"ONNX cannot read the graph: {error}") from error
