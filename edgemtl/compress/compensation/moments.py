"""One pass over calibration pictures: what readers read, and which of their outputs tasks mind.

For every reader the second moments G = E[x x'] of its rows of features (1 prepended), and for every
task the mean square of its loss's gradient in every output: the diagonal of the task's Fisher
information, E[(dL_t / dy_o)^2], summed over places. Rows at which tasks mind errors count more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.answers import probe
from edgemtl.compress.batches import Prepared, batches
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.compensation.readers import Call, Reader, find_readers
from edgemtl.compress.compensation.timed_loop import TimedLoop
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import DeformableConv2d

#: pictures per forward pass; their activations are in memory at once
BATCH = 2
#: rows that are looked at in all, per feature of a reader, and at least
ROWS_PER_FEATURE, FEWEST_ROWS = 16, 4096
#: a task is judged by its labels where so many batches have some, as a share and at least; else by
#: its answers
LABELLED_SHARE, FEWEST_LABELLED = 0.1, 2
#: half the distance of answers from themselves plus 1, so that an error is a distance
UNIT = 0.5
#: share of a row's weight that is by how much the tasks mind an error there; the rest is the same
#: for all rows
MINDED = 0.5


@dataclass
class Moments:
    """What the pass found.

    Attributes:
        readers: by the name of their weight.
        grams: reader -> (blocks, 1 + features, 1 + features) float32 mean of products, the constant
            first.
        fisher: reader -> (tasks, blocks, outputs) float64 mean squared gradients.
        losses: (tasks,) mean loss of the dense network, what errors are relative to; for a task
            without labels a constant that makes an error the distance between answers
            (:mod:`edgemtl.compress.answers`).
        labelled: (tasks,) whether there were labels.
        strange: weights that read channels in a form that is not known.
        images: pictures that were looked at.
        notes: what the reader must know.
    """

    readers: dict[str, Reader]
    grams: dict[str, Tensor]
    fisher: dict[str, Tensor]
    losses: NDArray[np.float64]
    labelled: tuple[bool, ...]
    strange: tuple[str, ...]
    images: int
    notes: tuple[str, ...] = ()


def collect(
    network: MultiTaskNetwork,
    groups: Sequence[ChannelGroup],
    pictures: Sequence[Prepared],
    seed: int = 0,
    minded: float = MINDED,
) -> Moments:
    """Go once over the pictures.

    Args:
        network: left as it is.
        groups: of it.
        pictures: with labels where there are any.
        seed: of the places that rows are taken at.
        minded: see :data:`MINDED`.
    """
    own = contiguous_copy(network)
    tally, loop = _Tally(own, groups, len(pictures), minded), TimedLoop("calibration pictures")
    for number, batch in enumerate(
        batches(pictures, own.tasks, own.input_spec.size, min(BATCH, len(pictures)))
    ):
        images = batch.images.requires_grad_(True)
        outputs = own(images)
        rng = np.random.default_rng([seed, number])
        taken = tally.take(outputs, rng)
        for row, task in enumerate(own.tasks):
            loss = task.loss({k: outputs[k] for k in task.outputs}, batch.whole[task.name])
            value = float(loss.detach())
            labelled = loss.requires_grad and value != 0.0
            if not labelled:
                loss = probe(task, outputs, rng)
            tally.minding(row, labelled, value)
            torch.autograd.grad(loss, images, retain_graph=True, allow_unused=True)
        tally.add(taken, len(batch.images))
        loop(min((number + 1) * BATCH, len(pictures)), len(pictures))
    return tally.found()


def contiguous_copy(network: MultiTaskNetwork) -> MultiTaskNetwork:
    """A copy whose graph shows everything."""
    own = copy.deepcopy(network).eval().requires_grad_(True)
    for module in own.modules():
        if isinstance(module, DeformableConv2d):
            module.lowering = "portable"  # of operators that have a graph
    with torch.no_grad():
        for parameter in own.parameters():
            # A view of a weight in another order of memory would be a copy, and not known again.
            parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
    return own


@dataclass
class _Taken:
    """Rows of one call in one pass.

    Attributes:
        call: whose.
        places: where.
        rows: (blocks, n, features).
        energy: (tasks, blocks, n) squared gradients at these places.
        minded: (2 * tasks, blocks, outputs) squared gradients over all places, of losses and of
            probes.
        handle: of the hook that fills the last two.
    """

    call: Call
    places: Tensor
    rows: Tensor
    energy: Tensor
    minded: Tensor
    handle: Any = None


class _Tally:
    """Adds up what the batches say."""

    def __init__(
        self, network: MultiTaskNetwork, groups: Sequence[ChannelGroup], pictures: int, share: float
    ) -> None:
        self._network, self._groups, self._pictures = network, groups, pictures
        self._tasks, self._share = len(network.tasks), share
        self._readers: dict[str, Reader] = {}
        self._grams: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._fisher: dict[str, Tensor] = {}
        self._strange: dict[str, None] = {}
        self._losses, self._count = np.zeros(self._tasks), np.zeros(2 * self._tasks)
        self._images = self._row = self._kind = 0

    def take(self, outputs: dict[str, Tensor], rng: np.random.Generator) -> list[_Taken]:
        """Rows of all readers in this pass, with hooks for their gradients."""
        calls, strange = find_readers(self._network, self._groups, outputs)
        self._strange.update(dict.fromkeys(strange))
        uses: dict[str, int] = {}
        for call in calls:
            uses[call.reader.name] = uses.get(call.reader.name, 0) + 1
        taken = []
        for call in calls:
            reader = call.reader
            self._readers.setdefault(reader.name, reader)
            layout = reader.layout
            wanted = max(ROWS_PER_FEATURE * layout.features, FEWEST_ROWS) * BATCH
            wanted = ceil(wanted / max(self._pictures, 1))
            if call.kind == "convolution":  # places are of every picture of the batch
                wanted = ceil(wanted / BATCH)
            if call.block is None:
                wanted = ceil(wanted / uses[reader.name])
            size = call.size
            places = (
                torch.arange(size)
                if wanted >= size
                else torch.from_numpy(rng.integers(0, size, wanted))
            )
            rows = call.rows(places)
            blocks, count = rows.shape[:2]
            one = _Taken(
                call,
                places,
                rows,
                torch.zeros(self._tasks, blocks, count),
                torch.zeros(2 * self._tasks, blocks, layout.outputs, dtype=torch.float64),
            )
            one.handle = call.node.register_prehook(self._hook(one))
            taken.append(one)
        return taken

    def _hook(self, one: _Taken) -> Callable[[tuple[Tensor, ...]], None]:
        def see(gradients: tuple[Tensor, ...]) -> None:
            gradient = gradients[0].detach()
            here = one.call.gradients(gradient, one.places)
            one.energy[self._row] += here.pow(2).sum(dim=2)
            apart = 1 if one.call.kind == "convolution" else gradient.dim() - 1
            kept = {apart, 0} if one.call.kind == "batch" else {apart}
            summed = [dim for dim in range(gradient.dim()) if dim not in kept]
            whole = torch.linalg.vector_norm(gradient, dim=summed).double().square()
            minded = one.minded[self._row + self._kind * self._tasks]
            minded += whole.reshape(minded.shape)

        return see

    def minding(self, row: int, labelled: bool, loss: float) -> None:
        """The next gradients are this task's: of its loss, or of a probe of its answers."""
        self._row, self._kind = row, 0 if labelled else 1
        self._losses[row] += loss if labelled else 0.0
        self._count[row + self._kind * self._tasks] += 1

    def add(self, taken: Sequence[_Taken], count: int) -> None:
        """Take the rows of a batch of ``count`` pictures into account."""
        self._images += count
        for one in taken:
            one.handle.remove()
        by_reader: dict[str, list[_Taken]] = {}
        for one in taken:
            by_reader.setdefault(one.call.reader.name, []).append(one)
        for name, parts in by_reader.items():
            layout = self._readers[name].layout
            size = layout.features + 1
            if name not in self._grams:
                self._grams[name] = torch.zeros(layout.blocks, size, size)
                self._weights[name] = torch.zeros(layout.blocks, dtype=torch.float64)
                self._fisher[name] = torch.zeros(
                    2 * self._tasks, layout.blocks, layout.outputs, dtype=torch.float64
                )
            total = torch.stack([part.energy.double().sum(dim=(1, 2)) for part in parts]).sum(dim=0)
            places = sum(part.energy[0].numel() for part in parts)
            for part in parts:
                block = slice(None) if part.call.block is None else [part.call.block]
                # A loss is a mean over the batch's pictures, a probe a sum.
                self._fisher[name][: self._tasks, block] += part.minded[: self._tasks] * count
                self._fisher[name][self._tasks :, block] += part.minded[self._tasks :] / count
                self._learn(name, block, part, total / max(places, 1))

    def _learn(self, name: str, block: slice | list[int], part: _Taken, mean: Tensor) -> None:
        weight = torch.ones(part.energy.shape[1:])
        known = mean > 0
        if self._share and bool(known.any()):
            relative = (part.energy[known] / mean[known, None, None]).mean(dim=0).float()
            weight = (1 - self._share) + self._share * relative
        root = weight.sqrt()[..., None]
        rows = torch.cat([root, part.rows * root], dim=2)
        self._grams[name][block] += rows.transpose(1, 2) @ rows
        self._weights[name][block] += weight.double().sum(dim=1)

    def found(self) -> Moments:
        """Means over everything."""
        count = np.maximum(self._count, 1)
        most = max(FEWEST_LABELLED, LABELLED_SHARE * count.max())
        labelled = self._count[: self._tasks] >= min(most, self._count.max())
        rows = torch.arange(self._tasks) + torch.from_numpy(~labelled).long() * self._tasks
        for name, gram in self._grams.items():
            gram /= self._weights[name].clamp(min=1e-12).float()[:, None, None]
            self._fisher[name] /= torch.from_numpy(count)[:, None, None]
        names = [task.name for task in self._network.tasks]
        notes = [
            f"task '{name}' is judged by the dense network's own answers: too few of the "
            "calibration pictures have labels of it"
            for name, known in zip(names, labelled, strict=True)
            if not known
        ]
        return Moments(
            self._readers,
            self._grams,
            {name: fisher[rows] for name, fisher in self._fisher.items()},
            np.where(labelled, self._losses / count[: self._tasks], UNIT),
            tuple(labelled.tolist()),
            tuple(self._strange),
            self._images,
            tuple(notes),
        )
