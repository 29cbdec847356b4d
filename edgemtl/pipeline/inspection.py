"""``inspect``: what a checkpoint or a bundle is, without measuring anything."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.bundle.read import open_bundle
from edgemtl.compress.channels.discover import discover
from edgemtl.errors import StageFailed, UsageError
from edgemtl.exporting.cost import count_cost
from edgemtl.exporting.mixtures import dense_mixtures
from edgemtl.exporting.module_cost import folded_costs, module_costs
from edgemtl.exporting.naming import module_of
from edgemtl.exporting.network import export_network
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.models.memory import require_memory
from edgemtl.pipeline.loaded_model import kind_of
from edgemtl.tasks.base import Task

#: the weights of the file, of the network, of its form with folded norms, and some room
COPIES = 3.5


def inspect_file(
    path: Path,
    factory: str | None = None,
    wanted: Sequence[targets.Target] = (),
    groups: bool = False,
) -> dict[str, Any]:
    """Plain data about a checkpoint or a bundle.

    Args:
        path: of the file.
        factory: builds the network of a checkpoint.
        wanted: targets to look at it for.
        groups: also which channels of a checkpoint's network can be cut, and which cannot.

    Returns:
        ``params``, ``macs``, both after the family's own exact folds (``folded``, None without
        any), mixtures of which every expert is computed although few are picked (``mixtures``),
        per-task figures, input, tasks with outputs, and per target what its graph holds and costs
        (``graph``), the list of nodes it cannot run as written, why it would compute int8 in
        float32 (empty where it computes in int8), and ``plan``, what its backend models of it (None
        without a model; why the model refuses is in ``refused``). With ``groups``: ``channels``,
        see :func:`_channels`.

    Raises:
        InputRefused: the file is refused.
        UsageError: an ONNX file.
    """
    kind = kind_of(path)
    if kind == "onnx":
        raise UsageError("inspect takes a checkpoint or a bundle", where=str(path))
    if kind == "bundle":
        if groups:
            raise UsageError(
                "a bundle's channels are not pruned any more",
                where="--groups",
                hint="give the checkpoint that it was compiled from",
            )
        return _bundle(path)
    if path.is_file():
        require_memory(path, COPIES, "inspecting")
    network = load_network(path, factory)
    found = _network(network)
    if wanted:
        found["targets"] = _target_problems(network, wanted)
    if groups:
        found["channels"] = _channels(network, wanted)
    return {"file": str(path), "kind": kind, **found}


def _network(network: MultiTaskNetwork) -> dict[str, Any]:
    cost, folded = module_costs(network), folded_costs(network)
    return {
        "family": network.family or "(factory)",
        "arguments": network.arguments,
        "params": cost.parameters,
        "macs": cost.macs,
        "folded": None if folded is None else {"params": folded.parameters, "macs": folded.macs},
        "mixtures": [asdict(mixture) for mixture in dense_mixtures(network)],
        "input": network.input_spec.to_dict(),
        "tasks": {
            task.name: {
                "kind": task.kind,
                "outputs": list(task.outputs),
                "params": cost.tasks[task.name].parameters,
                "macs": cost.tasks[task.name].macs,
                "judged_by": task.primary.label,
            }
            for task in network.tasks
        },
        "modules": [asdict(module) for module in cost.modules],
        "pruned": len(network.pruning),
    }


def _channels(network: MultiTaskNetwork, wanted: Sequence[targets.Target]) -> dict[str, Any]:
    """Groups of channels that can be cut, channels that cannot, and what that allows.

    Returns:
        ``groups``: name, units, channels of a unit, tasks; ``whole``: module, channels, reason,
        share of multiply-accumulates; ``whole_macs_share``; ``lowest_macs_share``: multiple of the
        widths -> share that is left with every group at its narrowest, for any width (1) and the
        targets' multiples.
    """
    found = discover(network)
    multiples = {target.channel_multiple for target in wanted or [targets.load("cpu")]}
    return {
        "groups": [
            {
                "name": group.name,
                "units": group.width,
                "channels_per_unit": group.channels_per_unit,
                "tasks": list(group.tasks),
            }
            for group in found.groups
        ],
        "whole": [asdict(item) for item in found.whole],
        "whole_macs_share": found.whole_share,
        "lowest_macs_share": {
            str(multiple): found.lowest_share(multiple) for multiple in sorted({1, *multiples})
        },
    }


def _target_problems(network: MultiTaskNetwork, wanted: Sequence[targets.Target]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        for target in wanted:
            backend = registry.get(target.backend)
            state = backend.availability()
            answer: dict[str, Any] = {
                "available": state.ok,
                "reason": state.reason,
                "precisions": list(target.precisions),
                "int8_runs_as_float": backend.capabilities.int8_as_float,
            }
            if state.ok:
                place = Path(folder) / target.name
                place.mkdir()
                simple = export_network(network, target, place).path
                graph = count_cost(simple)
                answer["graph"] = {"values": graph.parameters, "macs": graph.macs}
                answer["problems"] = [
                    {**asdict(p), "module": module_of(p.node)}
                    for p in dict.fromkeys(backend.problems(simple, target))
                ]
                try:
                    answer["plan"] = backend.modelled(simple, target, network)
                    # A plan of one task's path through experts is no part of the whole graph.
                    if answer["plan"] and "task" not in answer["plan"]:
                        answer["plan"]["network_macs"] = graph.macs
                except StageFailed as error:
                    answer["plan"], answer["refused"] = None, error.to_dict()
            answers[target.name] = answer
    return answers


def _bundle(path: Path) -> dict[str, Any]:
    bundle = open_bundle(path)
    manifest = bundle.manifest
    cost = manifest.cost.after or {}

    def outputs(task: Task) -> list[str]:
        return list(task.outputs)

    return {
        "file": str(path),
        "kind": "bundle",
        "name": manifest.name,
        "target": manifest.target.model_dump(mode="json"),
        "params": cost.get("parameters"),
        "macs": cost.get("macs"),
        "input": dict(manifest.inputs[0].spec),
        "tasks": {
            task.name: {"kind": task.kind, "outputs": outputs(task)} for task in bundle.tasks()
        },
        "accuracy": manifest.accuracy.model_dump(mode="json"),
        "gates": manifest.gates,
        "created_by": manifest.created_by,
        "manifest_sha256": bundle.manifest_sha256,
        "files": {name: entry.size for name, entry in manifest.files.items()},
    }
