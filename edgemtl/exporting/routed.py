"""Prototypes and router as ONNX: a file each for a host dispatcher, or one file with nested If."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edgemtl.backends.routed import ROUTE, ROUTING, Routing
from edgemtl.backends.sharedweights import Kept, Sharing, inlined, share_weights
from edgemtl.errors import StageFailed
from edgemtl.exporting.network import export_alone
from edgemtl.exporting.onnx_export import INPUT_NAME, _silenced
from edgemtl.files import write_atomically, write_json
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.targets import Target

ROUTER_FILE, FULL_FILE, SINGLE_FILE = "router.onnx", "full.onnx", "routed.onnx"


def export_routed(
    router: torch.nn.Module,
    full: MultiTaskNetwork,
    prototypes: Sequence[MultiTaskNetwork],
    threshold: float,
    folder: Path,
    target: Target,
    *,
    batch: int = 1,
) -> Sharing:
    """Write ``router.onnx``, ``full.onnx``, ``prototype-1.onnx`` ..., and ``routing.json``.

    Weights of the networks lie in ``weights.bin`` beside them, see ``backends/sharedweights.py``.

    Args:
        router: (B, 3, H, W) -> (B, prototypes) probabilities.
        full: what answers when the router is not sure.
        prototypes: in the order of the router's columns.
        threshold: probability from which the router is sure.
        folder: where to write.
        target: its opset and lowerings, see ``export_network``.
        batch: pictures that each network runs together.

    Returns:
        What sharing the weights saved.

    Raises:
        StageFailed: a network cannot be exported, or the place cannot be written.
    """
    names = [FULL_FILE, *(f"prototype-{i + 1}.onnx" for i in range(len(prototypes)))]
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in zip(names, (full, *prototypes), strict=True):
        export_alone(network, target, folder / name, batch=batch)
    kept = {folder / n: _kept(full, p) for n, p in zip(names[1:], prototypes, strict=True)}
    sharing = share_weights(folder / FULL_FILE, kept)
    images = full.example_input(1)
    _export_router(router, images, folder / ROUTER_FILE, target.opset)
    routing = Routing(
        (batch, *images.shape[1:]),
        full.output_names(),
        threshold,
        ROUTER_FILE,
        tuple(names),
        {},
    )
    write_json(folder / ROUTING, routing.to_dict())
    return sharing


def _kept(full: MultiTaskNetwork, prototype: MultiTaskNetwork) -> Kept:
    """What a prototype keeps of the full network's tensors; nothing where it is no single cut."""
    records = prototype.pruning[len(full.pruning) :]
    found: dict[str, dict[int, list[int]]] = {}
    for tensor in records[0]["tensors"] if len(records) == 1 else ():
        found.setdefault(tensor["name"], {})[tensor["dim"]] = tensor["keep"]
    return found


def _export_router(router: torch.nn.Module, images: torch.Tensor, path: Path, opset: int) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), _silenced(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            router.eval(),
            (images,),
            buffer,  # type: ignore[arg-type] # this exporter takes a stream too
            input_names=[INPUT_NAME],
            output_names=[ROUTE],
            opset_version=opset,
            dynamo=False,
        )
    write_atomically(path, lambda stream: stream.write(buffer.getvalue()))


def single_file(folder: Path, path: Path) -> None:
    """Join router and networks into one ONNX file that chooses by nested ``If``.

    Weights lie inside the branches, so that a runtime prepares each network as if it stood alone.
    For one picture at a time, and for runtimes that know ``If`` (ONNX Runtime, OpenVINO).

    Args:
        folder: what :func:`export_routed` wrote.
        path: the file to write.

    Raises:
        StageFailed: the networks do not fit together.
    """
    import onnx
    from onnx import helper

    from edgemtl.backends.routed import read_routing

    routing = read_routing(folder / ROUTING)
    if routing.input_shape[0] != 1:
        raise StageFailed("one file with nested If runs one picture at a time; export with batch 1")
    router = onnx.load(folder / routing.router)
    models = [inlined(folder / name) for name in routing.networks]
    opsets = {(o.domain, o.version) for m in (router, *models) for o in m.opset_import}
    if len({domain for domain, _ in opsets}) != len(opsets):
        raise StageFailed("router and networks were exported with different opsets")
    branches = [_branch(m.graph, f"n{i}/") for i, m in enumerate(models)]
    graph = router.graph
    extra, constants, conditions = choice(routing)
    nodes = [*graph.node, *extra, nested(conditions, branches, list(models[0].graph.output))]
    constants = [*graph.initializer, *constants]
    model = helper.make_model(
        helper.make_graph(
            nodes, "routed", list(graph.input), list(models[0].graph.output), constants
        ),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(opsets)],
        ir_version=max(m.ir_version for m in (router, *models)),
    )
    model.metadata_props.extend(models[0].metadata_props)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's own kinds
        raise StageFailed(f"the joined graph is not valid: {str(error).splitlines()[0]}") from error
    data = model.SerializeToString(deterministic=True)
    write_atomically(path, lambda stream: stream.write(data))


def choice(routing: Routing) -> tuple[list[Any], list[Any], list[str]]:
    """Nodes and constants that make conditions of a router's answer.

    Returns:
        The nodes, their constants, and one name per network but the last: whether it is to answer.
    """
    from onnx import TensorProto, helper

    threshold = helper.make_tensor("route/threshold", TensorProto.FLOAT, [], [routing.threshold])
    constants = [threshold]
    nodes = [
        helper.make_node("ReduceMax", [ROUTE], ["route/confidence"], keepdims=0),
        helper.make_node("Less", ["route/confidence", "route/threshold"], ["route/unsure"]),
        helper.make_node("ArgMax", [ROUTE], ["route/choice"], axis=1, keepdims=0),
    ]
    names = ["route/unsure"]
    for index in range(1, len(routing.networks) - 1):
        names.append(f"route/is-{index}")
        constants.append(helper.make_tensor(f"route/{index}", TensorProto.INT64, [1], [index - 1]))
        nodes.append(helper.make_node("Equal", ["route/choice", f"route/{index}"], names[-1:]))
    return nodes, constants, names


def nested(
    conditions: Sequence[str], branches: Sequence[Any], outputs: Sequence[Any], label: str = ""
) -> Any:
    """One ``If`` within the other: the first branch whose condition holds, else the last.

    Args:
        conditions: names of scalars, one fewer than branches.
        branches: graphs without inputs.
        outputs: what the branches write, under the names that the rest of the graph reads.
        label: goes before names of what is between.
    """
    from onnx import helper

    rest = branches[-1]
    for level in range(len(conditions) - 1, -1, -1):
        names = [f"{label}level{level}/{value.name}" if level else value.name for value in outputs]
        node = helper.make_node(
            "If",
            [conditions[level]],
            names,
            name=f"{label}choose-{level}",
            then_branch=branches[level],
            else_branch=rest,
        )
        values = [_renamed(value, name) for value, name in zip(outputs, names, strict=True)]
        rest = helper.make_graph([node], f"{label}level{level}", [], values)
    return node


def _branch(graph: Any, prefix: str) -> Any:
    """A graph without inputs: its own names prefixed, the picture taken from outside."""
    from onnx import helper

    def named(name: str) -> str:
        return name if name in ("", INPUT_NAME) else prefix + name

    nodes = []
    for node in graph.node:
        copied = type(node)()
        copied.CopyFrom(node)
        copied.name = prefix + node.name
        del copied.input[:], copied.output[:]
        copied.input.extend(named(name) for name in node.input)
        copied.output.extend(named(name) for name in node.output)
        nodes.append(copied)
    constants = []
    for tensor in graph.initializer:
        held = type(tensor)()
        held.CopyFrom(tensor)
        held.name = named(tensor.name)
        constants.append(held)
    outputs = [_renamed(value, named(value.name)) for value in graph.output]
    return helper.make_graph(nodes, prefix.rstrip("/"), [], outputs, constants)


def _renamed(value: Any, name: str) -> Any:
    copied = type(value)()
    copied.CopyFrom(value)
    copied.name = name
    return copied
