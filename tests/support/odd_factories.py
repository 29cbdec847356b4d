"""Factories of networks that do not keep what they promise; all take the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from support.dense_family import TinyDense


class _Odd(TinyDense):
    def answers(self, images: Tensor) -> dict[str, Tensor]:
        """What the honest network would say."""
        return super().forward(images)


class Raising(_Odd):
    """Wants another size than its input specification says."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        return {"parts": images.reshape(1, 3, 7, 7)}


class WrongNames(_Odd):
    """Calls an output by a name that no task owns."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        return {f"my_{name}": value for name, value in self.answers(images).items()}


class Missing(_Odd):
    """Leaves out an output."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        answers = self.answers(images)
        answers.popitem()
        return answers


class NoDict(_Odd):
    """Returns a tuple."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> Any:
        return tuple(self.answers(images).values())


class NoTensors(_Odd):
    """Returns lists of numbers."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> Any:
        return {name: value.tolist() for name, value in self.answers(images).items()}


class NoBatch(_Odd):
    """Drops the batch axis."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.answers(images).items()}


class NotFinite(_Odd):
    """Divides by zero."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        return {name: value / 0 for name, value in self.answers(images).items()}


class Untraceable(_Odd):
    """Runs, but does what no ONNX operator does."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        answers = self.answers(images)
        return {name: torch.linalg.svd(value)[0].mean() * value for name, value in answers.items()}


def raises() -> TinyDense:
    """Fails with a message of two lines."""
    raise RuntimeError("no weights\nwere found")


def returns_text() -> str:
    """No network."""
    return "a network"


not_callable = 3
