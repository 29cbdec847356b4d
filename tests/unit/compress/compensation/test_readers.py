"""What a layer reads, however it is called: rows times the weight's matrix are its outputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.pruning import Host, networks
from torch import Tensor, nn

from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.compensation.moments import contiguous_copy
from edgemtl.compress.compensation.readers import find_readers
from edgemtl.models import MultiTaskNetwork

KIND = {"networks": networks()}


class Twice(nn.Module):
    """One reader, called on two maps of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 12, 3, padding=1)
        self.shared = nn.Conv2d(12, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        small = F.interpolate(self.shared(F.avg_pool2d(y, 2)), size=(4, 4))
        out: Tensor = self.shared(y) + small
        return out


class Stack(nn.Module):
    """Two experts in one stack; every pixel uses both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 6, 1)
        self.inner = nn.Parameter(torch.randn(2, 6, 10))
        self.outer = nn.Parameter(torch.randn(2, 10, 4))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x).flatten(2).transpose(1, 2).flatten(0, 1)
        hidden = F.gelu(torch.bmm(rows.expand(2, -1, -1), self.inner))
        out = torch.bmm(hidden, self.outer).sum(dim=0)
        return out.reshape(x.shape[0], 8, 8, 4).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """Linear layers on tokens, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 20)
        self.down = nn.Linear(20, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x.flatten(2).transpose(1, 2))))
        return out.transpose(1, 2).reshape(x.shape[0], 4, 8, 8)


class Lines(nn.Module):
    """One-dimensional convolutions along the rows of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(8, 12, 3, padding=1)
        self.second = nn.Conv1d(12, 4, 5, padding=4, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(F.silu(self.first(x.flatten(2))))
        return out.reshape(x.shape[0], 4, 8, 8)


def _pair(second: nn.Module, width: int = 12) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, width, 3, padding=1), nn.SiLU(), second)


BODIES = {
    "strided": lambda: _pair(nn.Conv2d(12, 4, 3, 2, 1)),
    "dilated": lambda: _pair(nn.Conv2d(12, 4, 3, 1, (2, 1), (2, 1))),
    "grouped": lambda: _pair(nn.Conv2d(12, 4, 3, 1, 1, groups=2)),
    "circular": lambda: _pair(nn.Conv2d(12, 4, 3, 1, 1, padding_mode="circular")),
    "transposed": lambda: _pair(nn.ConvTranspose2d(12, 4, 4, 2, 1)),
    "transposed-odd": lambda: _pair(nn.ConvTranspose2d(12, 4, 3, 3, 1, output_padding=1)),
    "norm": lambda: _pair(nn.Sequential(nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4))),
    "twice": Twice,
    "stack": Stack,
    "tokens": Tokens,
    "lines": Lines,
}


def _check(network: MultiTaskNetwork) -> dict[str, int]:
    """Rows times matrix against gradients: dL/dW of L = sum(y^2) / 2 is sum of y x'."""
    own = contiguous_copy(network)
    groups = channel_groups(network)
    images = network.example_input(2).to(memory_format=torch.channels_last).requires_grad_(True)
    outputs = own(images)
    calls, strange = find_readers(own, groups, outputs)
    assert strange == ()
    gradients: dict[int, Tensor] = {}
    for number, call in enumerate(calls):
        call.node.register_prehook(
            lambda found, number=number: gradients.__setitem__(number, found[0].detach())
        )
    total = torch.stack([value.pow(2).sum() for value in outputs.values()]).sum()
    names = list(dict.fromkeys(call.reader.name for call in calls))
    wanted = torch.autograd.grad(
        total, [own.get_parameter(name) for name in names], retain_graph=True
    )
    found: dict[str, Tensor] = {}
    for number, call in enumerate(calls):
        if number not in gradients:
            continue
        places = torch.arange(call.size)
        layout = call.reader.layout
        rows, slopes = call.rows(places), call.gradients(gradients[number], places)
        part = slopes.transpose(1, 2) @ rows
        name = call.reader.name
        if name not in found:
            found[name] = torch.zeros(layout.blocks, layout.outputs, layout.features)
        block = slice(None) if call.block is None else [call.block]
        found[name][block] += part
    for name, gradient in zip(names, wanted, strict=True):
        layout = next(call.reader.layout for call in calls if call.reader.name == name)
        error = (layout.matrix(gradient) - found[name]).abs().max()
        assert error <= 2e-4 * gradient.abs().max() + 1e-6, name
        assert torch.equal(layout.weight(layout.matrix(gradient)), gradient)
    return {name: sum(call.reader.name == name for call in calls) for name in names}


@pytest.mark.parametrize("name", list(BODIES))
def test_rows_are_what_the_weight_is_multiplied_with(name: str) -> None:
    torch.manual_seed(0)
    uses = _check(Host(BODIES[name](), 4))
    assert uses
    if name == "twice":
        assert max(uses.values()) == 2


@pytest.mark.parametrize("name", ["mos-t-deformable", "mos-m", "tiny-dense", "tiny-vit", "m3vit"])
def test_every_reader_of_our_families_is_known(name: str) -> None:
    _check(KIND["networks"][name])


def test_constants_go_into_a_bias_or_off_a_mean_or_nowhere() -> None:
    torch.manual_seed(0)
    found = {}
    for name in ("strided", "norm", "tokens", "stack"):
        network = Host(BODIES[name](), 4)
        own = contiguous_copy(network)
        calls, _ = find_readers(own, channel_groups(network), own(network.example_input(1)))
        inner = [call for call in calls if call.reader.name.startswith("body")]
        found[name] = {call.reader.name: call.reader.constant for call in inner}
    assert found["strided"]["body.2.weight"] == ("bias", "body.2.bias")
    assert found["norm"]["body.2.0.weight"] == ("mean", "body.2.1.running_mean")
    assert found["tokens"]["body.down.weight"] is None
    assert found["stack"]["body.outer"] is None


def test_a_weight_that_is_the_left_factor_is_left_alone_and_named() -> None:
    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(8, 12, 1)
            self.second = nn.Parameter(torch.randn(4, 12))

        def forward(self, x: Tensor) -> Tensor:
            columns = self.first(x).flatten(2)
            parts = [torch.mm(self.second, one) for one in columns]
            return torch.stack(parts).reshape(x.shape[0], 4, 8, 8)

    network = Host(Left(), 4)
    own = contiguous_copy(network)
    calls, strange = find_readers(own, channel_groups(network), own(network.example_input(1)))
    assert "body.second" in strange
    assert "body.second" not in {call.reader.name for call in calls}
