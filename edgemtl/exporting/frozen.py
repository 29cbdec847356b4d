"""What a traced graph cannot hold: decisions by values, and weights that no output depends on.

Tracing keeps the operators that ran for one picture. A decision that Python takes by the picture's
values is kept as it fell, with the weights of that branch only, and nothing in the graph shows it.
So a network is watched on several pictures before it is exported (exporting/watch.py).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgemtl.errors import InputRefused, StageFailed
from edgemtl.exporting.watch import Read, Seen, watch
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.user_code import Place

_INSTEAD = (
    "write it with tensors: compute both sides and choose by torch.where, or compute every expert "
    "and weigh its answer by the gate (zero where it is not chosen)"
)


@dataclass(frozen=True)
class Watched:
    """A network whose decisions are the same for every picture that was tried.

    Attributes:
        seen: the first pass.
        sized: lines that asked for a size which was not the same for every picture.
        notes: what the reader must know; empty when there is nothing to say.
    """

    seen: Seen
    sized: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def trial_images(network: MultiTaskNetwork, batch: int) -> list[Tensor]:
    """Three unlike inputs, each (batch, 3, H, W): noise, bright noise of low contrast, a ramp."""
    first = network.example_input(batch)
    other = network.example_input(batch, seed=1)
    ramp = torch.linspace(float(first.min()), float(first.max()), first.shape[-1])
    return [first, 0.25 * other + 0.5 * float(other.max()), ramp.expand_as(first).contiguous()]


def check_static(network: MultiTaskNetwork, tasks: Sequence[str], batch: int = 1) -> Watched:
    """Refuse a network that decides in Python by what it sees.

    Args:
        network: a copy that nobody else uses, in eval mode.
        tasks: names of the tasks that are kept.
        batch: images per run.

    Raises:
        InputRefused: its forward raises.
        StageFailed: a line reads the picture's values, or the operators are not the same for every
            picture.
    """
    several = trial_images(network, batch)
    passes = [watch(network, images, tasks) for images in several]
    first = passes[0]
    unused = [name for name, _ in network.named_parameters() if name not in first.used]
    checks: dict[tuple[str, int], Read] = {}
    reads: dict[tuple[str, int], Read] = {}
    for seen in passes:
        for key, read in seen.reads.items():
            (checks if read.asserts else reads).setdefault(key, read)
    if reads:
        lines = list(reads.values())
        others = "".join(f"; {read.place}: `{read.place.code}`" for read in lines[1:3])
        raise _frozen(
            f"Python decides by the picture's values ({lines[0].by}) in "
            f"`{lines[0].place.code}`{others}",
            network,
            unused,
            lines[0].place,
        )
    for index, seen in enumerate(passes[1:], 1):
        if seen.operators != first.operators:
            _refuse_if_it_depends_on_the_image(network, tasks, several, index, unused)
            break
    notes = [
        f"{read.place}: `{read.place.code}` is not checked in the graph" for read in checks.values()
    ]
    if unused:
        notes += _told(network, tasks, unused, several[0])
    sized = [key for key, shapes in first.sized.items() if _differ(shapes, key, passes[1:])]
    return Watched(first, tuple(sized), tuple(notes))


def _differ(shapes: list[tuple[int, ...]], key: tuple[str, int], others: Sequence[Seen]) -> bool:
    return any(seen.sized.get(key) != shapes for seen in others)


def refuse_sized_branches(watched: Watched, decided: Collection[tuple[str, int]]) -> None:
    """Refuse a decision by a size that depends on values, which only tracing shows.

    Args:
        watched: what :func:`check_static` found.
        decided: (file, line) where a traced size became a number.

    Raises:
        StageFailed: there is one.
    """
    for file, line in watched.sized:
        if (file, line) in decided:
            raise StageFailed(
                "Python decides by how many values were chosen; the graph would keep the choice "
                "that was made for one picture",
                where=f"{file}:{line}",
                hint=_INSTEAD,
            )


def _frozen(what: str, network: MultiTaskNetwork, unused: list[str], place: Place) -> StageFailed:
    missing = ""
    if unused:
        missing = f", without {_counted(network, unused)}"
    return StageFailed(
        f"{what}; the graph would keep the choice that was made for one picture{missing}",
        where=str(place),
        hint=_INSTEAD,
    )


def _counted(network: MultiTaskNetwork, names: Sequence[str]) -> str:
    """How many values these parameters hold, of how many, and the first of them."""
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    total, lost = sum(sizes.values()), sum(sizes[name] for name in names)
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{lost:,} of {total:,} parameters ({lost / max(total, 1):.0%}: {first})"


def _refuse_if_it_depends_on_the_image(
    network: MultiTaskNetwork,
    tasks: Sequence[str],
    several: Sequence[Tensor],
    index: int,
    unused: list[str],
) -> None:
    """Tell a choice by value from something that only the first run does, a table that is kept."""
    again, other = (watch(network, several[k], tasks).operators for k in (0, index))
    if again == other:
        return
    steps = zip(again, other, strict=False)
    differs = next((k for k, (a, b) in enumerate(steps) if a != b), min(len(again), len(other)))
    place = watch(network, several[index], tasks, locate=differs).place
    raise _frozen(
        "the network runs other operators for another picture",
        network,
        unused,
        place or Place("", "", 0, ""),
    )


def _told(
    network: MultiTaskNetwork, tasks: Sequence[str], unused: list[str], images: Tensor
) -> list[str]:
    """Why parameters are in no output: tasks left out, training only, or nothing uses them."""
    left = list(unused)
    if len(tasks) < len(network.tasks):
        whole = watch(network, images, None).used
        left = [name for name in unused if name not in whole]
    if not left:
        return []
    trained = _used_in_training(network, images)
    notes = []
    for names, why in (
        ([name for name in left if name in trained], "only training uses"),
        ([name for name in left if name not in trained], "no output depends on"),
    ):
        if names:
            notes.append(f"left out: {_counted(network, names)}, which {why}")
    return notes


def _used_in_training(network: MultiTaskNetwork, images: Tensor) -> frozenset[str]:
    """Parameters that a training pass reads; none where it does not run on pictures alone."""
    copied = copy.deepcopy(network).train()
    try:
        with torch.random.fork_rng(devices=[]):
            return watch(copied, torch.cat([images, images]), None).touched
    except InputRefused:
        return frozenset()
