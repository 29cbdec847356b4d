"""The runner's decoding equals the product's; suppression inside the graph equals both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.tiny_bundle import make_contents

from edgemtl import targets
from edgemtl.backends.tensorrt.backend import TensorRtBackend
from edgemtl.backends.tensorrt.optable import table_problems
from edgemtl.backends.tensorrt.settings import OPSET_LIMITS
from edgemtl.backends.tensorrt.suppression import add_suppression
from edgemtl.backends.types import SessionOptions
from edgemtl.bundle.selftest import record_selftest
from edgemtl.bundle.write import write_bundle
from edgemtl.data.preprocess import InputSpec, View
from edgemtl.devices.runner import detection
from edgemtl.devices.runner.cli import main
from edgemtl.errors import StageFailed
from edgemtl.exporting.metadata import write_metadata
from edgemtl.tasks import Depth, Task
from edgemtl.tasks.anchors import AnchorSpec
from edgemtl.tasks.detection import Detection

SIZE = (64, 96)
TASK = Detection("faces", AnchorSpec().to_dict())
COUNT = TASK.anchors.count(SIZE)
Arrays = dict[str, NDArray[np.float32]]


def outputs(seed: int, crowd: float = 0.0) -> Arrays:
    """Random answers; a higher crowd means more boxes over the floor."""
    chance = np.random.default_rng(seed)
    logits = chance.normal([3 - crowd, 0], 3, (1, COUNT, 2))
    boxes = chance.normal(0, 2, (1, COUNT, 4))
    return {
        "faces.scores": logits.astype(np.float32),
        "faces.boxes": boxes.astype(np.float32),
    }


def described(task: Task = TASK, kept: str = "") -> detection.DetectionTask:
    entry = {"task": task.spec().to_dict(), "outputs": [{"name": n} for n in task.outputs]}
    facts = {"suppressed": {task.name: kept}} if kept else {}
    return detection.tasks_of({"artefact": {"facts": facts}, "tasks": [entry]})[0]


def by_product(answers: Arrays) -> Any:
    view = View(1.0, 0.0, 0.0, SIZE, SIZE)
    return TASK.decode({name: value[0] for name, value in answers.items()}, view, {})


def graph(path: Path) -> Path:
    """One convolution per output and cell, enough to be a network with detections."""
    chance = np.random.default_rng(5)
    nodes, constants, parts = [], {}, {"scores": 2, "boxes": 4}
    values = []
    for name, width in parts.items():
        rows = []
        for level, stride in enumerate(TASK.anchors.strides):
            weight = chance.normal(0, 0.05, (2 * width, 3, stride, stride))
            constants[f"w{name}{level}"] = weight.astype(np.float32)
            made = [f"{name}{level}.{step}" for step in ("conv", "last", "rows")]
            constants["flat" + name] = np.asarray([1, -1, width], np.int64)
            nodes += [
                helper.make_node(
                    "Conv", ["images", f"w{name}{level}"], made[:1], strides=[stride] * 2
                ),
                helper.make_node("Transpose", made[:1], made[1:2], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [made[1], "flat" + name], made[2:]),
            ]
            rows.append(made[2])
        nodes.append(helper.make_node("Concat", rows, [f"faces.{name}"], axis=1))
        shape = [1, COUNT, width]
        values.append(helper.make_tensor_value_info(f"faces.{name}", TensorProto.FLOAT, shape))
    made_graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])],
        values,
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    write_metadata(path, [TASK], InputSpec(SIZE))
    return path


def run(model: onnx.ModelProto, images: NDArray[np.float32]) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


@pytest.mark.parametrize("crowd", [0.0, 3.0, 8.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_runner_decodes_as_the_product(seed: int, crowd: float) -> None:
    answers = outputs(seed, crowd)
    wanted = by_product(answers)
    found = detection.decode(described(), answers, detection.priors(described(), *SIZE))
    assert len(wanted) > 5
    np.testing.assert_array_equal(found.prior, wanted.prior_index)
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=1e-6)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_damaged_outputs_and_none_at_all() -> None:
    answers = outputs(0)
    answers["faces.boxes"][0, ::2] = np.nan
    found = detection.decode(described(), answers, detection.priors(described(), *SIZE))
    np.testing.assert_array_equal(found.prior, by_product(answers).prior_index)
    answers["faces.scores"][..., 0] = 50.0
    assert len(by_product(answers)) == 0
    empty = detection.decode(described(), answers, detection.priors(described(), *SIZE))
    assert empty.boxes.shape == (0, 4)
    assert detection.agreement(empty, empty) == {"expected": 0, "found": 0, "found_again": 0}


@pytest.mark.parametrize("seed", range(4))
def test_inside_the_graph_it_keeps_the_same(seed: int, tmp_path: Path) -> None:
    model = onnx.load(graph(tmp_path / "net.onnx"))
    assert add_suppression(model) == {"faces": "faces.kept"}
    onnx.checker.check_model(model, full_check=True)
    images = np.random.default_rng(seed).normal(0, 2, (1, 3, *SIZE)).astype(np.float32)
    answers = run(model, images)
    wanted = by_product({k: v for k, v in answers.items() if k != "faces.kept"})
    kept = answers["faces.kept"]
    assert kept.shape == (1, 750) and len(wanted) > 5
    np.testing.assert_array_equal(kept[0, : len(wanted)], wanted.prior_index)
    assert (kept[0, len(wanted) :] == -1).all()
    grid = detection.priors(described(), *SIZE)
    found = detection.decode(described(kept="faces.kept"), answers, grid)
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("version", OPSET_LIMITS)
def test_every_version_has_what_it_needs(version: tuple[int, int], tmp_path: Path) -> None:
    model = onnx.load(graph(tmp_path / "net.onnx"))
    add_suppression(model)
    assert table_problems(model, version) == []


def test_a_file_that_does_not_say_what_it_answers_is_refused(tmp_path: Path) -> None:
    model = onnx.load(graph(tmp_path / "net.onnx"))
    del model.metadata_props[:]
    with pytest.raises(StageFailed, match="what its outputs mean"):
        add_suppression(model)


@pytest.mark.parametrize("where", ["host", "graph"])
def test_from_the_target_s_option_to_the_runner_s_results(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    target = targets.load("jetson")
    target = target.model_copy(update={"options": {**target.options, "nms": where}})
    (tmp_path / "jetson").mkdir()
    backend = TensorRtBackend()
    onnx_path = graph(tmp_path / "net.onnx")
    assert not [p for p in backend.problems(onnx_path, target) if p.fatal]
    artefact = backend.compile(onnx_path, target, tmp_path / "jetson")
    session = backend.load(artefact)
    assert session.outputs == TASK.outputs  # accuracy and self-test see the network's own
    images = np.random.default_rng(1).normal(0, 2, (1, 1, 3, *SIZE)).astype(np.float32)
    contents = make_contents(
        tmp_path / "contents",
        artefact=artefact,
        target=target,
        onnx=onnx_path,
        tasks=(TASK,),
        input_spec=InputSpec(SIZE),
        selftest=record_selftest(session, images),
        session=SessionOptions(1),
    )
    write_bundle(tmp_path / "net.edgemtl", contents)
    # The device: any runtime that opens the shipped graph.
    from edgemtl.devices.runner import runtimes

    monkeypatch.setitem(runtimes.MODULES, "tensorrt", "onnx_runtime")
    monkeypatch.setattr("edgemtl.devices.runner.runtimes.onnx_runtime.PROVIDERS", Provider())
    assert main(["verify", "--bundle", str(tmp_path / "net.edgemtl")], "") == 0
    told = json.loads(capfd.readouterr().out)["detections"]["faces"]
    assert told["suppressed_by"] == where
    assert told["expected"] == told["found"] == told["found_again"] > 0
    assert told["decode"]["count"] == 30


class Provider(dict):  # type: ignore[type-arg]
    """Every device is the CPU."""

    def get(self, key: Any, default: Any = None) -> str:
        return "CPUExecutionProvider"


def test_networks_without_detections_have_none() -> None:
    task = Depth("depth").spec().to_dict()
    data = {"artefact": {}, "tasks": [{"task": task, "outputs": [{"name": "depth.depth"}]}]}
    assert detection.tasks_of(data) == []
