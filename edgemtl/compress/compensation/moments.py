"""One pass over calibration pictures: what readers read, and which of their outputs tasks mind.

For every reader the second moments G = E[x x'] of its rows of features (1 prepended), and for every
task the mean square of its loss's gradient in every output: the diagonal of the task's Fisher
information, E[(dL_t / dy_o)^2], summed over places. Rows at which tasks mind errors count more.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import GradientEdge

from edgemtl.compress.answers import probe
from edgemtl.compress.batches import Prepared, each_batch, images_of
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.compensation.readers import Call, Constant, Reader, ends, find_readers
from edgemtl.compress.compensation.timed_loop import TimedLoop
from edgemtl.compress.norm_folding import Fold, fold_norms
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import DeformableConv2d

#: pictures per forward pass; their activations are in memory at once. With 2 it takes longer, and
#: what held-out pictures said of three seeds was further apart
BATCH = 4
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
        passes: how often the pictures went through the network, a backward pass counting two.
    """

    readers: dict[str, Reader]
    grams: dict[str, Tensor]
    fisher: dict[str, Tensor]
    losses: NDArray[np.float64]
    labelled: tuple[bool, ...]
    strange: tuple[str, ...]
    images: int
    notes: tuple[str, ...] = ()
    passes: float = 0.0


def collect(
    network: MultiTaskNetwork,
    groups: Sequence[ChannelGroup],
    images: Sequence[Prepared],
    seed: int = 0,
    minded: float = MINDED,
) -> Moments:
    """Go once over the pictures.

    Args:
        network: left as it is.
        groups: of it.
        images: with labels where there are any.
        seed: of the places that rows are taken at.
        minded: see :data:`MINDED`.
    """
    folded, folds = fold_norms(network, images_of(images[:1]))
    own = contiguous_copy(folded)
    tally = _Tally(own, groups, len(images), minded, folds)
    loop, size = TimedLoop("calibration pictures"), min(BATCH, len(images))
    for number, batch in enumerate(each_batch(images, own.tasks, own.input_spec.size, size)):
        outputs = own(batch.images)
        rng = np.random.default_rng([seed, number])
        taken = tally.take(outputs, rng)
        for row, task in enumerate(own.tasks):
            loss = task.loss({k: outputs[k] for k in task.outputs}, batch.whole[task.name])
            value = float(loss.detach())
            labelled = loss.requires_grad and value != 0.0
            if not labelled:
                loss = probe(task, outputs, rng)
            tally.minding(row, labelled, value)
            tally.backward(loss, taken)
        tally.add(taken, len(batch.images))
        loop(min((number + 1) * size, len(images)), len(images))
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


def places_of(calls: Sequence[Call], images: int, rng: np.random.Generator) -> list[Tensor]:
    """Places that rows of each call in one pass are taken at.

    Args:
        calls: of all readers.
        images: that are going to be looked at in all passes together.
        rng: draws them.
    """
    uses = Counter(call.reader.name for call in calls)
    found = []
    for call in calls:
        layout, size = call.reader.layout, call.size
        wanted = max(ROWS_PER_FEATURE * layout.features, FEWEST_ROWS) * BATCH
        wanted = ceil(wanted / max(images, 1))
        if call.kind == "convolution":  # places are of every picture of the batch
            wanted = ceil(wanted / BATCH)
        if call.block is None:
            wanted = ceil(wanted / uses[call.reader.name])
        if wanted >= size:
            found.append(torch.arange(size))
        else:
            found.append(torch.from_numpy(rng.integers(0, size, wanted)))
    return found


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
        end: whether gradients go no farther than to this call.
        handle: of the hook that fills energy and minded.
    """

    call: Call
    places: Tensor
    rows: Tensor
    energy: Tensor
    minded: Tensor
    end: bool
    handle: Any = None


class _Tally:
    """Adds up what the batches say."""

    def __init__(
        self,
        network: MultiTaskNetwork,
        groups: Sequence[ChannelGroup],
        images: int,
        share: float,
        folds: Mapping[str, Fold],
    ) -> None:
        self._network, self._groups, self._images = network, groups, images
        self._norms = {
            f"{name}.bias": fold.norm for name, fold in folds.items() if not fold.had_bias
        }
        self._factors = {f"{name}.weight": fold.factor for name, fold in folds.items()}
        self._backward = self._batches = 0
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
        found = places_of(calls, self._images, rng)
        taken = []
        for call, places, end in zip(calls, found, ends(calls), strict=True):
            reader, layout = call.reader, call.reader.layout
            self._readers.setdefault(reader.name, self._unfolded(reader))
            rows = call.rows(places)
            blocks, count = rows.shape[:2]
            one = _Taken(
                call,
                places,
                rows,
                torch.zeros(self._tasks, blocks, count),
                torch.zeros(2 * self._tasks, blocks, layout.outputs, dtype=torch.float64),
                end,
            )
            one.handle = call.node.register_prehook(self._hook(one))
            taken.append(one)
        return taken

    def _hook(self, one: _Taken) -> Callable[[tuple[Tensor, ...]], None]:
        def see(gradients: tuple[Tensor, ...]) -> None:
            gradient = gradients[0].detach()
            here = one.call.gradients(gradient, one.places)
            apart = 1 if one.call.kind == "convolution" else gradient.dim() - 1
            kept = {apart, 0} if one.call.kind == "batch" else {apart}
            summed = [dim for dim in range(gradient.dim()) if dim not in kept]
            # of channels that lie together in memory, a norm takes ten times as long as this
            whole = (gradient * gradient).sum(dim=summed).double()
            minded = one.minded[self._row + self._kind * self._tasks]
            whole = whole.reshape(minded.shape)
            if one.call.reader.name in self._factors:  # as the norm would have passed it on
                factor = self._factors[one.call.reader.name].reshape(minded.shape)
                here, whole = here * factor[:, None], whole * factor.double().square()
            one.energy[self._row] += here.pow(2).sum(dim=2)
            minded += whole

        return see

    def _unfolded(self, reader: Reader) -> Reader:
        """The same in the network whose norms are still there: a bias that a convolution got from
        its norm is that norm's mean."""
        constant = reader.constant
        if constant is None or constant[1] not in self._norms:
            return reader
        mean: Constant = ("mean", f"{self._norms[constant[1]]}.running_mean")
        return Reader(reader.layout, mean)

    def minding(self, row: int, labelled: bool, loss: float) -> None:
        """The next gradients are this task's: of its loss, or of a probe of its answers."""
        self._row, self._kind = row, 0 if labelled else 1
        self._losses[row] += loss if labelled else 0.0
        self._count[row + self._kind * self._tasks] += 1
        self._backward += 1

    def backward(self, loss: Tensor, taken: Sequence[_Taken]) -> None:
        """Let the hooks see this loss's gradients, from the outputs down to the first readers."""
        last = [one for one in taken if one.end]
        edges = [GradientEdge(one.call.node, 0) for one in last]
        found = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
        for one, gradient in zip(last, found, strict=True):
            if gradient is not None:  # of a node where the way ends the hook is not called
                self._hook(one)((gradient,))

    def add(self, taken: Sequence[_Taken], count: int) -> None:
        """Take the rows of a batch of ``count`` pictures into account."""
        self._images += count
        self._batches += 1
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
            1 + 2 * self._backward / max(self._batches, 1),
        )
