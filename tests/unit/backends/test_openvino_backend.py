"""What is particular to OpenVINO: no telemetry, float32 as written, DeformConv, devices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgemtl import targets
from edgemtl.backends.openvino import OpenVinoBackend, import_openvino, session_settings
from edgemtl.backends.types import SessionOptions
from edgemtl.errors import TargetUnavailable
from edgemtl.models.layers import deform_conv2d_portable

ReluGraph = Callable[..., Path]


@pytest.fixture
def backend() -> OpenVinoBackend:
    chosen = OpenVinoBackend()
    state = chosen.availability()
    if not state.ok:
        pytest.skip(f"OpenVINO is not available here: {state.reason}")
    return chosen


def deform_conv_graph(
    path: Path, weights: dict[str, np.ndarray], shape: Sequence[int], pad: int
) -> Path:
    """images -> Conv to offsets and mask -> DeformConv, opset 19."""
    kernel = weights["weight"].shape[2]
    taps = kernel * kernel
    nodes = [
        helper.make_node(
            "Conv", ["images", "offset_weight"], ["offset"], "offset/Conv", pads=[1] * 4
        ),
        helper.make_node("Conv", ["images", "mask_weight"], ["logits"], "mask/Conv", pads=[1] * 4),
        helper.make_node("Sigmoid", ["logits"], ["mask"], "mask/Sigmoid"),
        helper.make_node(
            "DeformConv",
            ["images", "weight", "offset", "bias", "mask"],
            ["out"],
            "layer/DeformConv",
            pads=[pad] * 4,
        ),
    ]
    assert weights["offset_weight"].shape[0] == 2 * taps
    output = [shape[0], weights["weight"].shape[0], shape[2], shape[3]]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def test_a_deformable_convolution_is_converted(backend: OpenVinoBackend, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    images = noise(1, 3, 9, 7)
    weights = {
        "weight": noise(5, 3, 3, 3),
        "bias": noise(5),
        "offset_weight": noise(18, 3, 3, 3),  # shifts of several pixels, many beyond the border
        "mask_weight": noise(9, 3, 3, 3),
    }
    graph = deform_conv_graph(tmp_path / "g.onnx", weights, images.shape, pad=1)
    (tmp_path / "out").mkdir()
    artefact = backend.compile(graph, targets.load("intel-cpu"), tmp_path / "out")
    found = backend.load(artefact, SessionOptions(threads=1)).run(images)["out"]
    x, weight, bias = (torch.from_numpy(v) for v in (images, weights["weight"], weights["bias"]))
    offset = torch.nn.functional.conv2d(x, torch.from_numpy(weights["offset_weight"]), padding=1)
    logits = torch.nn.functional.conv2d(x, torch.from_numpy(weights["mask_weight"]), padding=1)
    expected = deform_conv2d_portable(x, offset, logits.sigmoid(), weight, bias, 1).numpy()
    assert np.abs(found - expected).max() / np.ptp(expected) < 1e-5


def test_importing_it_calls_nobody() -> None:
    program = (
        "import sys\n"
        "calls = []\n"
        "network = ('socket.', 'urllib.', 'http.')\n"
        "sys.addaudithook(lambda event, _: event.startswith(network) and calls.append(event))\n"
        "from edgemtl.backends.openvino import OpenVinoBackend\n"
        "ok = OpenVinoBackend().availability().ok\n"
        "loaded = [m for m in sys.modules if m.startswith('openvino_telemetry.')]\n"
        "print(ok, calls, loaded)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1)[1].strip() == "[] []"


@pytest.mark.parametrize("target", ["intel-gpu", "intel-npu"])
def test_a_device_that_is_not_here_is_named(
    backend: OpenVinoBackend, relu_graph: ReluGraph, tmp_path: Path, target: str
) -> None:
    chosen = targets.load(target)
    if any(name.startswith(chosen.device) for name in import_openvino().Core().available_devices):
        pytest.skip(f"this machine has a {chosen.device}")
    # It compiles here for a device elsewhere; only loading needs the device.
    artefact = backend.compile(relu_graph(), chosen, tmp_path / "out")
    with pytest.raises(TargetUnavailable, match=f"no device '{chosen.device}'"):
        backend.load(artefact)


def test_float32_is_asked_for_unless_told_otherwise() -> None:
    assert session_settings("CPU", SessionOptions())["INFERENCE_PRECISION_HINT"] == "f32"
    assert session_settings("GPU.1", SessionOptions())["INFERENCE_PRECISION_HINT"] == "f32"
    assert "INFERENCE_PRECISION_HINT" not in session_settings(
        "CPU", SessionOptions(precision_hint="auto")
    )
    assert "INFERENCE_PRECISION_HINT" not in session_settings("NPU", SessionOptions())
    assert session_settings("CPU", SessionOptions(threads=2))["INFERENCE_NUM_THREADS"] == 2
    assert "INFERENCE_NUM_THREADS" not in session_settings("CPU", SessionOptions())


def test_running_otherwise_than_written_is_told(
    backend: OpenVinoBackend, relu_graph: ReluGraph
) -> None:
    graph = relu_graph()
    auto = targets.load("intel-cpu").model_copy(update={"options": {"precision_hint": "auto"}})
    told = backend.problems(graph, auto)
    assert [problem.fatal for problem in told] == [False] and "bfloat16" in told[0].reason
    npu = backend.problems(graph, targets.load("intel-npu"))
    assert [problem.fatal for problem in npu] == [False] and "float16" in npu[0].reason
