"""What verbs print for people, and the verbs around the main job."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import onnx
import pytest
import torch
from support import published_mos
from support.command import edgemtl
from support.data import write_face_folder
from support.dense_work import FACTORY, DenseWork, write_dense_work

from edgemtl import recipes, targets
from edgemtl.backends import registry

EXAMPLE = Path(__file__).parents[2] / "examples" / "mos_t.pt"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"), images=2)


@pytest.fixture(scope="module")
def exported(work: DenseWork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "dense.onnx"
    told = edgemtl("export", work.model, "--factory", FACTORY, "-o", path, "--json")
    assert told.code == 0, told.err
    assert told.json()["outputs"] == ["parts.logits", "distance.depth"]
    return path


def test_help_lists_the_verbs_and_every_verb_has_help() -> None:
    for arguments in ([], ["--help"], ["-h"]):
        told = edgemtl(*arguments)
        assert told.code == 0 and "compile" in told.out and "Exit codes" in told.out
    for verb in ("compile", "inspect", "eval", "bench", "gate", "run"):
        told = edgemtl(verb, "--help")
        assert told.code == 0 and "--json" in told.out


def test_version() -> None:
    from edgemtl import __version__

    assert edgemtl("--version").out.strip() == f"edgemtl {__version__}"


def test_schema_is_the_recipes() -> None:
    schema = edgemtl("schema").json()
    assert set(schema["properties"]) == set(recipes.Recipe.model_fields)
    assert schema["additionalProperties"] is False


def test_init_writes_a_recipe_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    assert edgemtl("init", "-o", path).out.strip() == str(path)
    assert path.read_text("utf-8") == edgemtl("init").out
    assert recipes.resolve({}, path, [], {}).to_dict() == recipes.Recipe().to_dict()
    path.write_text("mine", "utf-8")
    assert edgemtl("init", "-o", path, "--force").code == 0
    assert tomllib.loads(path.read_text("utf-8"))


def test_targets_and_doctor_tell_what_works() -> None:
    listed = edgemtl("targets")
    for name in targets.names():
        assert f"\n{name} " in f"\n{listed.out}"
    found = {target["name"]: target for target in edgemtl("targets", "--json").json()}
    assert found["cpu"]["ok"] and found["cpu"]["backend"] == "onnxruntime"
    told = edgemtl("doctor")
    assert told.code == 0 and "ok  backend onnxruntime" in told.out
    checks = {check["name"] for check in edgemtl("doctor", "--json").json()["checks"]}
    assert {f"backend {name}" for name in registry.names()} <= checks


def test_the_cache_can_be_seen_and_cleared(
    work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMTL_CACHE", str(tmp_path / "cache"))
    assert edgemtl("cache").out.strip().endswith(": 0.0 MB")
    told = edgemtl("compile", *work.flags(), "--target=cpu", "--until-stage=export", "-o",
                   tmp_path / "out")  # fmt: skip
    assert told.code == 0, told.err
    seen = edgemtl("cache").out
    assert str(tmp_path / "cache") in seen and not seen.strip().endswith(": 0.0 MB")
    assert edgemtl("cache", "--clear").out.strip().endswith(": 0.0 MB")


def test_eval_prints_a_table_and_what_was_not_used(work: DenseWork, tmp_path: Path) -> None:
    told = edgemtl("eval", work.model, "--factory", FACTORY, "--data", work.data, "--limit=1")
    assert told.code == 0 and "1 pictures" in told.out
    assert "parts" in told.out and "distance" in told.out

    faces = write_face_folder(tmp_path / "faces", "val", 2)
    (faces / "val" / "images" / "0000.jpg").write_bytes(b"")
    told = edgemtl("eval", EXAMPLE, "--data", faces)
    assert told.code == 0 and "0000.jpg: is empty" in told.err


def test_eval_without_data_uses_the_embedded_set_and_says_so() -> None:
    told = edgemtl("eval", EXAMPLE, "--limit=2", "--json")
    assert told.code == 0, told.err
    report = told.json()
    assert report["images"] == 2 and "synthetic" in report["data"]
    assert set(report["tasks"]) == {"detection", "landmarks", "pose"}


def test_inspect_prints_modules_and_tasks(work: DenseWork) -> None:
    told = edgemtl("inspect", work.model, "--factory", FACTORY)
    assert told.code == 0 and "parts" in told.out and "distance" in told.out
    long = edgemtl("inspect", work.model, "--factory", FACTORY, "--modules", "--target=cpu")
    assert long.code == 0 and len(long.out) > len(told.out) and "cpu" in long.out


def test_inspect_lists_the_channels_that_can_be_cut_and_those_that_cannot(work: DenseWork) -> None:
    asked = ("inspect", work.model, "--factory", FACTORY, "--groups")
    told = edgemtl(*asked)
    assert told.code == 0 and "channels that cannot be cut" in told.out
    assert "widths in multiples of 16" in told.out and "any width" in told.out
    found = edgemtl(*asked, "--target=cpu", "--json").json()["channels"]
    assert {group["name"] for group in found["groups"]} >= {"stem.conv", "coarse.conv"}
    whole = {row["module"]: row for row in found["whole"]}
    assert {"decoders.parts.out", "decoders.distance.out"} <= set(whole)
    assert all(row["reason"] and 0 <= row["macs_share"] <= 1 for row in found["whole"])
    lowest = found["lowest_macs_share"]
    assert 0 < lowest["1"] <= lowest["16"] < 1 and 0 < found["whole_macs_share"] < 1


def test_export_keeps_the_asked_tasks_and_opset(work: DenseWork, tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    told = edgemtl("export", work.model, "--factory", FACTORY, "-o", path, "--task=distance",
                   "--opset=18")  # fmt: skip
    assert told.code == 0 and "opset 18, outputs distance.depth" in told.out
    model = onnx.load(path)
    assert [output.name for output in model.graph.output] == ["distance.depth"]
    assert model.opset_import[0].version == 18


def test_parity_passes_and_walks_the_layers(work: DenseWork, exported: Path) -> None:
    command = ("parity", work.model, exported, "--factory", FACTORY, "--data", work.data)
    told = edgemtl(*command, "--images=1", "--bisect")
    assert told.code == 0, told.err
    assert told.out.count("ok ") == 2 and "no layer differs" in told.out


def test_parity_names_the_layer_that_was_spoilt(
    work: DenseWork, exported: Path, tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt.onnx"
    model = onnx.load(exported)
    node = next(n for n in model.graph.node if n.op_type == "Conv" and "fine" in n.name)
    weight = next(t for t in model.graph.initializer if t.name == node.input[1])
    values = onnx.numpy_helper.to_array(weight) * 1.1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, spoilt)
    command = ("parity", work.model, spoilt, "--factory", FACTORY, "--data", work.data)
    told = edgemtl(*command, "--images=1", "--bisect", "--json")
    assert told.code == 5, told.err
    assert not told.json()["passed"]
    assert (told.json()["bisect"]["op"], told.json()["bisect"]["module"]) == ("Conv", "fine.conv")
    plain = edgemtl(*command, "--images=1", "--bisect")
    assert plain.code == 5 and "first layer that differs: Conv" in plain.out
    assert "DIFFERS" in plain.out


def test_bench_against_itself_tells_the_noise_floor(exported: Path) -> None:
    quick = ("--seconds=0.1", "--min-runs=20", "--max-seconds=1", "--warmup-seconds=0")
    quick = (*quick, "--cooldown=0", "--self-check")
    told = edgemtl("bench", exported, *quick, "--claim=0", "--json")
    assert told.code == 9  # no machine measures the same twice
    found = told.json()
    assert found["noise_floor"] > 0 and not found["stable"]
    assert "not stable: " in told.err
    conflict = edgemtl("bench", exported, *quick, "--against", exported)
    assert conflict.code == 2 and "--self-check" in conflict.error()


def test_bench_takes_an_onnx_file_and_prints_a_table(exported: Path) -> None:
    told = edgemtl("bench", exported, "--seconds=0.1", "--min-runs=5", "--max-seconds=1",
                   "--warmup-seconds=0")  # fmt: skip
    assert told.code in (0, 9), told.err
    assert "p50" in told.out and "ms" in told.out


def test_run_takes_a_checkpoint_or_an_onnx_file(
    work: DenseWork, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = work.data / "val" / "images" / "0000.jpg"
    told = edgemtl("run", exported, image)
    assert told.code == 0 and told.out.startswith("0000.edgemtl.png: ")
    first = (tmp_path / "0000.edgemtl.png").read_bytes()
    told = edgemtl("run", work.model, image, "--factory", FACTORY, "-o", tmp_path / "b.png")
    assert told.code == 0 and len(first) > 1000 and (tmp_path / "b.png").stat().st_size > 1000


def test_import_reads_published_weights(tmp_path: Path) -> None:
    source, model = tmp_path / "published.pth", tmp_path / "model.pt"
    torch.save(published_mos.random_state("mos-m"), source)
    told = edgemtl("import", source, "--family=mos-m", "--size=64", "-o", model)
    assert told.code == 0, told.err
    found = edgemtl("inspect", model, "--json").json()
    assert found["input"]["size"] == [64, 64]
    assert set(found["tasks"]) == {"detection", "landmarks", "pose"}


def test_gate_writes_annotations_for_a_ci(work: DenseWork, tmp_path: Path) -> None:
    told = edgemtl(
        *("compile", *work.flags(), "--target=cpu", "-o", tmp_path / "run", "--json"),
        "--set=bench.enabled=false",
    )
    assert told.code == 8, told.err  # the latency gate could not be judged
    junit = tmp_path / "junit.xml"
    told = edgemtl("gate", tmp_path / "run", "--annotations", "--junit", junit,
                   "--set=gates.tasks.parts.min=0.99")  # fmt: skip
    assert told.code == 6 and "::error" in told.out and junit.exists()
    assert "tasks.parts.min" in told.out
    recipe = tmp_path / "ci.toml"
    recipe.write_text('[gates]\nallow_not_measured = ["latency"]\n', "utf-8")
    told = edgemtl("gate", tmp_path / "run", "-c", recipe, "--json")
    assert told.code == 0 and told.json()["passed"]
    stored = json.loads((tmp_path / "run" / "gates.json").read_text("utf-8"))
    assert not stored["passed"]  # judging again changes nothing that was stored
