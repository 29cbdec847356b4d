"""What a pruning method is asked, what it is given, and what it answers."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgemtl.compress.batches import Batch, Prepared, batches
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import discover
from edgemtl.compress.channels.groups import snapped_widths
from edgemtl.compress.channels.mask import MaskedNetwork
from edgemtl.compress.channels.whole import left_whole
from edgemtl.compress.cost import Cost, CostModel, Goals, Keep
from edgemtl.compress.held_out import HeldOutEvaluator
from edgemtl.compress.latency_model import Latency, LatencyModel, Measured
from edgemtl.compress.reach import reach_of
from edgemtl.compress.recover import RecoverOptions
from edgemtl.compress.remote import RemoteWorkers, signature
from edgemtl.compress.results import GroupStep, Refusal
from edgemtl.compress.search_cost import SearchCost
from edgemtl.compress.taylor import Scores, taylor_scores
from edgemtl.compress.work import count_work
from edgemtl.errors import StageFailed, UsageError
from edgemtl.models.base import MultiTaskNetwork

#: how much a task's loss may grow when the user names neither budgets nor a goal (design 6 i)
DEFAULT_BUDGET = 1.5
#: pictures per batch of the oracle: small batches let the sequential test stop early
ORACLE_BATCH = 8
#: pictures per batch of the saliency: the mean of |gradient| over batches needs several of them
SALIENCY_BATCH = 4


@dataclass(frozen=True)
class PruneOptions:
    """What to prune for.

    Attributes:
        method: key of :data:`METHODS`.
        flops: kept share of multiply-accumulates to come down to, in 0..1.
        params: kept share of parameters to come down to.
        latency_ratio: share of the dense latency to come down to; needs a latency table.
        tasks: prune for these only, the other heads are dropped; all when None.
        budgets: task -> factor its held-out loss may grow by before recovery, above 1.
        allowed: task -> what it may lose relative to the others, where that matters: losses are
            shared out in these proportions. Equal shares where empty.
        first_tolerance: task -> tolerance of the published method's first step; from the budget
            when not named.
        compensate: re-solve the layers that read removed channels.
        channel_multiple: widths stay multiples of it.
        keep_whole: patterns of modules whose weights keep their shapes (``decoders.*``).
        only: patterns of the modules that may lose channels; all when empty.
        rounds: of pruning and recovery on the way to the goal.
        one_cut_first: try one round first, and several only where that one misses a goal or leaves
            a task over ``most_drop``.
        seed: of everything random.
        recovery: how to train after each round; None for no recovery.
        most_drop: task -> largest relative drop of its primary figure on the held-out pictures
            after recovery (0.02 is 2 % worse), 0 or more. Where a task is over it after the last
            round, the result is the last earlier round in which none was. Without recovery the
            method 'pagcp' goes no further than that. Empty: the last round is the result whatever
            the tasks lost.
    """

    method: str = "pagcp"
    flops: float | None = None
    params: float | None = None
    latency_ratio: float | None = None
    tasks: tuple[str, ...] | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    allowed: Mapping[str, float] = field(default_factory=dict)
    first_tolerance: Mapping[str, float] = field(default_factory=dict)
    compensate: bool = True
    channel_multiple: int = 8
    keep_whole: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    rounds: int = 1
    one_cut_first: bool = False
    seed: int = 0
    recovery: RecoverOptions | None = None
    most_drop: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        goals = (("flops", self.flops), ("params", self.params), ("latency", self.latency_ratio))
        for name, goal in goals:
            if goal is not None and not 0 < goal < 1:
                raise UsageError(f"the {name} goal is {goal:g}, it must be a share between 0 and 1")
        for task, budget in self.budgets.items():
            if not budget > 1:
                raise UsageError(
                    f"the budget of task '{task}' is {budget:g}, it has to be above 1",
                    hint="1.5 lets its loss grow by half before recovery",
                )
        for task, drop in self.most_drop.items():
            if not drop >= 0:
                raise UsageError(f"task '{task}' may drop by {drop:g}, it has to be 0 or more")
        if self.channel_multiple < 1 or self.rounds < 1:
            raise UsageError("the channel multiple and the number of rounds are at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ChannelSelection:
    """What a method decided.

    Attributes:
        keep: group -> mask.
        weights: name of a parameter or buffer -> value that goes with the masks, in the shape of
            the network before the cut; empty without compensation.
        explained: reader's weight -> share of what was removed that the kept channels give back.
        stopped: which of the user's limits ended it short of the goals, a clause; empty where none
            did.
        drops: task -> held-out drop of its figure, relative, where the method measures it.
        steps: committed steps, where the method has any.
        loss_ratio: task -> held-out loss over the dense one, where the method measures it.
        spent: cost.
        notes: what the reader must know.
        refused: steps that were taken back.
        latency: predicted and measured, once per time the method was run; empty without a table.
        predicted: task -> loss over the dense one as the method foretold it for these widths;
            empty where it foretells nothing.
    """

    keep: dict[str, Tensor]
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    explained: Mapping[str, float] = field(default_factory=dict)
    stopped: str = ""
    drops: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[GroupStep, ...] = ()
    loss_ratio: Mapping[str, float] = field(default_factory=dict)
    spent: SearchCost = field(default_factory=SearchCost)
    notes: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    latency: tuple[Measured, ...] = ()
    predicted: Mapping[str, float] = field(default_factory=dict)


class PruneContext:
    """Everything a method needs, for one network and one round; dear things on first use.

    Attributes:
        network: to prune, in eval mode.
        groups: its prunable groups, those that the user wants left whole apart.
        left_whole: group that is left whole -> why.
        reach: what the channels allow, against the goal of all rounds together.
        goals: of this round, relative to ``dense``.
        dense: cost of the network before the first round.
        options: the user's.
        latency: model of the target's latency; None when it is no goal.
        evidence: folder of what is the same for all goals and methods; None keeps nothing.
        kept: what the method wants to find again when it is run once more on it.
        images: held-out ones, and those of the calibration batch.

    Args:
        open_workers: opens the processes that look at the held-out pictures; None for this one.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        data: tuple[list[Prepared], list[Prepared]],
        options: PruneOptions,
        goals: Goals,
        dense: Cost | None,
        state: Path | None,
        latency: Latency | None,
        open_workers: Callable[[PruneContext], RemoteWorkers] | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options, self.goals, self.state = options, goals, state
        self.evidence = state
        discovery = discover(network)
        everything = discovery.groups
        if not everything:
            raise StageFailed("the network has no group of channels that can be cut")
        self.left_whole = left_whole(everything, options.keep_whole, options.only)
        self.groups = tuple(group for group in everything if group.name not in self.left_whole)
        if not self.groups:
            raise UsageError(
                f"all {len(everything)} groups of channels are left whole",
                where="keep_whole, only",
                hint="name fewer modules in keep_whole, or more in only",
            )
        self.reach = reach_of(discovery, options.channel_multiple, options.flops, self.groups)
        self.by_name = {group.name: group for group in self.groups}
        self.choices = {
            group.name: snapped_widths(group, options.channel_multiple)[::-1]
            for group in self.groups
        }
        size = network.input_spec.size
        oracle, self._calibration = data
        self.images = oracle, self._calibration[:ORACLE_BATCH]
        self.batches = batches(oracle, network.tasks, size, ORACLE_BATCH)
        self.calibration = batches(
            self._calibration[:ORACLE_BATCH], network.tasks, size, ORACLE_BATCH
        )[0]
        self.work = count_work(self.network, self.calibration.images[:1])
        self.cost = CostModel(network, self.groups, self.work, 1, discovery.products)
        self.latency: LatencyModel | None = None
        if latency is not None:
            self.latency = latency.model(network, self.groups)
            self.cost.latency = self.latency.predict
        self.dense = dense or self.cost.of({})
        self._held_out: HeldOutEvaluator | None = None
        self._exported: set[str] = set()
        self._open_workers = open_workers
        self._workers: RemoteWorkers | None = None
        self.kept: dict[str, Any] | None = None

    @property
    def held_out(self) -> HeldOutEvaluator:
        """The held-out pictures as judges."""
        if self._held_out is None:
            size = self.network.input_spec.size
            self._held_out = HeldOutEvaluator(
                self.network.tasks, self.batches, self.images[0], size
            )
        return self._held_out

    @property
    def signature(self) -> str:
        """What others must agree on with this one."""
        return signature(self.network, list(self.by_name), self.work)

    @property
    def workers(self) -> RemoteWorkers | None:
        """The processes that look at the held-out pictures; None where this one does."""
        if self._workers is None and self._open_workers is not None:
            self._workers = self._open_workers(self)
        return self._workers

    def close(self) -> None:
        """The search is over."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    @property
    def all_kept(self) -> dict[str, Tensor]:
        """Masks that remove nothing."""
        return {g.name: torch.ones(g.width, dtype=torch.bool) for g in self.groups}

    @property
    def calibration_images(self) -> list[Prepared]:
        """The calibration pictures, one by one."""
        return self._calibration

    @property
    def saliency_batches(self) -> list[Batch]:
        """The calibration pictures in small batches."""
        size = self.network.input_spec.size
        return batches(self._calibration, self.network.tasks, size, SALIENCY_BATCH)

    def score(self, keep: Keep) -> tuple[Scores, SearchCost]:
        """Taylor scores of the network with these masks, and what they cost."""
        started = time.monotonic()
        masked = MaskedNetwork(self.network, self.groups)
        for name, mask in keep.items():
            masked.set_mask(name, mask)
        parts = self.saliency_batches
        scores = taylor_scores(masked, masked.gates(True), self.network.tasks, parts)
        # A backward pass costs two forward ones, and there is one per task.
        passes = 1 + 2 * len(self.network.tasks)
        images = len(parts) * SALIENCY_BATCH
        macs = int(self.cost.of({}).macs) * images * passes
        return scores, SearchCost(macs, images, 0, time.monotonic() - started)

    def check(self, keep: Keep) -> None:
        """Cut a copy and run it once.

        Raises:
            StageFailed: it does not run, or answers NaN or infinity.
        """
        try:
            smaller = cut(self.network, keep, self.groups)
            with torch.inference_mode():
                answers = smaller(self.calibration.images[:1])
        except Exception as error:  # whatever a network raises when a shape does not fit
            raise StageFailed(f"the cut network does not run: {error}") from error
        broken = [name for name, value in answers.items() if not bool(value.isfinite().all())]
        if broken:
            raise StageFailed(f"the cut network answers NaN or infinity in '{broken[0]}'")

    def check_export(self, keep: Keep) -> None:
        """Cut a copy and export it: a network that cannot leave torch is of no use. What has the
        same widths is not exported twice.

        Raises:
            StageFailed: it cannot be exported.
        """
        key = json.dumps({name: int(mask.sum()) for name, mask in keep.items()}, sort_keys=True)
        if key not in self._exported:
            exportable(cut(self.network, keep, self.groups))
            self._exported.add(key)


def exportable(network: MultiTaskNetwork) -> None:
    """Export once to a temporary file.

    Raises:
        StageFailed: the network cannot be exported.
    """
    from edgemtl.exporting.onnx_export import export_onnx

    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        export_onnx(network, Path(folder) / "model.onnx", opset=17)


Method = Callable[[PruneContext], ChannelSelection]
METHODS: dict[str, Method] = {}


def register_method(name: str) -> Callable[[Method], Method]:
    """Decorator: make a method choosable by name."""

    def register(method: Method) -> Method:
        METHODS[name] = method
        return method

    return register
