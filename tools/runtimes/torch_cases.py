"""Layers of torch behind a convolution, exported as the product exports a network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import EdgemtlError
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.simplify import simplify
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.tasks import Depth
from runtimes.cases import Case, difference

#: opsets that are exported, each a variant
OPSETS = (17, 20)
SIZE, CHANNELS = (18, 22), 8
Layer = Callable[[Tensor], Tensor]


class Behind(MultiTaskNetwork):
    """A convolution, then what is asked about.

    Args:
        layer: (1, 8, 18, 22) -> anything.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__({}, [Depth("asked")], InputSpec(SIZE, "rgb", std=(58.0, 57.0, 57.0)))
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.layer = layer

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """See :class:`MultiTaskNetwork`."""
        return {"asked.depth": self.layer(self.stem(images))}


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, call: Layer) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        return self.call(x)


class Tokens(nn.Module):
    """A layer that reads (1, L, 8); of several answers the first."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Tensor:
        """Every place a token."""
        tokens = x[:, :, ::4, ::4].flatten(2).transpose(1, 2)
        answer = self.layer(*[tokens] * self.times)
        return answer[0] if isinstance(answer, tuple) else answer


def layers() -> Iterator[tuple[str, nn.Module]]:
    """Name -> layer.

    Not asked, because the last bit of an input decides the answer: tan behind a convolution (near
    its poles) and the whole part of a quotient.
    """
    for group in (_convolutions, _pools, _activations, _norms, _resizes, _shapes, _sums, _tokens):
        yield from group()


def _convolutions() -> Iterator[tuple[str, nn.Module]]:
    for stride in (1, 2, 3):
        for dilation in (1, 2):
            for group in (1, 2, 8):
                name = f"conv-s{stride}-d{dilation}-g{group}"
                yield name, nn.Conv2d(8, 8, 3, stride, dilation, dilation, groups=group)
    for mode in ("reflect", "replicate", "circular"):
        yield f"conv-{mode}", nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode)
    yield "conv-same", nn.Conv2d(8, 8, 4, padding="same")
    yield "conv-1x5", nn.Conv2d(8, 8, (1, 5), padding=(0, 2))
    for stride in (1, 2):
        for kernel in (2, 3, 4):
            for extra in range(stride):
                for group in (1, 2):
                    name = f"transpose-k{kernel}-s{stride}-o{extra}-g{group}"
                    padding = 1 if kernel > 2 else 0
                    yield (
                        name,
                        nn.ConvTranspose2d(8, 8, kernel, stride, padding, extra, groups=group),
                    )
    yield "transpose-dilated", nn.ConvTranspose2d(8, 8, 3, 2, 1, 1, dilation=2)


def _pools() -> Iterator[tuple[str, nn.Module]]:
    for kernel in (2, 3):
        for stride in (1, 2, 3):
            for padding in (0, 1):
                for ceil in (False, True):
                    name = f"k{kernel}-s{stride}-p{padding}-{'ceil' if ceil else 'floor'}"
                    yield f"maxpool-{name}", nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
                    for count in (False, True):
                        layer = nn.AvgPool2d(kernel, stride, padding, ceil, count)
                        yield f"avgpool-{name}-{'pads' if count else 'real'}", layer
    yield "maxpool-uneven", nn.MaxPool2d((3, 2), (2, 3), (1, 0), ceil_mode=True)
    yield "maxpool-dilated", nn.MaxPool2d(3, 2, 1, dilation=2)
    yield "avgpool-divisor", nn.AvgPool2d(3, 2, 1, divisor_override=5)
    yield "avgpool-uneven", nn.AvgPool2d((3, 2), (2, 3), (1, 0), True)
    yield "lppool", nn.LPPool2d(2, 3, 2)
    for size in (1, 2, 5, (3, 4)):
        yield f"adaptive-avg-{size}".replace(" ", ""), nn.AdaptiveAvgPool2d(size)
        yield f"adaptive-max-{size}".replace(" ", ""), nn.AdaptiveMaxPool2d(size)


def _activations() -> Iterator[tuple[str, nn.Module]]:
    plain = (
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
        *(nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus),
        *(nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
    )
    for kind in plain:
        yield kind.__name__.lower(), kind()
    yield "gelu-tanh", nn.GELU("tanh")
    yield "prelu-channels", nn.PReLU(8)
    yield "threshold", nn.Threshold(0.1, -0.5)
    yield "glu", nn.GLU(1)
    for dim in (1, 2, 3):
        yield f"softmax-{dim}", nn.Softmax(dim)
        yield f"logsoftmax-{dim}", nn.LogSoftmax(dim)
    names = "exp sqrt log sin cos atan erf floor ceil round sign abs neg square reciprocal rsqrt"
    for name in names.split():
        call = getattr(torch, name)
        yield name, Call(lambda x, f=call: f(x.abs() + 0.1))  # type: ignore[misc]


def _norms() -> Iterator[tuple[str, nn.Module]]:
    yield "batchnorm", nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8))
    for groups in (1, 2, 8):
        yield f"groupnorm-{groups}", nn.GroupNorm(groups, 8)
    yield "instancenorm", nn.InstanceNorm2d(8, affine=True)
    yield "layernorm-map", nn.LayerNorm((8, *SIZE))
    yield "layernorm-tokens", Tokens(nn.LayerNorm(8))
    yield "rmsnorm-tokens", Tokens(nn.RMSNorm(8))
    for size in (2, 3, 5):
        yield f"lrn-{size}", nn.LocalResponseNorm(size)
    for p in (1.0, 2.0, 3.0, float("inf")):
        yield f"normalize-{p:g}", Call(lambda x, p=p: F.normalize(x, p=p, dim=1))  # type: ignore[misc]


def _resizes() -> Iterator[tuple[str, nn.Module]]:
    for mode in ("nearest", "bilinear", "bicubic", "area", "nearest-exact"):
        corners = (False, True) if mode in ("bilinear", "bicubic") else (None,)
        for corner in corners:
            for way, asked in (
                ("x2", {"scale_factor": 2.0}),
                ("x1.5", {"scale_factor": 1.5}),
                ("x0.7", {"scale_factor": 0.7}),
                ("x0.5", {"scale_factor": 0.5}),
                ("x1.3-own", {"scale_factor": 1.3, "recompute_scale_factor": True}),
                ("to27x31", {"size": (27, 31)}),
                ("to9x11", {"size": (9, 11)}),
                ("to1x1", {"size": (1, 1)}),
            ):
                name = f"resize-{mode}-{'corners-' if corner else ''}{way}"
                options = {"mode": mode, "align_corners": corner, **asked}
                yield name, Call(lambda x, o=options: F.interpolate(x, **o))  # type: ignore[misc]
    for mode in ("bilinear", "bicubic"):
        for size in ((9, 11), (27, 31)):
            options = {"mode": mode, "size": size, "antialias": True}
            name = f"resize-{mode}-antialias-{size[0]}"
            yield name, Call(lambda x, o=options: F.interpolate(x, **o))  # type: ignore[misc]
    yield "pixelshuffle", nn.PixelShuffle(2)
    yield "pixelunshuffle", nn.PixelUnshuffle(2)
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            yield f"gridsample-{mode}-{padding}", _Sampled(mode, padding)


class _Sampled(nn.Module):
    def __init__(self, mode: str, padding: str) -> None:
        super().__init__()
        self.mode, self.padding = mode, padding
        torch.manual_seed(1)
        self.register_buffer("grid", torch.rand(1, 9, 10, 2) * 2.4 - 1.2)

    def forward(self, x: Tensor) -> Tensor:
        return F.grid_sample(x, self.grid, self.mode, self.padding, align_corners=False)


def _shapes() -> Iterator[tuple[str, nn.Module]]:
    calls: Mapping[str, Layer] = {
        "flatten": lambda x: x.flatten(1),
        "permute": lambda x: x.permute(0, 2, 3, 1),
        "roll": lambda x: torch.roll(x, (2, -3), (2, 3)),
        "flip": lambda x: x.flip(3),
        "slice-step": lambda x: x[:, ::2, 1::3, :-2],
        "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
        "repeat": lambda x: x.repeat(1, 2, 1, 1),
        "repeat-interleave": lambda x: x.repeat_interleave(2, 1),
        "stack": lambda x: torch.stack([x, x * 2], 2),
        "unfold": lambda x: F.unfold(x, 3, padding=1, stride=2),
        "gather": lambda x: x[:, [0, 3, -1]],
        "channel-shuffle": lambda x: torch.channel_shuffle(x, 2),
        "topk": lambda x: torch.topk(x, 3, 1).values,
        "sort": lambda x: torch.sort(x, 1).values,
        "cumsum": lambda x: x.cumsum(2),
        "where": lambda x: torch.where(x > 0, x, x * 0.1),
        "tril": lambda x: torch.tril(x),
        "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x),
        "matmul": lambda x: x @ x.transpose(2, 3),
        "outer": lambda x: x.mean((2, 3))[:, :, None] * x.mean((2, 3))[:, None],
        "argmax": lambda x: x.argmax(1).float(),
        "one-hot": lambda x: F.one_hot(x.argmax(1), 8).float(),
        "maximum": lambda x: torch.maximum(x, x.flip(2)),
        "remainder": lambda x: torch.remainder(x, 0.7),
        "fmod": lambda x: torch.fmod(x, 0.7),
        "scatter-add": lambda x: torch.zeros_like(x).scatter_add(1, x.argsort(1) // 2, x),
    }
    for name, call in calls.items():
        yield name, Call(call)
    for mode in ("constant", "reflect", "replicate", "circular"):
        yield f"pad-{mode}", Call(lambda x, m=mode: F.pad(x, (1, 2, 3, 1), m))  # type: ignore[misc]


def _sums() -> Iterator[tuple[str, nn.Module]]:
    names = ("sum", "mean", "amax", "amin", "prod", "logsumexp", "var", "std", "argmin")
    for name in names:
        for dim in (1, -1):
            for keep in (True, False):
                call = getattr(torch, name)
                told = f"{name}-{dim}-{'keep' if keep else 'drop'}"
                yield (
                    told,
                    Call(lambda x, f=call, d=dim, k=keep: f(x, dim=d, keepdim=k).float()),  # type: ignore[misc]
                )
    for p in (1, 2, 3):
        yield f"norm-{p}", Call(lambda x, p=p: x.norm(p, dim=1))  # type: ignore[misc]


def _tokens() -> Iterator[tuple[str, nn.Module]]:
    yield "linear", Tokens(nn.Linear(8, 5))
    yield "attention", Tokens(nn.MultiheadAttention(8, 2, batch_first=True), 3)
    yield "encoder", Tokens(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    for op in (nn.LSTM, nn.GRU, nn.RNN):
        for both in (False, True):
            layer = op(8, 6, batch_first=True, bidirectional=both)
            yield f"{op.__name__.lower()}{'-both' if both else ''}", Tokens(layer)
    yield "conv1d", nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 4, 3, 2, 1))


def _as_written(path: Path, image: Any) -> Any:
    """The first output, by ONNX Runtime with its optimisations off."""
    from edgemtl.exporting.probe import open_plain

    session = open_plain(path)
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def write(folder: Path) -> None:
    """Export all of them into a folder; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, layer in layers():
        for opset in OPSETS:
            place = folder / f"{name}@{opset}.npz"
            if not place.exists():
                _write(name, layer, opset, place)


def _write(name: str, layer: nn.Module, opset: int, place: Path) -> None:
    torch.manual_seed(0)
    network = Behind(layer).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    image = network.example_input()
    with torch.no_grad():
        wanted = network(image)["asked.depth"].numpy()
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as made:
        raw, simple = Path(made) / "raw.onnx", Path(made) / "simple.onnx"
        try:
            export_onnx(network, raw, opset=opset)
            simplify(raw, simple)
            model, refused = simple.read_bytes(), ""
            found = _as_written(simple, image.numpy())
            if difference(Case(name, b"", image.numpy(), (wanted,), 1e-3, 1e-5), [found]):
                # The exporter's doing, which no runtime can mend; parity says so at compile.
                model, refused = b"", "the file does not compute what torch does"
        except EdgemtlError as error:
            model, refused = b"", error.message
    facts: dict[str, Any] = {"refused": refused}
    part = place.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez(
            stream,
            model=np.frombuffer(model, np.uint8),
            image=image.numpy(),
            wanted=wanted,
            facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
        )
    part.replace(place)
