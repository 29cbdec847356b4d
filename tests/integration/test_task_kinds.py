"""Tasks whose labels are no maps, from the checkpoint to the bundle, pruned and in int8."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import mixed_kinds
from support.command import edgemtl
from support.dense_work import NO_BENCH

from edgemtl.models.checkpoint import from_network, load, save

FIGURES = {"ground": "top1", "tags": "map", "side": "mae", "embedding": "fidelity"}
FIGURES |= {"corners": "pck", "peaks": "oks_ap", "squares": "map50"}
ASKED = {
    "prune.method": "'l1-uniform'",
    "prune.flops": "0.7",
    "prune.params": "0.7",
    "prune.priority": "'goal'",
    "prune.rounds": "1",
    "prune.channel_multiple": "2",
    "prune.oracle_images": "8",
    "prune.calibration_images": "8",
    "recover.steps": "4",
    "recover.batch": "4",
    "quantize.precision": "'int8'",
    "quantize.images": "8",
}


def write_work(folder: Path) -> tuple[Path, Path]:
    """Model and data in a folder."""
    model, data = folder / "mixed.pt", folder / "data"
    save(from_network(mixed_kinds.build()), model)
    for split, count in (("train", 40), ("val", 6)):
        mixed_kinds.write_mixed_table(data, split, count, seed=len(split))
    return model, data


def test_every_kind_goes_through_pruning_recovery_and_int8(tmp_path: Path) -> None:
    model, data = write_work(tmp_path)
    run = tmp_path / "run"
    told = edgemtl(
        *("compile", model, "--target=cpu", f"--data={data}", "--prune", *NO_BENCH),
        *(f"--set={key}={value}" for key, value in ASKED.items()),
        *(f"--set=gates.tasks.{name}.max_relative_drop=false" for name in FIGURES),
        *("--set=gates.tasks.embedding.min=-1000", "-o", run),
    )
    assert told.code == 0, told.err
    accuracy = json.loads((run / "accuracy.json").read_text("utf-8"))
    for side in ("reference", "artefact"):
        for task, figure in FIGURES.items():
            assert accuracy[side]["tasks"][task][figure] is not None, (side, task)
            assert accuracy[side]["counts"][task] == (12 if figure in ("pck", "oks_ap") else 6)
    assert accuracy["reference"]["tasks"]["embedding"]["fidelity"] == 1
    assert accuracy["artefact"]["tasks"]["embedding"]["fidelity"] < 1
    pruned = load(run / "model" / "pruned.pt").network()
    assert pruned.stem.conv.weight.shape[0] < mixed_kinds.build().stem.conv.weight.shape[0]
    quantised = json.loads((run / "quantize.json").read_text("utf-8"))
    assert quantised["precision"] == "int8" and quantised["layers"]
    assert set(accuracy["artefact"]["classes"]["squares"]) == {"square", "disc"}
    assert accuracy["artefact"]["classes"]["squares"]["disc"] is None  # nobody labelled one
    page = (run / "report.html").read_text("utf-8")
    assert all(task in page for task in FIGURES)
    (bundle,) = (run / "bundle").glob("*.edgemtl")
    assert edgemtl("verify", bundle).code == 0
    image = next((data / "val" / "images").iterdir())
    drawn = edgemtl("run", bundle, image, "-o", tmp_path / "drawn.png", "--json")
    assert drawn.code == 0, drawn.err
    assert {"class", "probability"} == set(drawn.json()["tasks"]["ground"])


def test_eval_holds_a_raw_output_against_the_network_it_came_from(tmp_path: Path) -> None:
    model, data = write_work(tmp_path)
    itself = edgemtl("eval", model, f"--data={data}", "--json").json()
    assert itself["tasks"]["embedding"]["fidelity"] == 1
    graph = tmp_path / "mixed.onnx"
    assert edgemtl("export", model, "-o", graph).code == 0
    alone = edgemtl("eval", graph, f"--data={data}", "--json").json()
    assert alone["tasks"]["embedding"]["fidelity"] is None
    assert "no uncompressed network" in alone["notes"]["embedding"]
    against = edgemtl("eval", graph, f"--data={data}", f"--reference={model}", "--json").json()
    assert against["tasks"]["embedding"]["fidelity"] == pytest.approx(1, abs=1e-6)
    assert against["tasks"]["ground"] == itself["tasks"]["ground"]
