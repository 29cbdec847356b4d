"""One ONNX file with an ``If`` per stage of the network: what it costs against one for the whole.

It can be written only where the networks are cut inside their blocks, so that what passes from
stage to stage has the same shape in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, shape_inference

from edgemtl.backends.routed import ROUTING, read_routing
from edgemtl.backends.sharedweights import inlined
from edgemtl.exporting.onnx_export import INPUT_NAME
from edgemtl.exporting.routed import choice, nested

#: name of a node -> its stage; None for what lies before, between or behind and is not cut
StageOf = Callable[[str], int | None]


def stage_file(folder: Path, path: Path, stage_of: StageOf) -> None:
    """Join router and networks into one ONNX file that chooses once per stage.

    What belongs to no stage is the same in all networks and is written once, from the full one.

    Args:
        folder: what ``export_routed`` wrote.
        path: the file to write.
        stage_of: see :data:`StageOf`.
    """
    routing = read_routing(folder / ROUTING)
    router = onnx.load(folder / routing.router)
    models = [inlined(folder / name) for name in routing.networks]
    full = shape_inference.infer_shapes(models[0]).graph
    shapes = {v.name: v for v in (*full.value_info, *full.output)}
    extra, constants, conditions = choice(routing)
    nodes = [*router.graph.node, *extra]
    constants = [*router.graph.initializer, *constants]
    written: set[int] = set()
    common: list[Any] = []
    for node in full.node:
        stage = stage_of(node.name)
        if stage is None:
            common.append(node)
        elif stage not in written:
            written.add(stage)
            outputs = [shapes[name] for name in _leaving(full, stage, stage_of)]
            branches = [
                _stage(model.graph, stage, stage_of, outputs, f"s{stage}n{index}/")
                for index, model in enumerate(models)
            ]
            common.append(nested(conditions, branches, outputs, f"s{stage}/"))
    read = {name for node in common for name in node.input}
    constants += [t for t in full.initializer if t.name in read]
    graph = helper.make_graph(
        [*nodes, *common], "staged", list(router.graph.input), list(full.output), constants
    )
    model = helper.make_model(
        graph,
        opset_imports=list(models[0].opset_import),
        ir_version=max(m.ir_version for m in (router, *models)),
    )
    model.metadata_props.extend(models[0].metadata_props)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _leaving(graph: Any, stage: int, stage_of: StageOf) -> list[str]:
    """Tensors that a stage writes and others read."""
    made = {name for n in graph.node if stage_of(n.name) == stage for name in n.output}
    read = {name for n in graph.node if stage_of(n.name) != stage for name in n.input}
    read |= {value.name for value in graph.output}
    return sorted(made & read)


def _stage(graph: Any, stage: int, stage_of: StageOf, outputs: Sequence[Any], prefix: str) -> Any:
    """One network's part as a branch: its own names prefixed, what enters taken from outside."""
    mine = [node for node in graph.node if stage_of(node.name) == stage]
    held = {t.name: t for t in graph.initializer}
    own = {name for node in mine for name in node.output} | held.keys()

    def named(name: str) -> str:
        return prefix + name if name in own and name != INPUT_NAME else name

    nodes, constants = [], {}
    for node in mine:
        copied = type(node)()
        copied.CopyFrom(node)
        copied.name = prefix + node.name
        copied.input[:] = [named(name) for name in node.input]
        copied.output[:] = [named(name) for name in node.output]
        nodes.append(copied)
        for name in node.input:
            if name in held:
                constants[name] = type(held[name])()
                constants[name].CopyFrom(held[name])
                constants[name].name = named(name)
    values = []
    for value in outputs:
        copied = type(value)()
        copied.CopyFrom(value)
        copied.name = named(value.name)
        values.append(copied)
    return helper.make_graph(nodes, prefix.rstrip("/"), [], values, list(constants.values()))
