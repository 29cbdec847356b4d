"""Pruning from end to end: search, cut, recover, in rounds, resumable; one entry for all methods.

``prune(network, data, options)`` is what the command line and the pipeline call. A method decides
which channels go (:data:`METHODS`); what is common to all lies here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.batches import Batch, Prepared, batches
from edgemtl.compress.cost import Cost, CostModel, Goals, Keep
from edgemtl.compress.cut import check_cut, cut
from edgemtl.compress.groups import ChannelGroup, channel_groups, snapped_widths
from edgemtl.compress.masking import MaskedNetwork
from edgemtl.compress.pagcp.graph import State, TracedNetwork
from edgemtl.compress.pagcp.oracle import Oracle, Spent
from edgemtl.compress.pagcp.saliency import Scores, taylor_scores
from edgemtl.compress.recover import RecoverOptions, RecoverResult, recover
from edgemtl.compress.results import GroupStep
from edgemtl.compress.slices import PruneData
from edgemtl.errors import StageFailed, UsageError
from edgemtl.files import write_atomically
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, load, save, weights_hash

Tell = Callable[[str], None]
#: how much a task's loss may grow when the user names neither budgets nor a goal (design 6 i)
DEFAULT_BUDGET = 1.5
#: pictures per batch of the oracle: small batches let the sequential test stop early
ORACLE_BATCH = 8
#: pictures per batch of the saliency: the mean of |gradient| over batches needs several of them
SALIENCY_BATCH = 4
#: steps of the recovery that the rounds before the last get, together
EARLY_ROUNDS_SHARE = 0.4


@dataclass(frozen=True)
class PruneOptions:
    """What to prune for.

    Attributes:
        method: key of :data:`METHODS`.
        flops: kept share of multiply-accumulates to come down to, in 0..1.
        params: kept share of parameters to come down to.
        latency_ratio: share of the dense latency to come down to; needs a latency table.
        tasks: prune for these only, the other heads are dropped; all when None.
        budgets: task -> factor its loss may grow by before recovery, above 1.
        first_tolerance: task -> tolerance of the first step; from the budget when not named.
        channel_multiple: widths stay multiples of it.
        rounds: of pruning and recovery on the way to the goal.
        oracle_memory_bytes: for kept activations.
        seed: of everything random.
        recovery: how to train after each round; None for no recovery.
    """

    method: str = "pagcp"
    flops: float | None = None
    params: float | None = None
    latency_ratio: float | None = None
    tasks: tuple[str, ...] | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    first_tolerance: Mapping[str, float] = field(default_factory=dict)
    channel_multiple: int = 8
    rounds: int = 1
    oracle_memory_bytes: int = 1_600_000_000
    seed: int = 0
    recovery: RecoverOptions | None = None

    def __post_init__(self) -> None:
        goals = (("flops", self.flops), ("params", self.params), ("latency", self.latency_ratio))
        for name, goal in goals:
            if goal is not None and not 0 < goal < 1:
                raise UsageError(f"the {name} goal is {goal:g}, it is a kept share between 0 and 1")
        for task, budget in self.budgets.items():
            if not budget > 1:
                raise UsageError(
                    f"the budget of task '{task}' is {budget:g}, it has to be above 1",
                    hint="1.5 lets its loss grow by half before recovery",
                )
        if self.channel_multiple < 1 or self.rounds < 1:
            raise UsageError("the channel multiple and the number of rounds are at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Round:
    """What one round of search and recovery did.

    Attributes:
        steps: committed steps, in order.
        widths: group -> (before, after).
        cost: after the round.
        loss_ratio: task -> held-out loss after the cut over before it; empty where the method
            does not measure it.
        spent: cost of the search.
        saliency: task-wise cost of the channels is not kept; seconds of the whole search.
        search_seconds: wall time of the search, loading and tracing included.
        recovery: None when there was none.
    """

    steps: tuple[GroupStep, ...]
    widths: Mapping[str, tuple[int, int]]
    cost: Cost
    loss_ratio: Mapping[str, float]
    spent: Spent
    search_seconds: float
    recovery: RecoverResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "steps": [step.to_dict() for step in self.steps],
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "cost": self.cost.to_dict(),
            "loss_ratio": dict(self.loss_ratio),
            "spent": self.spent.to_dict(),
            "search_seconds": self.search_seconds,
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
        }


@dataclass(frozen=True)
class PruneResult:
    """A pruned network and how it came about.

    Attributes:
        network: in eval mode; its ``pruning`` holds the records.
        method: that chose the channels.
        dense, pruned: cost before and after.
        rounds: in order.
        goals_reached: whether all goals were; None without goals.
        notes: what the reader must know.
    """

    network: MultiTaskNetwork
    method: str
    dense: Cost
    pruned: Cost
    rounds: tuple[Round, ...]
    goals_reached: bool | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the network."""
        return {
            "method": self.method,
            "dense": self.dense.to_dict(),
            "pruned": self.pruned.to_dict(),
            "rounds": [one.to_dict() for one in self.rounds],
            "goals_reached": self.goals_reached,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Found:
    """What a method decided.

    Attributes:
        keep: group -> mask.
        state: batch statistics to go with them.
        steps: committed steps, where the method has any.
        loss_ratio: task -> held-out loss over the dense one, where the method measures it.
        spent: cost.
        notes: what the reader must know.
    """

    keep: dict[str, Tensor]
    state: State
    steps: tuple[GroupStep, ...] = ()
    loss_ratio: Mapping[str, float] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    notes: tuple[str, ...] = ()


class Job:
    """Everything a method needs, for one network and one round; dear things on first use.

    Attributes:
        network: to prune, in eval mode.
        groups: its prunable groups.
        goals: of this round, relative to ``dense``.
        dense: cost of the network before the first round.
        options: the user's.
        tell: progress.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        data: tuple[list[Prepared], list[Prepared]],
        options: PruneOptions,
        goals: Goals,
        dense: Cost | None,
        state: Path | None,
        tell: Tell,
        latency: Callable[[MultiTaskNetwork, Sequence[ChannelGroup]], Callable[[Keep], float]]
        | None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options, self.goals, self.state, self.tell = options, goals, state, tell
        self.groups = channel_groups(network)
        if not self.groups:
            raise StageFailed("the network has no group of channels that can be cut")
        self.by_name = {group.name: group for group in self.groups}
        self.choices = {
            group.name: snapped_widths(group, options.channel_multiple)[::-1]
            for group in self.groups
        }
        size = network.input_spec.size
        oracle, self._calibration = data
        self.batches = batches(oracle, network.tasks, size, ORACLE_BATCH)
        self.calibration = batches(
            self._calibration[:ORACLE_BATCH], network.tasks, size, ORACLE_BATCH
        )[0]
        masked = MaskedNetwork(self.network, self.groups)

        def run(images: Tensor, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
            masked.use_gates(gates)
            return masked(images)

        self.traced = TracedNetwork(
            run, self.calibration.images, {group.name: group.width for group in self.groups}
        )
        self.cost = CostModel(network, self.groups, self.traced, ORACLE_BATCH)
        if latency is not None:
            self.cost.latency = latency(network, self.groups)
        self.dense = dense or self.cost.of({})
        self._oracle: Oracle | None = None

    @property
    def oracle(self) -> Oracle:
        """The oracle, with its dense losses measured."""
        if self._oracle is None:
            self._oracle = Oracle(
                self.traced,
                self.network.tasks,
                self.batches,
                self.calibration,
                self.options.oracle_memory_bytes,
            )
            self._oracle.measure_dense()
        return self._oracle

    @property
    def all_kept(self) -> dict[str, Tensor]:
        """Masks that remove nothing."""
        return {g.name: torch.ones(g.width, dtype=torch.bool) for g in self.groups}

    @property
    def saliency_batches(self) -> list[Batch]:
        """The calibration pictures in small batches."""
        size = self.network.input_spec.size
        return batches(self._calibration, self.network.tasks, size, SALIENCY_BATCH)

    def score(self, keep: Keep) -> tuple[Scores, Spent]:
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
        macs = self.traced.macs // ORACLE_BATCH * images * passes
        return scores, Spent(macs, images, 0, time.monotonic() - started)

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


Method = Callable[[Job], Found]
METHODS: dict[str, Method] = {}


def register_method(name: str) -> Callable[[Method], Method]:
    """Decorator: make a method choosable by name."""

    def register(method: Method) -> Method:
        METHODS[name] = method
        return method

    return register


def methods() -> list[str]:
    """Names of the methods."""
    import edgemtl.compress.knapsack
    import edgemtl.compress.methods
    import edgemtl.compress.paper  # noqa: F401 - importing them registers the methods

    return sorted(METHODS)


def prune(
    network: MultiTaskNetwork,
    data: PruneData,
    options: PruneOptions,
    tell: Tell = lambda line: None,
    state_dir: Path | None = None,
    latency: Callable[[MultiTaskNetwork, Sequence[ChannelGroup]], Callable[[Keep], float]]
    | None = None,
) -> PruneResult:
    """Prune a network, and train it after each round when the options say so.

    Args:
        network: left as it is. A family's exact folds are applied first, where it was not pruned
            before (a record of a pruned network speaks of its unfolded layers).
        data: slices of training data.
        options: see :class:`PruneOptions`.
        tell: receives a sentence now and then.
        state_dir: where to keep what is needed to go on after a kill; the same call goes on.
        latency: network, groups -> (masks -> ms), see ``latency_table``; needed for a latency goal.

    Raises:
        UsageError: an unknown method or task, or a latency goal without a table.
        StageFailed: the data says nothing about a task, or nothing can be cut.
    """
    if options.method not in methods():
        raise UsageError(
            f"there is no pruning method '{options.method}'", hint=f"one of {', '.join(methods())}"
        )
    if options.latency_ratio is not None and latency is None:
        raise UsageError("a latency goal needs a target to measure on", hint="give --target")
    if options.rounds > 1 and options.recovery is None:
        raise UsageError("several rounds need recovery training between them")
    if options.recovery is not None and data.recovery is None:
        raise UsageError("recovery training needs pictures to train on")
    current = _starting_point(network, options)
    unknown = set(options.budgets) - {task.name for task in current.tasks}
    if unknown:
        raise UsageError(f"a budget is for task '{sorted(unknown)[0]}', which is not pruned for")
    teacher = copy.deepcopy(current)
    folder = None if state_dir is None else state_dir / _fingerprint(current, data, options)
    spec = current.input_spec
    prepared = (
        prepare_all(data.oracle, spec, options.seed),
        prepare_all(data.calibration, spec, options.seed),
    )
    dense: Cost | None = None
    cost: Cost | None = None
    rounds: list[Round] = []
    notes: list[str] = []
    for number in range(options.rounds):
        goals = _goals_of_round(options, number)
        where = None if folder is None else folder / f"round{number + 1}"
        if options.rounds > 1:
            tell(f"round {number + 1} of {options.rounds}")
        started = time.monotonic()
        job = Job(current, prepared, options, goals, dense, where, tell, latency)
        dense = job.dense
        found, seconds = _search(job, where, started)
        smaller = _cut(job, found)
        cost = job.cost.of(found.keep)
        del job  # and the gigabyte of activations that its oracle keeps
        recovered = None
        if options.recovery is not None:
            assert data.recovery is not None
            recovered = recover(
                smaller,
                teacher,
                data.recovery,
                data.oracle,
                _recovery_of_round(options, number),
                None if where is None else where / "recovery.pt",
                tell,
            )
        rounds.append(
            Round(
                found.steps,
                {name: (len(mask), int(mask.sum())) for name, mask in found.keep.items()},
                cost,
                dict(found.loss_ratio),
                found.spent,
                seconds,
                recovered,
            )
        )
        notes += found.notes
        current = smaller
    assert dense is not None and cost is not None
    final = _goals_of_round(options, options.rounds - 1)
    reached = final.reached(cost, dense) if final.given else None
    if reached is False:
        shares = final.shares(cost, dense)
        missed = {name: pair for name, pair in shares.items() if pair[0] > pair[1]}
        notes += [
            f"the {name} goal was missed: {now:.3f} of the dense network is left, {wanted:.3f} was "
            "asked for"
            for name, (now, wanted) in missed.items()
        ]
    return PruneResult(
        current.eval(), options.method, dense, cost, tuple(rounds), reached, tuple(notes)
    )


def _starting_point(network: MultiTaskNetwork, options: PruneOptions) -> MultiTaskNetwork:
    """A copy with the wanted tasks only and exact folds applied."""
    start = network
    if options.tasks is not None:
        wanted = [task.name for task in network.selected(options.tasks)]
        if len(wanted) < len(network.tasks):
            start = network.restricted(wanted)
    fold: Callable[[], MultiTaskNetwork] | None = getattr(start, "folded", None)
    if fold is not None and not start.pruning:
        return fold().eval()
    return copy.deepcopy(start).eval()


def _fingerprint(network: MultiTaskNetwork, data: PruneData, options: PruneOptions) -> str:
    """A folder name that changes with everything that changes the result."""
    parts = [weights_hash(network), json.dumps(options.to_dict(), sort_keys=True)]
    parts += [data.oracle.fingerprint(), data.calibration.fingerprint()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _goals_of_round(options: PruneOptions, number: int) -> Goals:
    """Goals of a round: the way down is cut into equal factors."""
    power = (number + 1) / options.rounds

    def part(goal: float | None) -> float | None:
        return None if goal is None else goal**power

    return Goals(part(options.flops), part(options.params), part(options.latency_ratio))


def _recovery_of_round(options: PruneOptions, number: int) -> RecoverOptions:
    assert options.recovery is not None
    if options.rounds == 1:
        return options.recovery
    last = number == options.rounds - 1
    share = 1 - EARLY_ROUNDS_SHARE if last else EARLY_ROUNDS_SHARE / (options.rounds - 1)
    return replace(
        options.recovery,
        steps=max(1, round(options.recovery.steps * share)),
        seed=options.recovery.seed + number,
    )


def _search(job: Job, where: Path | None, started: float) -> tuple[Found, float]:
    """Run the method, or read what it found before the run was killed."""
    path = None if where is None else where / "found.pt"
    if path is not None and path.is_file():
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        job.tell("the search of this round was finished before")
        return _found_from(stored), float(stored["seconds"])
    found = METHODS[job.options.method](job)
    seconds = time.monotonic() - started
    if path is not None:
        stored = _found_to(found, seconds)
        write_atomically(path, lambda stream: torch.save(stored, stream))
    return found, seconds


def _found_to(found: Found, seconds: float) -> dict[str, Any]:
    return {
        "keep": dict(found.keep),
        "statistics": {str(k): list(v) for k, v in found.state.statistics.items()},
        "steps": [step.to_dict() for step in found.steps],
        "loss_ratio": dict(found.loss_ratio),
        "spent": found.spent.to_dict(),
        "notes": list(found.notes),
        "seconds": seconds,
    }


def _found_from(stored: Mapping[str, Any]) -> Found:
    return Found(
        dict(stored["keep"]),
        State({}, {int(k): (v[0], v[1]) for k, v in stored["statistics"].items()}),
        tuple(GroupStep.from_dict(step) for step in stored["steps"]),
        dict(stored["loss_ratio"]),
        Spent.from_dict(stored["spent"]),
        tuple(stored["notes"]),
    )


def _cut(job: Job, found: Found) -> MultiTaskNetwork:
    """Cut for good, batch statistics moved along, and prove it: same answers, exports, reloads.

    Raises:
        ParityFailed: the cut network answers otherwise than the masked one.
        StageFailed: nothing was removed, or the cut network cannot be exported.
    """
    if all(bool(mask.all()) for mask in found.keep.values()):
        raise StageFailed(
            "no channel could be removed within the budgets",
            hint="raise the budgets, or lower the channel multiple",
        )
    network = job.network
    _move_statistics(network, job.traced, found.state)
    smaller = cut(network, found.keep, job.groups)
    check_cut(network, found.keep, smaller, job.calibration.images[:2], job.groups)
    _check_export(smaller)
    return smaller.requires_grad_(True)


@torch.no_grad()
def _move_statistics(network: MultiTaskNetwork, traced: TracedNetwork, state: State) -> None:
    """Write the statistics that the search adapted into the network's batch norms."""
    norms = {
        module.running_mean.data_ptr(): module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    }
    for index, (mean, var) in state.statistics.items():
        norm = traced.steps[index].norm
        assert norm is not None
        module = norms[norm.mean.data_ptr()]
        assert module.running_mean is not None and module.running_var is not None
        module.running_mean.copy_(mean)
        module.running_var.copy_(var)


def _check_export(network: MultiTaskNetwork) -> None:
    """Export once to a temporary file: a network that cannot leave torch is of no use."""
    import tempfile

    from edgemtl.export.onnx_export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, Path(folder) / "model.onnx", opset=17)


def save_pruned(result: PruneResult, path: Path, meta: Mapping[str, Any] | None = None) -> None:
    """Write the pruned checkpoint, and prove that it loads again.

    Raises:
        StageFailed: the place cannot be written.
    """
    facts = {"pruning": json.loads(json.dumps(result.to_dict())), **(meta or {})}
    save(from_network(result.network, facts), path)
    load(path).network()
