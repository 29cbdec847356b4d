"""What a pruned network is held against: the dense one that it came from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command import edgemtl
from support.data import write_dense_folder
from support.dense_family import TinyDense, build
from support.dense_work import NO_BENCH

from edgemtl.errors import InputRefused, UsageError
from edgemtl.gates.judge import GateFacts, judge
from edgemtl.gates.limits import GateLimits
from edgemtl.models.checkpoint import from_network, load, load_network, save, weights_hash
from edgemtl.models.origin import Origin, origin_of, recorded_name
from edgemtl.pipeline import reference_accuracy as cached
from edgemtl.pipeline.evaluate import EvaluateOutcome, EvaluateRequest
from edgemtl.pipeline.reference import ITSELF, find_reference
from edgemtl.tasks.base import MetricSpec

SLICES = ("--set=prune.oracle_images=4", "--set=prune.calibration_images=4")
FAR = ("--method=l1-uniform", "--set=prune.channel_multiple=1", "--flops=0.3", "--steps=0")
QUICK = ("--target=cpu", "--no-prune", *NO_BENCH, "--set=export.parity_images=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``dense.pt``, ``small.pt`` pruned from it by the verb and then damaged, ``data``."""
    folder = tmp_path_factory.mktemp("lineage")
    save(from_network(build()), folder / "dense.pt")
    for split in ("train", "val"):
        write_dense_folder(folder / "data", split, 12, seed=len(split))
    told = edgemtl(
        *("prune", folder / "dense.pt", "--data", folder / "data", *SLICES, *FAR),
        *("-o", folder / "small.pt"),
    )
    assert told.code == 0, told.err
    _damage(folder / "small.pt")
    return folder


def _damage(path: Path) -> None:
    """Let a pruned checkpoint lose far more than any gate allows, whatever pruning can save."""
    checkpoint = load(path)
    network = checkpoint.network()
    with torch.no_grad():
        bias = dict(network.named_parameters())["decoders.distance.out.bias"]
        bias += 50  # metres
    save(from_network(network, checkpoint.meta), path)


@pytest.fixture
def alone(place: Path, tmp_path: Path) -> Path:
    """The pruned checkpoint where its dense network is not."""
    shutil.copyfile(place / "small.pt", tmp_path / "small.pt")
    return tmp_path / "small.pt"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the data sets that references are really measured on."""
    found: list[str] = []
    real = cached.evaluate_model

    def evaluate_model(request: EvaluateRequest) -> EvaluateOutcome:
        found.append(request.dataset.name)
        return real(request)

    monkeypatch.setattr(cached, "evaluate_model", evaluate_model)
    yield found


# --- the record -----------------------------------------------------------------------------------


def test_a_pruned_checkpoint_names_the_dense_file_and_its_weights(
    place: Path, tmp_path: Path
) -> None:
    dense = weights_hash(load_network(place / "dense.pt"))
    assert origin_of(place / "small.pt") == Origin("dense.pt", dense)
    assert origin_of(place / "dense.pt") is None and origin_of(place / "absent.pt") is None
    # pruned once more, it still comes from the dense one
    told = edgemtl(
        *("prune", place / "small.pt", "--data", place / "data", *SLICES, *FAR),
        *("--flops=0.8", "-o", tmp_path / "smaller.pt"),
    )
    assert told.code == 0, told.err
    assert origin_of(tmp_path / "smaller.pt") == Origin("dense.pt", dense)
    assert load(tmp_path / "smaller.pt").meta["pruned_from"] == "small.pt"


def test_a_record_is_read_with_suspicion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"file": "dense.pt", "weights_sha256": "0" * 64}
    assert Origin.from_meta({"dense": good}) == Origin("dense.pt", "0" * 64)
    for odd in (None, [], {"file": 3}, good | {"weights_sha256": "1"}, good | {"file": ""}):
        assert Origin.from_meta({"dense": odd}) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "models").mkdir(parents=True)
    for name in ("dense.pt", "in/dense.pt", "in/models/dense.pt"):
        (tmp_path / name).touch()
    model = Path("in/models/small.pt")

    def found(file: str) -> list[str]:
        return [path.as_posix() for path in Origin(file, "").candidates(model)]

    assert found("in/dense.pt") == ["in/models/dense.pt", "in/dense.pt"]
    assert found("../dense.pt") == found(str(tmp_path / "dense.pt")) == ["in/models/dense.pt"]
    assert found("in/models") == []
    assert recorded_name(Path("in/a.pt")) == "in/a.pt"
    assert recorded_name(Path("../a.pt")) == recorded_name(tmp_path / "a.pt") == "a.pt"


# --- finding it -----------------------------------------------------------------------------------


def test_only_the_weights_that_were_pruned_are_the_reference(
    place: Path, alone: Path, tmp_path: Path
) -> None:
    network, tasks = load_network(alone), build().tasks

    def found(asked: Path | None = None) -> Any:
        return find_reference(alone, network, None, asked, tasks)

    assert found().reference is None and found().note == ITSELF
    save(from_network(build(seed=1)), tmp_path / "dense.pt")  # of the same name, another network
    assert found().reference is None
    (tmp_path / "dense.pt").write_bytes(b"no checkpoint")
    assert found().reference is None
    shutil.copyfile(place / "dense.pt", tmp_path / "dense.pt")
    against = found()
    assert against.note == "dense.pt" and "pruning record" in against.reference.found
    # asked for: any network with these tasks
    save(from_network(build(seed=1)), tmp_path / "other.pt")
    assert found(tmp_path / "other.pt").note == "other.pt"
    assert found(alone).reference is None and found(alone).note == ITSELF
    with pytest.raises(InputRefused):
        found(tmp_path / "absent.pt")
    fewer = TinyDense(classes=("a", "b"))
    fewer.tasks = fewer.tasks[1:]
    dense = place / "dense.pt"
    own = load_network(dense)
    assert find_reference(dense, own, None, None, tasks).note == ""
    assert find_reference(dense, own, None, dense, tasks).note == ""
    alien = [task for task in tasks if task.name == "parts"]
    alien[0].name = "strange"
    with pytest.raises(UsageError, match="no task 'strange'"):
        find_reference(alone, network, None, dense, alien)


# --- the verbs ------------------------------------------------------------------------------------


def test_gates_name_what_they_compare_with() -> None:
    metric = MetricSpec("miou", "mIoU", "higher")
    facts = {
        "metrics": {"parts": metric},
        "accuracy_before": {"parts": {"miou": 0.8}},
        "accuracy_after": {"parts": {"miou": 0.6}},
    }
    for against, words in (("", ""), ("dense.pt", "dense.pt"), (ITSELF, "itself")):
        (first, *_) = judge(GateLimits(), GateFacts(**facts, against=against)).outcomes
        end = f", compared with {words}" if words else ""
        assert first.detail == f"mIoU 0.8 -> 0.6{end}" and first.status == "fail"


def _figures(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    accuracy = json.loads((run / "accuracy.json").read_text("utf-8"))
    gates = json.loads((run / "gates.json").read_text("utf-8"))
    return accuracy, {one["name"]: one for one in gates["outcomes"]}


def test_compile_holds_a_pruned_network_against_its_dense_one(
    place: Path, alone: Path, tmp_path: Path
) -> None:
    common = ("--data", place / "data", *QUICK)
    beside = edgemtl("compile", place / "small.pt", *common, "-o", tmp_path / "beside")
    assert beside.code == 6, beside.err  # it lost far more than its gate allows
    accuracy, gates = _figures(tmp_path / "beside")
    assert accuracy["reference"]["of"] == "dense.pt"
    dense = edgemtl("eval", place / "dense.pt", "--data", place / "data", "--json").json()
    assert accuracy["reference"]["tasks"] == dense["tasks"]
    assert "compared with dense.pt" in gates["tasks.parts.max_relative_drop"]["detail"]
    assert gates["cost.macs_ratio"]["measured"] < 0.35  # of the dense network's, too
    assert "compared with dense.pt" in beside.out + beside.err
    assert "compared with dense.pt" in (tmp_path / "beside" / "report.md").read_text("utf-8")
    # nowhere to be found: said in one sentence, and judged as before
    itself = edgemtl("compile", alone, *common, "-o", tmp_path / "itself")
    assert itself.code == 0, itself.err
    sentence = f"compared with {ITSELF}"
    assert sentence in itself.out and sentence in (tmp_path / "itself" / "report.md").read_text()
    assert _figures(tmp_path / "itself")[1]["cost.macs_ratio"]["measured"] == 1.0
    # given
    given = ("--reference", place / "dense.pt", "-o", tmp_path / "given")
    assert edgemtl("compile", alone, *common, *given).code == 6
    assert _figures(tmp_path / "given")[0]["reference"]["tasks"] == dense["tasks"]


def test_gate_and_report_take_a_reference_for_stored_results(
    place: Path, alone: Path, tmp_path: Path, measured: list[str]
) -> None:
    run = tmp_path / "run"
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    told = edgemtl("compile", alone, "--data", data, *QUICK, "-o", run)
    assert told.code == 0, told.err
    dense = ("--reference", place / "dense.pt")
    assert edgemtl("gate", run).code == 0
    gated = edgemtl("gate", run, *dense, "--json")
    assert gated.code == 6 and "compared with dense.pt" in gated.out
    (bundle,) = (run / "bundle").iterdir()
    allowed = '--set=gates.allow_not_measured=["latency"]'
    assert edgemtl("gate", bundle, *dense, allowed).code == 6
    assert len(measured) == 1  # once for all of them
    assert edgemtl("gate", run).code == 0  # gate writes nothing
    assert edgemtl("report", run, *dense).code == 0
    accuracy, gates = _figures(run)
    assert accuracy["reference"]["of"] == "dense.pt"
    assert gates["tasks.distance.max_relative_drop"]["status"] == "fail"
    assert json.loads((run / "run.json").read_text())["exit_code"] == 6
    assert "compared with dense.pt" in (run / "report.html").read_text("utf-8")
    assert edgemtl("gate", run).code == 6
    # other pictures than those of the run
    (data / "val" / "images" / "0000.jpg").unlink()
    refused = edgemtl("gate", run, *dense)
    assert refused.code == 3 and "are not the 12 of" in refused.error()


def test_eval_shows_the_dense_network_beside(
    place: Path, alone: Path, tmp_path: Path, measured: list[str]
) -> None:
    where = ("--data", place / "data", "--limit", "5")
    found = edgemtl("eval", place / "small.pt", *where, "--json").json()
    assert found["compared_with"] == found["reference"]["of"] == "dense.pt"
    key = build().selected(["parts"])[0].primary.key
    before, after = (one["tasks"]["parts"][key] for one in (found["reference"], found))
    assert found["relative_drop"]["parts"] == pytest.approx((before - after) / before)
    again = edgemtl("eval", place / "small.pt", *where)
    assert "dense.pt" in again.out and "worse than dense.pt" in again.out
    assert len(measured) == 1  # kept by the hash of its weights
    missing = edgemtl("eval", alone, *where)
    assert missing.code == 0 and f"compared with {ITSELF}" in missing.err
    plain = edgemtl("eval", place / "dense.pt", *where, "--json").json()
    assert "reference" not in plain and "compared_with" not in plain


def test_bench_builds_the_dense_network_for_the_same_target(
    place: Path, alone: Path, tmp_path: Path
) -> None:
    onnx = tmp_path / "small.onnx"
    assert edgemtl("export", alone, "-o", onnx).code == 0
    quick = ("--seconds=0.1", "--min-runs=5", "--max-seconds=1", "--warmup-seconds=0")
    told = edgemtl("bench", onnx, "--reference", place / "dense.pt", *quick, "--json")
    assert told.code in (0, 9), told.err  # steady or not, it is a comparison
    assert set(told.json()) >= {"a", "b", "speedup"}
    refused = edgemtl("bench", onnx, "--reference", place / "dense.pt", "--against", onnx)
    assert refused.code == 2 and "--against" in refused.error()


def test_a_factorys_network_has_a_reference_too(place: Path, tmp_path: Path) -> None:
    torch.save(build().state_dict(), tmp_path / "weights.pt")
    factory = ("--factory", "support.dense_family:build", "--data", place / "data")
    out = tmp_path / "small.pt"
    told = edgemtl("prune", tmp_path / "weights.pt", *factory, *SLICES, *FAR, "-o", out)
    assert told.code == 0, told.err
    found = edgemtl("eval", out, *factory, "--limit=2", "--json").json()
    assert found["compared_with"] == "weights.pt"
