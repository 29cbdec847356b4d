"""Networks x TensorRT versions x precisions: what the table of docs/tensorrt.md is made of."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from support.matrix import only

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import check_tensorrt as tool  # noqa: E402 - lies in tools/

from edgemtl.backends.tensorrt.settings import OPSET_LIMITS  # noqa: E402

#: the dense experts are in the page, and in shape like the static ones
CASES = [case for case in tool.CASES if case.taken and "all experts" not in case.name]


#: one network of each kind; the other MOS networks, which take seconds to export, with the matrix
KEPT = [case for case in CASES if not case.name.startswith("MOS-")]


@pytest.fixture(scope="module", params=only(KEPT, CASES), ids=lambda case: case.name)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tool.Case, dict[str, Path]]:
    case: tool.Case = request.param
    if case.name == "mos_t" and not (ROOT / "examples" / "mos_t.pt").exists():
        pytest.skip("examples/mos_t.pt is not here")
    return case, tool.export(case, True, tmp_path_factory.mktemp("network"))


@pytest.mark.parametrize("precision", tool.PRECISIONS)
def test_every_version_takes_every_network_in_every_precision(
    exported: tuple[tool.Case, dict[str, Path]], precision: str
) -> None:
    case, files = exported
    row = tool.check(case, precision, files[precision], build=False)
    assert row.versions == dict.fromkeys(OPSET_LIMITS, "")
    assert row.good
    # It is the precision that it says.
    model = onnx.load(files[precision])
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in kinds) == (precision == "fp16")
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert quantised == (precision == "int8")


def test_experts_by_gather_are_refused_by_all(tmp_path: Path) -> None:
    case = next(case for case in tool.CASES if not case.taken)
    files = tool.export(case, True, tmp_path, ["fp32"])
    row = tool.check(case, "fp32", files["fp32"], build=False)
    assert all("NonZero" in reason for reason in row.versions.values())
    assert row.good


def test_the_page_says_what_is_wrong() -> None:
    versions = dict.fromkeys(OPSET_LIMITS, "")
    fine = tool.Row(CASES[0], "fp32", 9, versions, {(8, 5): 2}, "")
    bad = tool.Row(CASES[0], "int8", 9, {**versions, (8, 5): "3 nodes: no Frob"}, {}, "too old")
    assert (fine.good, bad.good) == (True, False)
    told = tool.table([fine, bad])
    assert "| yes (2 rewritten) | yes |" in told and "| no | yes |" in told
    assert f"- {CASES[0].name}: 3 nodes: no Frob." in told
    assert f"- {CASES[0].name}, int8, build: too old." in told
    page = tool.page([fine, bad], small=True)
    assert "--small --write docs/tensorrt.md" in page and told in page
