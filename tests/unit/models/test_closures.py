"""A copied network computes with its own layers, whatever was put on its modules."""

from __future__ import annotations

import copy
from typing import Any

import torch
from support.pruning import Host
from torch import Tensor, nn

from edgemtl.models.closures import rebind_closures


def patched() -> Host:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 5, 1)
    factor = torch.tensor(2.0)

    def twice(x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, layer.weight, layer.bias) * factor

    def forward(x: Tensor, *, shift: float = 1.0) -> Tensor:
        return twice(x) + shift

    layer.forward = forward  # type: ignore[method-assign]
    return Host(layer, 5)


def test_a_copy_of_a_patched_network_shares_nothing() -> None:
    host = patched()
    images = host.example_input()
    copied = copy.deepcopy(host)
    with torch.no_grad():
        before = host(images)
        assert torch.equal(copied(images)["parts.logits"], before["parts.logits"])
        copied.body.weight.zero_()  # type: ignore[union-attr,operator]
        assert not torch.equal(copied(images)["parts.logits"], before["parts.logits"])
        assert torch.equal(host(images)["parts.logits"], before["parts.logits"])
        twice = copy.deepcopy(copied)
        twice.body.bias.zero_()  # type: ignore[union-attr,operator]
        assert not torch.equal(twice(images)["parts.logits"], copied(images)["parts.logits"])


def test_hooks_of_a_copy_mean_the_copy() -> None:
    host = patched()
    seen: nn.Module = host.stem

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output + seen.weight.sum()

    host.body.register_forward_hook(hook)
    copied = copy.deepcopy(host)
    images = host.example_input()
    with torch.no_grad():
        before = host(images)["parts.logits"]
        assert torch.equal(copied(images)["parts.logits"], before)
        host.stem.weight.add_(0)
        copied.stem.weight.zero_()  # type: ignore[union-attr,operator]
        copied.stem.bias.copy_(host.stem.bias)  # type: ignore[union-attr,operator,arg-type]
        assert torch.equal(host(images)["parts.logits"], before)
    hooks = list(copied.body._forward_hooks.values())
    assert hooks[0].__closure__[0].cell_contents is copied.stem  # type: ignore[union-attr]


def test_functions_that_call_one_another_mean_the_copy_s_layers() -> None:
    layer = nn.Linear(2, 2)

    def even(x: Tensor, depth: int) -> Tensor:
        return x if depth == 0 else odd(layer(x), depth - 1)

    def odd(x: Tensor, depth: int) -> Tensor:
        return x if depth == 0 else even(layer(x), depth - 1)

    holder = nn.Module()
    holder.layer = layer
    holder.run = even
    memo: dict[int, Any] = {}
    copied = copy.deepcopy(holder, memo)
    rebind_closures(copied, memo)
    with torch.no_grad():
        layer.weight.fill_(100.0)
        x = torch.ones(1, 2)
        expected = copied.layer(copied.layer(copied.layer(x)))
        assert torch.equal(copied.run(x, 3), expected)
