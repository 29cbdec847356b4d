"""Cut groups of a copy and look: does it run, does it answer as the masked one, does it train?"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.channels.equivalence import relative_differences
from edgemtl.compress.channels.groups import FLOOR, ChannelGroup
from edgemtl.compress.channels.mask import MaskedNetwork
from edgemtl.compress.channels.record import build_record
from edgemtl.compress.channels.where import line_of_error
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.surgery import apply_record, example_images

#: difference between masked and cut, relative to an output's range, that means a wrong cut; far
#: above rounding, far below what a misplaced channel does
_WRONG = 1e-4
#: a weight below this everywhere may hide what is computed behind it
_SILENT = 1e-2


class Rehearsal:
    """Cuts of one network, on trial.

    A copy is tried whose silent weights (a residual branch that starts at zero) speak, so that
    what a cut does wrong shows.
    """

    def __init__(self, network: MultiTaskNetwork) -> None:
        silent = copy.deepcopy(network).eval().requires_grad_(False)
        first = example_images(network)
        self._images = [network.example_input(1, seed=seed).to(first) for seed in range(3)]
        speaking = copy.deepcopy(silent)
        self._network = speaking if _speak(speaking, self._images[0]) else silent

    def problem(self, groups: Sequence[ChannelGroup]) -> str | None:
        """Why these cannot be cut.

        Every group is tried one unit narrower, at its narrowest, and in between, each time on
        another picture and beside others of another width: code may take the width of one for
        that of another.

        Returns:
            One sentence; None when nothing is wrong.
        """
        return self._first_problem(groups, len(self._images))

    def quick_problem(self, groups: Sequence[ChannelGroup]) -> str | None:
        """As :meth:`problem`, leaving out the widths in between."""
        return self._first_problem(groups, 2)

    def _first_problem(self, groups: Sequence[ChannelGroup], tries: int) -> str | None:
        for number, images in enumerate(self._images[:tries]):
            keep = {
                group.name: _kept(group, _width(group, place, number))
                for place, group in enumerate(groups)
            }
            reason = self._compared(groups, keep, images)
            if reason is not None:
                return reason
        return None

    def _compared(
        self, groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor], images: Tensor
    ) -> str | None:
        """Whether cutting these equals masking them, by value."""
        try:
            smaller = _cut(self._network, groups, keep)
            with torch.no_grad():
                answers = smaller(images)  # most of what fails fails here already
                expected = self._masked(groups, keep)(images)
            found = relative_differences(expected, answers)
        except Exception as error:  # whatever a forward raises when a size does not fit
            return _by_hand(error)
        for output, difference in found.items():
            if answers[output].shape != expected[output].shape:
                return f"cutting them changes the shape of output '{output}'"
            if not difference <= _WRONG:
                return (
                    f"cut, output '{output}' differs by {difference:.1g} of its range from the "
                    "masked network's: code depends on how many there are"
                )
        return None

    def _masked(self, groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]) -> MaskedNetwork:
        masked = MaskedNetwork(self._network, groups)
        for name, mask in keep.items():
            masked.set_mask(name, mask)
        return masked


def training_problem(network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> str | None:
    """Why the network cannot be trained any more with these groups at their narrowest.

    One pass forward and back of a copy in training mode; statistics of norms and the state of
    random numbers are as they were afterwards.

    Returns:
        One sentence; None when nothing is wrong, or the network cannot be trained that way uncut.
    """
    keep = {group.name: _kept(group, _narrowest(group)) for group in groups}
    images = network.example_input(2)
    images = images.to(example_images(network))
    try:
        _train_once(_cut(network, groups, keep), images)
    except Exception as error:  # whatever a forward raises when a size does not fit
        try:
            _train_once(copy.deepcopy(network), images)
        except Exception:  # losses that need labels, for instance
            return None
        return f"in training mode, {_by_hand(error)}"
    return None


def _train_once(network: MultiTaskNetwork, images: Tensor) -> None:
    with same_random_numbers(), torch.enable_grad():
        answers: Any = network.train().requires_grad_(True)(images)
        values = answers.values() if isinstance(answers, Mapping) else [answers]
        total = [v.float().mean() for v in values if isinstance(v, Tensor) and v.requires_grad]
        if total:
            torch.stack(total).sum().backward()  # type: ignore[no-untyped-call]


def _by_hand(error: Exception) -> str:
    """An exception in a cut network's forward, as a reason."""
    line = line_of_error(error)
    text = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
    return f"a forward counts them by hand{f' at {line}' if line else ''} ({said})"


def _narrowest(group: ChannelGroup) -> int:
    """As few units as any search may leave."""
    return max(1, ceil(FLOOR * group.width))


def _width(group: ChannelGroup, place: int, number: int) -> int:
    """Units left in the try of this number: one less, the fewest, or something in between."""
    least, most = _narrowest(group), group.width - 1
    if number < 2:
        return most if (place + number) % 2 == 0 else least
    return least + (place * 7 + 3) % (most - least + 1)


def _kept(group: ChannelGroup, width: int) -> Tensor:
    """(width,) bool with so many units left, never the first one."""
    generator = torch.Generator().manual_seed(group.width)
    order = torch.randperm(group.width - 1, generator=generator) + 1
    keep = torch.zeros(group.width, dtype=torch.bool)
    keep[order[:width]] = True
    return keep


def _cut(
    network: MultiTaskNetwork, groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]
) -> MultiTaskNetwork:
    copied = copy.deepcopy(network)
    apply_record(copied, build_record(copied, groups, keep))
    return copied


@torch.no_grad()
def _speak(network: MultiTaskNetwork, images: Tensor) -> bool:
    """Give weights that are next to nothing everywhere some values, always the same ones.

    Returns:
        Whether there were any, and the network still answers with finite numbers.
    """
    generator = torch.Generator().manual_seed(0)
    found = False
    for parameter in network.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        if float(parameter.abs().max()) < _SILENT:
            values = torch.rand(parameter.shape, generator=generator) + 0.5
            if parameter.dim() > 1:
                values = (values - 1.0) * 2 / parameter[0].numel() ** 0.5
            parameter.copy_(values)
            found = True
    return found and all(bool(v.isfinite().all()) for v in network(images).values())


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Leave the random numbers of torch, numpy and Python as they were."""
    ours, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002
