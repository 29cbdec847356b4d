"""The recipe: what a run does and what it is judged by, as TOML.

Values are merged in this order, later ones win: built-in defaults, the target's own, the recipe
file, environment variables ``EDGEMTL_<SECTION>__<KEY>``, ``--set section.key=value``. Unknown keys
are refused at every step; ``edgemtl init`` writes a commented recipe and ``edgemtl schema`` its
JSON Schema.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from edgemtl.errors import UsageError
from edgemtl.fields import entry
from edgemtl.gates.limits import GateLimits
from edgemtl.variables import ENVIRONMENT_PREFIX, ENVIRONMENT_SEPARATOR, check_variable

#: a benchmark or a warm-up of more than a day, or so many runs and steps, is a slip
MOST_SECONDS, MOST_RUNS, MOST_STEPS = 86_400.0, 10_000_000, 10_000_000
#: so many of anything; more is a slip, and might not fit into 64 bits
Count = Annotated[int, Field(le=MOST_RUNS)]
#: pixels of a side of a training picture
Side = Annotated[int, Field(ge=8, le=16_384)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """``[model]``: which tasks of the checkpoint are kept."""

    tasks: tuple[str, ...] | None = entry(
        None, description="tasks to keep (with those they require); all by default"
    )


class DataSection(_Section):
    """``[data]``: labelled pictures. Without a root the embedded calibration set is used.

    Several folders count as one data set, since tasks are often labelled in different places.
    """

    @field_validator("root", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    root: tuple[Path, ...] = entry(
        (), description="folder(s) with the splits below; embedded synthetic set by default"
    )
    format: str = entry("auto", description="layout of the folder; detected by default")
    training: str = entry("train", description="split that pruning searches and recovers on")
    calibration: str = entry("train", description="split whose pictures calibrate and check parity")
    evaluation: str = entry("val", description="split that accuracy is measured on")
    limit: Count | None = entry(None, ge=1, description="use only so many pictures, evenly spread")
    seed: int = entry(0, ge=0, lt=2**32, description="seed of every random choice of pictures")

    _places: dict[str, Path] = PrivateAttr(default_factory=dict)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the folders of ``root`` lie: there, or where a job of a farm was given them."""
        return tuple(self._places.get(str(root), root) for root in self.root)


class PruneSection(_Section):
    """``[prune]``: which channels go (method pagcp: the worst task loses the least)."""

    enabled: bool | None = entry(
        None, description="prune; by default if [data] root has enough training pictures"
    )
    method: str = entry("pagcp", description="'edgemtl prune --help' lists the methods")
    goal: Literal["macs", "latency"] = entry(
        "macs", description="the cost that steps save: counted work, or latency on the target"
    )
    flops: float | None = entry(
        None, gt=0, lt=1, description="share of multiply-accumulates to keep; 0.4 or the target's"
    )
    params: float | None = entry(
        None, gt=0, lt=1, description="share of parameters to keep; 0.4 if no goal is set at all"
    )
    latency_ratio: float | None = entry(
        None, gt=0, lt=1, description="share of the latency to keep; makes latency the goal"
    )
    budgets: dict[str, Annotated[float, Field(gt=1)]] = Field(
        default_factory=dict,
        description="task = factor by which its held-out loss may grow before recovery",
    )
    priority: Literal["goal", "tasks"] | None = entry(
        None,
        description="'tasks': keep an earlier round if the last one costs a task too much; "
        "'goal': reach the goal all the same; 'goal' by default if you set one",
    )
    keep_whole: tuple[str, ...] = entry(
        (), description="patterns of modules whose weights keep their shapes ('decoders.*')"
    )
    only: tuple[str, ...] = entry(
        (), description="patterns of the only modules that may lose channels; all by default"
    )
    compensate: bool = entry(
        True, description="give layers that read removed channels new weights, in closed form"
    )
    channel_multiple: Count | None = entry(
        None, ge=1, description="widths stay multiples of it; the target's by default"
    )
    rounds: int | None = entry(
        None, ge=1, le=10, description="rounds of pruning and recovery; 1 by default, 2 if 1 fails"
    )
    oracle_images: Count = entry(128, ge=4, description="training pictures held out for the search")
    calibration_images: Count = entry(
        128, ge=4, description="pictures that compensation, prices and saliency are computed on"
    )

    @property
    def names_a_goal(self) -> bool:
        """Whether it says what to come down to, so that no default goal has a say."""
        shares = (self.flops, self.params, self.latency_ratio)
        return shares != (None, None, None) or self.goal == "latency" or bool(self.budgets)


class RecoverSection(_Section):
    """``[recover]``: training after pruning, with the dense network as the teacher."""

    steps: int = entry(800, ge=0, le=MOST_STEPS, description="at most; 0 for no recovery")
    batch: Count = entry(16, ge=1, description="pictures per step")
    learning_rate: float | None = entry(None, gt=0, le=10, description="found by trials by default")
    train: Literal["auto", "norms", "all"] = entry(
        "auto", description="all, norms (and biases), or auto: the least that keeps every gate"
    )
    size: tuple[Side, Side] | None = entry(
        None, description="training height, width in pixels; the network's own by default"
    )


class MaskSection(_Section):
    """``[mask]``: smaller networks for pictures that need less, chosen by a router."""

    enabled: bool = entry(False, description="analyse, and build them if held-out pictures gain")
    macs: float = entry(
        0.6, gt=0, le=1, description="share of multiply-accumulates left, mean over pictures"
    )
    prototypes: int = entry(3, ge=1, le=16, description="networks to choose from")
    threshold: float = entry(
        0.9, gt=0, le=1, description="share of importance that a picture's own mask keeps"
    )
    nested: bool = entry(False, description="take prototypes as widths of one order of channels")
    images: Count = entry(96, ge=16, description="calibration pictures; as many more are held out")
    router_images: Count = entry(400, ge=32, description="pictures to train router and prototypes")
    steps: int = entry(
        0, ge=0, le=MOST_STEPS, description="training steps per prototype; 0: statistics only"
    )
    batch: Count = entry(12, ge=1, description="pictures per step")
    shared: bool = entry(
        False, description="train only norms and biases, so that networks share their weights"
    )
    precision: float = entry(
        0.95, gt=0, le=1, description="share of right choices among those the router is sure of"
    )
    channel_multiple: Count | None = entry(
        None, ge=1, description="widths are multiples of it; the target's by default"
    )
    force: bool = entry(False, description="build even if the analysis advises against it")


class ExportSection(_Section):
    """``[export]``: how the network becomes ONNX."""

    opset: int | None = entry(None, ge=13, le=25, description="the target's by default")
    deformable: Literal["native", "portable"] | None = entry(
        None, description="how deformable convolution is written; the target's way by default"
    )
    nms: Literal["host", "graph"] = entry(
        "host", description="where overlapping boxes are removed; 'graph' for TensorRT only"
    )
    parity_images: Count = entry(4, ge=1, description="real pictures that parity is checked on")
    experts: Literal["gather", "sorted", "static", "dense"] | None = entry(
        None, description="how mixtures of experts are written; the target's way by default"
    )
    drop_experts: bool | None = entry(
        None, description="leave out experts that no calibration picture uses; if tasks are named"
    )
    expert_images: Count = entry(
        256, ge=1, description="calibration pictures on which the use of experts is counted"
    )
    expert_headroom: float = entry(
        1,
        ge=1,
        description="queue of an expert, as a multiple of its longest seen (experts = static)",
    )
    task_files: bool = entry(
        False, description="add a graph per task; all share one copy of the weights (ONNX Runtime)"
    )


class QuantizeSection(_Section):
    """``[quantize]``: lower precision, written into the ONNX file (docs/precision-howto.md)."""

    enabled: bool = entry(False, description="some targets: on by default if [data] root is set")
    precision: Literal["auto", "fp32", "fp16", "int8"] = entry(
        "auto", description="auto: the fastest, as measured, that keeps the budgets"
    )
    budgets: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="task = largest relative drop (0.01 is 1 %); by default half of its gate",
    )
    method: Literal["minmax", "entropy", "percentile"] = entry(
        "minmax", description="how ranges are found on the calibration pictures"
    )
    images: Count = entry(
        64, ge=1, description="calibration pictures, to find the ranges of values"
    )
    judge_images: Count = entry(600, ge=1, description="other pictures, to check the budgets on")
    max_evaluations: Count = entry(14, ge=2, description="most evaluations on the judge_images")
    keep_float: tuple[str, ...] = entry(
        (), description="patterns of node names or module paths that stay in float32"
    )
    equalise: bool = entry(True, description="rescale channels first (an exact change)")
    correct_bias: bool = entry(True, description="correct biases by the mean rounding error")
    narrow_sums: bool | None = entry(
        None, description="weights for x86 without VNNI (16-bit sums); by default for processors"
    )
    recovery_steps: int = entry(
        0, ge=0, le=MOST_STEPS, description="training steps on rounded weights, if int8 fails"
    )
    recovery_images: Count = entry(200, ge=0, description="more pictures for that training")


class BenchSection(_Section):
    """``[bench]``: how latency is measured."""

    enabled: bool = entry(True, description="measure latency if this machine is the device")
    threads: int = entry(
        1, ge=0, le=1024, description="threads, the target's by default; 0: the runtime chooses"
    )
    seconds: float = entry(3.0, gt=0, le=MOST_SECONDS, description="time at least so many seconds")
    min_runs: int = entry(50, ge=1, le=MOST_RUNS, description="time at least so many runs")
    max_seconds: float = entry(
        20.0, gt=0, le=MOST_SECONDS, description="stop after so many seconds in every case"
    )
    warmup_seconds: float = entry(
        1.0, ge=0, le=MOST_SECONDS, description="seconds of runs before, not counted"
    )


class Recipe(_Section):
    """A whole recipe."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    prune: PruneSection = PruneSection()
    recover: RecoverSection = RecoverSection()
    mask: MaskSection = MaskSection()
    export: ExportSection = ExportSection()
    quantize: QuantizeSection = QuantizeSection()
    bench: BenchSection = BenchSection()
    gates: GateLimits = GateLimits()

    def to_dict(self, only_given: bool = False) -> dict[str, Any]:
        """Plain data of all keys, or of those that somebody set; :func:`validate` reads it back."""
        return dict(self.model_dump(mode="json", exclude_none=True, exclude_unset=only_given))

    def with_data_at(self, places: Mapping[str, Path]) -> Recipe:
        """The same recipe on a machine where data folders, as named in it, lie elsewhere."""
        data = self.data.model_copy()
        data._places = dict(places)
        return self.model_copy(update={"data": data})


#: keys that are one setting under two names: a later layer's name replaces an earlier one's
_SAME = {"flops_ratio": "macs_ratio", "macs_ratio": "flops_ratio"}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of tables; ``over`` wins, lists and values are replaced."""
    out = {key: value for key, value in base.items() if _SAME.get(key) not in over}
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def validate(data: Mapping[str, Any], where: str) -> Recipe:
    """Check a merged recipe.

    Raises:
        UsageError: unknown key or a value that makes no sense, naming the key.
    """
    try:
        return Recipe.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(
                f"unknown key '{key}'", where=where, hint="'edgemtl init' shows all keys"
            ) from error
        reason = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"'{key}': {reason}", where=where) from error


def read_file(path: Path) -> dict[str, Any]:
    """Parse a recipe file and check it on its own, so that a message names the file.

    Raises:
        UsageError: missing, not TOML, or with unknown keys.
    """
    if not path.exists():
        raise UsageError("there is no such recipe", where=str(path))
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # also integers of 5,000 digits
        raise UsageError(f"the recipe is not readable TOML: {error}", where=str(path)) from error
    validate(data, str(path))
    return data


def from_environment(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Recipe keys given as ``EDGEMTL_SECTION__KEY=value``.

    Raises:
        UsageError: a variable of ours that there is not, or a key without a section.
    """
    found = os.environ if environment is None else environment
    for name in sorted(found):
        check_variable(name, Recipe.model_fields)
    assignments = [
        f"{name[len(ENVIRONMENT_PREFIX) :].lower().replace(ENVIRONMENT_SEPARATOR, '.')}={value}"
        for name, value in sorted(found.items())
        if name.startswith(ENVIRONMENT_PREFIX) and ENVIRONMENT_SEPARATOR in name
    ]
    return from_assignments(assignments, "environment")


def from_assignments(assignments: Iterable[str], where: str = "--set") -> dict[str, Any]:
    """Parse ``section.key=value``; the value is TOML, or a string when it is no TOML.

    Raises:
        UsageError: an assignment without ``=`` or without a section.
    """
    data: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not 2 <= len(parts) <= 16 or not all(parts):
            raise UsageError(
                f"'{assignment}' is not section.key=value",
                where=where,
                hint="for example --set gates.tasks.pose.max_relative_drop=0.05",
            )
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        except (ValueError, RecursionError) as error:
            raise UsageError(f"'{key.strip()}': a value that is too large", where=where) from error
        table: dict[str, Any] = {parts[-1]: value}
        for part in reversed(parts[:-1]):
            table = {part: table}
        data = merge(data, table)
    return data


def resolve(
    target_defaults: Mapping[str, Any],
    file: Path | Recipe | None,
    assignments: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Recipe:
    """The recipe of a run.

    Args:
        target_defaults: recipe keys that the target sets.
        file: the user's recipe, if any; of one that is loaded already, the keys that were set.
        assignments: values of ``--set``.
        environment: variables to read; the process's by default.

    Raises:
        UsageError: any of them is not valid.
    """
    merged = dict(target_defaults)
    validate(merged, "target")
    if file is not None:
        merged = merge(merged, read_file(file) if isinstance(file, Path) else file.to_dict(True))
    for where, layer in (
        ("environment", from_environment(environment)),
        ("--set", from_assignments(assignments)),
    ):
        merged = merge(merged, layer)
        validate(merged, where)
    return validate(merged, "recipe")
