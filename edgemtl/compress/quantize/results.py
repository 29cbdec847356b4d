"""What quantisation is asked and what it did, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgemtl.errors import InputRefused, UsageError

Precision = Literal["int8", "fp16"]
Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantise.

    Attributes:
        precision: ``int8`` or ``fp16``.
        images: calibration pictures that ranges are read from.
        method: how a tensor's range is chosen: ``minmax`` keeps every value, ``percentile`` all but
            the largest 0.01 %, ``entropy`` what keeps the distribution (Kullback-Leibler).
        seed: of the choice of pictures.
        budgets: task name -> largest relative drop of its primary figure (0.01 is 1 %); a task that
            is not named has none. Without any budget nothing is evaluated and nothing falls back.
        eval_images: further pictures of the calibration split that budgets are judged on (a
            recipe's ``judge_images``).
        probe_images: of those, how many each region's cost is estimated on.
        max_evaluations: most runs over all of them, the float network's included.
        keep_float: patterns of node names or module paths that stay as they are; a path stands for
            all that is inside it.
        equalise: rescale channels so that they share a range well (an exact change).
        correct_bias: take the mean rounding error of each channel out of its bias.
        reduce_range: weights so small that two products fit 16 bits, which is all that x86
            processors without VNNI add them in (a recipe's ``narrow_sums``). ONNX Runtime's option
            of this name writes every weight in 7 bits; here only channels with two large neighbours
            become coarser (weights.py).
        unsigned: judge as runtimes compute that read tensors without negative values as unsigned
            (backends/int8.py), which is half as coarse as the file itself.
        qat_steps: where int8 misses a budget, train so many steps while rounded (quantisation-aware
            training) before layers fall back; 0 for none (a recipe's ``recovery_steps``).
        qat_images: pictures of the calibration split to train on, beside those that calibrate;
            never those that judge.
    """

    precision: Precision = "int8"
    images: int = 64
    method: Method = "minmax"
    seed: int = 0
    budgets: Mapping[str, float] = field(default_factory=dict)
    eval_images: int = 600
    probe_images: int = 12
    max_evaluations: int = 14
    keep_float: tuple[str, ...] = ()
    equalise: bool = True
    correct_bias: bool = True
    reduce_range: bool = True
    unsigned: bool = False
    qat_steps: int = 0
    qat_images: int = 200

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UsageError: naming the option.
        """
        if self.precision not in ("int8", "fp16"):
            raise UsageError(f"precision '{self.precision}' is not int8 or fp16")
        if self.method not in METHODS:
            raise UsageError(f"unknown method '{self.method}'", hint=f"one of {', '.join(METHODS)}")
        least = {"images": 1, "eval_images": 1, "probe_images": 1, "max_evaluations": 2}
        least |= {"qat_steps": 0, "qat_images": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise UsageError(f"{name} must be at least {smallest}")
        for task, budget in self.budgets.items():
            if not budget >= 0:
                raise UsageError(f"the budget of task '{task}' must be 0 or more")


@dataclass(frozen=True)
class TaskVerdict:
    """One task on the judge pictures.

    Attributes:
        figure: key of its primary figure.
        before, after: in float32 and quantised; None where there was nothing to measure.
        drop: relative drop, positive is worse.
        budget: largest drop allowed, or None.
        note: why something is None.
    """

    figure: str
    before: float | None
    after: float | None
    drop: float | None
    budget: float | None
    note: str = ""

    @property
    def inside(self) -> bool:
        """Whether no budget is exceeded (a budget that could not be judged counts as exceeded)."""
        return self.budget is None or (self.drop is not None and self.drop <= self.budget)


@dataclass(frozen=True)
class Culprit:
    """What quantising one region alone does to each task.

    Attributes:
        region: torch module path, or node name where a region is one layer.
        modules: torch module paths of its layers.
        costs: task -> distance of its answers from the float network's, as a share of what
            quantising everything costs that task.
        kept: whether the region stayed in float.
    """

    region: str
    modules: tuple[str, ...]
    costs: Mapping[str, float]
    kept: bool = False


@dataclass(frozen=True)
class QuantizeResult:
    """A quantised ONNX file and how it came about.

    Attributes:
        path: the file.
        precision: ``int8`` or ``fp16``.
        layers: node names of the layers that compute in it.
        kept: node name -> why the layer stayed in float32.
        culprits: regions by what they cost, dearest first; empty when nothing had to be ranked.
        tasks: task name -> what it lost; empty when nothing was judged.
        evaluations: runs over all judge pictures.
        images, eval_images: pictures used.
        method, seed: as asked.
        size_before, size_after: of the files, in bytes.
        notes: what the reader must know.
    """

    path: Path
    precision: Precision
    layers: tuple[str, ...]
    kept: Mapping[str, str]
    culprits: tuple[Culprit, ...]
    tasks: Mapping[str, TaskVerdict]
    evaluations: int
    images: int
    eval_images: int
    method: str
    seed: int
    size_before: int
    size_after: int
    notes: tuple[str, ...] = ()

    @property
    def within_budgets(self) -> bool:
        """Whether every task with a budget was judged and is inside it."""
        return all(verdict.inside for verdict in self.tasks.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the path is reduced to its name."""
        data = asdict(self)
        data["file"] = data.pop("path").name
        data["judge_images"] = data.pop("eval_images")  # as in the recipe
        data["layers"] = list(self.layers)
        data["kept"] = dict(self.kept)
        data["culprits"] = [
            asdict(row) | {"modules": list(row.modules), "costs": dict(row.costs)}
            for row in self.culprits
        ]
        data["tasks"] = {name: asdict(verdict) for name, verdict in self.tasks.items()}
        data["notes"] = list(self.notes)
        return {"file": data.pop("file"), "within_budgets": self.within_budgets, **data}

    @staticmethod
    def from_dict(data: Mapping[str, Any], folder: Path) -> QuantizeResult:
        """Parse :meth:`to_dict`; the file lies in ``folder``.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            return QuantizeResult(
                folder / Path(str(data["file"])).name,
                "fp16" if data["precision"] == "fp16" else "int8",
                tuple(str(name) for name in data["layers"]),
                {str(k): str(v) for k, v in data["kept"].items()},
                tuple(_culprit(row) for row in data["culprits"]),
                {str(k): _verdict(v) for k, v in data["tasks"].items()},
                int(data["evaluations"]),
                int(data["images"]),
                int(data["judge_images"]),
                str(data["method"]),
                int(data["seed"]),
                int(data["size_before"]),
                int(data["size_after"]),
                tuple(str(note) for note in data["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"a quantisation result is not readable: {error!r}") from error


def _culprit(row: Mapping[str, Any]) -> Culprit:
    return Culprit(
        str(row["region"]),
        tuple(str(module) for module in row["modules"]),
        {str(task): float(cost) for task, cost in row["costs"].items()},
        bool(row["kept"]),
    )


def _verdict(row: Mapping[str, Any]) -> TaskVerdict:
    def number(key: str) -> float | None:
        return None if row[key] is None else float(row[key])

    return TaskVerdict(
        str(row["figure"]),
        number("before"),
        number("after"),
        number("drop"),
        number("budget"),
        str(row["note"]),
    )
