"""A backend: ONNX's own evaluator, slow and exact. Its bundles verify themselves on a device."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Backend
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, Availability, Capabilities, Problem, SessionOptions
from edgemtl.errors import StageFailed
from edgemtl.targets import Target

MODEL = "model.onnx"


class OnnxReference(Backend):
    """Imports its runtime only inside the methods, so that to name it costs nothing."""

    name = "onnx-reference"
    capabilities = Capabilities(runner="onnx_reference_runner", packages=("numpy", "onnx"))

    def availability_impl(self) -> Availability:
        import onnx

        return Availability(True, onnx.__version__)

    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        return []

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        shutil.copyfile(onnx_path, folder / MODEL)
        return Artefact(self.name, target.name, folder, (MODEL,))

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        from onnx.reference import ReferenceEvaluator

        try:
            return ReferenceSession(ReferenceEvaluator(str(artefact.folder / MODEL)))
        except Exception as error:  # ONNX raises many kinds
            raise StageFailed(f"ONNX cannot read the graph: {error}") from error


class ReferenceSession(Session):
    """A graph that answers."""

    def __init__(self, evaluator: Any) -> None:
        (image,) = evaluator.proto_.graph.input
        shape = tuple(axis.dim_value for axis in image.type.tensor_type.shape.dim)
        super().__init__(shape, tuple(evaluator.output_names))
        self._evaluator, self._input = evaluator, image.name

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        values = self._evaluator.run(None, {self._input: images})
        return dict(zip(self.outputs, values, strict=True))
