"""One small foreign network, compiled once for both runtimes; every test reads its results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command import Told, edgemtl
from support.dense_work import QUICK_BENCH, DenseWork, write_dense_work


@dataclass(frozen=True)
class Compiled:
    """What one ``edgemtl compile`` for two targets left.

    Attributes:
        work: the network's file and its data.
        output: folder with a run folder per target.
        told: what the command said.
    """

    work: DenseWork
    output: Path
    told: Told

    def run(self, target: str) -> Path:
        """The run folder of a target."""
        return self.output / target

    def bundle(self, target: str) -> Path:
        """The bundle of a target."""
        return self.run(target) / "bundle" / f"dense-{target}.edgemtl"


@pytest.fixture(scope="session")
def dense_work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    """A network's file and its data."""
    return write_dense_work(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="session")
def compiled(
    dense_work: DenseWork, tmp_path_factory: pytest.TempPathFactory, session_cache: Path
) -> Compiled:
    """``edgemtl compile`` for ONNX Runtime and OpenVINO."""
    output = tmp_path_factory.mktemp("runs") / "both"
    told = edgemtl(
        "compile",
        *dense_work.flags(),
        "--target=cpu",
        "--target=intel-cpu",
        *QUICK_BENCH,
        "-o",
        output,
    )
    return Compiled(dense_work, output, told)
