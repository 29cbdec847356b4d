"""A dry run refuses what the run would refuse, with exit code 2 and the key by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import edgemtl
from support.dense_work import DenseWork, write_dense_work

#: assignment -> the key that is named
REFUSED = {
    "quantize.precision=fp16": "quantize.precision",
    "quantize.budgets.parts=-0.1": "quantize.budgets.parts",
    "quantize.budgets.nose=0.1": "quantize.budgets",
    "prune.budgets.parts=-1.5": "prune.budgets.parts",
    "prune.budgets.parts=nan": "prune.budgets.parts",
    "prune.budgets.nose=1.5": "prune.budgets.nose",
    "prune.method=nothing": "prune.method",
    "prune.flops=nan": "prune.flops",
    "recover.size=[-32, 32]": "recover.size.0",
    "recover.learning_rate=nan": "recover.learning_rate",
    "recover.steps=100000000000": "recover.steps",
    "bench.seconds=1e30": "bench.seconds",
    "bench.warmup_seconds=1e9": "bench.warmup_seconds",
    "bench.max_seconds=inf": "bench.max_seconds",
    "bench.min_runs=99999999999": "bench.min_runs",
    "bench.threads=1000000": "bench.threads",
    "data.seed=99999999999999999999": "data.seed",
    "export.nms=graph": "export.nms",
    "export.expert_headroom=nan": "export.expert_headroom",
    "gates.tasks.parts={min = 0.9, max = 0.1}": "gates.tasks.parts",
    "gates.tasks.nose.min=0.1": "gates.tasks.nose",
    "gates.latency.p50_ms=nan": "gates.latency.p50_ms",
    'model.tasks=["nose"]': "nose",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize("assignment", REFUSED)
def test_a_slip_is_refused_before_anything_is_written(
    work: DenseWork, tmp_path: Path, assignment: str, dry: bool
) -> None:
    flags = (*work.flags_of_the_target(), "--target=cpu", "-o", tmp_path / "run")
    told = edgemtl("compile", *flags, "--set", assignment, *(["--dry-run"] if dry else []))
    assert told.code == 2, told.out + told.err
    assert REFUSED[assignment] in told.error()
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("verb", ["prune", "quantize"])
def test_the_verbs_refuse_the_same(work: DenseWork, tmp_path: Path, verb: str) -> None:
    flags = (*work.flags_of_the_target(), "--target=cpu", "-o", tmp_path / "out")
    for assignment in ("prune.method=nothing", "quantize.budgets.parts=-0.1"):
        told = edgemtl(verb, *flags, "--set", assignment)
        assert told.code == 2 and REFUSED[assignment] in told.error()
    told = edgemtl("quantize", *flags, "--precision=fp16")
    assert told.code == 2 and "'cpu' has no fp16" in told.error()


@pytest.mark.parametrize("dry", [True, False])
def test_an_unknown_variable_is_refused(
    work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry: bool
) -> None:
    flags = ("compile", *work.flags(), "--target=cpu", "--until-stage=model", "-o", tmp_path)
    flags = (*flags, *(["--dry-run"] if dry else []))
    monkeypatch.setenv("EDGEMTL_BENCH_THREADS", "2")
    told = edgemtl(*flags)
    assert told.code == 2 and "unknown variable 'EDGEMTL_BENCH_THREADS'" in told.error()
    assert "EDGEMTL_BENCH__THREADS" in told.hint()
    monkeypatch.delenv("EDGEMTL_BENCH_THREADS")
    monkeypatch.setenv("EDGEMTL_CAHCE", "2")
    told = edgemtl(*flags)
    assert told.code == 2 and "EDGEMTL_CACHE" in told.hint()
    monkeypatch.delenv("EDGEMTL_CAHCE")
    for name in ("EDGEMTL_DEBUG", "EDGEMTL_TVM_WHEELS", "EDGEMTL_BENCH__THREADS"):
        monkeypatch.setenv(name, "1")
    assert edgemtl(*flags).code == 0
