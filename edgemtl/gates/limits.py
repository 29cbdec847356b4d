"""The recipe's ``[gates]``: what a result must keep to.

The defaults are ratios to the uncompressed network, measured in the same run; absolute limits
(milliseconds, bytes, a least accuracy) are the user's to set. ``false`` switches a default off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from edgemtl.errors import UsageError
from edgemtl.fields import entry

#: a task may lose this share of its primary figure
DEFAULT_RELATIVE_DROP = 0.02


def _off(value: Any) -> Any:
    # TOML has no null, so "this default gate, off" is written as false. A plain true would
    # otherwise be read as the number 1.
    if isinstance(value, bool):
        if value:
            raise ValueError("write a number, or false to switch the gate off")
        return None
    return value


_Off = BeforeValidator(_off, json_schema_input_type=float | Literal[False])
Limit = Annotated[float | None, _Off]
Positive = Annotated[Annotated[float, Field(gt=0)] | None, _Off]
NotNegative = Annotated[Annotated[float, Field(ge=0)] | None, _Off]


def _share(value: Any) -> Any:
    """``"5%"`` as 0.05; everything else is left to the usual checks."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            raise ValueError("write a share like 0.05 or '5%', or false") from None
    return _off(value)


Share = Annotated[
    Annotated[float, Field(ge=0)] | None,
    BeforeValidator(_share, json_schema_input_type=float | str | Literal[False]),
]


class _Limits(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _off_is_written_false(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Left out, a default that was switched off would be on again when it is read back.
        data: dict[str, Any] = write(self)
        for name, key in type(self).model_fields.items():
            if key.default is not None and getattr(self, name) is None:
                data[name] = False
        return data


class FigureLimits(_Limits):
    """``[gates.tasks.NAME.figures.KEY]``: limits on another figure of a task.

    Attributes:
        min: least value; max: largest value.
    """

    min: Limit = entry(None, description="lowest value of the figure that passes")
    max: Limit = entry(None, description="highest value of the figure that passes")


class OneClassLimits(_Limits):
    """``[gates.tasks.NAME.classes.named.CLASS]``: limits on the figure of one class.

    Attributes:
        max_relative_drop: how much worse than the uncompressed network, as a share of its figure.
        min: least value.
    """

    max_relative_drop: NotNegative = entry(
        None, description="largest relative drop, against the uncompressed network"
    )
    min: Limit = entry(None, description="lowest value that passes")


class ClassLimits(OneClassLimits):
    """``[gates.tasks.NAME.classes]``: limits that the figure of every labelled class keeps to.

    A class that dies hardly moves the mean over many: these look at each by itself.

    Attributes:
        named: limits on single classes, beside those on all.
    """

    named: dict[str, OneClassLimits] = Field(
        default_factory=dict, description="class = the same limits for that class"
    )


class TaskLimits(_Limits):
    """``[gates.tasks.NAME]``: limits on the task's primary figure.

    Attributes:
        max_relative_drop: how much worse than the uncompressed network, as a share of its figure
            (0.02 = 2 % worse), whichever direction is better.
        min: least value; max: largest value (for figures where lower is better).
        classes: limits on the figures of its classes.
        figures: limits on its other figures, by their keys in ``accuracy.json``.
    """

    max_relative_drop: NotNegative = entry(
        DEFAULT_RELATIVE_DROP, description="largest relative drop, against the uncompressed network"
    )
    min: Limit = entry(None, description="lowest value of the figure that passes")
    max: Limit = entry(None, description="highest value of the figure that passes")
    classes: ClassLimits = ClassLimits()
    figures: dict[str, FigureLimits] = Field(
        default_factory=dict, description="another figure of the task = its own min and max"
    )

    @model_validator(mode="after")
    def _some_value_fits(self) -> TaskLimits:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: no figure fits")
        return self


class LatencyLimits(_Limits):
    """``[gates.latency]``.

    Attributes:
        p50_ms, p90_ms, p99_ms: absolute limits on the artefact.
        ratio: artefact over uncompressed reference, medians of interleaved runs. The default of
            1.05 says that compression must not make the network slower; the 5 % are room for two
            equal artefacts whose ratio is measured, not counted.
    """

    p50_ms: Positive = entry(None, description="limit for half of all runs (the median)")
    p90_ms: Positive = entry(None, description="limit for 90 % of all runs")
    p99_ms: Positive = entry(None, description="limit for 99 % of all runs")
    ratio: Positive = entry(
        1.05, description="median latency, divided by that of the uncompressed network"
    )


class CostLimits(_Limits):
    """``[gates.cost]``: counted, so equal things are exactly equal and need little room.

    Attributes:
        macs_ratio: multiply-accumulates over the uncompressed network's.
        flops_ratio: another name of the same limit, since the factor of two cancels.
        parameters_ratio: parameters over the uncompressed network's.
        size_ratio: artefact bytes over the uncompressed artefact's; the 1 % of room is for names
            and notes in the file, which are no weights.
        size_bytes: absolute limit on the artefact.
    """

    macs_ratio: Positive = entry(
        1.0, description="multiply-accumulates, divided by those of the uncompressed network"
    )
    flops_ratio: Positive = entry(None, description="another name of macs_ratio; set one of them")
    parameters_ratio: Positive = entry(
        None, description="parameters, divided by those of the uncompressed network"
    )
    size_ratio: Positive = entry(
        1.01, description="bytes of the artefact, divided by those of the uncompressed one"
    )
    size_bytes: Positive = entry(None, description="bytes of the artefact")

    @model_validator(mode="after")
    def _one_name(self) -> CostLimits:
        if {"macs_ratio", "flops_ratio"} <= self.model_fields_set:
            raise ValueError("macs_ratio and flops_ratio are one limit, set one of them")
        return self

    @model_serializer(mode="wrap")
    def _one_name_is_written(
        self, write: SerializerFunctionWrapHandler, asked: SerializationInfo
    ) -> dict[str, Any]:
        data = self._off_is_written_false(write)
        if asked.exclude_unset and not {"macs_ratio", "flops_ratio"} & self.model_fields_set:
            return data
        data.pop("flops_ratio", None)
        return data | {"macs_ratio": False if self.macs is None else self.macs}

    @property
    def macs(self) -> float | None:
        """The limit on the ratio of multiply-accumulates, whichever name it was given by."""
        return self.flops_ratio if "flops_ratio" in self.model_fields_set else self.macs_ratio


class RegressionLimits(_Limits):
    """``[gates.regression]``: against a baseline (``gate --baseline``), as shares: 0.05 or "5%".

    Attributes:
        max_drop: how much worse a task's primary figure may be; tasks: the same for one task.
        max_cost: how much MACs, parameters and bytes may grow; counted, so little room is needed.
        max_latency, max_p99: how much median and 99th percentile may grow. They fail only when the
            95 % interval of the change excludes "no change" too. ``false`` only reports them, for
            machines that are shared with others.
    """

    max_drop: Share = entry(0.01, description="share by which a task's figure may get worse")
    tasks: dict[str, Share] = Field(
        default_factory=dict, description="task = the same limit for that task alone"
    )
    max_cost: Share = entry(0.01, description="share by which MACs, parameters and bytes may grow")
    max_latency: Share = entry(0.05, description="share by which the median latency may grow")
    max_p99: Share = entry(0.15, description="share by which the 99th percentile may grow")

    def task(self, name: str) -> float | None:
        """The limit of a task's primary figure; None when it is only reported."""
        return self.tasks.get(name, self.max_drop)

    @model_serializer(mode="wrap")
    def _off_tasks_are_written_false(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data = self._off_is_written_false(write)
        return data | {"tasks": {k: False if v is None else v for k, v in self.tasks.items()}}


class GateLimits(_Limits):
    """``[gates]``.

    Attributes:
        tasks: limits by task name; a task of the network that is not named gets the defaults.
        regression: limits on what got worse than a baseline; judged only where there is one.
        allow_not_measured: gates that may go unmeasured without failing the run, by name
            (``latency.p99_ms``) or by the front part of their names (``latency``, ``tasks.pose``).
    """

    tasks: dict[str, TaskLimits] = Field(default_factory=dict)
    latency: LatencyLimits = LatencyLimits()
    cost: CostLimits = CostLimits()
    regression: RegressionLimits = RegressionLimits()
    allow_not_measured: tuple[str, ...] = entry(
        (), description="gates that need no measurement: a name, or its first part ('latency')"
    )

    def task(self, name: str) -> TaskLimits:
        """The limits of a task, the defaults when it is not named."""
        return self.tasks.get(name, TaskLimits())

    def allows_not_measured(self, gate: str) -> bool:
        """Whether this gate may go unmeasured."""
        return any(gate == a or gate.startswith(f"{a}.") for a in self.allow_not_measured)


def parse_limits(data: Mapping[str, Any], where: str = "[gates]") -> GateLimits:
    """Parse a recipe's or a target's ``[gates]`` table.

    Raises:
        UsageError: unknown key or a value that makes no sense, naming the key.
    """
    try:
        return GateLimits.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"'{key}': {first['msg']}", where=where) from error
