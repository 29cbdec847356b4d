"""The simplified file: smaller, equal, with the same names; and the exact folds on their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from exported_networks import Exported
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgemtl.errors import StageFailed
from edgemtl.exporting.folds import fold_batch_norms
from edgemtl.exporting.parity import compare_outputs, onnx_runner
from edgemtl.exporting.simplify import simplify


def test_it_is_smaller_equal_and_has_the_same_interface(exported: Exported) -> None:
    before, after = (onnx.load(r.path).graph for r in (exported.exported, exported.simplified))
    assert exported.simplified.nodes_before == len(before.node)
    assert exported.simplified.nodes_after == len(after.node) < len(before.node)
    for a, b in ((before.input, after.input), (before.output, after.output)):
        assert [v.SerializeToString() for v in a] == [v.SerializeToString() for v in b]
    images = exported.network.example_input(seed=3).numpy()
    report = compare_outputs(
        onnx_runner(exported.exported.path)(images),
        onnx_runner(exported.simplified.path)(images),
        exported.network.tasks,
    )
    assert report.passed, report.to_dict()


def test_no_batch_norm_and_no_shape_arithmetic_is_left(exported: Exported) -> None:
    left = {node.op_type for node in onnx.load(exported.simplified.path).graph.node}
    assert not left & {"BatchNormalization", "Shape", "Constant", "Identity", "ConstantOfShape"}


def test_nodes_keep_their_layers(exported: Exported) -> None:
    kept, original = exported.simplified.modules, exported.exported.modules
    assert kept.keys() <= original.keys()
    assert all(original[name] == module for name, module in kept.items())


def test_the_same_input_gives_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    again = simplify(exported.exported.path, tmp_path / "again.onnx")
    assert again.path.read_bytes() == exported.simplified.path.read_bytes()


def test_simplifying_twice_changes_nothing_more(exported: Exported, tmp_path: Path) -> None:
    again = simplify(exported.simplified.path, tmp_path / "again.onnx")
    assert again.nodes_after == exported.simplified.nodes_after


def padded(sizes: list[int | str]) -> onnx.ModelProto:
    """A graph whose output has the sizes 1, 3, 6, 6, said so or left open."""
    pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")
    graph = helper.make_graph(
        [helper.make_node("Pad", ["images", "pads"], ["out"], "pad")],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, sizes)],
        [pads],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sizes_that_were_left_open_may_be_settled(tmp_path: Path) -> None:
    onnx.save(padded([1, 3, "high", "wide"]), tmp_path / "g.onnx")
    simplify(tmp_path / "g.onnx", tmp_path / "out.onnx")


def test_another_interface_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(padded([1, 3, 6, 6]), tmp_path / "g.onnx")
    renamed = padded([1, 3, 6, 6])
    renamed.graph.output[0].name = renamed.graph.node[0].output[0] = "other"
    monkeypatch.setattr("onnxslim.slim", lambda model: renamed)
    with pytest.raises(StageFailed, match="changed the graph's inputs or outputs"):
        simplify(tmp_path / "g.onnx", tmp_path / "out.onnx")


@pytest.mark.parametrize("content", [b"", b"not a graph at all"])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "g.onnx").write_bytes(content)
    with pytest.raises(StageFailed, match="cannot be simplified"):
        simplify(tmp_path / "g.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


class Fold:
    """A layer and a batch norm on the smallest input, with random weights."""

    def __init__(self, op: str, weight: tuple[int, ...], outputs: int, bias: bool, **named: object):
        rng = np.random.default_rng(5)
        self.images = rng.normal(0, 1, (1, 4, 6, 5)).astype(np.float32)

        def noise(*shape: int) -> NDArray[np.float32]:
            return rng.normal(0, 1, shape).astype(np.float32)

        weights = {
            "weight": noise(*weight),
            "gamma": noise(outputs),
            "beta": noise(outputs),
            "mean": noise(outputs),
            "variance": rng.uniform(0.5, 2, outputs).astype(np.float32),
        }
        inputs = ["images", "weight"]
        if op == "DeformConv":
            weights["offset"] = noise(1, 2 * weight[2] * weight[3], 6, 5)
            inputs.append("offset")
        if bias:
            weights["bias"] = noise(outputs)
            inputs.append("bias")
        norm = ["hidden", "gamma", "beta", "mean", "variance"]
        self.nodes = [
            helper.make_node(op, inputs, ["hidden"], f"layer/{op}", **named),
            helper.make_node("BatchNormalization", norm, ["out"], "norm/B", epsilon=1e-3),
        ]
        self.weights = weights
        self.outputs = ["out"]

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, self.images.shape)],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self.outputs],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)

    def run(self, model: onnx.ModelProto, path: Path) -> dict[str, NDArray[np.float32]]:
        onnx.save(model, path)
        return dict(onnx_runner(path)(self.images))


@pytest.mark.parametrize(
    "fold",
    [
        Fold("Conv", (6, 4, 3, 3), 6, bias=True, pads=[1] * 4),
        Fold("Conv", (8, 1, 3, 3), 8, bias=False, group=4, strides=[2, 2]),
        Fold("ConvTranspose", (4, 6, 2, 2), 6, bias=True, strides=[2, 2]),
        Fold("DeformConv", (6, 4, 3, 3), 6, bias=False, pads=[1] * 4),
        Fold("DeformConv", (6, 4, 3, 3), 6, bias=True, pads=[1] * 4),
    ],
    ids=["conv", "grouped", "transposed", "deformable", "deformable-bias"],
)
def test_a_batch_norm_is_folded_exactly(fold: Fold, tmp_path: Path) -> None:
    expected = fold.run(fold.model(), tmp_path / "a.onnx")["out"]
    model = fold.model()
    assert fold_batch_norms(model) == 1
    assert [node.name for node in model.graph.node] == [fold.nodes[0].name]
    found = fold.run(model, tmp_path / "b.onnx")["out"]
    assert np.abs(found - expected).max() <= 2e-6 * np.ptp(expected)
    assert {t.name for t in model.graph.initializer} == {
        n for n in model.graph.node[0].input[1:] if n
    }


def test_a_layer_whose_plain_output_is_needed_is_not_folded(tmp_path: Path) -> None:
    fold = Fold("Conv", (6, 4, 3, 3), 6, bias=True)
    fold.outputs = ["out", "hidden"]
    model = fold.model()
    assert fold_batch_norms(model) == 0


def test_a_grouped_transposed_convolution_is_left_alone() -> None:
    fold = Fold("ConvTranspose", (4, 3, 2, 2), 6, bias=True, group=2)
    assert fold_batch_norms(fold.model()) == 0


def test_a_shared_weight_is_not_spoilt_for_the_other_layer(tmp_path: Path) -> None:
    fold = Fold("Conv", (6, 4, 3, 3), 6, bias=True)
    fold.nodes.append(helper.make_node("Conv", ["images", "weight", "bias"], ["other"], "b/Conv"))
    fold.outputs = ["out", "other"]
    expected = fold.run(fold.model(), tmp_path / "a.onnx")
    model = fold.model()
    assert fold_batch_norms(model) == 1
    found = fold.run(model, tmp_path / "b.onnx")
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 2e-6 * np.ptp(value)
