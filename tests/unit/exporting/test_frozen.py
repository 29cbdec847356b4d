"""Decisions by values are refused with their line; what is left out is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.bodies import Bodied, grid, make, tokens
from torch import Tensor, nn

from edgemtl.errors import ExitCode, InputRefused, StageFailed
from edgemtl.exporting.onnx_export import ExportResult, export_onnx
from edgemtl.exporting.parity import onnx_runner


def convs(count: int = 4) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(16, 16, 3, 1, 1) for _ in range(count))


class Mixture(nn.Module):
    """Eight convolutions of which a picture uses two, chosen in some way."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(16, 8), convs(8)

    def chosen(self, x: Tensor) -> Tensor:
        index: Tensor = self.router(x.mean((2, 3))).topk(2, 1).indices
        return index


class ByList(Mixture):
    def forward(self, x: Tensor) -> Tensor:
        numbers = sorted(set(self.chosen(x).flatten().tolist()))
        return x + sum(self.experts[i](x).relu() for i in numbers)


class ByItem(Mixture):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts[int(self.chosen(x)[0, 0])](x)
        return out


class ByIndex(Mixture):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts[self.chosen(x)[0, 0]](x)  # type: ignore[index]
        return out


class ByNumpy(Mixture):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x.mean((2, 3))).detach().numpy()
        out: Tensor = self.experts[np.argmax(scores[0])](x)
        return out


class ByBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0.5:
            return x
        return -x


class BySize(nn.Module):
    """Tokens are gathered per expert; an expert that nobody chose is passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(x).flatten(0, 1)
        best = self.score(t).argmax(-1)
        out = torch.zeros_like(t)
        for number, expert in enumerate(self.experts):
            (rows,) = torch.where(best == number)
            if rows.numel() < 40:
                continue
            out = out.index_add(0, rows, expert(t[rows]))
        return grid(out.reshape(x.shape[0], -1, 16), x)


class BySum(nn.Module):
    """The same decision for every picture that is tried, and by a size all the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (2 if x[x > 0.1].numel() > 3 else 3)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (ByList, "tolist()"),
        (ByItem, "int(self.chosen(x)[0, 0])"),
        (ByIndex, "self.experts[self.chosen(x)[0, 0]]"),
        (ByNumpy, ".numpy()"),
        (ByBranch, "if x.mean() > 0.5:"),
    ],
)
def test_a_decision_by_values_is_refused_with_its_line(
    body: type[nn.Module], code: str, tmp_path: Path
) -> None:
    with pytest.raises(StageFailed, match="Python decides by the picture's values") as error:
        export_onnx(make(body), tmp_path / "g.onnx", opset=17)
    assert error.value.exit_code is ExitCode.STAGE_FAILED
    assert code in error.value.message
    assert error.value.where is not None and "test_frozen.py:" in error.value.where
    assert "torch.where" in str(error.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_would_be_missing_are_counted_and_named(tmp_path: Path) -> None:
    network = make(ByItem)
    with pytest.raises(StageFailed) as error:
        export_onnx(network, tmp_path / "g.onnx", opset=17)
    total = sum(p.numel() for p in network.parameters())
    missing = 7 * (16 * 16 * 9 + 16) + 8 * 16 + 8
    assert f"without {missing:,} of {total:,} parameters" in error.value.message
    assert "body.router.weight" in error.value.message


@pytest.mark.parametrize("body", [BySize, BySum])
def test_a_decision_by_how_many_were_chosen_is_refused(
    body: type[nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(StageFailed, match=r"for another picture|how many values") as error:
        export_onnx(make(body), tmp_path / "g.onnx", opset=17)
    assert "test_frozen.py:" in str(error.value.where)


class Harmless(nn.Module):
    """Decides by sizes, by its own state and by whether it is exported; keeps a table."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, 1, 1)
        self.table: Tensor | None = None
        self.register_buffer("level", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 5:
            x = F.pad(x, (0, 0, 0, 5 - x.shape[2] % 5))[:, :, : x.shape[2]]
        if self.table is None:
            self.table = torch.arange(16.0).sin().view(1, 16, 1, 1)
        for _ in range(int(self.level)):
            x = x + self.table
        if not torch.jit.is_tracing():  # type: ignore[no-untyped-call]
            x = x.abs() * x.sign() if bool(x.mean() > 0) else x
        out: Tensor = self.conv(x)
        return out


def exported(body: Callable[[], nn.Module], folder: Path) -> tuple[Bodied, ExportResult]:
    network = make(body)
    return network, export_onnx(network, folder / "g.onnx", opset=17)


def test_decisions_by_sizes_and_state_are_no_matter(tmp_path: Path) -> None:
    network, result = exported(Harmless, tmp_path)
    assert result.notes == ()
    images = network.example_input(seed=4)
    found = onnx_runner(result.path)(images.numpy())
    with torch.no_grad():
        for name, value in network(images).items():
            assert np.abs(value.numpy() - found[name]).max() < 1e-5


class Asserts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert not torch.isnan(x).any()
        return x * 2


def test_a_check_is_told_and_not_refused(tmp_path: Path) -> None:
    (note,) = exported(Asserts, tmp_path)[1].notes
    assert "assert not torch.isnan(x).any()" in note and "not checked in the graph" in note


class PartlyUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.auxiliary = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.mask_token = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y + self.auxiliary(x).mean() if self.training else y


def test_weights_that_no_output_depends_on_are_told(tmp_path: Path) -> None:
    network, result = exported(PartlyUsed, tmp_path)
    total = sum(p.numel() for p in network.parameters())
    assert result.notes == (
        f"left out: 272 of {total:,} parameters ({272 / total:.0%}: body.auxiliary.weight, "
        "body.auxiliary.bias), which only training uses",
        f"left out: 10 of {total:,} parameters ({10 / total:.0%}: body.mask_token), which no "
        "output depends on",
    )
    assert not network.training and network.body.training is False


def test_weights_of_tasks_that_are_left_out_are_no_news(tmp_path: Path) -> None:
    network = make(nn.Identity)
    assert export_onnx(network, tmp_path / "g.onnx", opset=17, tasks=["parts"]).notes == ()


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the calibration is missing\nread the manual")


def test_a_forward_that_raises_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(InputRefused) as error:
        exported(Raising, tmp_path)
    assert (
        error.value.message == "the network's forward raises ValueError: the calibration is missing"
    )
    assert str(error.value.where).startswith("module 'body', test_frozen.py:")
    assert "defect" not in str(error.value) and "fixed shapes" not in str(error.value)


def test_a_layer_that_raises_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="channels") as error:
        exported(lambda: nn.Sequential(nn.Identity(), nn.Conv2d(8, 16, 1)), tmp_path)
    assert str(error.value.where).startswith("module 'body.1', bodies.py:")


class OnlyTraced(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * [1, 2][x.shape[1] // 16 - 1 if isinstance(x.shape[1], int) else "no"]  # type: ignore[call-overload, no-any-return]


def test_what_fails_only_while_it_is_traced_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="not while it is traced: TypeError") as error:
        exported(OnlyTraced, tmp_path)
    assert "module 'body', test_frozen.py:" in str(error.value.where)
    assert "int(x.shape[1])" in str(error.value.hint)


class Spectral(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real


def test_an_operator_without_a_form_is_named_with_its_module(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="'aten::fft_fft' has no ONNX form") as error:
        exported(lambda: nn.Sequential(nn.ReLU(), Spectral()), tmp_path)
    assert error.value.where == "module 'body.1' (Spectral)"
    assert "fixed shapes" not in str(error.value)


def closing_over() -> nn.Module:
    """A module whose forward is a function over another one's weights."""
    body, inner = nn.Identity(), nn.Conv2d(16, 16, 1)
    body.add_module("inner", inner)
    body.forward = lambda x: inner(x)  # type: ignore[method-assign]
    return body


def test_a_forward_that_was_set_on_a_module_is_copied_with_it(tmp_path: Path) -> None:
    _, result = exported(closing_over, tmp_path)
    assert result.notes == ()
    assert result.modules["body.inner/Conv"] == "body.inner"
