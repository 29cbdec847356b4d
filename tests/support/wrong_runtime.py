"""A backend whose runtime answers wrongly for some pictures; its graphs are right."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from edgemtl.backends.onnxruntime import OnnxRuntimeBackend
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.targets import Target
from support import plugins


class WrongSession(Session):
    """ONNX Runtime's answers; the last output is off where a picture is bright enough."""

    def __init__(self, inner: Session, above: float) -> None:
        super().__init__(inner.input_shape, inner.outputs)
        self._inner, self._above = inner, above

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        answers = {name: np.array(value) for name, value in self._inner.run(images).items()}
        if float(images.mean()) > self._above:
            last = list(answers)[-1]
            answers[last] = answers[last] * 1.5 + 0.1
        return answers


class WrongRuntime(OnnxRuntimeBackend):
    """Compiles as ONNX Runtime does, and runs otherwise."""

    name: ClassVar[str] = "wrong"
    #: mean of a picture, as the network sees it, from which on the answer is wrong
    above: ClassVar[float] = -np.inf

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        made = super().compile_impl(onnx_path, target, folder)
        return Artefact(self.name, made.target, folder, made.files, facts=made.facts)

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        return WrongSession(super().load_impl(artefact, options), self.above)


def register(monkeypatch: pytest.MonkeyPatch, folder: Path, above: float = -np.inf) -> Path:
    """Make the backend known, and write a target for it; its file."""
    place = "support.wrong_runtime:WrongRuntime"
    plugins.install(folder, monkeypatch, {"edgemtl.backends": {"wrong": place}})
    monkeypatch.setattr(WrongRuntime, "above", above)
    path = folder / "mistaken.toml"
    path.write_text(
        'description = "its runtime is wrong"\nbackend = "wrong"\nopset = 17\n'
        'precisions = ["fp32", "int8"]\nchannel_multiple = 16\n',
        "utf-8",
    )
    return path
