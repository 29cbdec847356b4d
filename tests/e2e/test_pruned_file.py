"""A network pruned by the verb, a part of it left whole, and what later verbs say of the file."""

from __future__ import annotations

import json
from pathlib import Path

from support import run_page
from support.command import edgemtl
from support.data import write_dense_folder
from support.dense_family import build
from support.dense_work import NO_BENCH

from edgemtl.models.checkpoint import from_network, load_network, save
from edgemtl.record.run_record import versioned


def test_from_the_dense_file_to_a_judged_bundle(tmp_path: Path) -> None:
    model, data, small = (tmp_path / name for name in ("dense.pt", "data", "small.pt"))
    save(from_network(build()), model)
    for split in ("train", "val"):
        write_dense_folder(data, split, 12, seed=len(split))
    page = tmp_path / "pruning.html"
    told = edgemtl(
        *("prune", model, "-o", small, "--data", data, "--flops=0.75", "--steps=0"),
        *("--keep-whole", "decoders.parts", "--report", page),
        *("--set=prune.oracle_images=4", "--set=prune.calibration_images=4"),
        "--set=prune.channel_multiple=1",
    )
    assert told.code == 0, told.err
    story = json.loads((tmp_path / "small.pt.prune.json").read_text("utf-8"))
    (round_,) = story["rounds"]
    tasks = {task.name for task in build().tasks}
    assert set(round_["predicted"]) == set(round_["loss_ratio"]) == tasks
    assert round_["explained"] and story["left_whole"]
    assert not story["goals"]["flops"]["missed"] and story["stopped_by"] == ""
    before, after = load_network(model), load_network(small)
    kept, shapes = ({n: v.shape for n, v in one.state_dict().items()} for one in (before, after))
    assert all(shapes[n] == kept[n] for n in kept if n.startswith("decoders.parts."))
    assert shapes["stem.conv.weight"] != kept["stem.conv.weight"]
    assert run_page.document_problems("prune.json", versioned(story)) == []
    html = page.read_text("utf-8")
    for words in ("Every task after the cut", "What compensation gave back", "Left whole as asked"):
        assert words in html
    run = tmp_path / "run"
    told = edgemtl(
        *("compile", small, "--target=cpu", "--data", data, "--no-prune", "-o", run),
        *(*NO_BENCH, "--set=quantize.enabled=false", "--set=export.parity_images=1"),
        *(f"--set=gates.tasks.{task}.max_relative_drop=10" for task in sorted(tasks)),
    )
    assert told.code == 0, told.err
    gates = json.loads((run / "gates.json").read_text("utf-8"))["outcomes"]
    drops = [one for one in gates if one["name"].endswith("max_relative_drop")]
    assert len(drops) == 2 and all("compared with dense.pt" in one["detail"] for one in drops)
    (work,) = [one for one in gates if one["name"] == "cost.macs_ratio"]
    assert work["measured"] < 0.8
