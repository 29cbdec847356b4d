"""From masks per picture to a few networks: clusters, widths a target likes, channels per cluster.

Pictures are clustered by their masks (k-medians under the Hamming distance, channels weighted by
the work they stand for). A prototype is as wide, group by group, as its pictures' masks are on
average, rounded up to the target's multiple, and keeps the channels that matter most to them. With
``nested`` all prototypes take prefixes of one common order and pictures are clustered by how much
they need; with one prototype this is a static mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.channels.groups import ChannelGroup, snapped_widths
from edgemtl.compress.cost import CostModel
from edgemtl.compress.dynamic.targets import Rule, cumulated_mass, mask_at
from edgemtl.errors import UsageError

ROUNDS = 25
STARTS = 4
#: steps of the bisection of the threshold that meets a budget, and the range of what it leaves out
#: (importance is so uneven that a budget of 0.8 may need a threshold of 0.9999)
BISECTIONS = 12
LEFT_OUT = (0.9, 1e-5)
#: in place of a sum of 0
TINY = 1e-12


@dataclass(frozen=True)
class Prototypes:
    """A few masks, and which picture has which.

    Attributes:
        keep: per prototype, cheapest first: group -> (width,) bool.
        assigned: (pictures,) index of each picture's prototype.
        macs: per prototype.
        threshold: share of the importance that the pictures' own masks hold.
        nested: whether the channels of each are among those of the next.
        need: where nested: per prototype, the mean work of the masks of the pictures that it was
            made for.
        weight: group -> work of one channel, in the unit of ``need``.
        rule: of the pictures' masks.
    """

    keep: tuple[dict[str, Tensor], ...]
    assigned: NDArray[np.int64]
    macs: tuple[float, ...]
    threshold: float
    nested: bool
    need: tuple[float, ...] = ()
    weight: Mapping[str, float] = field(default_factory=dict)
    rule: Rule = "cover"

    @property
    def mean_macs(self) -> float:
        """Over the pictures they were made from."""
        return float(np.asarray(self.macs)[self.assigned].mean())

    def nearest(self, importance: Mapping[str, Tensor]) -> NDArray[np.int64]:
        """(pictures,) the prototype that holds most of each picture's importance.

        Of nested ones that would be the widest for all, so there it is the one made for pictures
        whose masks need as much work.

        Args:
            importance: group -> (pictures, width), as for :func:`make_prototypes`.
        """
        if self.nested:
            masks = {
                n: mask_at(*cumulated_mass(v), self.threshold, self.rule, 1)
                for n, v in importance.items()
            }
            apart = np.abs(_need(masks, self.weight)[:, None] - np.array(self.need))
            nearest: NDArray[np.int64] = apart.argmin(axis=1).astype(np.int64)
            return nearest
        found: NDArray[np.int64] = held(self.keep, importance).argmax(axis=0).astype(np.int64)
        return found

    def needed(self, importance: Mapping[str, Tensor], fewest: int) -> Prototypes:
        """Without prototypes that are the nearest of fewer than so many pictures.

        They go one by one, the least needed first, and their pictures to the next best; one stays.
        :attr:`assigned` is then that of these pictures.

        Args:
            importance: group -> (pictures, width), as for :func:`make_prototypes`.
            fewest: pictures that make a prototype worth having.
        """
        made = self
        while True:
            assigned = made.nearest(importance)
            count = np.bincount(assigned, minlength=len(made.keep))
            if count.min() >= fewest or len(made.keep) == 1:
                return replace(made, assigned=assigned)
            gone = int(count.argmin())
            keep = made.keep[:gone] + made.keep[gone + 1 :]
            macs = made.macs[:gone] + made.macs[gone + 1 :]
            made = replace(
                made, keep=keep, macs=macs, need=made.need[:gone] + made.need[gone + 1 :]
            )


def _need(masks: Mapping[str, Tensor], weight: Mapping[str, float]) -> NDArray[np.float64]:
    """(pictures,) work of each picture's own mask."""
    parts = [weight[name] * mask.sum(dim=1).double() for name, mask in masks.items()]
    return torch.stack(parts).sum(dim=0).numpy()


def held(
    keep: Sequence[Mapping[str, Tensor]], importance: Mapping[str, Tensor]
) -> NDArray[np.float64]:
    """(masks, pictures) share of each picture's importance that each mask holds, mean of groups."""
    found = []
    for mask in keep:
        parts = []
        for name, value in importance.items():
            total = value.sum(dim=1)
            share = value[:, mask[name]].sum(dim=1) / total.clamp_min(TINY)
            parts.append(torch.where(total > 0, share, 1.0).double())
        found.append(torch.stack(parts).mean(dim=0).numpy())
    return np.stack(found)


def make_prototypes(
    importance: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    model: CostModel,
    *,
    count: int,
    kept: float,
    multiple: int,
    nested: bool = False,
    rule: Rule = "cover",
    seed: int = 0,
) -> Prototypes:
    """Prototypes whose mean cost over the pictures meets a budget.

    Args:
        importance: group -> (pictures, width) not negative: how much each channel matters to each
            picture (its activation mass, times what the channel matters to the tasks).
        groups: of the network; those without importance stay whole.
        model: cost of the network.
        count: prototypes wanted; fewer come back when there are fewer different masks.
        kept: share of the dense network's multiply-accumulates, mean over the pictures, at most.
        multiple: widths stay multiples of it, see ``snapped_widths``.
        nested: see the module.
        rule: of the pictures' masks.
        seed: of the clusters' starts.

    Raises:
        UsageError: the budget cannot be met, or is no share.
    """
    if count < 1 or not 0 < kept <= 1:
        raise UsageError("there is at least one prototype, and the share kept is in 0..1")
    by_name = {group.name: group for group in groups}
    choices = {name: snapped_widths(by_name[name], multiple) for name in importance}
    ranked = {name: cumulated_mass(value) for name, value in importance.items()}
    dense = float(model.macs({}))
    weight = {
        name: (dense - float(model.macs({name: value.shape[1]}))) / value.shape[1]
        for name, value in importance.items()
    }

    def at(threshold: float, spare: float = 0.0) -> Prototypes:
        masks = {name: mask_at(*ranked[name], threshold, rule, 1) for name in ranked}
        return _at(
            importance, masks, choices, model, weight, count, nested, threshold, seed, rule, spare
        )

    low, high = (float(np.log(left)) for left in LEFT_OUT)
    found = at(1 - LEFT_OUT[0])
    if found.mean_macs > kept * dense:
        raise UsageError(
            f"a share of {kept:.2f} cannot be met, masks leave {found.mean_macs / dense:.2f}",
            hint="lower the channel multiple, or prune the network first",
        )
    widest = at(1 - LEFT_OUT[1])
    if widest.mean_macs <= kept * dense:
        # Masks that hold all the importance cost less than the budget: what is left of it goes to
        # channels that seem to matter to nobody, in every group the same share of them.
        found, low, high = widest, 0.0, 1.0
    seems_enough = found is widest
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        trial = at(1 - LEFT_OUT[1], middle) if seems_enough else at(1 - float(np.exp(middle)))
        if trial.mean_macs <= kept * dense:
            low = middle
            found = trial if trial.mean_macs >= found.mean_macs else found
        else:
            high = middle
    return found


def _at(
    importance: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    choices: Mapping[str, list[int]],
    model: CostModel,
    weight: Mapping[str, float],
    count: int,
    nested: bool,
    threshold: float,
    seed: int,
    rule: Rule,
    spare: float,
) -> Prototypes:
    """One trial; ``spare`` is the share of the channels outside the masks that stays as well."""
    bits = np.concatenate([mask.numpy() for mask in masks.values()], axis=1)
    per_bit = np.concatenate([np.full(mask.shape[1], weight[n]) for n, mask in masks.items()])
    if nested:
        bits = (bits * per_bit).sum(axis=1, keepdims=True)
        per_bit = np.ones(1)
    labels = cluster(bits.astype(np.float64), per_bit, count, seed)
    keep: list[dict[str, Tensor]] = []
    for label in range(int(labels.max()) + 1):
        members = torch.from_numpy(np.flatnonzero(labels == label))
        chosen = {}
        for name, mask in masks.items():
            wanted = float(mask[members].sum(dim=1).double().mean())
            wanted += spare * (mask.shape[1] - wanted)
            width = next((w for w in choices[name] if w >= wanted), choices[name][-1])
            score = importance[name] if nested else importance[name][members]
            share = (score / score.sum(dim=1, keepdim=True).clamp_min(TINY)).mean(dim=0)
            best = share.argsort(descending=True, stable=True)[:width]
            chosen[name] = torch.zeros(len(share), dtype=torch.bool).index_fill(0, best, True)
        keep.append(chosen)
    macs = [float(model.macs({n: int((~m).sum()) for n, m in one.items()})) for one in keep]
    work = _need(masks, weight)
    need = [float(work[labels == label].mean()) for label in range(len(keep))]
    order = np.argsort(macs, kind="stable")
    place = np.argsort(order)
    return Prototypes(
        tuple(keep[i] for i in order),
        place[labels].astype(np.int64),
        tuple(macs[i] for i in order),
        threshold,
        nested,
        tuple(need[i] for i in order),
        weight,
        rule,
    )


def cluster(
    points: NDArray[np.float64], weights: NDArray[np.float64], count: int, seed: int
) -> NDArray[np.int64]:
    """(pictures,) labels 0..k-1, none empty, by weighted k-medians; the best of a few starts.

    For bits the median is the majority and the distance Hamming's.

    Args:
        points: (pictures, values).
        weights: (values,) of the distance.
        count: clusters wanted.
        seed: of the starts.
    """
    rng = np.random.default_rng(seed)
    best, best_cost = np.zeros(len(points), np.int64), np.inf
    for _ in range(STARTS):
        labels, cost = _clustered(points, weights, count, rng)
        if cost < best_cost:
            best, best_cost = labels, cost
    return np.unique(best, return_inverse=True)[1].astype(np.int64)


def _clustered(
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], float]:
    centres = [points[int(rng.integers(len(points)))]]
    while len(centres) < min(count, len(points)):
        nearest = _distances(points, np.stack(centres), weights).min(axis=1)
        if nearest.sum() <= 0:
            break
        centres.append(points[int(rng.choice(len(points), p=nearest / nearest.sum()))])
    middle = np.stack(centres)
    labels = np.full(len(points), -1, np.int64)
    for _ in range(ROUNDS):
        distances = _distances(points, middle, weights)
        found = distances.argmin(axis=1)
        if np.array_equal(found, labels):
            break
        labels = found
        for index in range(len(middle)):
            if (labels == index).any():
                middle[index] = np.median(points[labels == index], axis=0)
    return labels, float(distances.min(axis=1).sum())


def _distances(
    points: NDArray[np.float64], centres: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(pictures, centres) weighted sums of absolute differences."""
    return np.stack([np.abs(points - centre) @ weights for centre in centres], axis=1)
