"""``parity --bisect``: the picture that differs, and the layer or the runtime that is to blame."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import wrong_runtime
from support.command import edgemtl
from support.dense_family import build
from support.dense_work import FACTORY, DenseWork, write_dense_work

from edgemtl.data.open import open_dataset
from edgemtl.pipeline.datasets import first_images


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"), images=4)


@pytest.fixture(scope="module")
def exported(work: DenseWork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert edgemtl("export", work.model, "--factory", FACTORY, "-o", path).code == 0
    return path


def _brightest(work: DenseWork, split: str) -> tuple[int, float]:
    """The brightest picture, and a mean between it and the next."""
    images = first_images(open_dataset(work.data, split), build().input_spec, 4)
    means = images.mean(axis=(1, 2, 3))
    first, second = np.sort(means)[::-1][:2]
    return int(means.argmax()), float((first + second) / 2)


def test_the_image_that_differs_is_walked_and_the_runtime_named(
    work: DenseWork, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, above = _brightest(work, "val")
    target = wrong_runtime.register(monkeypatch, tmp_path, above)
    command = ("parity", work.model, exported, "--factory", FACTORY, "--data", work.data)
    command = (*command, "--target", target, "--bisect")
    told = edgemtl(*command)
    assert told.code == 5 and "DIFFERS  distance" in told.out
    assert "the graph agrees layer by layer; the runtime differs" in told.out
    assert f"on picture {image + 1}" in told.out and "b (wrong)" in told.out
    assert "no layer differs" not in told.out
    found = edgemtl(*command, "--json").json()["bisect"]
    assert not found["found"] and found["image"] == image and found["compared"] > 10
    (runtime,) = found["runtimes"]
    assert (runtime["side"], runtime["backend"], runtime["task"]) == ("b", "wrong", "distance")


def test_a_spoilt_layer_is_named_though_only_a_later_image_shows_it(
    work: DenseWork, exported: Path, tmp_path: Path
) -> None:
    """A limit that one picture's activations reach, and no other's."""
    model = onnx.load(exported)
    graph = model.graph
    node = next(n for n in graph.node if n.op_type == "Conv" and "fine" in n.name)
    peaks = [_peak(exported, node.output[0], image) for image in _inputs(work)]
    highest = int(np.argmax(peaks))
    limit = float(np.sort(peaks)[-2:].mean())
    kept = node.output[0]
    node.output[0] = f"{kept}/unlimited"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(limit, np.float32), "limit"))
    clip = onnx.helper.make_node("Min", [f"{kept}/unlimited", "limit"], [kept], name=node.name)
    node.name += "/before"
    graph.node.insert(list(graph.node).index(node) + 1, clip)
    onnx.save(model, tmp_path / "spoilt.onnx")
    command = ("parity", work.model, tmp_path / "spoilt.onnx", "--factory", FACTORY)
    told = edgemtl(*command, "--data", work.data, "--bisect", "--json")
    assert told.code == 5, told.err
    found = told.json()["bisect"]
    assert found["image"] == highest and found["found"] and "fine" in found["module"]
    assert found["runtimes"] == []


def _inputs(work: DenseWork) -> list[np.ndarray]:
    images = first_images(open_dataset(work.data, "val"), build().input_spec, 4)
    return [image[None] for image in images]


def _peak(path: Path, tensor: str, image: np.ndarray) -> float:
    from edgemtl.exporting.probe import Probe

    return float(Probe(path).read([tensor], image)[tensor].max())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_where_compiles_advice_leads(
    work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.chdir(tmp_path)
    target = wrong_runtime.register(monkeypatch, tmp_path)
    flags = ("--target", target.name, "--data", work.data, "--no-prune", "-o", "run")
    lower = ("--set=quantize.enabled=true", "--set=quantize.precision=int8")
    lower = (*lower, "--set=quantize.images=2", "--set=quantize.judge_images=2")
    told = edgemtl(
        *("compile", work.model, "--factory", FACTORY, *flags),
        *(lower if precision == "int8" else ("--set=quantize.enabled=false",)),
    )
    assert told.code == 5 and "distance" in told.error()
    advice = told.hint()
    command = shlex.split(advice.split("'")[1])
    assert command[0] == "edgemtl" and "--bisect" in command
    asked = edgemtl(*command[1:])
    assert "the runtime differs" in asked.out, asked.out + asked.err
    assert asked.code == (5 if precision == "fp32" else 0)


def test_bisect_takes_what_has_layers(work: DenseWork, exported: Path) -> None:
    told = edgemtl("parity", exported, work.model, "--factory", FACTORY, "--bisect")
    assert told.code == 2 and "walks an ONNX file or a bundle" in told.error()
