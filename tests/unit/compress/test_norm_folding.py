"""Copies without batch norms answer the same; what cannot be folded stays as it is."""

from __future__ import annotations

import pytest
import torch
from support.pruning import Host
from torch import Tensor, nn

from edgemtl.compress.norm_folding import fold_norms


class Read(nn.Module):
    """A convolution whose output is read beside its norm, or that is used twice, or alone."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.norm = nn.Conv2d(12, 12, 3, 1, 1, bias=how == "bias"), nn.BatchNorm2d(12)
        self.last = nn.Conv2d(12, 4, 1)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(-1, 1)
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        found = torch.relu(self.norm(made))
        if self.how == "beside":
            found = found + made
        if self.how == "twice":
            found = found + torch.relu(self.norm(self.conv(x * 2)))
        return torch.as_tensor(self.last(found))


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("how", "folds"), [("alone", True), ("bias", True), ("beside", False), ("twice", False)]
)
def test_a_copy_answers_the_same(how: str, folds: bool) -> None:
    torch.manual_seed(0)
    network = Host(
        nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.Identity(), Read(how)), 4
    ).eval()
    images = torch.rand(2, 3, 16, 16)
    copy, found = fold_norms(network, images)
    assert ("body.2.conv" in found) == folds
    assert _norms(copy) == _norms(network) - len(found)
    with torch.no_grad():
        wanted, answers = network(images), copy(images)
    for name, value in wanted.items():
        torch.testing.assert_close(answers[name], value, rtol=1e-4, atol=1e-5)
