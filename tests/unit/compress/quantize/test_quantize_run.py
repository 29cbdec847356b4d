"""From an ONNX file and pictures to a quantised file whose tasks keep their budgets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from support.data import write_face_folder
from support.small_graphs import GraphBuilder

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.compress.quantize import QuantizeOptions, quantize
from edgemtl.compress.quantize.fallback import keep_budgets
from edgemtl.compress.quantize.layers import find_layers
from edgemtl.compress.quantize.results import TaskVerdict
from edgemtl.compress.quantize.writers import Writer
from edgemtl.data.faces import FaceFolder
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused, StageFailed, UsageError
from edgemtl.exporting.metadata import read_metadata, write_metadata
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.parity import onnx_runner
from edgemtl.exporting.simplify import simplify
from edgemtl.logs import Lines
from edgemtl.models.mos.network import MOS

SIZE = (64, 64)


@pytest.fixture(scope="module")
def network() -> MOS:
    torch.manual_seed(0)
    return MOS(variant="mos-t", context="plain", size=SIZE).eval()


@pytest.fixture(scope="module")
def exported(network: MOS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(network, folder / "raw.onnx", opset=17)
    simplify(folder / "raw.onnx", folder / "model.onnx")
    write_metadata(folder / "model.onnx", network.tasks, network.input_spec)
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = write_face_folder(tmp_path_factory.mktemp("faces"), "train", count=12)
    return FaceFolder.open(root, "train")


def test_int8_file_is_whole(network: MOS, exported: Path, images: Dataset, tmp_path) -> None:
    told: list[str] = []
    path, options = tmp_path / "int8.onnx", QuantizeOptions(images=4)
    with Lines(told.append).shown():
        result = quantize(exported, path, network.tasks, network.input_spec, images, options)
    model = onnx.load(result.path)
    onnx.checker.check_model(model, full_check=True)
    assert set(result.layers) == {layer.node for layer in find_layers(onnx.load(exported))}
    assert (result.kept, result.tasks, result.evaluations) == ({}, {}, 0)
    assert result.images == 4 and told
    assert result.size_after == result.path.stat().st_size < 0.4 * result.size_before
    tasks, spec = read_metadata(result.path)
    assert [t.spec() for t in tasks] == [t.spec() for t in network.tasks]
    assert spec == network.input_spec
    # TensorRT reads it as it is, down to the oldest that a Jetson board has. Where TensorRT-RTX is
    # not installed a remark without a node says that the build was not tried.
    target = targets.load("jetson-xavier-nx")
    problems = registry.get(target.backend).problems(result.path, target)
    assert [p for p in problems if p.fatal or p.node] == []


def test_the_same_input_gives_the_same_bytes(
    network: MOS, exported: Path, images: Dataset, tmp_path: Path
) -> None:
    def once(name: str, seed: int) -> bytes:
        options = QuantizeOptions(images=4, seed=seed)
        quantize(exported, tmp_path / name, network.tasks, network.input_spec, images, options)
        return (tmp_path / name).read_bytes()

    assert once("a.onnx", 0) == once("b.onnx", 0)
    assert once("a.onnx", 0) != once("c.onnx", 1)


def test_answers_are_near_the_float_network(
    network: MOS, exported: Path, images: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    options = QuantizeOptions(images=6)
    quantize(exported, path, network.tasks, network.input_spec, images, options)
    image = np.random.default_rng(1).normal(0, 60, (1, 3, *SIZE)).astype(np.float32)
    before, after = onnx_runner(exported)(image), onnx_runner(path)(image)
    assert list(before) == list(after)
    for name in before:
        assert np.abs(after[name] - before[name]).max() < 0.2 * np.ptp(before[name]), name
        assert not np.array_equal(after[name], before[name])


def test_layers_named_stay_in_float(
    network: MOS, exported: Path, images: Dataset, tmp_path: Path
) -> None:
    result = quantize(
        exported,
        tmp_path / "int8.onnx",
        network.tasks,
        network.input_spec,
        images,
        QuantizeOptions(images=2, keep_float=("backbone.stem", "levels.*.heads.yaw")),
    )
    graph = onnx.load(result.path).graph
    stored = {t.name: t.data_type for t in graph.initializer}
    stem = next(node for node in graph.node if node.name == "backbone.stem.conv/Conv")
    assert stored[stem.input[1]] == TensorProto.FLOAT
    # three levels with entry, hidden and out
    assert len(result.kept) == 1 + 3 * 3
    assert set(result.kept.values()) == {"asked for (keep_float)"}
    assert not set(result.kept) & set(result.layers)


def test_fp16_halves_the_file_and_keeps_its_interface(
    network: MOS, exported: Path, images: Dataset, tmp_path: Path
) -> None:
    result = quantize(
        exported,
        tmp_path / "fp16.onnx",
        network.tasks,
        network.input_spec,
        images,
        QuantizeOptions(precision="fp16", keep_float=("backbone.stem",)),
    )
    model = onnx.load(result.path)
    values = (*model.graph.input, *model.graph.output)
    assert {v.type.tensor_type.elem_type for v in values} == {TensorProto.FLOAT}
    stored = {t.name: t.data_type for t in model.graph.initializer}
    assert stored["fpn.lateral.0.conv.weight"] == TensorProto.FLOAT16
    assert stored["backbone.stem.conv.weight"] == TensorProto.FLOAT
    assert result.size_after < 0.6 * result.size_before
    assert read_metadata(result.path)[1] == network.input_spec
    image = np.random.default_rng(1).normal(0, 60, (1, 3, *SIZE)).astype(np.float32)
    before, after = onnx_runner(exported)(image), onnx_runner(result.path)(image)
    for name in before:
        assert np.abs(after[name] - before[name]).max() < 0.02 * np.ptp(before[name])


def test_budgets_that_cannot_be_judged_are_not_kept(
    network: MOS, exported: Path, tmp_path: Path
) -> None:
    root = write_face_folder(tmp_path / "empty", "train", count=8, faces=0)
    result = quantize(
        exported,
        tmp_path / "int8.onnx",
        network.tasks,
        network.input_spec,
        FaceFolder.open(root, "train"),
        QuantizeOptions(images=4, eval_images=4, budgets={"detection": 0.01}),
    )
    verdict = result.tasks["detection"]
    assert verdict.drop is None and verdict.note
    assert not result.within_budgets
    assert "not inside their budget: detection" in result.notes
    # Nothing to rank by: no layer is blamed, the network is not run on and on.
    assert (result.evaluations, result.culprits) == (2, ())


class OneCulprit(Writer):
    """Writes nothing: hands the choice itself on as the graph."""

    def write(self, kept):
        return frozenset(kept)


class FakeJudge:
    """Task "a" is inside its budget as soon as the culprit is in float32."""

    def __init__(self, culprit: str) -> None:
        self.culprit, self.evaluations = culprit, 1

    def __call__(self, kept) -> dict[str, TaskVerdict]:
        self.evaluations += 1
        drop = 0.0 if self.culprit in kept else 0.3
        return {
            "a": TaskVerdict("ap", 1.0, 1 - drop, drop, 0.01),
            "b": TaskVerdict("ap", 1.0, 1.0, 0.0, 0.01),
        }


def test_the_culprit_is_named_with_what_it_costs(exported: Path) -> None:
    layers = find_layers(onnx.load(exported))
    culprit = "fpn.lateral.1.conv/Conv"

    def cost(writer, nodes) -> dict[str, dict[str, float]]:
        return {n: {"a": 3.0 if n == culprit else 0.1, "b": 1.0} for n in nodes}

    forced = {layers[0].node: "asked for"}
    outcome = keep_budgets(
        lambda: FakeJudge(culprit),
        OneCulprit(),
        layers,
        forced,
        cost,
        None,
        QuantizeOptions(),
    )
    assert set(outcome.kept) == {layers[0].node, culprit}
    assert outcome.evaluations == 3
    assert "task 'a'" in outcome.kept[culprit]
    first = outcome.culprits[0]
    assert (first.region, first.modules, first.kept) == (culprit, ("fpn.lateral.1.conv",), True)
    assert layers[0].node not in {row.region for row in outcome.culprits}
    for task in ("a", "b"):
        assert sum(row.costs[task] for row in outcome.culprits) == pytest.approx(1)


def attempt(network: MOS, path: Path, data: Dataset, folder: Path, **options) -> None:
    quantize(
        path,
        folder / "out.onnx",
        network.tasks,
        network.input_spec,
        data,
        QuantizeOptions(**options),
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"budgets": {"depth": 0.1}}, UsageError),
        ({"keep_float": ("nothing.*",)}, UsageError),
        ({"keep_float": ("*",)}, UsageError),
    ],
)
def test_what_makes_no_sense_is_refused(
    network: MOS, exported: Path, images: Dataset, tmp_path: Path, options: dict, error: type
) -> None:
    with pytest.raises(error):
        attempt(network, exported, images, tmp_path, **options)
    assert not (tmp_path / "out.onnx").exists()


def test_files_that_cannot_be_quantised_are_refused(
    network: MOS, exported: Path, images: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputRefused, match="no such file"):
        attempt(network, tmp_path / "absent.onnx", images, tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputRefused, match="not a valid ONNX"):
        attempt(network, tmp_path / "broken.onnx", images, tmp_path)
    attempt(network, exported, images, tmp_path, images=2)
    with pytest.raises(InputRefused, match="quantised already"):
        attempt(network, tmp_path / "out.onnx", images, tmp_path)


def test_a_graph_of_an_old_opset_is_refused(network: MOS, images: Dataset, tmp_path: Path) -> None:
    builder = GraphBuilder((1, 3, *SIZE))
    onnx.save(builder.build(builder.conv("images", "a", 4, 3), opset=12), tmp_path / "old.onnx")
    with pytest.raises(StageFailed, match="opset 12"):
        attempt(network, tmp_path / "old.onnx", images, tmp_path)


def test_one_image_cannot_calibrate_and_judge(
    network: MOS, exported: Path, images: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputRefused, match="too few"):
        attempt(network, exported, images.subset([0]), tmp_path, budgets={"detection": 0.1})
