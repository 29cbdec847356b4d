"""Experts of a M3ViT in the accelerator: expert by expert, int8, GELU by table, exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from support.fpga_graphs import quantised
from support.m3vit import tiny
from support.small_graphs import run

from edgemtl.backends.fpga import simulate
from edgemtl.backends.fpga.design import Design
from edgemtl.backends.fpga.emit import emit
from edgemtl.backends.fpga.execute import Execution, reference_engine
from edgemtl.backends.fpga.graph import Graph
from edgemtl.backends.fpga.partition import Partition, partition
from edgemtl.backends.fpga.program import Step
from edgemtl.backends.fpga.work import Array
from edgemtl.export.onnx_export import export_onnx
from edgemtl.export.simplify import simplify

EXPERTS, ROOM = 4, 8


@pytest.fixture(scope="module")
def split(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ModelProto, Partition, list[NDArray[np.float32]]]:
    folder = tmp_path_factory.mktemp("experts")
    network = tiny(depth=2, experts=EXPERTS)
    network.set_lowering("static", ROOM)
    raw = export_onnx(network, folder / "raw.onnx", opset=17, tasks=["distance"]).path
    path = simplify(raw, folder / "model.onnx").path
    pictures = [network.example_input(seed=seed).numpy() for seed in range(4)]
    model = quantised(onnx.load(path), pictures)
    return model, partition(model), pictures


def products(found: Partition) -> list[Step]:
    return [step for step in found.program.steps if ".experts/" in step.name]


def test_all_experts_are_the_accelerators_one_after_the_other(
    split: tuple[ModelProto, Partition, list[NDArray[np.float32]]],
) -> None:
    _, found, _ = split
    steps = products(found)
    assert len(steps) == 2 * EXPERTS
    assert len({step.stage for step in steps}) == 1  # the processor is not needed in between
    for first, second in zip(steps[::2], steps[1::2], strict=True):
        assert first.table is not None and second.table is None  # GELU; then sums as they are
        assert second.inputs == (first.output,)
        assert found.program.tensors[first.output].bits == 8
        assert found.program.tensors[second.output].shape[:2] == (1, ROOM)
    inside = found.program.steps.index(steps[0])
    assert list(found.program.steps[inside : inside + len(steps)]) == steps


def test_a_reshape_of_tokens_is_no_reason_to_stop(
    split: tuple[ModelProto, Partition, list[NDArray[np.float32]]],
) -> None:
    """The export writes one on either side of a product; they move nothing in memory."""
    _, found, _ = split
    first, second = (step for step in found.program.steps if ".blocks.0.mlp.fc" in step.name)
    assert first.table is not None and second.inputs == (first.output,)
    assert first.stage == second.stage
    assert "Erf" not in found.nodes["host"]


@pytest.mark.skipif(simulate.compiler_version() is None, reason="g++ is not here")
def test_the_emitted_experts_equal_the_reference_bit_by_bit(
    split: tuple[ModelProto, Partition, list[NDArray[np.float32]]], tmp_path: Path
) -> None:
    model, found, pictures = split
    emitted = emit(found.program, Design(Array(8, 8), "ping-pong", 1 << 14, 1 << 12))
    for file, content in emitted.files.items():
        (tmp_path / file).write_bytes(content)
    engine = simulate.Simulation(tmp_path, found.program, emitted.external, emitted.external_bytes)
    shapes = Graph(model).shapes
    for picture in pictures[:2]:
        wanted, numbers = Execution(found, shapes, reference_engine(found)).trace("images", picture)
        answers, written = Execution(found, shapes, engine).trace("images", picture)
        for step in products(found):
            if step.output in found.program.outputs:
                assert np.array_equal(numbers[step.output], written[step.output])
                assert len(np.unique(numbers[step.output])) > 4
        assert all(np.array_equal(answers[name], wanted[name]) for name in wanted)


def test_the_integers_answer_like_the_quantised_graph(
    split: tuple[ModelProto, Partition, list[NDArray[np.float32]]],
) -> None:
    model, found, pictures = split
    execution = Execution(found, Graph(model).shapes, reference_engine(found))
    for picture in pictures:
        wanted, answers = run(model, picture), execution.run("images", picture)
        depth = wanted["distance.depth"]
        # A step here and there; a token whose two best experts are a step apart may change its own.
        assert np.abs(answers["distance.depth"] - depth).mean() < 0.02 * np.abs(depth).max()
