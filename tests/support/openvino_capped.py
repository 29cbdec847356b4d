"""OpenVINO's answer as on a processor that has less than this one.

oneDNN, which OpenVINO's CPU plug-in computes with, takes ``ONEDNN_MAX_CPU_ISA`` for the most that
the processor has; it reads it once, so a process of its own computes.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

#: everything but AMX; on a processor without AMX it changes nothing
WITHOUT_AMX = "AVX512_CORE_BF16"


def answer(
    model: ModelProto, image: NDArray[np.float32], most: str | None = None
) -> NDArray[np.float32]:
    """The first output; skips where OpenVINO is not installed.

    Args:
        model: one input, called ``images``.
        image: what is fed.
        most: an instruction set in oneDNN's words, the most that is used; all of them when None.
    """
    if most is None:
        return _computed(model, image)
    if importlib.util.find_spec("openvino") is None:  # imported only our way: it calls home
        pytest.skip("OpenVINO is not installed")
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/model.onnx")
        np.save(f"{folder}/image.npy", image)
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": most}
        paths = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", "support.openvino_capped", folder]
        subprocess.run(command, check=True, env=environment)
        found: NDArray[np.float32] = np.load(f"{folder}/answer.npy")
    return found


def _computed(model: ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    from edgemtl.backends.openvino import import_openvino

    try:
        openvino = import_openvino()
    except ImportError:
        pytest.skip("openvino is not installed")
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    value: NDArray[np.float32] = compiled([image])[0]
    return value


if __name__ == "__main__":
    place = Path(sys.argv[1])
    np.save(
        place / "answer.npy",
        _computed(onnx.load(place / "model.onnx"), np.load(place / "image.npy")),
    )
