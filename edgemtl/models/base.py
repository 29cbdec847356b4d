"""The one interface every network has, whatever its family."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import UsageError
from edgemtl.models.closures import rebind_closures
from edgemtl.tasks.base import Task
from edgemtl.tasks.registry import select


class MultiTaskNetwork(nn.Module, ABC):
    """A network that answers several tasks about one picture.

    Subclasses call ``super().__init__(arguments, tasks, input_spec)`` and implement
    :meth:`forward`. Outputs are raw (logits, encoded offsets, maps): softmax, box decoding and
    resampling belong to the task's ``decode``, outside the graph, where no quantiser can spoil
    them.

    Args:
        arguments: constructor arguments as plain data; ``registry.build(family, arguments)``
            builds the same architecture again.
        tasks: the tasks, in output order.
        input_spec: what the network is fed.
    """

    #: registered family name
    family: ClassVar[str] = ""

    def __init__(
        self, arguments: Mapping[str, Any], tasks: Sequence[Task], input_spec: InputSpec
    ) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        absent = {name for task in tasks for name in task.requires if name not in names}
        if absent or len(set(names)) != len(names):
            raise ValueError(
                f"tasks {names} need different names and the tasks they require ({sorted(absent)})"
            )
        self.arguments = dict(arguments)
        self.tasks: tuple[Task, ...] = tuple(tasks)
        self.input_spec = input_spec
        #: pruning record of the checkpoint this network came from (see models/checkpoint.py)
        self.pruning: list[dict[str, Any]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> MultiTaskNetwork:
        """A copy that shares nothing, functions put on modules included (see closures.py)."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__dict__, memo))  # type: ignore[no-untyped-call]
        rebind_closures(copied, memo)
        return copied

    @abstractmethod
    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Raw outputs of the requested tasks.

        Args:
            images: (B, 3, H, W) float32, normalised as ``input_spec`` says.
            tasks: names of the tasks to compute, all by default. What no requested task needs is
                not computed.

        Returns:
            output name -> tensor, batch first.
        """

    def task(self, name: str) -> Task:
        """The task of this name (KeyError if there is none)."""
        return {task.name: task for task in self.tasks}[name]

    def restricted(self, names: Sequence[str]) -> MultiTaskNetwork:
        """A copy that has these tasks only, with the same weights for them.

        Families whose heads can be left out override it.

        Raises:
            UsageError: this family cannot leave tasks out.
        """
        raise UsageError(
            f"networks of family '{self.family}' cannot leave out tasks",
            hint=f"name all of its tasks: {', '.join(task.name for task in self.tasks)}",
        )

    def requested(self, names: Sequence[str] | None) -> tuple[Task, ...]:
        """Exactly the named tasks, in order (all for None): what :meth:`forward` computes.

        Raises:
            UsageError: a name the network does not have.
        """
        if names is None:
            return self.tasks
        return tuple(task for task in self.selected(names) if task.name in names)

    def selected(self, names: Sequence[str] | None) -> tuple[Task, ...]:
        """The named tasks plus those they require, in order (all for None)."""
        return select(self.tasks, names)

    def output_names(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """Names of the outputs of these tasks, in export order."""
        return tuple(output for task in self.selected(tasks) for output in task.outputs)

    def example_input(self, batch: int = 1, seed: int = 0) -> Tensor:
        """(batch, 3, H, W) float32 noise in the range of normalised pictures."""
        generator = torch.Generator().manual_seed(seed)
        height, width = self.input_spec.size
        pixels = torch.rand((batch, 3, height, width), generator=generator) * 255.0
        mean = torch.tensor(self.input_spec.mean).view(1, 3, 1, 1)
        std = torch.tensor(self.input_spec.std).view(1, 3, 1, 1)
        return (pixels - mean) / std
