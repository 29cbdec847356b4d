"""A board of TVM's by another runtime: ONNX Runtime, so that a user can take the faster."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from support.command import edgemtl
from support.dense_work import NO_BENCH, DenseWork

from edgemtl import targets
from edgemtl.backends.registry import with_backend
from edgemtl.errors import UsageError


def test_a_board_gets_an_onnx_file(dense_work: DenseWork, tmp_path: Path) -> None:
    told = edgemtl(
        *("compile", *dense_work.flags(), "--target=rpi4", "--backend=onnxruntime", "--json"),
        *("-o", tmp_path / "run", *NO_BENCH),
    )
    assert told.code == 0, told.err
    bundle = Path(told.json()["bundle"])
    with zipfile.ZipFile(bundle) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert any(name.endswith(".onnx") for name in archive.namelist())
        assert not any(name.endswith(".so") for name in archive.namelist())
    assert manifest["target"]["name"] == "rpi4"
    assert "onnxruntime" in json.dumps(manifest["artefact"])
    assert not (tmp_path / "run" / "bench" / "latency.json").exists()  # this is not the board
    assert edgemtl("verify", bundle).code == 0


def test_the_plan_says_which_backend(dense_work: DenseWork, tmp_path: Path) -> None:
    flags = ("compile", *dense_work.flags(), "--target=rpi4", "--dry-run", "--json")
    assert edgemtl(*flags).json()[0]["backend"] == "tvm"
    assert edgemtl(*flags, "--backend=onnxruntime").json()[0]["backend"] == "onnxruntime"
    told = edgemtl(*flags, "--backend=openvino")
    assert told.code == 2 and "built by tvm, onnxruntime" in told.err


@pytest.mark.parametrize("name", ["cpu", "intel-cpu", "jetson-xavier-nx"])
def test_other_targets_keep_their_backend(name: str) -> None:
    target = targets.load(name)
    assert with_backend(target, target.backend) is target
    with pytest.raises(UsageError, match="is not built by 'tvm'"):
        with_backend(target, "tvm")
