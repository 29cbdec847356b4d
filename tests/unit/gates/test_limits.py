"""The recipe's [gates]: defaults, spellings and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from edgemtl.errors import UsageError
from edgemtl.gates.limits import DEFAULT_RELATIVE_DROP, GateLimits, parse_limits


def test_defaults_are_ratios_only() -> None:
    limits = parse_limits({})
    assert limits.task("anything").max_relative_drop == DEFAULT_RELATIVE_DROP
    assert limits.task("anything").min is None
    assert limits.latency.p99_ms is None
    assert limits.latency.ratio == 1.05
    assert limits.cost.macs == 1.0
    assert limits.cost.size_ratio == 1.01
    assert limits.cost.size_bytes is None


def test_recipe_values() -> None:
    limits = parse_limits(
        {
            "tasks": {"pose": {"max_relative_drop": 0.1, "max": 7}},
            "latency": {"p99_ms": 12.0},
            "cost": {"flops_ratio": 0.4},
            "allow_not_measured": ["latency"],
        }
    )
    assert limits.task("pose").max == 7
    assert limits.task("detection").max_relative_drop == DEFAULT_RELATIVE_DROP
    assert limits.cost.macs == 0.4
    assert limits.latency.ratio == 1.05


def test_false_switches_a_default_off() -> None:
    limits = parse_limits(
        {
            "tasks": {"pose": {"max_relative_drop": False}},
            "latency": {"ratio": False},
            "cost": {"flops_ratio": False},
        }
    )
    assert limits.task("pose").max_relative_drop is None
    assert limits.latency.ratio is None
    assert limits.cost.macs is None


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"speed": 1}, "speed"),
        ({"latency": {"p95_ms": 1}}, "latency.p95_ms"),
        ({"latency": {"p50_ms": -1}}, "latency.p50_ms"),
        ({"latency": {"p50_ms": True}}, "latency.p50_ms"),
        ({"latency": {"p50_ms": float("nan")}}, "latency.p50_ms"),
        ({"latency": {"p50_ms": float("inf")}}, "latency.p50_ms"),
        ({"tasks": {"pose": {"max_relative_drop": -0.1}}}, "tasks.pose.max_relative_drop"),
        ({"tasks": {"pose": 0.1}}, "tasks.pose"),
        ({"cost": {"flops_ratio": 0.4, "macs_ratio": 0.3}}, "cost"),
        ({"allow_not_measured": "latency"}, "allow_not_measured"),
    ],
)
def test_refusals_name_the_key(data: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_limits(data)
    assert f"'{key}'" in caught.value.message


def test_allowance_is_by_whole_parts_of_the_name() -> None:
    limits = parse_limits({"allow_not_measured": ["latency", "tasks.pose.min"]})
    assert limits.allows_not_measured("latency.p99_ms")
    assert limits.allows_not_measured("tasks.pose.min")
    assert not limits.allows_not_measured("tasks.pose.max")
    assert not limits.allows_not_measured("latency_extra.p99_ms")


def test_json_schema_accepts_false() -> None:
    schema = GateLimits.model_json_schema()
    ratio = schema["$defs"]["LatencyLimits"]["properties"]["ratio"]
    assert {"const": False, "type": "boolean"} in ratio["anyOf"]
    assert schema["additionalProperties"] is False
