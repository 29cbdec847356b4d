"""An M3ViT through the main job without any data set: one task, all tasks, static shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import edgemtl
from support.m3vit import tiny

from edgemtl.models.checkpoint import from_network, save

ROOMS = Path(__file__).parents[2] / "calib_data" / "rooms"
QUICK = ("--set=bench.enabled=false", "--set=data.limit=3")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.pt"
    save(from_network(tiny(depth=4, experts=16)), path)
    return path


def compiled(model: Path, folder: Path, *flags: str) -> tuple[Path, str]:
    """The run folder and what was said."""
    told = edgemtl("compile", model, "-o", folder, "--no-cache", *QUICK, *flags)
    # 8: the target's latency gate is not judged, because nothing is timed here
    assert told.code == 8, told.err
    assert "while tracing" not in told.err
    return folder, told.out + told.err


def test_one_task_for_a_cpu(model: Path, tmp_path: Path) -> None:
    run, said = compiled(model, tmp_path / "run", "--target=cpu", "--task=distance")
    accuracy = json.loads((run / "accuracy.json").read_text())
    assert set(accuracy["artefact"]["tasks"]) == {"distance"}
    assert accuracy["artefact"]["data"] == "calib_data/rooms/val (synthetic)"
    before, after = (accuracy[s]["tasks"]["distance"]["rmse_m"] for s in ("reference", "artefact"))
    assert after == pytest.approx(before, rel=1e-2)
    assert "that no calibration picture uses were dropped" in said
    assert "written as 'sorted'" in said


def test_all_tasks_with_a_graph_each(model: Path, tmp_path: Path) -> None:
    flags = ("--target=cpu", "--set=export.task_files=true")
    run, said = compiled(model, tmp_path / "run", *flags)
    assert "dropped" not in said
    (bundle,) = (run / "bundle").glob("*.edgemtl")
    assert edgemtl("verify", bundle).code == 0
    image = next((ROOMS / "val" / "images").glob("*.jpg"))
    drawn = tmp_path / "drawn.png"
    alone = edgemtl("run", bundle, image, "--task=distance", "-o", drawn, "--json").json()
    together = edgemtl("run", bundle, image, "-o", drawn, "--json").json()
    assert set(alone["tasks"]) == {"distance"} and set(together["tasks"]) > {"distance"}
    for key, value in together["tasks"]["distance"].items():
        assert alone["tasks"]["distance"][key] == pytest.approx(value, rel=1e-5)
    told = edgemtl("run", bundle, image, "--task=nobody", "-o", drawn)
    assert told.code == 2 and "nobody" in told.error()


def test_static_queues_say_when_they_are_full(model: Path, tmp_path: Path) -> None:
    flags = ("--target=cpu", "--task=distance", "--set=export.experts=static")
    run, said = compiled(model, tmp_path / "run", *flags)
    assert "room for" in said
    exported = json.loads((run / "accuracy.json").read_text())
    assert exported["artefact"]["tasks"]["distance"]["rmse_m"] is not None
