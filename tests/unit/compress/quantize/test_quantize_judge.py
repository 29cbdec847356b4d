"""Budgets are judged on the graph as the target's runtime computes it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from support.dense_work import write_dense_folder, write_dense_work

from edgemtl import targets
from edgemtl.backends.int8 import unsigned_activations
from edgemtl.compress.quantize import QuantizeOptions, quantize
from edgemtl.compress.quantize.simulate import simulation
from edgemtl.data.open import open_dataset
from edgemtl.exporting.metadata import read_metadata
from edgemtl.measure.accuracy import evaluate
from edgemtl.pipeline.exporting import export_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dense network as ``float.onnx``, and pictures to calibrate and to judge on."""
    place = tmp_path_factory.mktemp("judge")
    work = write_dense_work(place, images=1)
    write_dense_folder(place / "data", "train", 8, seed=1)
    write_dense_folder(place / "data", "val", 6, seed=2)
    export_file(
        work.model, place / "float.onnx", targets.load("cpu"), factory="support.dense_family:build"
    )
    return place


@pytest.mark.parametrize("unsigned", [True, False])
def test_verdicts_are_of_the_graph_as_it_runs(folder: Path, unsigned: bool) -> None:
    tasks, spec = read_metadata(folder / "float.onnx")
    judge = open_dataset(folder / "data", "val")
    options = QuantizeOptions(
        images=4, budgets={task.name: 100.0 for task in tasks}, unsigned=unsigned
    )
    calibration = open_dataset(folder / "data", "train")
    output = folder / f"{unsigned}.onnx"
    source = folder / "float.onnx"
    result = quantize(source, output, tasks, spec, calibration, options, judge)
    written = onnx.load(result.path)
    forms = {True: unsigned_activations(written), False: written}
    figures = {
        form: {
            task.name: report.tasks[task.name].values[task.primary.key]
            for report in [evaluate(simulation(model), tasks, spec, judge)]
            for task in tasks
        }
        for form, model in forms.items()
    }
    assert figures[True] != figures[False]
    assert {name: verdict.after for name, verdict in result.tasks.items()} == figures[unsigned]
