"""What the machine tells while something is timed, and the A/A check."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.run_folder import comparison, latency

from edgemtl.errors import InputRefused
from edgemtl.measure.results import LatencyResult, StopRule
from edgemtl.measure.selfcheck import SelfCheck
from edgemtl.measure.statistics import Ratio, quantile_ratios
from edgemtl.measure.telemetry import (
    Reading,
    Recorder,
    Telemetry,
    read_machine,
    readings_from,
    summarise_readings,
)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A tree of files as the kernel shows them."""
    contents = {
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1200000\n",
        "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "1\n",
        "class/thermal/thermal_zone0/temp": "61000\n",
        "class/thermal/thermal_zone1/temp": "-273000\n",
        "class/powercap/intel-rapl:0/energy_uj": "5000000\n",
        "class/hwmon/hwmon0/power1_input": "7500000\n",
        "class/hwmon/hwmon1/power1_input": "broken\n",
    }
    for name, text in contents.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")
    return tmp_path


def test_reads_what_the_kernel_shows(machine: Path) -> None:
    found = read_machine(machine)
    assert found.frequency_mhz == 1800
    assert found.temperature_c == 61
    assert found.throttle_count == 4
    assert (found.energy_j, found.power_w) == (5.0, 7.5)


def test_a_machine_that_tells_nothing_gives_nothing(tmp_path: Path) -> None:
    found = read_machine(tmp_path)
    assert asdict(found) == asdict(Reading(found.seconds))
    summary = summarise_readings([found, found])
    assert summary == Telemetry(2, 0.0)
    assert summary.problem == "" and summarise_readings([]) is None


def test_a_series_in_a_few_figures() -> None:
    readings = [
        Reading(10.0, 2400, 50, 4, 100.0, 9.0),
        Reading(10.5, 2400, 58, 4, 104.0, 9.0),
        Reading(11.0, 1600, 71, 6, 110.0, 9.0),
    ]
    found = summarise_readings(readings)
    assert found == Telemetry(3, 1.0, 1600, 2400, 50, 71, 2, 10.0)
    assert found.problem == "the processor throttled 2 times meanwhile"
    assert Telemetry.from_dict(json.loads(json.dumps(asdict(found)))) == found
    wrapped = [replace(readings[0], energy_j=200.0), readings[2]]
    after_wrap = summarise_readings(wrapped)
    assert after_wrap is not None and after_wrap.power_w == 9.0  # the sensors, not the counter
    with pytest.raises(InputRefused):
        Telemetry.from_dict({"readings": "many"})


def test_the_recorder_reads_when_it_is_time(machine: Path) -> None:
    recorder = Recorder(machine)
    recorder.between_runs()
    assert len(recorder.readings) == 1
    shutil.rmtree(machine / "class")
    recorder.between_runs(force=True)
    assert [r.temperature_c for r in recorder.readings] == [61, None]
    assert readings_from(json.loads(json.dumps(recorder.to_list()))) == recorder.readings


def test_results_with_and_without_telemetry_are_read() -> None:
    told = replace(latency(10.0), telemetry=Telemetry(4, 1.5, 2000, 2400, 50, 55, 0, None))
    assert LatencyResult.from_dict(json.loads(json.dumps(told.to_dict()))) == told
    old = latency(10.0).to_dict()
    del old["telemetry"]
    assert LatencyResult.from_dict(old).telemetry is None
    from edgemtl.errors import UsageError

    with pytest.raises(UsageError, match="cooldown"):
        StopRule(cooldown_seconds=-1)


def test_quantile_ratios_know_what_noise_is() -> None:
    a, b = latency(10.0, seed=1).samples_ms, latency(12.0, seed=2).samples_ms
    median, p99 = quantile_ratios(b, a, (50, 99))
    assert median.low < median.value < median.high
    assert median.low > 1.15 and median.high < 1.25
    assert p99.high - p99.low > median.high - median.low
    assert quantile_ratios(b, a, (50, 99)) == (median, p99)  # seeded
    same = quantile_ratios(a, a, (50,))[0]
    assert same.value == 1 and same.low <= 1 <= same.high
    with pytest.raises(ValueError, match="zero"):
        quantile_ratios([1.0], [0.0], (50,))
    assert quantile_ratios([2.0], [1.0], (50,))[0].value == 2


def check(**changes: object) -> SelfCheck:
    even = Ratio(1.0, 0.99, 1.02)
    pair = comparison(10.0, 10.0)
    pair = replace(pair, speedup=even)
    base = SelfCheck(latency(10.0), latency(10.0), even, Ratio(1, 0.7, 1.4), pair, 0.05)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_the_self_check_holds_the_noise_against_the_claim() -> None:
    good = check()
    assert good.stable and good.reason == ""
    assert good.floor == pytest.approx(0.02)
    assert not check(claim=0.01).stable
    wide = check(median=Ratio(1.01, 0.92, 1.03))
    assert wide.floor == pytest.approx(0.08)
    assert "8.0%" in wide.reason and "one after the other" in wide.reason
    moved = check(second=replace(latency(10.0), stable=False, reason="it drifted"))
    assert "second" in moved.reason and "it drifted" in moved.reason
    assert check(interleaved=replace(comparison(10, 10), speedup=Ratio(1, 0.5, 1.1))).reason
    document = json.loads(json.dumps(good.to_dict(), allow_nan=False))
    assert document["noise_floor"] == good.floor
