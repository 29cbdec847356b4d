"""inspect, prune and the graph count the same, or what differs is known: folds and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exported_networks import make_mos
from support.bodies import Body, grid, make, tokens
from support.dense_family import build
from support.m3vit import tiny
from torch import Tensor, nn

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.cost import Cost, CostModel
from edgemtl.compress.work import count_work
from edgemtl.exporting.cost import count_cost
from edgemtl.exporting.mixtures import DenseMixture, dense_mixtures
from edgemtl.exporting.module_cost import folded_costs, module_costs
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.simplify import simplify
from edgemtl.models.base import MultiTaskNetwork

BATCH = 2


def on_tokens(layer: Callable[[], nn.Module]) -> MultiTaskNetwork:
    return make(
        lambda: Body(lambda m, x: grid(m.layer(tokens(x)), x), layer=layer())  # type: ignore[operator]
    )


class First(nn.Module):
    """The first answer of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, t: Tensor) -> Tensor:
        out: Tensor = self.layer(t)[0]
        return out


class Auxiliary(nn.Module):
    """A head that only training computes, and one that nothing does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.extra = (nn.Conv2d(16, 16, 3, 1, 1) for _ in range(3))
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        out: Tensor = self.b(y)
        return out + self.extra(y).mean() if self.training else out


FAMILIES: dict[str, Callable[[], MultiTaskNetwork]] = {
    "dense": build,
    "mos": lambda: make_mos("mos-t").folded(),
    "m3vit": lambda: tiny(experts=4),
    "encoder": lambda: on_tokens(lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)),
    "lstm": lambda: on_tokens(lambda: First(nn.LSTM(16, 8, bidirectional=True, batch_first=True))),
    "auxiliary": lambda: make(Auxiliary),
    "transposed": lambda: make(lambda: nn.ConvTranspose2d(16, 16, 4, 2, 1)),
}


def as_pruning_counts(network: MultiTaskNetwork) -> Cost:
    work = count_work(network, network.example_input(BATCH))
    return CostModel(network, channel_groups(network), work, BATCH).of({})


@pytest.mark.parametrize("name", FAMILIES)
def test_everything_counts_the_same(name: str, tmp_path: Path) -> None:
    network = FAMILIES[name]().eval()
    inspected = module_costs(network)
    assert sum(m.macs for m in inspected.modules if m.module == "") == inspected.macs
    pruning = as_pruning_counts(network)
    assert (pruning.macs, pruning.params) == (inspected.macs, inspected.parameters)
    raw = export_onnx(network, tmp_path / "raw.onnx", opset=17)
    graph = count_cost(simplify(raw.path, tmp_path / "g.onnx").path)
    assert graph.macs == inspected.macs


def test_only_what_outputs_depend_on_is_counted() -> None:
    network = make(Auxiliary)
    unused = sum(
        p.numel() for p in (*network.body.extra.parameters(), *network.body.unused.parameters())
    )
    total = sum(p.numel() for p in network.parameters())
    assert module_costs(network).parameters == total - unused


def test_parameters_of_a_module_that_is_never_called_are_counted() -> None:
    network = on_tokens(lambda: First(Twice()))
    cost = module_costs(network)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    by_path = {module.module: module.parameters for module in cost.modules}
    assert by_path["body.layer.layer.attn.out_proj"] == 16 * 16 + 16


class Twice(nn.Module):
    """Attention whose output projection torch reads without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, t: Tensor) -> tuple[Tensor, None]:
        return self.attn(t, t, t, need_weights=False)[0], None


def test_the_cut_network_counts_as_its_own() -> None:
    network = build().eval()
    groups = channel_groups(network)
    keep = {groups[0].name: torch.arange(groups[0].width) >= groups[0].width // 2}
    smaller = cut(network, keep, groups)
    masked = as_pruning_counts(smaller)
    assert (masked.macs, masked.params) == (
        module_costs(smaller).macs,
        module_costs(smaller).parameters,
    )


def test_a_familys_folds_are_told_apart() -> None:
    network = make_mos("mos-t")
    folded = folded_costs(network)
    assert folded is not None and folded.macs < module_costs(network).macs
    assert folded_costs(build()) is None


class Weighed(nn.Module):
    """Eight experts of which the gate picks two; all are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 8)
        self.experts = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x.mean((2, 3)))
        top, index = logits.topk(2, 1)
        gate = torch.zeros_like(logits).scatter(1, index, top.softmax(1))
        parts = [gate[:, i, None, None, None] * e(x) for i, e in enumerate(self.experts)]
        return torch.stack(parts).sum(0)


def test_a_router_that_uses_every_expert_is_named() -> None:
    assert dense_mixtures(make(Weighed)) == [DenseMixture("body", 2, 8, "body.experts")]
    assert dense_mixtures(tiny(experts=4)) == []
    assert dense_mixtures(build()) == []
