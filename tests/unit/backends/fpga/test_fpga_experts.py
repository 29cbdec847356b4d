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
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.simplify import simplify

EXPERTS = 4
#: tasks, and per layer with experts the room of each: one task; two that share the queues
CASES = [
    (["distance"], [[8, 6, 9, 5]]),
    (["rooms", "distance"], [[8, 8, 8, 8], [13, 9, 11, 7]]),
]
Split = tuple[ModelProto, Partition, list[NDArray[np.float32]], list[list[int]]]


@pytest.fixture(scope="module", params=CASES, ids=["one task", "shared queues"])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Split:
    tasks, room = request.param
    folder = tmp_path_factory.mktemp("experts")
    network = tiny(depth=2 * len(room), experts=EXPERTS)
    network.set_lowering("static", room)
    raw = export_onnx(network, folder / "raw.onnx", opset=17, tasks=tasks).path
    path = simplify(raw, folder / "model.onnx").path
    images = [network.example_input(seed=seed).numpy() for seed in range(4)]
    model = quantised(onnx.load(path), images)
    return model, partition(model), images, room


def products(found: Partition) -> list[Step]:
    return [step for step in found.program.steps if ".experts/" in step.name]


def test_all_experts_are_the_accelerators_one_after_the_other(
    split: Split,
) -> None:
    _, found, _, room = split
    every = products(found)
    assert len(every) == 2 * EXPERTS * len(room)  # for all tasks together
    for layer, lengths in enumerate(room):
        steps = every[2 * EXPERTS * layer : 2 * EXPERTS * (layer + 1)]
        assert len({step.stage for step in steps}) == 1  # the processor is not needed in between
        for first, second in zip(steps[::2], steps[1::2], strict=True):
            assert first.table is not None and second.table is None  # GELU; then sums as they are
            assert second.inputs == (first.output,)
            assert found.program.tensors[first.output].bits == 8
        shapes = [found.program.tensors[second.output].shape[:2] for second in steps[1::2]]
        assert sorted(shapes) == sorted((1, length) for length in lengths)
        inside = found.program.steps.index(steps[0])
        assert list(found.program.steps[inside : inside + len(steps)]) == steps


def test_a_reshape_of_tokens_is_no_reason_to_stop(
    split: Split,
) -> None:
    """The export writes one on either side of a product; they move nothing in memory."""
    _, found, _, _ = split
    first, second = (step for step in found.program.steps if ".blocks.0.mlp.fc" in step.name)
    assert first.table is not None and second.inputs == (first.output,)
    assert first.stage == second.stage
    assert "Erf" not in found.nodes["host"]


@pytest.mark.skipif(simulate.compiler_version() is None, reason="g++ is not installed")
def test_the_emitted_experts_equal_the_reference_bit_by_bit(split: Split, tmp_path: Path) -> None:
    model, found, images, _ = split
    emitted = emit(found.program, Design(Array(8, 8), "ping-pong", 1 << 14, 1 << 12))
    for file, content in emitted.files.items():
        (tmp_path / file).write_bytes(content)
    engine = simulate.Simulation(tmp_path, found.program, emitted.external, emitted.external_bytes)
    shapes = Graph(model).shapes
    for image in images[:2]:
        wanted, numbers = Execution(found, shapes, reference_engine(found)).trace("images", image)
        answers, written = Execution(found, shapes, engine).trace("images", image)
        for step in products(found):
            if step.output in found.program.outputs:
                assert np.array_equal(numbers[step.output], written[step.output])
                assert len(np.unique(numbers[step.output])) > 4
        assert all(np.array_equal(answers[name], wanted[name]) for name in wanted)


def test_the_integers_answer_like_the_quantised_graph(
    split: Split,
) -> None:
    model, found, images, _ = split
    execution = Execution(found, Graph(model).shapes, reference_engine(found))
    for image in images:
        wanted, answers = run(model, image), execution.run("images", image)
        depth = wanted["distance.depth"]
        # A step here and there; a token whose two best experts are a step apart may change its own.
        assert np.abs(answers["distance.depth"] - depth).mean() < 0.02 * np.abs(depth).max()
