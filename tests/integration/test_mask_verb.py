"""``edgemtl mask``: what it says, what it builds, and that the bundle it leaves works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import edgemtl
from support.dense_work import DenseWork, write_dense_work

QUICK = ("--images", "16", "--router-images", "40", "--prototypes", "2", "--multiple", "4")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"), pictures=80)


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
        (("--analyse", "--keep", "1.5"), 2, "at most at 1"),
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


def test_masks_need_pictures(work: DenseWork) -> None:
    model, *factory = work.flags_of_the_target()[:3]
    told = edgemtl("mask", model, *factory, "--analyse")
    assert told.code == 2
    assert "training pictures" in told.error()
