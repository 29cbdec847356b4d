"""Node names lead back to the layer, through containers that the exporter does not mention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from support.dense_family import TinyDense
from torch import Tensor, nn

from edgemtl.exporting.naming import module_of
from edgemtl.exporting.onnx_export import export_onnx


class Nested(TinyDense):
    """Lists in dicts in lists, a module called twice, and two dicts that share a key."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.ModuleDict({"left": nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])})
            for _ in range(2)
        )
        self.twice = nn.Conv2d(3, 3, 1)
        self.first = nn.ModuleDict({"same": nn.Conv2d(3, 3, 1)})
        self.second = nn.ModuleDict({"same": nn.Conv2d(3, 3, 1)})

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        x = images
        for tower in self.towers:
            for conv in tower["left"]:  # type: ignore[index, union-attr]
                x = conv(x).relu()
        x = self.twice(self.twice(x).relu()).relu()
        x = self.second["same"](self.first["same"](x).relu())
        return super().forward(x, tasks)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("naming") / "g.onnx"
    export_onnx(Nested().eval(), path, opset=17)
    return [node.name for node in onnx.load(path).graph.node]


def test_containers_are_found_again(nodes: list[str]) -> None:
    for name in ("towers.0.left.0", "towers.0.left.1", "towers.1.left.0", "towers.1.left.1"):
        assert f"{name}/Conv" in nodes
    assert "decoders.parts.reduce.conv/Conv" in nodes


def test_a_module_called_twice_has_two_nodes(nodes: list[str]) -> None:
    assert [name for name in nodes if module_of(name) == "twice"] == ["twice/Conv", "twice/Conv_1"]


def test_layers_of_the_same_short_name_are_told_apart(nodes: list[str]) -> None:
    assert "first.same/Conv" in nodes and "second.same/Conv" in nodes


def test_names_are_unique_and_weights_follow_them(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    export_onnx(Nested().eval(), path, opset=17)
    graph = onnx.load(path).graph
    for names in ([n.name for n in graph.node], [t.name for t in graph.initializer]):
        assert len(names) == len(set(names))
    weights = {tensor.name for tensor in graph.initializer}
    assert {"towers.1.left.0.weight", "twice.bias", "first.same.weight"} <= weights
    assert {"stem.conv.weight", "stem.conv.bias"} <= weights  # with the batch norm in them
