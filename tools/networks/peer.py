"""Torch-Pruning at half width, and whether its cut is exact.

Torch-Pruning's dependency graph is asked to halve every group it finds. *Exact* means here what it
means for our own cuts: removing channels gives the answers of the network in which whatever reads
them is multiplied by zero. Each group is masked that way first, then cut, and the two answers are
compared, group by group.
"""

from __future__ import annotations

import copy
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.models import MultiTaskNetwork

#: largest difference between masked and cut, as a share of the output, that counts as exact
EXACT = 1e-5


@dataclass(frozen=True)
class PeerCut:
    """What Torch-Pruning made of a network.

    Attributes:
        network: halved; None where it failed.
        difference: largest difference between masked and cut over all groups, as a share of the
            larger of an output's span and its largest magnitude; infinite for another shape.
        groups: that it cut.
        failure: what it raised; empty when it ran.
    """

    network: MultiTaskNetwork | None
    difference: float
    groups: int
    failure: str = ""

    @property
    def exact(self) -> bool:
        """Whether it ran and cut what it would have masked."""
        return self.network is not None and self.difference <= EXACT


def halve(
    network: MultiTaskNetwork,
    outputs: Sequence[str],
    groups: Sequence[ChannelGroup] = (),
    share: float = 0.5,
    limit_s: int = 60,
) -> PeerCut:
    """Keep ``share`` of every group of channels and of attention heads that the peer finds.

    Args:
        network: left as it is.
        outputs: paths of the layers that write outputs, which keep their width.
        groups: ours, for which channels it removes: whole units of them where it can.
        share: kept, in 0..1.
        limit_s: seconds of a processor that it may take; its walk through a graph with many
            in-place copies, as circular padding makes, does not end.
    """
    import torch_pruning as tp

    copied = copy.deepcopy(network).eval().requires_grad_(True)
    images = copied.example_input()
    layers = dict(copied.named_modules())
    heads = _heads(layers)
    worst, count = 0.0, 0
    try:
        with warnings.catch_warnings(), _fast_path_off(), _within(limit_s):
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                copied,
                images,
                importance=_ByChance(layers, groups),
                pruning_ratio=1 - share,
                ignored_layers=[layers[path] for path in outputs],
                num_heads={layer: number for layer, (_, number) in heads.items()},
                prune_num_heads=True,
                prune_head_dims=False,
                head_pruning_ratio=1 - share,
                # the default values are shared by all pruners of a process
                in_channel_groups={},
                out_channel_groups={},
            )
            for group in pruner.step(interactive=True):
                _mask_readers(group)
                masked = _answers(copied, images)
                group.prune()
                for layer, (module, _) in heads.items():
                    module.num_heads = pruner.num_heads[layer]  # as its manual asks of the caller
                worst = max(worst, _difference(masked, _answers(copied, images)))
                count += 1
    except Exception as error:  # a tracer raises many kinds for what it does not know
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        return PeerCut(None, float("inf"), count, f"{type(error).__name__}: {reason}")
    return PeerCut(copied, worst, count)


class _ByChance:
    """Random importance, one value per unit of our groups.

    Channels that stay by their position alone would look exact by luck; and where a layer's halves
    go together, values that differ between them would make the peer remove more than it was asked.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], groups: Sequence[ChannelGroup], seed: int = 0
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._paths = {module: path for path, module in layers.items()}
        self._values: dict[tuple[str, int, int], float] = {}
        for group in groups:
            values = torch.rand(group.width, generator=self._generator).tolist()
            for member in group.members:
                for unit, value in enumerate(values):
                    for place in member.of(unit):
                        self._values[member.tensor, member.dim, place] = value

    def __call__(self, group: Any) -> Tensor:
        dependency, channels = group[0].dep, group[0].idxs
        module = dependency.target.module
        tensor = f"{self._paths.get(module, '')}.weight"
        inputs = dependency.handler.__name__ == "prune_in_channels"
        dim = int(inputs != isinstance(module, nn.ConvTranspose2d))
        values = torch.rand(len(channels), generator=self._generator)
        for place, channel in enumerate(channels):
            values[place] = self._values.get((tensor, dim, int(channel)), values[place])
        return values


def _heads(layers: dict[str, nn.Module]) -> dict[nn.Module, tuple[nn.Module, int]]:
    """Layers that write queries, keys and values -> (module that counts the heads, count)."""
    found: dict[nn.Module, tuple[nn.Module, int]] = {}
    for module in layers.values():
        count = getattr(module, "num_heads", None)
        if isinstance(count, int) and not isinstance(module, nn.MultiheadAttention):
            for name in ("qkv", "q", "k", "v", "q_proj", "k_proj", "v_proj"):
                layer = getattr(module, name, None)
                if isinstance(layer, nn.Linear):
                    found[layer] = (module, count)
    return found


def _mask_readers(group: Any) -> None:
    """Zero what reads the channels that the group is about to lose."""
    for dependency, channels in group:
        module = dependency.target.module
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            continue
        if dependency.handler.__name__ != "prune_in_channels":
            continue
        weight = module.weight.detach()
        if isinstance(module, nn.ConvTranspose2d):
            weight.index_fill_(0, torch.tensor(channels, dtype=torch.int64), 0.0)
            continue
        # the inputs of each group of a grouped convolution are read by its own outputs alone
        count = getattr(module, "groups", 1)
        read, written = weight.shape[1], weight.shape[0] // count
        for channel in channels:
            first = channel // read * written
            weight[first : first + written, channel % read] = 0.0


@torch.no_grad()
def _answers(network: MultiTaskNetwork, images: Tensor) -> dict[str, Tensor]:
    answers: dict[str, Tensor] = network(images)
    return answers


def _difference(masked: dict[str, Tensor], cut: dict[str, Tensor]) -> float:
    worst = 0.0
    for name, value in masked.items():
        if cut[name].shape != value.shape:
            return float("inf")
        scale = max(float(value.max() - value.min()), float(value.abs().max())) or 1.0
        error = float((value - cut[name]).abs().max()) / scale
        worst = max(worst, error if error == error else float("inf"))
    return worst


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    """Raise :class:`TimeoutError` in the main thread when so much processor time is spent."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _fast_path_off() -> Iterator[None]:
    """The peer follows autograd's graph, in which a fused encoder layer is one unknown step."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
