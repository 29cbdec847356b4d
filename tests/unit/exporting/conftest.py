"""Fixtures of the exporter's tests."""

from __future__ import annotations

import pytest
from exported_networks import Exported, make_mos
from support.dense_family import build

from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.simplify import simplify
from edgemtl.models.base import MultiTaskNetwork


@pytest.fixture(scope="session", params=["mos-s deformable", "dense"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Two unlike networks: faces, shuffled and deformable and cross-stitched; dense maps."""
    variant, _, context = request.param.partition(" ")
    network: MultiTaskNetwork = build() if variant == "dense" else make_mos(variant, context)
    folder = tmp_path_factory.mktemp("exported")
    first = export_onnx(network, folder / "exported.onnx", opset=17)
    return Exported(network, first, simplify(first.path, folder / "simplified.onnx"))
