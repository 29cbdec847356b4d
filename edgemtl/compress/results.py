"""What pruning did, as plain data: stored beside the checkpoint and shown in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgemtl.errors import InputRefused


@dataclass(frozen=True)
class GroupStep:
    """One committed step: which group cost which task how much.

    Attributes:
        group: its name.
        tasks: the tasks whose outputs depend on it.
        width_before, width_after: channels (or heads).
        macs_saved, params_saved, latency_saved_ms: of the whole network, consumers included.
        loss_rise: task -> rise of its loss by this step, as a share of the dense loss.
        sensitive_task: the task that refused going farther, or else the one that rose most.
        checks: trials it took; images: pictures they looked at.
        macs_share: multiply-accumulates left after it, as a share of the dense network's.
        loss_ratio: task -> loss after it over the dense loss, before any recovery.
    """

    group: str
    tasks: tuple[str, ...]
    width_before: int
    width_after: int
    macs_saved: float
    params_saved: float
    latency_saved_ms: float | None
    loss_rise: Mapping[str, float]
    sensitive_task: str
    checks: int
    images: int
    macs_share: float
    loss_ratio: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"tasks": list(self.tasks)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> GroupStep:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            latency = data["latency_saved_ms"]
            return GroupStep(
                str(data["group"]),
                tuple(str(task) for task in data["tasks"]),
                int(data["width_before"]),
                int(data["width_after"]),
                float(data["macs_saved"]),
                float(data["params_saved"]),
                None if latency is None else float(latency),
                {str(k): float(v) for k, v in data["loss_rise"].items()},
                str(data["sensitive_task"]),
                int(data["checks"]),
                int(data["images"]),
                float(data["macs_share"]),
                {str(k): float(v) for k, v in data["loss_ratio"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"a pruning step is not readable: {error!r}") from error


@dataclass(frozen=True)
class Refusal:
    """A step that was taken back because the network would not run or export; the group stays.

    Attributes:
        group: its name.
        width: channels (or heads) it keeps.
        width_tried: what it would have kept.
        problem: one sentence.
    """

    group: str
    width: int
    width_tried: int
    problem: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Refusal:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            return Refusal(
                str(data["group"]),
                int(data["width"]),
                int(data["width_tried"]),
                str(data["problem"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputRefused(f"a refused step is not readable: {error!r}") from error
