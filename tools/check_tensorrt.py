"""Which networks each TensorRT version takes, in every precision: the table of docs/tensorrt.md.

    python tools/check_tensorrt.py                      # print it
    python tools/check_tensorrt.py --write docs/tensorrt.md
    python tools/check_tensorrt.py --small              # small pictures, quicker, same operators

Every network is exported as for a Jetson (opset 17, portable deformable convolution), quantised by
``edgemtl.compress.quantize``, lowered for the version and held against its operator table; then
TensorRT-RTX parses and builds it, where it is installed. No engine runs. Weights are random except
for ``mos_t``: operators do not depend on them.

Exit code 1 when a network that should be taken is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl import targets
from edgemtl.backends.tensorrt import proxy
from edgemtl.backends.tensorrt.lowering import lower
from edgemtl.backends.tensorrt.optable import table_problems
from edgemtl.backends.tensorrt.settings import OPSET_LIMITS, Version
from edgemtl.compress.quantize import QuantizeOptions, quantize
from edgemtl.data.calibration import embedded
from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import StageFailed
from edgemtl.exporting.network import export_alone
from edgemtl.files import write_text
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.models.m3vit.network import M3ViT
from edgemtl.models.mos.network import MOS
from edgemtl.tasks import Depth, Segmentation

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ("fp32", "fp16", "int8")
#: pictures that ranges are read from: the operators are the same for any number
CALIBRATION = 2
#: GPU that TensorRT-RTX plans for, and its scratch memory
DEVICE, WORKSPACE_MB = "SM86", 1024
DENSE_TASKS = (
    {"name": "parts", "kind": "segmentation", "options": {"classes": ["ground", "wall", "rest"]}},
    {"name": "normals", "kind": "normals"},
    {"name": "depth", "kind": "depth"},
)


class Rooms(MultiTaskNetwork):
    """What a user's own network may look like: operators that TensorRT 8.5 lacks among others."""

    def __init__(self, size: Sequence[int]) -> None:
        tasks = [Segmentation("parts", ("ground", "wall", "rest")), Depth("depth")]
        super().__init__({"size": list(size)}, tasks, InputSpec((size[0], size[1]), "rgb"))
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish())
        self.down = nn.Sequential(
            nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.SiLU(), nn.MaxPool2d(2)
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.Hardsigmoid()
        )
        self.norm = nn.LayerNorm(32)
        self.mix = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.parts = nn.Conv2d(16, 3, 1)
        self.depth = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.PReLU(), nn.Conv2d(8, 1, 1))

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> logits and metres at full size."""
        x = self.down(self.stem(images))
        x = x * self.squeeze(x)
        x = x + self.mix(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        x = self.up(x)
        size = (images.shape[2], images.shape[3])
        heads = {"parts": self.parts, "depth": self.depth}
        return {
            task.outputs[0]: F.interpolate(
                heads[task.name](x), size=size, mode="bilinear", align_corners=False
            )
            for task in self.requested(tasks)
        }


def _mos(variant: str, small: bool) -> MultiTaskNetwork:
    return MOS(variant, context="deformable", size=(64, 64) if small else (640, 640))


def _m3vit(small: bool) -> MultiTaskNetwork:
    shape = {"dim": 24, "heads": 3, "depth": 4, "experts": 6, "top_k": 2, "decoder_width": 8}
    return M3ViT(
        DENSE_TASKS,
        "tiny" if small else "small",
        size=(32, 64) if small else (240, 320),
        **(shape if small else {}),  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class Case:
    """A network of the table.

    Attributes:
        name: in the table.
        make: whether small -> the network.
        taken: whether TensorRT should take it; what it should not is there to show why.
        experts: how mixtures of experts are written, where it has any; a Jetson gets "static".
    """

    name: str
    make: Callable[[bool], MultiTaskNetwork]
    taken: bool = True
    experts: str = "static"


CASES = (
    Case("mos_t", lambda small: load_network(ROOT / "examples" / "mos_t.pt")),
    Case("MOS-M, deformable context", lambda small: _mos("mos-m", small)),
    Case("MOS-S, deformable context", lambda small: _mos("mos-s", small)),
    Case("M³ViT, static experts", _m3vit),
    Case("M³ViT, all experts", _m3vit, experts="dense"),
    Case("M³ViT, experts by gather", _m3vit, taken=False, experts="gather"),
    Case("a small user's network", lambda small: Rooms((64, 96) if small else (256, 320))),
)


@dataclass(frozen=True)
class Row:
    """One network in one precision.

    Attributes:
        nodes: of the exported graph.
        versions: version -> what is wrong with it; empty when nothing is.
        rewritten: version -> how many nodes were written with older operators.
        built: what TensorRT-RTX says; "" when it builds, None when it is not installed.
    """

    case: Case
    precision: str
    nodes: int
    versions: dict[Version, str]
    rewritten: dict[Version, int]
    built: str | None

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        clean = not any(self.versions.values()) and not self.built
        return clean if self.case.taken else all(self.versions.values())


def export(
    case: Case, small: bool, folder: Path, precisions: Sequence[str] = PRECISIONS
) -> dict[str, Path]:
    """Precision -> ONNX file, exported as for a Jetson."""
    torch.manual_seed(0)
    network = case.make(small).eval()
    plain = folder / "fp32.onnx"
    written_for = targets.load("jetson").model_copy(update={"experts": case.experts})
    export_alone(network, written_for, plain)
    files = {"fp32": plain}
    images = embedded(("faces",), "train")
    for precision in precisions:
        if precision == "fp32":
            continue
        files[precision] = folder / f"{precision}.onnx"
        options = QuantizeOptions(precision, images=CALIBRATION)  # type: ignore[arg-type]
        spec = network.input_spec
        quantize(plain, files[precision], network.tasks, spec, images, options)
    return files


def check(case: Case, precision: str, path: Path, build: bool) -> Row:
    """Hold one file against every version's table, and build it."""
    import onnx

    versions: dict[Version, str] = {}
    rewritten: dict[Version, int] = {}
    for version in OPSET_LIMITS:
        model = onnx.load(path)
        found = [p for p in table_problems(model, version) if p.fatal]
        if not found:
            rewritten[version] = sum(lower(model, version).values())
            found = table_problems(model, version)
        versions[version] = f"{len(found)} nodes: {found[0].reason}" if found else ""
    built = _build(path) if build and proxy.installed_version() else None
    return Row(case, precision, len(onnx.load(path).graph.node), versions, rewritten, built)


def _build(path: Path) -> str:
    try:
        result = proxy.run_proxy(path, DEVICE, WORKSPACE_MB)
    except StageFailed as error:
        return error.message
    return result.findings[0].reason if result.findings else ""


def table(rows: Sequence[Row]) -> str:
    """Markdown of all rows, and under it why something is refused."""
    head = [".".join(map(str, version)) for version in OPSET_LIMITS]
    lines = [
        "| network | precision | nodes | " + " | ".join(head) + " | TensorRT-RTX build |",
        "|---|---|---|" + "---|" * (len(head) + 1),
    ]
    reasons: dict[str, str] = {}
    for row in rows:
        cells = []
        for version, reason in row.versions.items():
            count = row.rewritten.get(version, 0)
            cells.append("no" if reason else f"yes ({count} rewritten)" if count else "yes")
            if reason:
                reasons.setdefault(row.case.name, reason)
        if row.built is None:
            cells.append("not tried")
        else:
            cells.append("no" if row.built else "yes")
            if row.built:
                reasons.setdefault(f"{row.case.name}, {row.precision}, build", row.built)
        name = f"| {row.case.name} | {row.precision} | {row.nodes} | "
        lines.append(name + " | ".join(cells) + " |")
    lines += ["", *(f"- {name}: {reason}." for name, reason in reasons.items())]
    return "\n".join(lines).rstrip() + "\n"


def page(rows: Sequence[Row], small: bool) -> str:
    """docs/tensorrt.md."""
    version = proxy.installed_version()
    flag = " --small" if small else ""
    return f"""\
# What TensorRT takes

`python tools/check_tensorrt.py{flag} --write docs/tensorrt.md` wrote this page. Nothing here was
measured on a board.

- "yes" under a version: every operator, its attributes and the opset are in our table of that
  version. Operators that the version lacks were first rewritten with older ones.
- The last column is a real parse and build by TensorRT-RTX {version or "(not installed)"} for
  {DEVICE} on a CPU. It shows that the graph is well formed and typed; it is no Jetson engine.

{table(rows)}
For TensorRT, each expert of M³ViT gets a fixed number of tokens (`static`). `gather` takes only the
tokens in use; its shapes depend on the data, so TensorRT cannot take it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--small", action="store_true", help="small pictures")
    parser.add_argument("--write", type=Path, help="write a page instead of printing")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    asked = parser.parse_args(arguments)
    rows: list[Row] = []
    for case in CASES:
        if asked.only not in case.name:
            continue
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
            began = time.monotonic()
            files = export(case, asked.small, Path(folder))
            rows += [check(case, p, files[p], build=case.taken) for p in PRECISIONS]
            print(f"{case.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    if asked.write:
        write_text(asked.write, page(rows, asked.small))
    else:
        print(table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
