"""Parity tells equal from different, per output and per task, and never lets NaN through."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from exported_networks import Exported
from numpy.typing import NDArray
from support.dense_family import build

from edgemtl.errors import ParityFailed, StageFailed
from edgemtl.exporting.differences import difference
from edgemtl.exporting.parity import (
    SAME_INT8,
    TOLERANCES,
    Tolerance,
    check_chain,
    compare_outputs,
    onnx_runner,
)
from edgemtl.measure.accuracy import network_runner

Outputs = dict[str, NDArray[np.float32]]


@pytest.fixture
def reference() -> Outputs:
    """Outputs of the dense network's two tasks for two pictures, range 0 to 10."""
    ramp = np.linspace(0, 10, 2 * 4 * 16 * 24, dtype=np.float32).reshape(2, 4, 16, 24)
    return {"parts.logits": ramp, "distance.depth": ramp[:, :1].copy()}


@pytest.fixture(scope="module")
def tasks() -> tuple[object, ...]:
    return build().tasks


def test_the_names_are_those_of_the_network(reference: Outputs) -> None:
    assert tuple(reference) == build().output_names()


def test_figures_by_hand() -> None:
    a = np.array([0.0, 1.0, 2.0, -2.0], np.float32)
    b = np.array([0.0, 1.0, 2.5, -2.0], np.float32)
    found = difference(a, b)
    assert found.max_abs == 0.5 and found.mean_abs == 0.125
    assert found.max_relative == 0.5 / 4.0
    assert found.snr_db == pytest.approx(10 * math.log10(9 / 0.25))
    assert found.within(0.125) and not found.within(0.1249)


def test_equal_arrays_have_infinite_snr_and_json_without_infinity() -> None:
    same = difference(np.ones(3, np.float32), np.ones(3, np.float32))
    assert same.max_abs == same.max_relative == 0 and same.snr_db == math.inf
    assert json.loads(json.dumps(same.to_dict(), allow_nan=False))["snr_db"] is None


def test_a_constant_output_is_judged_by_its_magnitude() -> None:
    five = np.full(4, 5, np.float32)
    assert difference(five, five + 0.5).max_relative == pytest.approx(0.1)
    zero = np.zeros(4, np.float32)
    assert difference(zero, zero + 1e-9).max_relative == math.inf
    assert not difference(zero, zero + 1e-9).within(1.0)


def test_an_output_that_hardly_varies_is_judged_by_its_magnitude() -> None:
    a = np.float32(0.76) + np.linspace(0, 5e-5, 64, dtype=np.float32)
    off = difference(a, a + np.float32(6e-8))
    assert off.max_abs > 0 and off.within(1e-6)
    assert not difference(a, a + np.float32(0.76e-3)).within(1e-4)  # the limit holds


def test_empty_outputs_do_not_pass() -> None:
    nothing = np.zeros((0, 3), np.float32)
    assert not difference(nothing, nothing).within(1.0)


def test_a_small_error_passes_and_a_large_one_fails_its_task_only(
    reference: Outputs, tasks: tuple[object, ...]
) -> None:
    close = {name: value + np.float32(5e-4) for name, value in reference.items()}
    assert compare_outputs(reference, close, tasks).passed  # type: ignore[arg-type]
    far = {**close, "distance.depth": reference["distance.depth"].copy()}
    far["distance.depth"][1, 0, 3, 5] += 0.01
    report = compare_outputs(reference, far, tasks)  # type: ignore[arg-type]
    assert not report.passed
    assert report.tasks == {"parts": True, "distance": False}
    assert report.worst().name == "distance.depth" and report.inputs == 2
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["reference", "other", "both"])
def test_nan_fails_at_any_precision(
    reference: Outputs, tasks: tuple[object, ...], precision: str, value: float, side: str
) -> None:
    bad = {name: array.copy() for name, array in reference.items()}
    bad["parts.logits"][0, 0, 0, 0] = value
    a, b = {
        "reference": (bad, reference),
        "other": (reference, bad),
        "both": (bad, bad),
    }[side]
    report = compare_outputs(a, b, tasks, TOLERANCES[precision])  # type: ignore[arg-type]
    assert report.tasks == {"parts": False, "distance": True}
    assert "NaN or infinite" in report.outputs[0].difference.problem


def test_int8_is_told_but_does_not_fail(reference: Outputs, tasks: tuple[object, ...]) -> None:
    far = {name: value * np.float32(0.5) for name, value in reference.items()}
    report = compare_outputs(reference, far, tasks, TOLERANCES["int8"])  # type: ignore[arg-type]
    assert report.passed and not report.within
    assert not compare_outputs(reference, far, tasks, TOLERANCES["fp16"]).passed  # type: ignore[arg-type]


def test_a_missing_or_reshaped_output_fails(reference: Outputs, tasks: tuple[object, ...]) -> None:
    missing = {"parts.logits": reference["parts.logits"]}
    for a, b in ((reference, missing), (missing, reference)):
        report = compare_outputs(a, b, tasks)  # type: ignore[arg-type]
        assert report.tasks == {"parts": True, "distance": False}
    turned = {**reference, "parts.logits": reference["parts.logits"].swapaxes(2, 3)}
    report = compare_outputs(reference, turned, tasks)  # type: ignore[arg-type]
    assert "the shape is" in report.outputs[0].difference.problem


def test_comparing_nothing_does_not_pass(reference: Outputs) -> None:
    assert not compare_outputs(reference, reference, []).passed


def test_the_chain_of_a_real_export_holds(exported: Exported) -> None:
    network = exported.network
    inputs = [network.example_input(seed=seed).numpy() for seed in (1, 2)]
    chain = check_chain(
        {
            "torch": network_runner(network),
            "onnx": onnx_runner(exported.exported.path),
            "simplified": onnx_runner(exported.simplified.path),
        },
        inputs,
        network.tasks,
    )
    assert chain.passed and list(chain.stages) == ["onnx", "simplified"]
    assert all(report.inputs == 2 for report in chain.stages.values())
    chain.require()
    assert json.loads(json.dumps(chain.to_dict(), allow_nan=False))["passed"] is True


def test_a_broken_stage_is_named(exported: Exported) -> None:
    network = exported.network
    run = onnx_runner(exported.exported.path)
    last = network.output_names()[-1]

    def shifted(images: NDArray[np.float32]) -> Outputs:
        answers = dict(run(images))
        return {**answers, last: answers[last] + np.ptp(answers[last]) / 100}

    inputs = [network.example_input().numpy()]
    chain = check_chain({"torch": run, "onnx": run, "artefact": shifted}, inputs, network.tasks)
    assert not chain.passed and chain.stages["onnx"].passed
    with pytest.raises(ParityFailed, match="torch against artefact") as error:
        chain.require()
    assert f"task '{network.tasks[-1].name}', output '{last}'" in str(error.value)
    loose = {"artefact": Tolerance("loose", 0.1)}
    assert check_chain({"a": run, "artefact": shifted}, inputs, network.tasks, loose).passed


def test_a_runtime_that_reuses_its_buffer_is_seen_through(tasks: tuple[object, ...]) -> None:
    network = build()
    right = network_runner(network)
    buffer: Outputs = {}

    def reusing(images: NDArray[np.float32]) -> Outputs:
        for name, value in right(images).items():
            buffer.setdefault(name, value.copy())[:] = value
        return buffer

    inputs = [network.example_input(seed=seed).numpy() for seed in range(3)]
    assert check_chain({"torch": right, "other": reusing}, inputs, network.tasks).passed


def test_no_input_is_an_error() -> None:
    run = network_runner(build())
    with pytest.raises(StageFailed, match="no input"):
        check_chain({"a": run, "b": run}, [], build().tasks)


def test_a_runtime_on_an_int8_graph_may_round_otherwise_but_not_compute_otherwise() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=(1, 400)).astype(np.float32)
    noise = rng.normal(size=value.shape).astype(np.float32)
    rounded = difference(value, value + 0.05 * noise)
    assert rounded.snr_db > 20 and SAME_INT8.accepts(rounded)
    other = difference(value, value + 0.4 * noise)
    assert other.snr_db < 10 and not SAME_INT8.accepts(other)
    # the same difference is accepted where only an accuracy gate can tell what it costs
    assert TOLERANCES["int8"].accepts(other)
    assert not SAME_INT8.accepts(difference(value, np.full_like(value, np.nan)))
    assert SAME_INT8.accepts(difference(value, value))
