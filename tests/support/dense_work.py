"""A small foreign network with weights and data on disk, and the flags that compile it quickly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from support.data import write_dense_folder
from support.dense_family import build

FACTORY = "support.dense_family:build"
#: a benchmark that ends at once; what it finds is checked elsewhere
QUICK_BENCH = (
    "--set=bench.seconds=0.05",
    "--set=bench.warmup_seconds=0",
    "--set=bench.min_runs=5",
    "--set=bench.max_seconds=1",
)
#: no benchmark at all, and no gate that misses it
NO_BENCH = ("--set=bench.enabled=false", '--set=gates.allow_not_measured=["latency"]')


@dataclass(frozen=True)
class DenseWork:
    """A network's file and its data.

    Attributes:
        model: state dict of the seeded network of ``support.dense_family``.
        data: folder with splits ``train`` and ``val``, segmentation and depth.
    """

    model: Path
    data: Path

    def flags(self) -> list[str]:
        """Model, factory and data for ``edgemtl compile``, in float32."""
        return [*self.flags_of_the_target(), "--set=quantize.enabled=false"]

    def flags_of_the_target(self) -> list[str]:
        """The same in the precision that the target takes by default."""
        return [str(self.model), "--factory", FACTORY, "--data", str(self.data)]


def write_dense_work(folder: Path, images: int = 3) -> DenseWork:
    """Write model and data into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(build().state_dict(), folder / "dense.pt")
    write_dense_folder(folder / "data", "train", images, seed=1)
    write_dense_folder(folder / "data", "val", images, seed=2)
    return DenseWork(folder / "dense.pt", folder / "data")
