"""The split of quantised graphs, the integer reference, and the emitted C++ against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto
from support.fpga_graphs import convolutional, quantised, tokens
from support.small_graphs import GraphBuilder, relative_error, run

from edgemtl.backends.fpga import simulate
from edgemtl.backends.fpga.arith import multiplier_of, requantise
from edgemtl.backends.fpga.design import Design
from edgemtl.backends.fpga.emit import emit
from edgemtl.backends.fpga.execute import Execution, reference_engine
from edgemtl.backends.fpga.graph import Graph
from edgemtl.backends.fpga.onnx_work import network_work
from edgemtl.backends.fpga.partition import Partition, partition
from edgemtl.backends.fpga.program import Program, Step, Tensor, Window
from edgemtl.backends.fpga.reference import run_step
from edgemtl.backends.fpga.work import Array
from edgemtl.errors import StageFailed

needs_compiler = pytest.mark.skipif(
    simulate.compiler_version() is None, reason="g++ is not installed (Debian: apt-get install g++)"
)


@pytest.fixture(scope="module")
def maps() -> tuple[ModelProto, Partition, list[NDArray[np.float32]]]:
    model, images = convolutional()
    return model, partition(model), images


@pytest.fixture(scope="module")
def mlp() -> tuple[ModelProto, Partition, list[NDArray[np.float32]]]:
    model, images = tokens()
    return model, partition(model), images


def execution(model: ModelProto, found: Partition) -> Execution:
    return Execution(found, Graph(model).shapes, reference_engine(found))


@given(st.floats(1e-12, 0.9), st.integers(-(2**31), 2**31 - 1))
def test_requantise_is_the_nearest_whole_number(ratio: float, value: int) -> None:
    multiplier, shift = multiplier_of(ratio)
    assert 2**15 <= multiplier < 2**16
    assert multiplier / 2**shift == pytest.approx(ratio, rel=2**-16)
    exact = int(np.floor(value * multiplier / 2**shift + 0.5)) if abs(value) < 2**20 else None
    found = int(requantise(np.array([value]), multiplier, shift, -(2**62), 2**62)[0])
    assert found == (value * multiplier + (1 << (shift - 1))) >> shift
    assert exact is None or found == exact


def test_halves_are_rounded_up_and_results_limited() -> None:
    sums = np.array([-3, -1, 1, 3, 1000])
    # times one half
    assert requantise(sums, 1 << 15, 16, -127, 127).tolist() == [-1, 0, 1, 2, 127]


@pytest.mark.parametrize("ratio", [-1.0, np.inf, np.nan, 1e6])
def test_scales_that_cannot_be_converted_are_refused(ratio: float) -> None:
    with pytest.raises(StageFailed, match="cannot be converted"):
        multiplier_of(ratio)


def test_the_float_products_are_exact_integers() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(-127, 128, (9, 7, 40)).astype(np.int8)
    weight = rng.integers(-127, 128, (12, 3, 3, 40)).astype(np.int8)
    bias = rng.integers(-(2**28), 2**28, 12).astype(np.int32)
    window = Window((3, 3), (2, 1), (1, 1), (1, 2))
    one = np.float32(1)
    tensors = {
        "x": Tensor("x", 9, 7, 40, 8, np.asarray(one)),
        "y": Tensor("y", 5, 5, 12, 32, np.asarray(one)),
    }
    memory = {"x": image}
    run_step(
        Step("conv", "c", ("x",), "y", 12, window=window, weight=weight, bias=bias), tensors, memory
    )
    padded = np.pad(image.astype(object), ((1, 1), (1, 1), (0, 0)))
    for y, x in ((0, 0), (4, 4), (2, 3)):
        patch = padded[2 * y : 2 * y + 3, x : x + 5 : 2]
        wanted = [int((patch * weight[c].astype(object)).sum()) + int(bias[c]) for c in range(12)]
        assert memory["y"][y, x].tolist() == wanted


def test_the_accelerator_takes_every_pattern(
    maps: tuple[ModelProto, Partition, list[NDArray[np.float32]]],
) -> None:
    _, found, _ = maps
    assert found.nodes["host"] == {"Sigmoid": 1}
    kinds = {step.op for step in found.program.steps}
    assert kinds == {"conv", "depthwise", "add", "upsample", "maxpool", "average"}
    assert {tensor.bits for tensor in found.program.tensors.values()} == {8, 16, 32}
    assert [host.stage for host in found.hosts] == [0, 2]
    assert found.program.inputs == ("images_quantized",)


@pytest.mark.parametrize("name", ["maps", "mlp"])
def test_the_integer_program_answers_like_the_quantised_graph(
    name: str, request: pytest.FixtureRequest
) -> None:
    model, found, images = request.getfixturevalue(name)
    runner = execution(model, found)
    for image in images:
        answers = runner.run("images", image)
        wanted = run(model, image)
        assert list(answers) == list(wanted)
        for output, value in wanted.items():
            assert answers[output].shape == value.shape
            # a tenth of the spread is some steps of int8 after several layers
            assert relative_error(answers[output], value) < 0.1


def test_functions_become_tables_and_turns_alternate(
    mlp: tuple[ModelProto, Partition, list[NDArray[np.float32]]],
) -> None:
    _, found, _ = mlp
    tables = [step.table for step in found.program.steps if step.table is not None]
    assert [len(table) for table in tables] == [2048, 2048]
    # GELU: zero far below, its minimum a little below zero, then rising
    assert tables[0][0] == 0 and tables[0].min() < 0 < tables[0].max() == 127
    assert found.nodes["host"] == {"Reshape": 1, "Softmax": 1}
    assert [host.stage for host in found.hosts if host.model is not None] == [0, 2]
    assert {step.stage for step in found.program.steps} == {1, 3}


@needs_compiler
@pytest.mark.parametrize(
    ("name", "array", "activation_bytes"),
    [("maps", Array(16, 8), 1 << 16), ("maps", Array(8, 16), 3000), ("mlp", Array(8, 8), 1 << 12)],
)
def test_the_emitted_code_equals_the_reference_bit_by_bit(
    name: str,
    array: Array,
    activation_bytes: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    model, found, images = request.getfixturevalue(name)
    emitted = emit(found.program, Design(array, "ping-pong", 1 << 14, activation_bytes))
    assert emitted.on_chip_bytes <= activation_bytes
    if activation_bytes < 1 << 14:  # some had to go outside
        named = {*found.program.inputs, *found.program.outputs}
        assert len(emitted.external) > len(named) or name == "mlp"
    for file, content in emitted.files.items():
        (tmp_path / file).write_bytes(content)
    engine = simulate.Simulation(tmp_path, found.program, emitted.external, emitted.external_bytes)
    simulated = Execution(found, Graph(model).shapes, engine)
    for image in images[:3]:
        outputs, memory = execution(model, found).trace("images", image)
        again, written = simulated.trace("images", image)
        for output, value in outputs.items():
            assert np.array_equal(value, again[output])
        for tensor in found.program.outputs:
            assert np.array_equal(memory[tensor], written[tensor])
            assert len(np.unique(memory[tensor])) > 4  # something was computed


@needs_compiler
def test_weights_that_several_layers_share_are_written_once(tmp_path: Path) -> None:
    b = GraphBuilder((1, 3, 8, 9))
    shared = b.rng.normal(0, 0.1, (16, 8, 3, 3)).astype(np.float32)
    inner = [b.node("Relu", [b.conv("images", name, 8, 3)], name) for name in ("left", "right")]
    outputs = [b.conv(x, f"twin{i}", 16, 8, weight=shared) for i, x in enumerate(inner)]
    model = b.build(*(b.node("Relu", [x], f"end{i}") for i, x in enumerate(outputs)))
    images = b.images(2)
    model = quantised(model, images)
    found = partition(model)
    emitted = emit(found.program, Design(Array(8, 8), "ping-pong", 1 << 14, 1 << 14))
    written = sum(s.weight.nbytes for s in found.program.steps if s.weight is not None)
    assert written - 2 * shared.size < len(emitted.files["weights.bin"]) < written
    for file, content in emitted.files.items():
        (tmp_path / file).write_bytes(content)
    engine = simulate.Simulation(tmp_path, found.program, emitted.external, emitted.external_bytes)
    simulated = Execution(found, Graph(model).shapes, engine)
    wanted = execution(model, found).run("images", images[0])
    for output, value in simulated.run("images", images[0]).items():
        assert np.array_equal(value, wanted[output]) and len(np.unique(value)) > 4


def test_the_same_program_gives_the_same_files(
    maps: tuple[ModelProto, Partition, list[NDArray[np.float32]]],
) -> None:
    model, found, _ = maps
    design = Design(Array(16, 8), "ping-pong", 1 << 14, 1 << 16)
    assert emit(found.program, design) == emit(partition(model).program, design)


def test_emitted_loops_and_arrays_have_constant_bounds(
    maps: tuple[ModelProto, Partition, list[NDArray[np.float32]]],
) -> None:
    _, found, _ = maps
    files = emit(found.program, Design(Array(16, 8), "ping-pong", 1 << 14, 1 << 16)).files
    source = files["accelerator.cpp"].decode()
    for word in ("malloc", " new ", "std::", "while (", "float", "double", "ap_int", "ap_fixed"):
        assert word not in source
    header = files["program.h"].decode()
    assert f"const int STEPS = {len(found.program.steps)};" in header
    assert "const int MOST_HEIGHT = 14;" in header  # 7 rows, upsampled


def test_the_model_sees_the_same_work_before_and_after_the_split(
    maps: tuple[ModelProto, Partition, list[NDArray[np.float32]]],
) -> None:
    model, found, _ = maps
    array = Array(16, 16)
    before, after = network_work(model).works, found.program.works()
    weighted = [[w for w in works if w.weight_bytes] for works in (before, after)]
    assert sum(w.macs for w in before) == sum(w.macs for w in after) > 0
    assert [w.cycles(array) for w in weighted[0]] == [w.cycles(array) for w in weighted[1]]
    assert sorted(w.name for w in weighted[0]) == sorted(w.name for w in weighted[1])


def test_a_float_graph_is_the_processor_s_altogether() -> None:
    b = GraphBuilder()
    model = b.build(b.node("Relu", [b.conv("images", "c", 4, 3)], "c"))
    found = partition(model)
    assert found.program.steps == ()
    assert found.nodes == {"accelerator": {}, "host": {"Conv": 1, "Relu": 1}}
    image = b.images(1)[0]
    answers = execution(model, found).run("images", image)
    for output, value in run(model, image).items():
        assert np.allclose(answers[output], value, atol=1e-6)


@pytest.mark.parametrize("change", ["group", "transposed", "linear"])
def test_what_the_table_does_not_have_stays_with_the_processor(change: str) -> None:
    b = GraphBuilder((1, 4, 8, 8))
    first = b.node("Relu", [b.conv("images", "first", 8, 4)], "first")
    if change == "group":
        middle = b.conv(first, "middle", 8, 8, group=2)
    elif change == "transposed":
        weight = b.rng.normal(0, 0.1, (8, 8, 2, 2)).astype(np.float32)
        middle = b.node("ConvTranspose", [first, b.constant("w", weight)], "middle", strides=[2, 2])
    else:
        scales = b.constant("scales", np.array([1, 1, 2, 2], np.float32))
        middle = b.node("Resize", [first, "", scales], "middle", mode="linear")
    model = b.build(b.conv(b.node("Relu", [middle], "middle"), "last", 3, 8))
    images = b.images(3)
    model = quantised(model, images)
    found = partition(model)
    assert len(found.nodes["host"]) >= 1
    assert [step.name for step in found.program.steps] == ["first/Conv", "last/Conv"]
    assert [step.stage for step in found.program.steps] == [1, 3]
    runner = execution(model, found)
    for output, value in run(model, images[0]).items():
        assert relative_error(runner.run("images", images[0])[output], value) < 0.1


def test_a_compiler_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    program = Program({}, (), (), ())
    emitted = emit(program, Design(Array(8, 8), "ping-pong", 64, 64))
    for file, content in emitted.files.items():
        (tmp_path / file).write_bytes(content + b"\n" * (file == "program.h"))
    with pytest.raises(StageFailed, match="took more than 0 s"):
        simulate.library(tmp_path, time_limit_seconds=0.01)


@needs_compiler
def test_code_that_does_not_compile_is_a_stage_that_failed(tmp_path: Path) -> None:
    for file in ("accelerator.cpp", "program.h"):
        (tmp_path / file).write_text("int broken(", "utf-8")
    with pytest.raises(StageFailed, match=r"g\+\+ refused the emitted C"):
        simulate.library(tmp_path)
