"""One way to export: stages, verbs and stopwatches write the same graph for the same request."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.dense_work import FACTORY, DenseWork, write_dense_work

import edgemtl
from edgemtl import targets
from edgemtl.files import sha256_file
from edgemtl.pipeline import compile as whole
from edgemtl.pipeline.build_stages import Export
from edgemtl.pipeline.compile import CompileRequest
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.pipeline.exporting import export_file
from edgemtl.pipeline.quantize_file import QuantizeFile, _graph

ROOT = Path(edgemtl.__file__).parent


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"))


def _folder(place: Path) -> Path:
    place.mkdir()
    return place


def test_quantize_starts_from_the_graph_that_compile_exports(
    work: DenseWork, tmp_path: Path
) -> None:
    """The verb once took the recipe's opset alone, and neither its lowerings nor its experts."""
    target = targets.load("cpu")
    given = ["export.opset=16", "export.deformable=portable", 'model.tasks=["parts"]']
    recipe = recipe_for(target, None, given)
    request = CompileRequest(work.model, target, recipe, FACTORY, tmp_path / "run")
    context = whole._context(request)
    context.folders["model"] = tmp_path
    Export("export", network="model").run(context, _folder(tmp_path / "stage"))
    asked = QuantizeFile(work.model, tmp_path / "out.onnx", target, recipe, FACTORY)
    verb = _graph(asked, _folder(tmp_path / "verb"))
    assert sha256_file(verb) == sha256_file(tmp_path / "stage" / "model.onnx")


def test_export_writes_the_graph_that_compile_exports(work: DenseWork, tmp_path: Path) -> None:
    target = targets.load("jetson")
    recipe = recipe_for(target, None, [])
    request = CompileRequest(work.model, target, recipe, FACTORY, tmp_path / "run")
    context = whole._context(request)
    context.folders["model"] = tmp_path
    Export("export", network="model").run(context, _folder(tmp_path / "stage"))
    export_file(work.model, tmp_path / "verb.onnx", targets.load("jetson"), factory=FACTORY)
    assert sha256_file(tmp_path / "verb.onnx") == sha256_file(tmp_path / "stage" / "model.onnx")
