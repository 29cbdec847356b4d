"""TVM's schedule pass: every template against ONNX Runtime, and the rule that chooses tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.tvm.schedule.machine import Machine, Tile, best, candidates, chunks, fits
from edgemtl.backends.types import SessionOptions

AVX2 = Machine(lanes=8, registers=16, cores=1)
NEON = Machine(lanes=4, registers=32, cores=4)


class Odd(nn.Module):
    """One operator of every kind, with sizes that no tile divides."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 19, 3, 2, 1)
        self.depthwise = nn.Conv2d(19, 19, 3, 1, 1, groups=19)
        self.point = nn.Conv2d(19, 37, 1)
        self.dilated = nn.Conv2d(37, 21, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2d(21, 21, 3, padding=1, groups=7)
        self.tall = nn.Conv2d(21, 33, (5, 2), (2, 1))
        self.down = nn.Conv2d(33, 33, 5, 2, 2, groups=33)
        self.large = nn.Conv2d(3, 20, 16, 16)
        self.norm = nn.LayerNorm(20)
        self.qkv = nn.Linear(20, 60)
        self.wide = nn.Linear(20, 70)
        self.back = nn.Linear(70, 20)
        self.head = nn.Linear(20, 11)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a = torch.clamp(self.first(x), 0, 6)
        b = torch.relu(self.depthwise(a)) + a
        c = F.leaky_relu(self.point(b), 0.1)
        d = self.grouped(torch.sigmoid(self.dilated(c)))
        pooled = F.avg_pool2d(F.max_pool2d(d, 3, 2, 1), 2)
        e = self.down(F.silu(self.tall(d)))
        joined = torch.cat([b, c, F.interpolate(F.max_pool2d(b, 2), b.shape[2:])], 1)
        t = self.large(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(t)).unflatten(2, (3, 2, 10)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v
        t = t + mixed.transpose(1, 2).flatten(2)
        t = t + self.back(F.gelu(self.wide(t)))
        scores = self.head(t[:, 0])
        chosen = scores.topk(3, 1).indices.clamp(max=7).to(x.dtype)  # integers, as gates have them
        return joined, d, pooled, e, t, scores, torch.tanh(d) * torch.exp(d), chosen


@pytest.fixture(scope="module")
def odd_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("odd") / "odd.onnx"
    torch.onnx.export(
        Odd().eval(),
        (torch.randn(1, 3, 54, 78),),
        str(path),
        opset_version=17,
        dynamo=False,
        input_names=["image"],
    )
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_template_computes_what_onnx_runtime_computes(
    odd_graph: Path, tmp_path: Path
) -> None:
    import onnxruntime

    backend = registry.get("tvm")
    if not backend.availability().ok:
        pytest.skip(backend.availability().reason)
    artefact = backend.compile(odd_graph, targets.load("tvm-x86"), tmp_path)
    record = json.loads((tmp_path / "schedule.json").read_text("utf-8"))
    assert "not_scheduled" not in record, record["not_scheduled"]
    used = {one["template"] for one in record["functions"].values()}
    assert used >= {"conv", "depthwise", "dense", "batched", "rows", "elementwise", "reduction"}
    assert set(artefact.facts["templates"]) == used

    reference = onnxruntime.InferenceSession(str(odd_graph))
    for threads in (1, 2):
        session = backend.load(artefact, SessionOptions(threads))
        for seed in range(2):
            images = np.random.default_rng(seed).standard_normal(session.input_shape)
            images = images.astype(np.float32)
            given = session.run(images)
            expected = reference.run(None, {"image": images})
            for (name, found), wanted in zip(given.items(), expected, strict=True):
                assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max(), name
        session.close()


def test_columns_are_cut_into_vectors_of_halving_length() -> None:
    assert chunks(21, 8) == [(0, 8), (8, 8), (16, 4), (20, 1)]
    assert chunks(3, 4) == [(0, 2), (2, 1)]


@pytest.mark.parametrize("machine", [AVX2, NEON])
@pytest.mark.parametrize("rows, columns, depth", [(1600, 132, 128), (40, 128, 576), (1, 1000, 192)])
def test_the_chosen_tile_stays_in_registers(
    machine: Machine, rows: int, columns: int, depth: int
) -> None:
    tile = best(rows, columns, depth, machine)
    assert tile in candidates(rows, columns, machine)
    assert fits(tile.rows, tile.columns // machine.lanes, machine)
    assert tile.rows <= rows and tile.columns % machine.lanes == 0


def test_tiles_that_leave_no_register_are_not_offered() -> None:
    # Measured with AVX2: 6 x 16 spills, 5 x 16 does not, and is more than twice as fast.
    assert best(1600, 128, 64, AVX2) == Tile(5, 16)
    assert Tile(6, 16) not in candidates(1600, 128, AVX2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_norm_over_whole_maps_keeps_its_scales_in_place(tmp_path: Path) -> None:
    # TVM's change of layout would move the norm's axes and not its scales.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm((4, 5, 6))).eval()
    nn.init.normal_(net[1].weight)
    image, path, folder = torch.randn(1, 3, 5, 6), tmp_path / "net.onnx", tmp_path / "artefact"
    torch.onnx.export(net, (image,), str(path), opset_version=17, dynamo=False)
    folder.mkdir()
    backend = registry.get("tvm")
    session = backend.load(
        backend.compile(path, targets.load("tvm-x86"), folder), SessionOptions(threads=1)
    )
    (found,) = session.run(image.numpy()).values()
    session.close()
    np.testing.assert_allclose(found, net(image).detach().numpy(), rtol=1e-4, atol=1e-4)
