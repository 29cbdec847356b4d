"""Facts about the machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgemtl.errors import InputRefused
from edgemtl.measure import machine
from edgemtl.measure.machine import (
    MachineFacts,
    machine_facts,
    peak_resident_bytes,
    resident_bytes,
)


def test_facts_survive_json() -> None:
    facts = machine_facts()
    assert facts.cpu and facts.system
    assert facts.cores >= 1
    assert MachineFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


def test_facts_from_broken_data() -> None:
    with pytest.raises(InputRefused):
        MachineFacts.from_dict({"cpu": "x"})


def test_what_sysfs_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    monkeypatch.setattr(machine, "_THERMAL", tmp_path)
    (tmp_path / "scaling_cur_freq").write_text("1800000\n")
    (tmp_path / "scaling_governor").write_text("powersave\n")
    for number, reading in enumerate(("45500", "61000", "-273150", "nonsense")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(reading)
    facts = machine_facts()
    assert (facts.frequency_mhz, facts.governor, facts.temperature_c) == (1800, "powersave", 61)


def test_what_sysfs_does_not_tell_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    monkeypatch.setattr(machine, "_THERMAL", tmp_path)
    facts = machine_facts()
    assert (facts.frequency_mhz, facts.governor, facts.temperature_c) == (None, None, None)


def test_peak_remembers_what_was_released() -> None:
    before = resident_bytes()
    ballast = np.ones(64 << 20, np.uint8)
    assert resident_bytes() - before > 48 << 20
    del ballast
    assert peak_resident_bytes() - before > 48 << 20
