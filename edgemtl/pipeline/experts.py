"""Networks with experts on their way to ONNX: which experts stay, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgemtl.data.concat import thinned
from edgemtl.data.preprocess import letterbox
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused, UsageError
from edgemtl.exporting.mixtures import dense_mixtures
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.experts import BUILD_WITH, ExpertNetwork, Lowering
from edgemtl.recipes import Recipe

#: capacities are rounded up to a multiple of this: products compute rows of a few tokens at once
CAPACITY_MULTIPLE = 8
#: capacities are at least the mean queue and this many standard deviations. The longest of few
#: queues is soon exceeded; this stays the same, however few pictures there are.
DEVIATIONS = 2.5


@dataclass(frozen=True)
class ExpertsChoice:
    """What is asked for.

    Attributes:
        lowering: how experts are written.
        drop_unused: leave out experts that no calibration picture uses.
        images: calibration pictures to count their use on.
        headroom: capacity of ``static`` over the largest queue that was seen, expert by expert.
    """

    lowering: Lowering
    drop_unused: bool
    images: int
    headroom: float


def has_experts(network: MultiTaskNetwork) -> bool:
    """Whether a network has any expert to choose."""
    return isinstance(network, ExpertNetwork) and bool(network.experts_kept())


def check_experts(network: MultiTaskNetwork, recipe: Recipe) -> None:
    """Refuse what a recipe asks of experts that cannot be written so.

    Raises:
        UsageError: the network has no mixture of ours, and ways to write one or to leave experts
            out are asked for.
    """
    asked = recipe.export
    sparse = asked.experts not in (None, "dense")
    if has_experts(network) or not (sparse or asked.drop_experts):
        return
    key = "export.experts" if sparse else "export.drop_experts"
    wanted = f"experts written as '{asked.experts}'" if sparse else "unused experts left out"
    mixtures = dense_mixtures(network)
    has = "the network has no mixture of experts"
    if mixtures:
        first = mixtures[0]
        has = (
            f"the mixture '{first.module}' ({first.picked} of {first.of} are picked) is not one "
            "that can be written sparsely: all its experts are computed"
        )
    raise UsageError(
        f"{wanted} is asked for, but {has}",
        where=key,
        hint=f"leave the key out, or {BUILD_WITH}",
    )


def prepare_experts(
    network: MultiTaskNetwork,
    tasks: Sequence[str],
    choice: ExpertsChoice,
    calibration: Dataset,
) -> tuple[MultiTaskNetwork, dict[str, Any]]:
    """A network whose experts are as they are to be exported, and what was done, as plain data.

    Args:
        network: with experts; left as it is.
        tasks: that are kept.
        choice: see there.
        calibration: pictures that say how experts are used.

    Raises:
        InputRefused: no calibration picture decodes.
    """
    assert isinstance(network, ExpertNetwork)
    wanted = [task.name for task in network.selected(tasks)]
    total, queues = _use(network, wanted, choice.images, calibration)
    before = network.experts_kept()
    kept = before
    if choice.drop_unused:
        # An expert is used if any picture's token chose it, so at least K of them are.
        kept = [
            [number for number in numbers if count[number] > 0]
            for numbers, count in zip(before, total, strict=True)
        ]
    prepared = network.keeping_experts(kept)
    facts: dict[str, Any] = {
        "lowering": choice.lowering,
        "tokens": total,
        "kept": kept,
        "dropped": sum(len(a) - len(b) for a, b in zip(before, kept, strict=True)),
    }
    capacity: list[list[int]] | None = None
    if choice.lowering == "static":
        capacity = [
            [_capacity(layer[:, number], choice.headroom) for number in numbers]
            for layer, numbers in zip(queues, kept, strict=True)
        ]
        facts["capacity"] = capacity
    prepared.set_lowering(choice.lowering, capacity)
    return prepared, facts


def _capacity(lengths: torch.Tensor, headroom: float) -> int:
    """Room for the queue of an expert that was as long as this, (pictures,), on calibration."""
    seen = lengths.double()
    usual = float(seen.mean() + DEVIATIONS * seen.std()) if len(seen) > 1 else 0.0
    # An expert that nobody used has some room too: that nobody chose it is no more than likely.
    wanted = max(float(seen.max()) * headroom, usual, 1.0)
    return CAPACITY_MULTIPLE * math.ceil(wanted / CAPACITY_MULTIPLE)


def _use(
    network: ExpertNetwork, tasks: Sequence[str], images: int, calibration: Dataset
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Per layer: tokens per expert over all pictures and tasks; (pictures, E) lengths of queues."""
    total: list[torch.Tensor] = []
    queues: list[list[torch.Tensor]] = []
    for sample in thinned(calibration, images):
        canvas = torch.from_numpy(letterbox(sample.image, network.input_spec)[0])[None]
        use = network.expert_use(canvas, tasks)
        if not total:
            total = [torch.zeros_like(layer.queues) for layer in use]
            queues = [[] for _ in use]
        for layer, found in enumerate(use):
            total[layer] += sum(found.loads.values())
            queues[layer].append(found.queues)
    if not total:
        raise InputRefused("no calibration picture could be read", where=calibration.name)
    return [[int(value) for value in layer] for layer in total], [torch.stack(q) for q in queues]


def experts_told(facts: Mapping[str, Any]) -> str:
    """One sentence about what :func:`prepare_experts` did."""
    kept = [len(layer) for layer in facts["kept"]]
    said = f"experts per layer {', '.join(map(str, kept))}, written as '{facts['lowering']}'"
    if facts["dropped"]:
        said += f"; {facts['dropped']} that no calibration picture uses were dropped"
    if "capacity" in facts:
        each = [", ".join(map(str, layer)) for layer in facts["capacity"]]
        said += f"; room for {' | '.join(each)} tokens"
    return said
