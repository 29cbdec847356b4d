"""Costs: the published figures, two counters that agree, and every operator by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import onnx
import pytest
import torch
from exported_networks import Exported, make_deformable, make_mos
from onnx import TensorProto, helper
from support.dense_family import build
from torch.utils.flop_counter import FlopCounterMode

from edgemtl.errors import StageFailed, UsageError
from edgemtl.exporting import module_cost
from edgemtl.exporting.cost import Cost, count_cost, module_costs
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.mos.network import MOS

PUBLISHED = [  # design page mos.md, section 2: GMAC at this size, live parameters
    ("mos-m", 320, 1.472, 3_086_431),
    ("mos-m", 640, 5.888, 3_086_431),
    ("mos-s", 320, 1.161, 2_074_435),
    ("mos-s", 640, 4.644, 2_074_435),
]


@pytest.mark.parametrize(("variant", "size", "gmac", "parameters"), PUBLISHED)
def test_the_published_layout_costs_what_was_published(
    variant: str, size: int, gmac: float, parameters: int
) -> None:
    cost = module_costs(MOS(variant=variant, context="deformable", size=(size, size)))
    assert round(cost.macs / 1e9, 3) == gmac
    assert cost.parameters == parameters


@pytest.mark.parametrize(
    ("name", "deformable"),
    [("mos-m", "portable"), ("deformable", "native"), ("deformable", "portable")],
)
def test_both_counters_agree(name: str, deformable: str, tmp_path: Path) -> None:
    network: MultiTaskNetwork = make_deformable() if name == "deformable" else make_mos(name)
    fold = getattr(network, "folded", None)
    whole = module_costs(network if fold is None else fold())
    path = tmp_path / "g.onnx"
    export_onnx(network, path, opset=19, deformable=deformable)  # type: ignore[arg-type]
    counted = count_cost(path)
    assert abs(counted.macs - whole.macs) <= 1e-3 * whole.macs
    by_module = {module.module: module.macs for module in whole.modules}
    for node in counted.per_node:
        if node.op in ("Conv", "DeformConv") and not node.module.endswith(".offset_mask"):
            inside = by_module.get(f"{node.module}.offset_mask", 0)
            assert node.macs == by_module[node.module] - inside


def test_simplifying_takes_no_macs_away(exported: Exported) -> None:
    fold = getattr(exported.network, "folded", None)
    whole = module_costs(exported.network if fold is None else fold())
    assert count_cost(exported.simplified.path).macs == whole.macs


def test_modules_add_up_and_tasks_cost_less_than_all() -> None:
    network = make_mos("mos-t")
    cost = module_costs(network)
    by_name = {module.module: module for module in cost.modules}
    parts = [by_name[name] for name, _ in network.named_children() if name in by_name]
    parts += [
        m
        for m in cost.modules
        if m.module.startswith(("context.", "levels.")) and m.module.count(".") == 1
    ]
    assert sum(part.macs for part in parts) == cost.macs
    assert sum(part.parameters for part in parts) == cost.parameters
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert set(cost.tasks) == {"detection", "landmarks", "pose"}
    assert cost.tasks["detection"].macs < cost.tasks["pose"].macs <= cost.macs
    json.dumps(cost.to_dict(), allow_nan=False)


def test_a_task_that_is_not_asked_is_not_counted() -> None:
    network = build()
    whole, part = module_costs(network), module_costs(network, ["parts"])
    assert part.macs == whole.tasks["parts"].macs < whole.macs
    assert not any(module.module.startswith("decoders.distance") for module in part.modules)
    with pytest.raises(UsageError):
        module_costs(network, ["gaze"])


def test_counting_leaves_the_network_alone() -> None:
    network = make_deformable().train()
    module_costs(network)
    assert network.training
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())
    assert network.coarse[1].conv.lowering == "portable"


def graph(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, list[int]], shape: list[int | str]
) -> Path:
    """A graph from ``x`` to ``y``, weights full of ones."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor(name, TensorProto.FLOAT, dims, [1.0] * math.prod(dims))
            for name, dims in weights.items()
        ],
    )
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path
    )
    return path


BY_HAND = {  # operator, its attributes, shape of the weight, shape of the input, MACs
    # 6 channels of 8 x 8, each value from 4 channels x 3 x 3
    "plain": ("Conv", {"pads": [1] * 4}, [6, 4, 3, 3], [1, 4, 8, 8], 6 * 64 * 36),
    # stride 2 gives 3 x 3; each of 2 groups sees 2 channels
    "grouped": ("Conv", {"strides": [2, 2], "group": 2}, [6, 2, 3, 3], [1, 4, 8, 8], 6 * 9 * 18),
    # each of 4 x 64 inputs is spread over 6 channels x 2 x 2
    "transposed": ("ConvTranspose", {"strides": [2, 2]}, [4, 6, 2, 2], [1, 4, 8, 8], 256 * 24),
    "gemm": ("Gemm", {"transB": 1}, [7, 5], [3, 5], 3 * 7 * 5),
    "gemm turned": ("Gemm", {"transA": 1}, [3, 7], [3, 5], 5 * 7 * 3),
    "matmul": ("MatMul", {}, [5, 7], [2, 3, 5], 2 * 3 * 5 * 7),
    "einsum": ("Einsum", {"equation": "bnd,edh->benh"}, [4, 5, 7], [2, 3, 5], 2 * 3 * 5 * 4 * 7),
    "einsum dots": ("Einsum", {"equation": "...d,dh->...h"}, [5, 7], [2, 3, 5], 2 * 3 * 5 * 7),
    "not counted": ("Mul", {}, [4, 1, 1], [1, 4, 8, 8], 0),
}


@pytest.mark.parametrize("which", BY_HAND)
def test_operators_by_hand(which: str, tmp_path: Path) -> None:
    operator, attributes, weight, shape, macs = BY_HAND[which]
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    cost = count_cost(graph(tmp_path / "g.onnx", [node], {"w": weight}, shape))
    assert cost.macs == macs
    assert cost.parameters == math.prod(weight)


def test_activations_their_peak_and_the_file(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "one/Relu"),  # alive: x, a
        helper.make_node("Conv", ["a", "w"], ["b"], "two/Conv"),  # a, b (three times as wide)
        helper.make_node("Relu", ["b"], ["c"], "three/Relu"),  # b, c
        helper.make_node("ReduceMean", ["c"], ["y"], "four/ReduceMean", keepdims=0),  # c, y
    ]
    path = graph(tmp_path / "g.onnx", nodes, {"w": [6, 2, 1, 1]}, [1, 2, 4, 4])
    cost = count_cost(path)
    assert cost.activation_bytes == 4 * (32 + 96 + 96 + 1)
    assert cost.peak_activation_bytes == 4 * (96 + 96)
    assert cost.size_bytes == path.stat().st_size
    assert [(n.name, n.module, n.output_bytes) for n in cost.per_node][1] == (
        "two/Conv",
        "two",
        384,
    )
    assert Cost.from_dict(json.loads(json.dumps(cost.to_dict()))) == cost


def test_a_shape_that_is_not_known_is_an_error_not_a_zero(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(StageFailed, match="shape of tensor"):
        count_cost(graph(tmp_path / "g.onnx", [node], {}, ["batch", 3]))


def test_a_branch_is_named_as_not_counted(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 3])
    branches = {
        key: helper.make_graph([helper.make_node("Relu", ["x"], ["v"])], key, [], [value])
        for key in ("then_branch", "else_branch")
    }
    nodes = [
        helper.make_node(
            "Constant", [], ["c"], value=helper.make_tensor("", TensorProto.BOOL, [], [True])
        ),
        helper.make_node("If", ["c"], ["y"], "router/If", **branches),
    ]
    cost = count_cost(graph(tmp_path / "g.onnx", nodes, {}, [1, 3]))
    assert cost.uncounted == ("router/If",)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(StageFailed, match="cannot be read"):
        count_cost(tmp_path / "g.onnx")


@pytest.mark.parametrize("name", ["mos-m", "mos-t", "deformable"])
def test_counting_gives_what_torchs_own_counter_gives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network: MultiTaskNetwork = make_deformable() if name == "deformable" else make_mos(name)
    computed = module_costs(network)
    monkeypatch.setattr(module_cost, "LARGE_MACS", 0)  # by shapes alone, as for large networks
    assert module_costs(network) == computed
    if name != "deformable":  # torch has no formula for our own operator
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(network.example_input())
        assert computed.macs == counter.get_total_flops() // 2
