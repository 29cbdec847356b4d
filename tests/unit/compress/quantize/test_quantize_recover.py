"""Training while rounded: the same graph in torch, and answers nearer to the float network's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.data import write_dense_folder
from support.dense_work import write_dense_work

from edgemtl import targets
from edgemtl.compress.quantize import QuantizeOptions, quantize
from edgemtl.compress.quantize.images import canvases
from edgemtl.compress.quantize.layers import find_layers
from edgemtl.compress.quantize.ranges import magnitudes
from edgemtl.compress.quantize.recover import retrain
from edgemtl.compress.quantize.simulate import simulation
from edgemtl.compress.quantize.trainable import TrainableGraph, rounded
from edgemtl.compress.quantize.writers import Int8Writer
from edgemtl.data.open import open_dataset
from edgemtl.errors import StageFailed
from edgemtl.exporting.metadata import read_metadata
from edgemtl.logs import Lines
from edgemtl.pipeline.exporting import export_file


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dense network."""
    folder = tmp_path_factory.mktemp("recover")
    work = write_dense_work(folder, images=1)
    write_dense_folder(folder / "data", "train", 8, seed=1)
    export_file(
        work.model, folder / "float.onnx", targets.load("cpu"), factory="support.dense_family:build"
    )
    return folder / "float.onnx"


def test_rounding_lets_gradients_pass_inside_the_range_only() -> None:
    value = torch.tensor([0.26, -0.1, 200.0], requires_grad=True)
    out = rounded(value, torch.tensor(0.5))
    assert out.tolist() == [0.5, 0.0, 63.5]
    out.sum().backward()
    assert value.grad is not None and value.grad.tolist() == [1.0, 1.0, 0.0]


def test_the_rounded_graph_is_the_file_that_is_written(exported: Path) -> None:
    model = onnx.load(exported)
    layers = find_layers(model)
    _, spec = read_metadata(exported)
    images = canvases(open_dataset(exported.parent / "data", "train"), spec)
    options = QuantizeOptions(equalise=False, correct_bias=False)
    written = Int8Writer(model, layers, images, options).write(())
    sizes = magnitudes(model, list({layer.source for layer in layers}), images, "minmax")
    graph = TrainableGraph(model, layers, sizes, options.reduce_range)
    with torch.inference_mode():
        here = graph(torch.from_numpy(images[0]))
    for name, there in simulation(written)(images[0]).items():
        # Sums that end in another last bit round to the next step here and there.
        assert np.abs(here[name].numpy() - there).mean() < 5e-3 * np.ptp(there)


def train(exported: Path, steps: int) -> tuple[onnx.ModelProto, list[str]]:
    """Train on all pictures."""
    model = onnx.load(exported)
    layers = find_layers(model)
    tasks, spec = read_metadata(exported)
    images = canvases(open_dataset(exported.parent / "data", "train"), spec, tasks)
    sizes = magnitudes(model, list({layer.source for layer in layers}), images, "minmax")
    told: list[str] = []
    with Lines(told.append).shown():
        trained = retrain(
            *(model, model, layers, sizes, tasks, ["parts"], images, spec.size, steps, 0)
        )
    return trained, told


def test_training_brings_answers_nearer_and_is_repeatable(exported: Path) -> None:
    trained, told = train(exported, 25)
    again, _ = train(exported, 25)
    assert trained == again
    shares = [float(word) for word in told[0].replace(",", "").split() if "." in word]
    assert len(shares) == 2 and sum(shares) < 2


def test_a_missed_budget_is_trained_for(exported: Path, tmp_path: Path) -> None:
    tasks, spec = read_metadata(exported)
    said: list[str] = []
    options = QuantizeOptions(
        budgets={"parts": 0.0, "distance": 0.0},
        images=3,
        eval_images=3,
        max_evaluations=3,
        qat_steps=2,
    )
    images = open_dataset(exported.parent / "data", "train")
    with Lines(said.append).shown():
        result = quantize(exported, tmp_path / "int8.onnx", tasks, spec, images, options)
    assert any(line.startswith("training 2 steps on 5 pictures") for line in said)
    assert any(line.startswith("after training:") for line in said)
    assert result.evaluations == 3
    onnx.checker.check_model(onnx.load(tmp_path / "int8.onnx"))


def test_an_unknown_operator_is_refused_by_name() -> None:
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="m"),
        helper.make_node("Erf", ["y"], ["z"], name="e"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, (1, 2))],
        [value("z", TensorProto.FLOAT, (1, 2))],
        [weight],
    )
    model = helper.make_model(graph)
    with pytest.raises(StageFailed, match="Erf"):
        TrainableGraph(model, find_layers(model), {"x": 1.0})
