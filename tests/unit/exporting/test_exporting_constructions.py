"""Constructions of people's networks: each exports, and the graph computes what torch does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from support.bodies import Bodied, Body, grid, make, tokens
from support.matrix import only
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.types import SessionOptions
from edgemtl.exporting.cost import count_cost
from edgemtl.exporting.differences import difference
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.parity import onnx_runner
from edgemtl.exporting.simplify import simplify

Make = Callable[[], nn.Module]
LIMIT = 1e-5


def conv(
    width: int = 16, out: int = 16, kernel: int = 3, padding: int = 0, **named: str
) -> nn.Module:
    return nn.Conv2d(width, out, kernel, padding=padding, **named)  # type: ignore[arg-type]


def around(pad: Make) -> Make:
    return lambda: nn.Sequential(pad(), conv())


def on_tokens(layer: Make) -> Make:
    return lambda: Body(lambda m, x: grid(m.layer(tokens(x)), x), layer=layer())  # type: ignore[operator]


def through(run: Callable[[Tensor], Tensor]) -> Make:
    return lambda: Body(lambda m, x: run(x))


def resized(pool: Make) -> Make:
    """Pooled, and back to the old size."""
    return lambda: Body(lambda m, x: F.interpolate(m.p(x), x.shape[2:]), p=pool())  # type: ignore[operator]


def windows(m: nn.Module, x: Tensor) -> Tensor:
    """Pad to whole windows of 5, mix inside each, put back, crop (Swin, DPT)."""
    b, c, h, w = x.shape
    t = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, (5 - w % 5) % 5, 0, (5 - h % 5) % 5))
    high, wide = t.shape[1:3]
    t = t.view(b, high // 5, 5, wide // 5, 5, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 25, c)
    t = m.mix(t).view(b, high // 5, wide // 5, 5, 5, c)  # type: ignore[operator]
    t = t.permute(0, 1, 3, 2, 4, 5).reshape(b, high, wide, c)
    return t[:, :h, :w].permute(0, 3, 1, 2)


class Grouped(nn.Module):
    """Attention of four heads of queries over two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(16, 32), nn.Linear(16, 16)
        self.v, self.o = nn.Linear(16, 16), nn.Linear(32, 16)

    def forward(self, t: Tensor) -> Tensor:
        b, n, _ = t.shape
        q = self.q(t).view(b, n, 4, 8).transpose(1, 2)
        k, v = (f(t).view(b, n, 2, 8).transpose(1, 2) for f in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        out: Tensor = self.o(y.transpose(1, 2).reshape(b, n, -1))
        return out


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(16), nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, t: Tensor) -> Tensor:
        n = self.norm(t)
        out: Tensor = t + self.attn(n, n, n, need_weights=False)[0]
        return out


class Segmenter(nn.Module):
    """Pool with indices, compute, unpool; behind a ReLU, so that windows of equals occur."""

    def __init__(self, pool: nn.Module, unpool: nn.Module, sized: bool) -> None:
        super().__init__()
        self.before, self.after = conv(padding=1), conv(kernel=1)
        self.pool, self.unpool, self.sized = pool, unpool, sized

    def forward(self, x: Tensor) -> Tensor:
        x = (self.before(x) - 0.3).relu()
        y, places = self.pool(x)
        size = x.size() if self.sized else None
        out: Tensor = self.unpool(self.after(y), places, output_size=size)
        return out


def segmenter(kernel: int, sized: bool = False, **named: int | bool) -> Make:
    steps = {k: v for k, v in named.items() if k in ("stride", "padding")}
    return lambda: Segmenter(
        nn.MaxPool2d(kernel, return_indices=True, **named),  # type: ignore[arg-type]
        nn.MaxUnpool2d(kernel, **steps),  # type: ignore[arg-type]
        sized,
    )


def antialiased(size: object, mode: str = "bilinear", **named: object) -> Make:
    return through(lambda x: F.interpolate(x, size, mode=mode, antialias=True, **named))  # type: ignore[arg-type]


#: rewritten to a portable form, so run in every runtime that is here
LOWERED: dict[str, Make] = {
    "pad": around(lambda: Body(lambda m, x: F.pad(x, (1, 2, 3, 0)))),
    "reflect": lambda: conv(padding=1, padding_mode="reflect"),
    "circular": lambda: conv(padding=1, padding_mode="circular"),
    "replicate": lambda: conv(padding=1, padding_mode="replicate"),
    "windows": lambda: Body(windows, mix=nn.Linear(16, 16)),
    "grouped-queries": on_tokens(Grouped),
    "unpool": segmenter(2),
    "unpool-odd": lambda: Body(
        lambda m, x: F.pad(m.s(x[:, :, :15, :13]), (0, 3, 0, 1)),  # type: ignore[operator]
        s=segmenter(2, sized=True)(),
    ),
    "unpool-overlapping": segmenter(3, sized=True, stride=2, padding=1),
    "unpool-ceil": segmenter(3, sized=True, stride=2, ceil_mode=True, dilation=2),
    "antialias-down": antialiased((5, 7)),
    "antialias-up-cubic": antialiased((23, 40), "bicubic"),
    # ONNX and the runtimes differ in where the corners are, unless the file gives sizes
    "corners-factor": through(
        lambda x: F.interpolate(x, scale_factor=0.7, mode="bilinear", align_corners=True)
    ),
    "divisor": lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5),
    "divisor-ceil": lambda: nn.AvgPool2d((3, 2), (2, 3), 1, ceil_mode=True, divisor_override=5),
    "adaptive-average": resized(lambda: nn.AdaptiveAvgPool2d((3, 5))),
    "adaptive-largest": resized(lambda: nn.AdaptiveMaxPool2d((3, 5))),
    "area": through(lambda x: F.interpolate(x, (5, 7), mode="area")),
    "area-factor": through(lambda x: F.interpolate(x, scale_factor=0.5, mode="area")),
    "fold": through(lambda x: F.fold(F.unfold(x, 3, padding=1).tanh(), x.shape[2:], 3, padding=1)),
    "fold-strided": through(
        lambda x: F.fold(F.unfold(x, (3, 2), 2, 1, 3).tanh(), x.shape[2:], (3, 2), 2, 1, 3)
    ),
    # of Mask2Former: grid sampling in double precision, which ONNX Runtime does not have
    "spaced-places": through(
        lambda x: F.grid_sample(
            x,
            torch.stack(
                torch.meshgrid([torch.linspace(-0.9, 0.8, n) for n in x.shape[2:]], indexing="ij"),
                -1,
            )[None],
            align_corners=False,
        )
    ),
    "mean-square-norm": on_tokens(lambda: nn.RMSNorm(16)),
    "mean-square-norm-plain": on_tokens(lambda: nn.RMSNorm(16, 0.1, elementwise_affine=False)),
    "shuffle": lambda: nn.ChannelShuffle(4),
}
PLAIN: dict[str, Make] = {
    "zero-pad": around(lambda: nn.ZeroPad2d((1, 2, 1, 2))),
    "constant-pad": around(lambda: nn.ConstantPad2d((1, 2, 1, 2), 0.5)),
    "reflection-pad": around(lambda: nn.ReflectionPad2d(2)),
    "replication-pad": around(lambda: nn.ReplicationPad2d((2, 0, 1, 1))),
    "circular-pad": around(lambda: nn.CircularPad2d(1)),
    "attention": on_tokens(Attention),
    "encoder-layer": on_tokens(lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)),
    "encoder": on_tokens(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu"), 2
        )
    ),
    "encoder-norm-first": on_tokens(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True),
            1,
            enable_nested_tensor=False,
        )
    ),
    "antialias-factor": through(
        lambda x: F.interpolate(x, scale_factor=0.37, mode="bilinear", antialias=True)
    ),
    "antialias-corners": antialiased((7, 9), align_corners=True),
    "adaptive-even": resized(lambda: nn.AdaptiveAvgPool2d((4, 8))),
    "spectral-norm": lambda: parametrizations.spectral_norm(conv(padding=1)),
    "weight-norm": lambda: parametrizations.weight_norm(conv(padding=1)),
    "divisor-plain": lambda: nn.AvgPool2d(2, divisor_override=3),
}


def written(name: str, folder: Path) -> tuple[Bodied, Path]:
    network = make({**LOWERED, **PLAIN}[name])
    raw = export_onnx(network, folder / "raw.onnx", opset=17)
    assert raw.notes == ()
    return network, simplify(raw.path, folder / "model.onnx").path


def assert_equal(network: Bodied, run: Callable[..., object], limit: float = LIMIT) -> None:
    for seed in (0, 3):
        images = network.example_input(seed=seed)
        with torch.no_grad():
            expected = network(images)
        found = run(images.numpy())
        for name, value in expected.items():
            off = difference(value.numpy(), np.asarray(found[name]))  # type: ignore[index]
            assert off.within(limit), (name, off)


@pytest.mark.parametrize("name", [*LOWERED, *PLAIN])
def test_it_exports_and_computes_the_same(name: str, tmp_path: Path) -> None:
    network, path = written(name, tmp_path)
    assert_equal(network, onnx_runner(tmp_path / "raw.onnx"))
    assert_equal(network, onnx_runner(path))
    graph = onnx.load(path).graph
    for value in (*graph.input, *graph.output):
        assert all(extent.dim_value > 0 for extent in value.type.tensor_type.shape.dim)


#: TVM compiles for seconds: each kind of rewriting once, the rest with the matrix
IN_TVM = ("reflect", "grouped-queries", "unpool-odd", "antialias-down", "fold")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        *(("intel-cpu", name) for name in LOWERED),
        *only((("tvm-x86", name) for name in IN_TVM), (("tvm-x86", name) for name in LOWERED)),
    ],
)
def test_other_runtimes_compute_the_same(name: str, target: str, tmp_path: Path) -> None:
    where = targets.load(target)
    backend = registry.get(where.backend)
    state = backend.availability()
    if not state.ok:
        pytest.skip(state.reason)
    network, path = written(name, tmp_path)
    assert backend.problems(path, where) == []
    place = tmp_path / "artefact"
    place.mkdir()
    session = backend.load(backend.compile(path, where, place), SessionOptions())
    try:
        assert_equal(network, session.run)
    finally:
        session.close()


def test_the_forms_use_no_operator_that_a_target_lacks(tmp_path: Path) -> None:
    _, path = written("unpool-overlapping", tmp_path)
    nodes = onnx.load(path).graph.node
    assert not any(node.op_type == "MaxPool" and len(node.output) > 1 for node in nodes)
    # TensorRT 8.5 and 8.6 never read it
    (scatter,) = [node for node in nodes if node.op_type == "ScatterElements"]
    assert not any(a.name == "reduction" and a.s != b"none" for a in scatter.attribute)


def test_unpooling_stores_no_image_of_zeros(tmp_path: Path) -> None:
    network, path = written("unpool", tmp_path)
    stored = count_cost(path).parameters
    own = sum(p.numel() for p in network.parameters())
    assert stored <= own, "a table of the output's size would be 4096 more"
    assert not any(n.op_type == "ScatterElements" for n in onnx.load(path).graph.node)


def test_the_switch_for_fused_attention_is_put_back(tmp_path: Path) -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    export_onnx(make(PLAIN["attention"]), tmp_path / "a.onnx", opset=17)
    assert torch.backends.mha.get_fastpath_enabled()
    broken = make(through(lambda x: torch.fft.fft(x).real))
    with pytest.raises(Exception, match="fft"):
        export_onnx(broken, tmp_path / "b.onnx", opset=17)
    assert torch.backends.mha.get_fastpath_enabled()
