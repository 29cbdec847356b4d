"""Benchmarks with the real runtimes, on graphs whose work differs twentyfold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.matrix import only

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.measure.latency import BenchRequest, InterleaveRule, StopRule, bench, compare
from edgemtl.measure.selfcheck import self_check

TARGETS = ("cpu", "intel-cpu")
STOP = StopRule(
    warmup_runs=2, warmup_seconds=0, min_runs=40, max_runs=40, min_seconds=0, max_seconds=60
)


def _graph(path: Path, layers: int) -> Path:
    """A stack of 3x3 convolutions of 32 channels on 64x64 pixels."""
    generator = np.random.default_rng(0)
    nodes, weights, previous = [], [], "images"
    for layer in range(layers):
        channels = 3 if layer == 0 else 32
        kernel = generator.standard_normal((32, channels, 3, 3)).astype(np.float32) * 0.05
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        name = "out" if layer == layers - 1 else f"c{layer}"
        nodes.append(helper.make_node("Conv", [previous, f"w{layer}"], [name], pads=[1, 1, 1, 1]))
        previous = name
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 32, 64, 64])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def _artefact(tmp_path: Path, target_name: str, layers: int) -> Artefact:
    target = targets.load(target_name)
    backend = registry.get(target.backend)
    if not (state := backend.availability()).ok:
        pytest.skip(f"backend '{target.backend}' is not available: {state.reason}")
    folder = tmp_path / f"{target_name}-{layers}"
    folder.mkdir()
    return backend.compile(_graph(tmp_path / f"{layers}.onnx", layers), target, folder)


def _request(artefact: Artefact, threads: int = 1) -> BenchRequest:
    return BenchRequest(artefact, SessionOptions(threads=threads), stop=STOP, attempts=1)


@pytest.mark.parametrize("target", TARGETS)
def test_bench(tmp_path: Path, target: str) -> None:
    result = bench(_request(_artefact(tmp_path, target, 2)))
    assert result.summary.count == 40
    assert result.load_ms > 0 and result.first_inference_ms > 0
    memory = result.memory
    assert memory.start_bytes < memory.runtime_bytes <= memory.peak_bytes
    assert result.process_threads >= 1


@pytest.mark.parametrize("target", only(["cpu"], TARGETS))
def test_less_work_is_faster(tmp_path: Path, target: str) -> None:
    light, heavy = (_artefact(tmp_path, target, layers) for layers in (1, 20))
    rule = InterleaveRule(pairs=8, min_pairs=4, block_seconds=0.1)
    found = compare(_request(light), _request(heavy), rule, seed=1)
    assert found.speedup.low > 1
    back = compare(_request(heavy), _request(light), rule, seed=1)
    assert back.speedup.high < 1


def test_runtimes_can_be_held_against_each_other(tmp_path: Path) -> None:
    a, b = (_artefact(tmp_path, target, 3) for target in TARGETS)
    rule = InterleaveRule(pairs=4, min_pairs=2, block_seconds=0.05)
    found = compare(_request(a, threads=2), _request(b, threads=2), rule)
    assert found.pairs == 4
    assert found.speedup.low <= found.speedup.value <= found.speedup.high


def test_an_artefact_against_itself(tmp_path: Path) -> None:
    request = _request(_artefact(tmp_path, "cpu", 2))
    rule = InterleaveRule(pairs=4, min_pairs=2, block_seconds=0.02, max_seconds=5)
    found = self_check(request, claim=1e6, rule=rule)
    assert len(found.first.samples_ms) == len(found.second.samples_ms) == 40
    assert found.first.telemetry is not None and found.first.telemetry.readings >= 2
    assert found.median.low <= found.median.value <= found.median.high
    assert 0 < found.floor < 1e6 and found.interleaved.pairs == 4
