"""A network whose channels are switched per picture: the reference, by multiplication.

Nothing of the network's code is changed: hooks before the layers predict, multiply and look. It
computes everything and saves nothing; it is for training, evaluation and for learning which masks
occur. What is deployed is made from those (see ``prototypes.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgemtl.compress.dynamic.predictor import MaskPredictor, PredictorOptions
from edgemtl.compress.dynamic.sites import Reader, Site
from edgemtl.compress.dynamic.targets import Rule, target_mask
from edgemtl.errors import StageFailed, UsageError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.surgery import example_images

#: what multiplies: nothing, the heads' predictions, the targets themselves, masks from outside
Mode = Literal["dense", "predicted", "target", "given"]


@dataclass(frozen=True)
class MaskOptions:
    """Which masks are wanted.

    Attributes:
        threshold: share of the activation mass that a picture's channels hold, in 0..1.
        rule: see ``targets.py``.
        minimum: fewest channels of a group that stay on.
        detached: heads learn from inputs without shaping the layers below (decoupled training);
            otherwise the head's loss also makes the layers predictable (joint training).
        predictor: how heads are built.
    """

    threshold: float = 0.9
    rule: Rule = "paper"
    minimum: int = 1
    detached: bool = True
    predictor: PredictorOptions = field(default_factory=PredictorOptions)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"the mass threshold is {self.threshold:g}, it lies above 0, up to 1")
        if self.minimum < 1:
            raise UsageError("at least one channel of a group stays on")


@dataclass
class Seen:
    """What one pass through the network showed, per group.

    Attributes:
        mass: (B, width) largest |activation| over the pixels.
        logits: (B, rows, width) of the heads.
        target: (B, rows, width) bool.
        mask: (B, width) bool, what was multiplied with.
    """

    mass: dict[str, Tensor] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)
    target: dict[str, Tensor] = field(default_factory=dict)
    mask: dict[str, Tensor] = field(default_factory=dict)


class DynamicNetwork(nn.Module):
    """A network with a mask head per group.

    Args:
        network: any registered network; hooks are put on it until :meth:`remove`.
        sites: groups to mask, see ``mask_sites``; those whose layers do not run exactly once, the
            writer before its readers, are left dense.
        options: see :class:`MaskOptions`.
        weights: group -> (tasks, width) not negative: how much each channel matters to each task.
            Masks are then per task, and a request for several tasks keeps what any of them needs.
            Without it a mask says nothing about tasks, as in the paper.

    Attributes:
        mode: what multiplies in the next pass.
        seen: what the last pass showed.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        sites: Sequence[Site],
        options: MaskOptions | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.options = options or MaskOptions()
        self.tasks = tuple(task.name for task in network.tasks)
        self.sites = _in_order(network, sites)
        self.rows = 1 if weights is None else len(self.tasks)
        self._weights = None if weights is None else {k: v.float() for k, v in weights.items()}
        self.heads = nn.ModuleDict(
            {
                _key(site.name): MaskPredictor(site, self.rows, self.options.predictor)
                for site in self.sites
            }
        )
        self.train(network.training)
        self.mode: Mode = "predicted"
        self.given: Mapping[str, Tensor] = {}
        self.seen = Seen()
        self._requested: tuple[str, ...] = self.tasks
        #: hooks act only within a pass of ours, not when somebody else runs the network
        self.running = False
        self._handles = []
        modules = dict(network.named_modules())
        writes = {site.writer: site for site in self.sites}
        reads: dict[str, list[tuple[Site, Reader]]] = {}
        for site in self.sites:
            for reader in site.readers:
                reads.setdefault(reader.module, []).append((site, reader))
        for path in dict.fromkeys([*reads, *writes]):
            hook = _Hook(self, reads.get(path, []), writes.get(path))
            self._handles.append(modules[path].register_forward_pre_hook(hook))

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The network's outputs, masked as :attr:`mode` says; see its own ``forward``."""
        self.seen = Seen()
        self._requested = self.tasks if tasks is None else tuple(tasks)
        self.running = True
        try:
            answers: dict[str, Tensor] = self.network(images, tasks)
        finally:
            self.running = False
        return answers

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def head(self, name: str) -> MaskPredictor:
        """The head of a group."""
        found = self.heads[_key(name)]
        assert isinstance(found, MaskPredictor)
        return found

    @property
    def head_macs(self) -> int:
        """Multiply-accumulates of all heads for one picture."""
        return sum(self.head(site.name).macs for site in self.sites)

    def row_names(self) -> tuple[str, ...]:
        """What the rows of logits and targets stand for."""
        return ("",) if self.rows == 1 else self.tasks

    # What the hooks call.

    def predict(self, site: Site, x: Tensor) -> None:
        """Logits of a group from what its writer is about to read."""
        if self.mode in ("predicted", "target"):
            head_input = x.detach() if self.options.detached else x
            self.seen.logits[site.name] = self.head(site.name)(head_input)

    def mask_of(self, site: Site, reader: Reader, x: Tensor) -> Tensor | None:
        """(B, width) factor for what a reader is about to read; None for no change."""
        seen = self.seen
        if site.name not in seen.mass:
            seen.mass[site.name] = _mass(reader, x).detach()
            if self.mode in ("predicted", "target"):
                seen.target[site.name] = self.targets(site, seen.mass[site.name])
            mask = self._mask(site, len(x))
            if mask is not None:
                seen.mask[site.name] = mask
        return seen.mask.get(site.name)

    @torch.no_grad()
    def targets(self, site: Site, mass: Tensor) -> Tensor:
        """(B, rows, width) the masks that pictures with this activation mass should have."""
        options = self.options
        if self._weights is None:
            found = [target_mask(mass, options.threshold, options.rule, options.minimum)]
        else:
            off = torch.zeros(mass.shape, dtype=torch.bool)
            found = [
                target_mask(mass * weight, options.threshold, options.rule, options.minimum)
                if name in site.tasks
                else off
                for name, weight in zip(self.tasks, self._weights[site.name], strict=True)
            ]
        return torch.stack(found, dim=1)

    def _mask(self, site: Site, batch: int) -> Tensor | None:
        if self.mode == "dense":
            return None
        if self.mode == "given":
            given = self.given.get(site.name)
            return None if given is None else given.expand(batch, -1)
        rows = self.seen.target[site.name]
        if self.mode == "predicted":
            logits = self.seen.logits[site.name].detach()
            strongest = logits.topk(min(self.options.minimum, site.width), dim=2).indices
            rows = (logits > 0).scatter(2, strongest, True)
        if self.rows > 1:
            wanted = [n in self._requested and n in site.tasks for n in self.tasks]
            rows = rows[:, torch.tensor(wanted)]
        mask = rows.any(dim=1)
        # No requested task reads the group: what it is does not matter, but nothing may be empty.
        return mask | ~mask.any(dim=1, keepdim=True)


class _Hook:
    """Runs before a layer: what it reads is masked first, then used to predict."""

    def __init__(
        self, owner: DynamicNetwork, reads: list[tuple[Site, Reader]], writes: Site | None
    ) -> None:
        self._owner, self._reads, self._writes = owner, reads, writes

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self._owner.running:
            return None
        x: Tensor = args[0]
        axis = -1 if isinstance(module, nn.Linear) else 1
        for site, reader in self._reads:
            mask = self._owner.mask_of(site, reader, x)
            if mask is not None:
                x = _masked(x, mask, reader, axis)
        if self._writes is not None:
            self._owner.predict(self._writes, x)
        return (x, *args[1:])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        raise StageFailed("a network with mask heads on it cannot be copied; remove them first")


def _masked(x: Tensor, mask: Tensor, reader: Reader, axis: int) -> Tensor:
    positions = torch.tensor(reader.positions)
    factor = torch.ones(len(x), x.shape[axis])
    factor[:, positions] = mask.float().repeat_interleave(reader.per_unit, dim=1)
    shape = [len(x)] + [1] * (x.dim() - 1)
    shape[axis] = x.shape[axis]
    return x * factor.to(x).view(shape)


def _mass(reader: Reader, x: Tensor) -> Tensor:
    """(B, width) largest |activation| of each unit."""
    if x.dim() == 4:
        largest = x.abs().amax(dim=(2, 3))
    else:  # (B, ..., features) of a linear layer
        largest = x.abs().flatten(1, -2).amax(dim=1) if x.dim() > 2 else x.abs()
    picked = largest[:, torch.tensor(reader.positions)]
    return picked.float().view(len(x), -1, reader.per_unit).amax(dim=2)


def _key(name: str) -> str:
    """A group's name as a key of a ModuleDict, which takes no dots."""
    return name.replace(".", "/")


def _in_order(network: MultiTaskNetwork, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites whose layers run once, the writer first, in the order they run."""
    calls: list[str] = []
    modules = dict(network.named_modules())
    paths = {site.writer for site in sites} | {r.module for s in sites for r in s.readers}

    def note(path: str) -> Any:
        return lambda module, args: calls.append(path)

    handles = [modules[path].register_forward_pre_hook(note(path)) for path in sorted(paths)]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(example_images(network))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    first = {path: index for index, path in reversed(list(enumerate(calls)))}
    fit = [
        site
        for site in sites
        if all(calls.count(p) == 1 for p in (site.writer, *(r.module for r in site.readers)))
        and all(first[site.writer] < first[reader.module] for reader in site.readers)
    ]
    if not fit:
        raise StageFailed(
            "the network has no group of channels that can be masked per picture",
            hint="a group needs one convolution that writes it, and layers that read it, run once",
        )
    return tuple(sorted(fit, key=lambda site: first[site.writer]))
