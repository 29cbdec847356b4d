"""The exported file: valid, equal to torch, static, deterministic, and it knows its layers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_networks import Exported, make_deformable, make_mos
from support.dense_family import TinyDense, build
from torch import Tensor

from edgemtl.errors import StageFailed, UsageError
from edgemtl.exporting.onnx_export import HIGHEST_OPSET, ExportResult, export_onnx
from edgemtl.exporting.parity import compare_outputs, onnx_runner
from edgemtl.measure.accuracy import network_runner
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash
from edgemtl.models.layers import DeformableConv2d


def assert_equal_to_torch(
    network: MultiTaskNetwork, path: Path, tasks: Sequence[str] | None = None, batch: int = 1
) -> None:
    images = network.example_input(batch, seed=11).numpy()
    report = compare_outputs(
        network_runner(network, tasks)(images), onnx_runner(path)(images), network.selected(tasks)
    )
    assert report.passed, report.to_dict()


def opset_of(path: Path) -> int:
    return int(onnx.load(path).opset_import[0].version)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_it_is_valid_at_the_opset_asked(exported: Exported) -> None:
    model = onnx.load(exported.exported.path)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [17]
    assert exported.exported.opset == 17 and exported.exported.notes == ()


def test_it_computes_what_torch_computes(exported: Exported) -> None:
    assert_equal_to_torch(exported.network, exported.exported.path)


def test_inputs_and_outputs_are_static_and_in_order(exported: Exported) -> None:
    graph = onnx.load(exported.exported.path).graph
    assert [value.name for value in graph.input] == ["images"]
    assert tuple(value.name for value in graph.output) == exported.network.output_names()
    assert exported.exported.outputs == exported.network.output_names()
    height, width = exported.network.input_spec.size
    assert exported.exported.input_shape == (1, 3, height, width)
    for value in (*graph.input, *graph.output):
        assert all(extent.dim_value > 0 for extent in value.type.tensor_type.shape.dim)
    assert exported.exported.tasks == {t.name: t.outputs for t in exported.network.tasks}


def test_every_node_names_a_module_of_the_network(exported: Exported) -> None:
    fold = getattr(exported.network, "folded", None)
    folded = exported.network if fold is None else fold()
    paths = {path for path, _ in folded.named_modules()}
    modules = exported.exported.modules
    assert set(modules.values()) <= paths
    convolutions = {
        path for path, module in folded.named_modules() if isinstance(module, torch.nn.Conv2d)
    }
    named = {modules[name] for name in modules if name.endswith("/Conv")}
    assert convolutions <= named


def test_nothing_of_this_machine_is_in_the_file(exported: Exported) -> None:
    for path in (exported.exported.path, exported.simplified.path):
        model = onnx.load(path)
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert not model.doc_string and not model.metadata_props
        content = path.read_bytes()
        assert str(path.parent).encode() not in content
        assert b".py" not in content


def test_the_result_survives_json(exported: Exported) -> None:
    result = exported.exported
    stored = json.loads(json.dumps(result.to_dict()))
    assert ExportResult.from_dict(stored, result.path.parent) == result
    assert str(result.path.parent) not in json.dumps(stored)


def test_the_same_network_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    export_onnx(build(), tmp_path / "here.onnx", opset=17)
    program = (
        "import sys; from pathlib import Path; from support.dense_family import build;"
        "from edgemtl.exporting.onnx_export import export_onnx;"
        "from edgemtl.exporting.simplify import simplify;"
        "there = Path(sys.argv[1]); export_onnx(build(seed=1), there, opset=17);"
        "export_onnx(build(), there, opset=17)"
    )
    tests = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": tests, "PYTHONHASHSEED": "7"}
    (tmp_path / "elsewhere").mkdir()
    there = tmp_path / "elsewhere" / "there.onnx"
    subprocess.run([sys.executable, "-c", program, str(there)], check=True, env=environment)
    assert there.read_bytes() == (tmp_path / "here.onnx").read_bytes()


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    network = make_deformable().train()
    before = weights_hash(network)
    export_onnx(network, tmp_path / "g.onnx", opset=17, deformable="native")
    assert weights_hash(network) == before and network.training
    lowerings = {m.lowering for m in network.modules() if isinstance(m, DeformableConv2d)}
    assert lowerings == {"portable"}


def test_cross_stitch_is_folded_away(tmp_path: Path) -> None:
    export_onnx(make_mos("mos-t"), tmp_path / "g.onnx", opset=17)
    assert operators(tmp_path / "g.onnx")["Mul"] == 0


def test_native_deformable_is_one_node_and_raises_the_opset(tmp_path: Path) -> None:
    network = make_deformable()
    result = export_onnx(network, tmp_path / "g.onnx", opset=17, deformable="native")
    assert operators(result.path)["DeformConv"] == 1
    assert operators(result.path)["BatchNormalization"] == 0
    assert result.opset == opset_of(result.path) == 19
    assert len(result.notes) == 1 and "opset raised from 17 to 19" in result.notes[0]
    assert_equal_to_torch(network, result.path)


@pytest.mark.parametrize("size", [(64, 96), (8, 24), (16, 8)])  # down to one row or column
def test_portable_deformable_needs_no_special_node(tmp_path: Path, size: tuple[int, int]) -> None:
    network = make_deformable(size)
    result = export_onnx(network, tmp_path / "g.onnx", opset=13)
    assert operators(result.path)["GridSample"] == 1
    assert operators(result.path)["DeformConv"] == 0
    assert result.opset == opset_of(result.path) == 16
    assert "opset raised from 13 to 16" in result.notes[0]
    assert_equal_to_torch(network, result.path)


@pytest.mark.parametrize("size", [(64, 96), (8, 24)])
def test_both_forms_sample_alike_far_outside_the_map(tmp_path: Path, size: tuple[int, int]) -> None:
    network = make_deformable(size, shift=8.0)
    images = network.example_input(seed=5).numpy()
    results = {}
    for form in ("native", "portable"):
        path = tmp_path / f"{form}.onnx"
        export_onnx(network, path, opset=19, deformable=form)  # type: ignore[arg-type]
        assert_equal_to_torch(network, path)
        results[form] = onnx_runner(path)(images)
    for name, value in results["native"].items():
        assert np.abs(value - results["portable"][name]).max() <= 1e-5 * np.ptp(value)


@pytest.mark.parametrize("opset", [13, 20])
def test_other_opsets_are_written_as_asked(tmp_path: Path, opset: int) -> None:
    network = build()
    result = export_onnx(network, tmp_path / "g.onnx", opset=opset, deformable="native")
    assert result.opset == opset_of(result.path) == opset and result.notes == ()
    assert_equal_to_torch(network, result.path)


def test_an_opset_beyond_the_exporter_is_lowered_and_told(tmp_path: Path) -> None:
    result = export_onnx(build(), tmp_path / "g.onnx", opset=25)
    assert result.opset == opset_of(result.path) == HIGHEST_OPSET
    assert f"opset lowered from 25 to {HIGHEST_OPSET}" in result.notes[0]


def test_only_the_asked_tasks_are_in_the_graph(tmp_path: Path) -> None:
    network = make_mos("mos-t")
    whole = export_onnx(network, tmp_path / "whole.onnx", opset=17)
    part = export_onnx(network, tmp_path / "part.onnx", opset=17, tasks=["detection"])
    assert part.outputs == network.output_names(["detection"])
    assert tuple(part.tasks) == ("detection",)
    assert len(part.modules) < len(whole.modules)
    assert not any("yaw" in name for name in part.modules)
    assert_equal_to_torch(network, part.path, ["detection"])


def test_what_a_task_requires_comes_along(tmp_path: Path) -> None:
    network = make_mos("mos-t")
    result = export_onnx(network, tmp_path / "g.onnx", opset=17, tasks=["pose"])
    assert result.outputs == network.output_names(["detection", "pose"])


def test_an_unknown_task_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no task 'gaze'"):
        export_onnx(build(), tmp_path / "g.onnx", opset=17, tasks=["gaze"])


def test_a_batch_is_exported(tmp_path: Path) -> None:
    network = build()
    result = export_onnx(network, tmp_path / "g.onnx", opset=17, batch=3)
    assert result.input_shape[0] == 3
    assert_equal_to_torch(network, result.path, batch=3)


class Unexportable(TinyDense):
    """Its depth goes through an operator that ONNX has not."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        answers = super().forward(images, tasks)
        return {name: torch.fft.fft(value).real for name, value in answers.items()}


def test_what_cannot_be_exported_is_one_clear_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StageFailed, match=r"cannot be exported to ONNX opset 17.*fft") as error:
        export_onnx(Unexportable().eval(), tmp_path / "g.onnx", opset=17)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().out == ""  # the exporter would print the whole graph there
    assert list(tmp_path.iterdir()) == []


class Branching(TinyDense):
    """Decides by what it sees, which a static graph cannot."""

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        answers = super().forward(images, tasks)
        if bool(images.mean() > 0):
            answers = {name: value + 1 for name, value in answers.items()}
        return answers


def test_a_decision_by_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"images\.mean"):
        export_onnx(Branching().eval(), tmp_path / "g.onnx", opset=17)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StageFailed):
        export_onnx(build(), tmp_path / "file" / "g.onnx", opset=17)
