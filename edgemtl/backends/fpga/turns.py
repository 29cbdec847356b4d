"""Who waits for whom: the processor and the accelerator take turns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgemtl.backends.fpga.graph import Graph
from edgemtl.backends.fpga.program import Step, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class HostStage:
    """A turn of the processor.

    Attributes:
        stage: even.
        model: its ONNX graph; None when it does nothing.
        inputs: graph tensors in float32 it reads that the accelerator wrote, or the picture.
        outputs: tensors it leaves: graph outputs, later stages' inputs, int8 for the accelerator.
    """

    stage: int
    model: ModelProto | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def stage_levels(
    graph: Graph, steps: Sequence[Step], host: Collection[str], read: Mapping[str, str]
) -> dict[str, int]:
    """Stage of every tensor: odd where the accelerator writes it, even for the processor.

    Args:
        graph: the whole network.
        steps: of the accelerator, in the order of the graph's nodes.
        host: first outputs of the nodes that the processor runs.
        read: graph tensor -> tensor of the accelerator that the processor reads it from.
    """
    levels = dict.fromkeys(graph.inputs, 0)

    def of_host(names: Iterable[str]) -> int:
        known = [levels[read.get(name, name)] for name in names if read.get(name, name) in levels]
        return max((level + level % 2 for level in known), default=0)

    def settle(step: Step) -> None:
        level = max(levels[name] + 1 - levels[name] % 2 for name in step.inputs)
        levels[step.output] = max(levels.get(step.output, 0), level)

    pending = iter(steps)
    waiting = next(pending, None)
    for node in graph.nodes:
        while waiting is not None and all(name in levels for name in waiting.inputs):
            settle(waiting)
            waiting = next(pending, None)
        if node.output[0] in host:
            level = of_host(name for name in node.input if name)
            levels.update(dict.fromkeys(node.output, level))
    while waiting is not None:
        settle(waiting)
        waiting = next(pending, None)
    return levels


def in_turns(steps: Sequence[Step], tensors: Mapping[str, Tensor]) -> list[Step]:
    """Steps stage by stage, in the order they have; but an expert's second product after its first.

    Whatever alone reads a matrix of tokens follows the step that wrote it at once. So experts run
    one after the other, each one's weights loading while the one before is computed, and the
    hidden tokens of one expert at a time lie on the chip.
    """
    readers: dict[str, list[Step]] = {}
    writers: dict[str, int] = {}
    for step in steps:
        writers[step.output] = writers.get(step.output, 0) + 1
        for name in step.inputs:
            readers.setdefault(name, []).append(step)

    def next_of(step: Step) -> Step | None:
        reading = readers.get(step.output, [])
        alone = len(reading) == 1 and len(reading[0].inputs) == 1 and writers[step.output] == 1
        if not alone or tensors[step.output].rank == 4 or reading[0].stage != step.stage:
            return None
        return reading[0]

    found: dict[int, Step] = {}
    for first in sorted(steps, key=lambda step: step.stage):
        chain: Step | None = first
        while chain is not None and id(chain) not in found:
            found[id(chain)] = chain
            chain = next_of(chain)
    return list(found.values())


def host_stages(
    graph: Graph, host: Collection[str], written: Collection[str], levels: Mapping[str, int]
) -> tuple[HostStage, ...]:
    """The processor's turns as ONNX graphs.

    Args:
        graph: the whole network.
        host: first outputs of the nodes that the processor runs.
        written: int8 tensors that it writes for the accelerator.
        levels: stage of every tensor.
    """
    nodes = [node for node in graph.nodes if node.output[0] in host]
    last = max([0, *levels.values()])
    return tuple(
        _host_stage(
            graph, stage, [n for n in nodes if levels[n.output[0]] == stage], nodes, written
        )
        for stage in range(0, last + 1, 2)
    )


def _host_stage(
    graph: Graph,
    stage: int,
    own: Sequence[NodeProto],
    all_nodes: Sequence[NodeProto],
    written: Collection[str],
) -> HostStage:
    import onnx
    from onnx import helper, numpy_helper

    if not own:
        return HostStage(stage, None, (), ())
    made = {name for node in own for name in node.output}
    reads = dict.fromkeys(name for node in own for name in node.input if name)
    given = [name for name in reads if name not in made and name not in graph.constants]
    others = [node for node in all_nodes if node.output[0] not in made]
    wanted = {*graph.outputs, *written, *(name for node in others for name in node.input)}
    left = [name for node in own for name in node.output if name in wanted]

    def value(name: str) -> onnx.ValueInfoProto:
        kind = graph.types.get(name, onnx.TensorProto.FLOAT)
        return helper.make_tensor_value_info(name, kind, graph.shapes.get(name))

    stored = [
        numpy_helper.from_array(graph.constants[name], name)
        for name in reads
        if name in graph.constants
    ]
    model = helper.make_model(
        helper.make_graph(
            own, f"stage{stage}", [value(n) for n in given], [value(n) for n in left], stored
        ),
        opset_imports=graph.model.opset_import,
        ir_version=graph.model.ir_version,
        producer_name="edgemtl",
    )
    return HostStage(stage, model, tuple(given), tuple(left))
