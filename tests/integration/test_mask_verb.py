"""``edgemtl mask``: what it says, what it builds, and that the bundle it leaves works."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support import run_page
from support.command import Told, edgemtl
from support.dense_work import FACTORY, NO_BENCH, DenseWork, write_dense_work

from edgemtl import mask
from edgemtl.bundle import open_bundle
from edgemtl.compress.dynamic.analysis import Analysis
from edgemtl.compress.dynamic.router import RouterOptions
from edgemtl.pipeline import mask as mask_module

QUICK = ("--images", "16", "--router-images", "40", "--prototypes", "2", "--multiple", "4")


@pytest.fixture(scope="module", autouse=True)
def a_router_that_learns_for_a_moment() -> Iterator[None]:
    """No test here asks how well it routes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_module, "RouterOptions", partial(RouterOptions, steps=30, batch=16))
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"), images=80)


def test_the_analysis_answers_its_questions_and_writes_nothing(work: DenseWork) -> None:
    before = sorted(work.model.parent.rglob("*"))
    told = edgemtl("mask", *work.flags_of_the_target(), "--analyse", *QUICK, "--json")
    assert told.code == 0, told.err
    found = told.json()["analysis"]
    assert set(found["overlap"]) == {"parts / distance"}
    assert 0 <= found["dependence"]["mean"] <= 1
    for kind in ("static", "prototypes"):
        assert set(found[f"added_{kind}"]) == {"parts", "distance"}
        assert found[f"mean_macs_{kind}"] <= 0.65
    assert found["decision"].startswith(("keep the simpler network", "prototypes are worth"))
    assert told.json()["built"] is None
    assert sorted(work.model.parent.rglob("*")) == before


def test_the_function_answers_as_the_verb_does(work: DenseWork) -> None:
    told = edgemtl("mask", *work.flags_of_the_target(), "--analyse", *QUICK, "--json").json()
    found = mask(
        work.model,
        data=work.data,
        factory=FACTORY,
        images=16,
        router_images=40,
        prototypes=2,
        multiple=4,
    )
    assert json.loads(json.dumps(found.story)) == told
    assert (found.built, found.bundle, found.files) == (False, None, ())
    assert found.decision in str(found) and found.decision == told["analysis"]["decision"]


def test_what_it_builds_runs_in_one_file_in_a_bundle_and_on_the_device(
    work: DenseWork, tmp_path: Path
) -> None:
    output = tmp_path / "masked"
    flags = ("-o", str(output), "--force", "--shared", "--steps", "2", "--keep", "0.7")
    told = edgemtl("mask", *work.flags_of_the_target(), *QUICK, *flags)
    assert told.code == 0, told.err
    assert told.out.splitlines()[-1] == str(output)
    story = json.loads((output / "mask.json").read_text("utf-8"))
    built = story["built"]
    assert sum(built["shares"]) == pytest.approx(1.0)
    assert built["macs"][0] > max(built["macs"][1:])
    # What was trained is norms and biases, so no weight of a layer had to be stored again.
    assert story["weights"]["cut"] > 0
    assert story["weights"]["own"] == 0
    assert story["weights"]["bytes_shared"] < story["weights"]["bytes_apart"]
    bundle = output / "dense-cpu.edgemtl"
    assert bundle.name in story["files"]
    manifest = open_bundle(bundle).manifest
    assert manifest.parity["passed"] and set(manifest.parity["stages"]) == {"one graph", "artefact"}
    assert all((output / name).is_file() for name in story["files"])
    verified = edgemtl("verify", str(bundle))
    assert verified.code == 0, verified.err
    measured = edgemtl("eval", str(output / "routed.onnx"), "--data", str(work.data), "--json")
    assert measured.code == 0, measured.err
    done = subprocess.run(
        [sys.executable, str(bundle), "verify"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "prototype-1" in json.loads(done.stdout)["runtime"]["networks"]


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ((), 2, "either --analyse or --output"),
        (("--analyse", "--keep", "1.5"), 2, "'mask.macs': Input should be less than or equal to 1"),
        (("--analyse", "--images", "400"), 2, "801 are needed"),
        (("--analyse", "--keep", "0.01"), 2, "cannot be met"),
    ],
)
def test_what_makes_no_sense_is_refused(
    work: DenseWork, flags: tuple[str, ...], code: int, said: str
) -> None:
    told = edgemtl("mask", *work.flags_of_the_target(), *QUICK, *flags)
    assert told.code == code
    assert said in told.error()


def test_masks_need_images(work: DenseWork) -> None:
    model, *factory = work.flags_of_the_target()[:3]
    told = edgemtl("mask", model, *factory, "--analyse")
    assert told.code == 2
    assert "training pictures" in told.error()


# --- as a stage of compile -----------------------------------------------------------------------

MASKS = (
    *("--set=mask.enabled=true", "--set=mask.force=true", "--set=mask.images=16"),
    *("--set=mask.router_images=40", "--set=mask.prototypes=2", "--set=mask.channel_multiple=4"),
    *("--set=mask.macs=0.7", "--set=mask.shared=true", "--set=mask.steps=2"),
    *("--set=gates.tasks.parts.max_relative_drop=false", "--set=gates.cost.size_ratio=false"),
    "--set=gates.tasks.distance.max_relative_drop=false",
)


def _compile(work: DenseWork, folder: Path, *flags: str) -> Told:
    return edgemtl(
        *("compile", *work.flags_of_the_target(), "--target=cpu", "--no-prune", *NO_BENCH),
        *(*flags, "--set=data.limit=4", "-o", folder),
    )


def test_compile_masks_after_pruning_and_before_quantising(work: DenseWork, tmp_path: Path) -> None:
    told = _compile(work, tmp_path / "run", *MASKS)
    assert told.code == 0, told.err
    run = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    stages = {one["name"]: one["status"] for one in run["stages"]}
    assert list(stages)[:5] == ["model", "mask", "export", "quantize", "compile-reference"]
    assert stages["quantize"] == "skipped" and stages["gates"] == "done"
    story = json.loads((tmp_path / "run" / "mask.json").read_text("utf-8"))
    assert len(story["built"]["widths"]) == 2
    assert run_page.problems(tmp_path / "run") == []
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert 'href="#masks"' in page and "prototype 2" in page and "The router names" in page
    parity = json.loads((tmp_path / "run" / "parity.json").read_text("utf-8"))
    assert parity["passed"] and set(parity["stages"]) == {"one graph", "artefact"}
    bundle = tmp_path / "run" / run["bundle"]
    manifest = open_bundle(bundle).manifest
    assert [one.kind for one in manifest.variants] == ["prototype"] * 3
    assert edgemtl("verify", bundle).code == 0
    assert manifest.accuracy.bundle is not None and manifest.recipe["mask"]["enabled"] is True
    again = _compile(work, tmp_path / "again", *MASKS)
    assert again.code == 0, again.err
    run = json.loads((tmp_path / "again" / "run.json").read_text("utf-8"))
    cached = {one["name"]: one["status"] for one in run["stages"]}
    assert cached["mask"] == cached["compile"] == cached["bundle"] == "cached"


def test_where_masks_do_not_pay_the_simpler_network_goes_on(
    work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Analysis, "worth_it", False)
    flags = [flag for flag in MASKS if "force" not in flag]
    told = _compile(work, tmp_path / "run", *flags, "--set=quantize.enabled=false")
    assert told.code == 0, told.err
    assert "keep the simpler network" in told.err
    run = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert json.loads((tmp_path / "run" / "mask.json").read_text("utf-8"))["built"] is None
    assert run_page.problems(tmp_path / "run") == []
    manifest = open_bundle(tmp_path / "run" / run["bundle"]).manifest
    assert manifest.variants == ()
    assert manifest.cost.before == manifest.cost.after


def test_what_does_not_go_together_is_refused_before_the_work(
    work: DenseWork, tmp_path: Path
) -> None:
    told = _compile(work, tmp_path / "run", *MASKS, "--set=export.task_files=true", "--dry-run")
    assert told.code == 2 and "export.task_files" in told.error()
    model, *factory = work.flags_of_the_target()[:3]
    told = edgemtl("compile", model, *factory, "--target=cpu", *MASKS, "--dry-run")
    assert told.code == 2 and "masks need training pictures" in told.error()
