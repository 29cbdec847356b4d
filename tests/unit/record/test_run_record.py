"""The strict reader of run folders: what gates and baselines are told, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.command import edgemtl

from edgemtl.errors import InputRefused
from edgemtl.gates.judge import GateReport, judge
from edgemtl.gates.limits import GateLimits
from edgemtl.pipeline.gate import judge_measured
from edgemtl.recipes import PruneSection
from edgemtl.record.load import load_run
from edgemtl.record.run_record import (
    READABLE,
    RUN,
    SCHEMA_VERSION,
    TIMINGS,
    Measured,
    RunRecord,
    versioned,
)

FIXTURES = Path(__file__).parents[2] / "fixtures"
BEFORE, SECOND = FIXTURES / "before_house", FIXTURES / "version_2"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of version 1, to be changed."""
    return Path(shutil.copytree(BEFORE / "run", tmp_path / "run"))


def _change(run: Path, **changes: object) -> None:
    facts = json.loads((run / RUN).read_text("utf-8"))
    (run / RUN).write_text(json.dumps({**facts, **changes}), "utf-8")


def test_an_older_folder_reads_and_is_judged_as_it_was(run: Path) -> None:
    record = RunRecord.open(run)
    assert record.facts["schema_version"] == 1 in READABLE
    assert SCHEMA_VERSION in READABLE
    measured = record.measured()
    assert set(measured.metrics) == {"parts", "distance"} and measured.comparison is not None
    latency = record.latency()
    assert latency is not None and latency.summary.p50_ms > 0
    asked = PruneSection.model_validate(record.facts["recipe"]["prune"])
    again = judge_measured(GateLimits.model_validate(record.gates), measured, asked).report
    stored = GateReport.from_dict(json.loads((run / "gates.json").read_text("utf-8")))
    known = {outcome.name: outcome.status for outcome in again.outcomes}
    assert {o.name: o.status for o in stored.outcomes}.items() <= known.items()


def test_a_folder_of_a_later_version_is_refused_in_a_sentence(run: Path) -> None:
    _change(run, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(InputRefused, match=f"has version {SCHEMA_VERSION + 1}, this EdgeMTL reads"):
        RunRecord.open(run)


def test_a_page_of_a_later_version_is_refused_in_a_sentence(run: Path) -> None:
    _change(run, schema_version=SCHEMA_VERSION + 1)
    told = edgemtl("report", run)
    assert told.code == 3
    assert f"has version {SCHEMA_VERSION + 1}, this EdgeMTL reads 1 and 2 and 3" in told.error()
    assert "the EdgeMTL that wrote it" in told.hint()
    # no number at all is of version 1, and what is no number is shown as far as it goes
    for old in (None, "soon"):
        _change(run, schema_version=old)
        assert load_run(run).run is not None


def test_one_file_of_a_later_version_is_no_verdict_and_a_gap_in_the_page(run: Path) -> None:
    cost = json.loads((run / "cost.json").read_text("utf-8"))
    (run / "cost.json").write_text(json.dumps({**cost, "schema_version": 99}), "utf-8")
    shown = load_run(run)
    assert shown.cost_after is None and shown.run is not None
    assert any("cost.json: the run folder has version 99" in line for line in shown.problems)
    with pytest.raises(InputRefused, match="has version 99"):
        RunRecord.open(run).measured()


@pytest.mark.parametrize("name", ["run", "run_mask"])
def test_a_folder_of_version_2_reads(name: str, tmp_path: Path) -> None:
    folder = SECOND / name
    assert RunRecord.open(folder).facts["schema_version"] == 2
    stored = json.loads((folder / "gates.json").read_text("utf-8"))
    told = edgemtl("gate", folder, "--json")
    assert (told.code, told.json()) == (stored["exit_code"], stored)
    shown = load_run(folder)
    assert shown.run is not None and shown.problems == ()
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    assert edgemtl("report", own).code == 0 and (own / "report.html").is_file()


def test_what_is_written_has_its_version_first() -> None:
    assert list(versioned({"a": 1, "schema_version": 1})) == ["schema_version", "a"]
    assert versioned({})["schema_version"] == SCHEMA_VERSION


def test_what_is_no_run_folder_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputRefused, match="not a run folder"):
        RunRecord.open(tmp_path)
    (run / RUN).write_text("[]", "utf-8")
    with pytest.raises(InputRefused, match="not a JSON object"):
        RunRecord.open(run)


def test_what_a_run_did_not_come_to_is_empty_and_never_a_pass(run: Path) -> None:
    shutil.rmtree(run / "bench")
    for name in ("accuracy.json", "cost.json"):
        (run / name).unlink()
    found = RunRecord.open(run).measured()
    assert found == Measured({}, {}, {}, pruning=found.pruning)
    report = judge(GateLimits(), found.gate_facts())
    assert not report.passed and all(o.status == "not-measured" for o in report.outcomes)


def test_a_broken_part_is_refused(run: Path) -> None:
    _change(run, recipe={})
    with pytest.raises(InputRefused, match="the run is not readable"):
        _ = RunRecord.open(run).gates
    (run / "cost.json").write_text("[1]", "utf-8")
    with pytest.raises(InputRefused, match="not a JSON object"):
        RunRecord.open(run).measured()


def test_every_file_of_the_benchmark_has_a_place() -> None:
    assert len(set(TIMINGS)) == len(TIMINGS) == 7
