"""A tiny two-output network as a bundle, and ways to spoil it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle import BundleContents, record_selftest, write_bundle
from edgemtl.data.preprocess import InputSpec
from edgemtl.targets import Target
from edgemtl.tasks import Depth, Segmentation

SIZE = (6, 8)
NAME = "Gehör-网络"


def write_network(path: Path, seed: int = 0, scale: float = 1.0) -> Path:
    """A 3x3 convolution to 2 classes and a 1x1 convolution to depth, with seeded weights."""
    rng = np.random.default_rng(seed)
    weights = {
        "w_logits": scale * rng.normal(size=(2, 3, 3, 3)),
        "w_depth": rng.normal(size=(1, 3, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w_logits"], ["étiquettes.logits"], pads=[1] * 4),
        helper.make_node("Conv", ["images", "w_depth"], ["depth.depth"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])],
        [
            helper.make_tensor_value_info("étiquettes.logits", TensorProto.FLOAT, [1, 2, *SIZE]),
            helper.make_tensor_value_info("depth.depth", TensorProto.FLOAT, [1, 1, *SIZE]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


class PlainSession(Session):
    """ONNX Runtime without a backend around it."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.inner = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        super().__init__((1, 3, *SIZE), tuple(o.name for o in self.inner.get_outputs()))

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        values = self.inner.run(list(self.outputs), {"images": images})
        return dict(zip(self.outputs, values, strict=True))


def load_plain(artefact: Artefact, options: SessionOptions) -> Session:
    """Session loader for ``verify``."""
    return PlainSession(artefact.folder / artefact.files[0])


def make_contents(folder: Path, **changes: Any) -> BundleContents:
    """Contents of a bundle whose artefact is the ONNX file, as with ONNX Runtime."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx_path = write_network(folder / "exported.onnx")
    compiled = folder / "compiled"
    compiled.mkdir(exist_ok=True)
    (compiled / "model.onnx").write_bytes(onnx_path.read_bytes())
    inputs = np.random.default_rng(1).normal(size=(2, 1, 3, *SIZE)).astype(np.float32)
    arguments: dict[str, Any] = {
        "name": NAME,
        "source_sha256": "0" * 64,
        "onnx": onnx_path,
        "artefact": Artefact(
            "onnxruntime", "cpu", compiled, ("model.onnx",), facts={"precision": ("fp32",)}
        ),
        "target": Target(name="cpu", description="a test", backend="onnxruntime"),
        "input_name": "images",
        "input_spec": InputSpec(SIZE, mean=(104.0, 117.0, 123.0)),
        "tasks": (Segmentation("étiquettes", ("a", "b")), Depth("depth")),
        "selftest": record_selftest(PlainSession(onnx_path), inputs),
        "session": SessionOptions(threads=1),
        "accuracy_reference": {"tasks": {"depth": {"abs_rel": 0.125}}},
        "seeds": {"calibration": 7},
        "recipe": {"prune": {"method": "pagcp"}},
        "licence_note": "Trained on public data, see the model card.",
    }
    return BundleContents(**{**arguments, **changes})


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: Mapping[str, bytes], method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def rehashed(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same members with a manifest that vouches for them, as an attacker would make it."""
    manifest = json.loads(members["manifest.json"])
    manifest["own_sha256"] = ""
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in members.items()
        if name != "manifest.json"
    }
    return {**members, "manifest.json": json.dumps(manifest).encode()}


Edit = Callable[[dict[str, Any]], None]


def with_manifest(path: Path, edit: Edit) -> Path:
    """Rewrite a bundle with an edited manifest that does not know its own hash."""
    members = members_of(path)
    manifest = json.loads(members["manifest.json"])
    manifest["own_sha256"] = ""
    edit(manifest)
    members["manifest.json"] = json.dumps(manifest).encode()
    return write_members(path, members)


@pytest.fixture
def contents(tmp_path: Path) -> BundleContents:
    """What goes into it."""
    return make_contents(tmp_path / "inputs")


@pytest.fixture
def bundle_path(tmp_path: Path, contents: BundleContents) -> Path:
    """A good bundle, under a name that is not ASCII."""
    path = tmp_path / "bündel 网络.edgemtl"
    write_bundle(path, contents)
    return path
