"""Cut channels out of a network, as a record in plain data says.

A record names tensors, not layers' roles, so that applying it needs no tracing and cannot be led
astray by code that changed::

    {"format": 1,
     "groups": [{"name": str, "width": int, "keep": [int, ...]}, ...],
     "tensors": [{"name": str, "dim": int, "size": int, "keep": [int, ...]}, ...],
     "attributes": [{"module": str, "name": str, "before": int, "after": int}, ...]}

A number's ``name`` may lead into a tuple or a configuration object (see held_numbers.py).
``groups`` is for people and reports; ``tensors`` and ``attributes`` are what is done. Records
come from checkpoints, so every field is checked before anything is touched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from edgemtl.errors import InputRefused
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.held_numbers import number_at, set_number
from edgemtl.models.multihead import free_heads, heads_are_missing

FORMAT = 1
#: weights from which on a network counts as large
_LARGE = 10_000_000


def apply_records(network: MultiTaskNetwork, records: Sequence[Mapping[str, Any]]) -> None:
    """Give a freshly built network the shapes that its pruning records describe, in order.

    The weights that remain are the network's own. Afterwards the network answers with outputs of
    the same shapes as before, which is checked.

    Raises:
        InputRefused: a record is malformed, or does not fit this network. The network may then be
            half cut and is of no use.
    """
    before = output_shapes(sketch(network))
    for index, record in enumerate(records):
        try:
            apply_record(network, record)
        except InputRefused as error:
            error.where = error.where or f"pruning record {index + 1}"
            raise
    try:
        after = output_shapes(sketch(network))
    except Exception as error:  # torch raises many kinds for shapes that do not fit
        raise InputRefused(
            f"the pruning record does not fit the network: {str(error).splitlines()[0]}"
        ) from error
    if after != before:
        raise InputRefused("the pruning record changes the shapes of the network's outputs")


def example_images(network: MultiTaskNetwork) -> Tensor:
    """(1, 3, H, W) noise where the network's weights are, in their type."""
    images = network.example_input()
    first = next((p for p in network.parameters() if p.is_floating_point()), None)
    return images if first is None else images.to(first)


@torch.no_grad()
def output_shapes(network: MultiTaskNetwork) -> dict[str, tuple[int, ...]]:
    """Output name -> shape for one picture."""
    training = network.training
    try:
        answers = network.eval()(example_images(network))
    finally:
        network.train(training)
    return {name: tuple(value.shape) for name, value in answers.items()}


def sketch(network: MultiTaskNetwork) -> MultiTaskNetwork:
    """What to ask for shapes: a copy on torch's "meta" device, which knows shapes and no values.

    The network itself when it is small (running it is quicker than loading the code of that
    device), or cannot run there.
    """
    if sum(parameter.numel() for parameter in network.parameters()) <= _LARGE:
        return network
    copied = copy.deepcopy(network).to("meta")
    try:
        output_shapes(copied)
    except (NotImplementedError, RuntimeError):  # no such kernel, or code that looks at values
        return network
    return copied


@torch.no_grad()
def apply_record(network: nn.Module, record: Mapping[str, Any]) -> None:
    """Cut one record's channels out of ``network``, in place.

    Raises:
        InputRefused: malformed, or does not fit; then nothing was changed.
    """
    tensors, attributes = _checked(network, record)
    owners = _owners(network)
    touched = set()
    for tensor, dim, keep in tensors:
        places = owners[id(tensor)]
        current: Tensor = getattr(*places[0])
        shorter = current.index_select(dim, keep.to(current.device))
        parameter = nn.Parameter(shorter, requires_grad=current.requires_grad)
        for owner, local in places:  # several for a shared tensor, which stays shared
            if local in owner._parameters:
                owner._parameters[local] = parameter
            else:
                owner._buffers[local] = shorter
            touched.add(owner)
    for module, name, value in attributes:
        set_number(module, name, value)
    for module in network.modules():
        if module in touched or touched & set(_parts(module)):
            _sync_sizes(module)


def _parts(module: nn.Module) -> list[nn.Module]:
    """Modules below this one that hold weights which are this one's own in all but name."""
    if isinstance(module, nn.MultiheadAttention):
        return list(module.children())
    lists = getattr(module, "parametrizations", None)
    return list(lists.modules()) if isinstance(lists, nn.ModuleDict) else []


def _owners(network: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """id of a parameter or buffer -> the places that hold it (several for a shared one)."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in network.modules():
        held = (*module._parameters.items(), *module._buffers.items())
        for local, tensor in held:
            if tensor is not None:
                found.setdefault(id(tensor), []).append((module, local))
    return found


def _sync_sizes(module: nn.Module) -> None:
    """Let the sizes that torch's own layers hold agree with their weights."""
    if heads_are_missing(module):
        free_heads(module)
    if isinstance(module, nn.RNNBase):
        _sync_recurrent(module)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.modules.conv._ConvNd):
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = weight.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.shape[0]


def _sync_recurrent(module: nn.RNNBase) -> None:
    """Inputs and hidden units as the weights have them; a projection's width where there is one."""
    inputs, hidden = module._parameters["weight_ih_l0"], module._parameters["weight_hh_l0"]
    assert inputs is not None and hidden is not None
    module.input_size = inputs.shape[1]
    if module.proj_size:
        module.proj_size = hidden.shape[1]
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.hidden_size = hidden.shape[0] // gates
    module._init_flat_weights()


def _checked(
    network: nn.Module, record: Mapping[str, Any]
) -> tuple[list[tuple[Tensor, int, Tensor]], list[tuple[nn.Module, str, int]]]:
    if record.get("format") != FORMAT or type(record["format"]) is not int:
        raise InputRefused("a pruning record has an unknown format")
    if set(record) != {"format", "groups", "tensors", "attributes"}:
        raise InputRefused("a pruning record has missing or unknown fields")
    for item in _items(record, "groups", {"name": str, "width": int, "keep": list}):
        _kept(item["keep"], item["width"], f"group '{item['name'][:80]}'")
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    tensors, seen = [], set()
    for item in _items(record, "tensors", {"name": str, "dim": int, "size": int, "keep": list}):
        name, dim, size = item["name"], item["dim"], item["size"]
        label = f"'{name[:80]}' dimension {dim}"
        if name not in held or not 0 <= dim < held[name].dim() or (name, dim) in seen:
            raise InputRefused(f"a pruning record names {label}, which the network does not have")
        seen.add((name, dim))
        if held[name].shape[dim] != size:
            raise InputRefused(
                f"a pruning record takes {label} for {size} wide, it is {held[name].shape[dim]}"
            )
        keep = torch.tensor(_kept(item["keep"], size, label), dtype=torch.int64)
        tensors.append((held[name], dim, keep))
    modules, attributes = dict(network.named_modules()), []
    fields = {"module": str, "name": str, "before": int, "after": int}
    for item in _items(record, "attributes", fields):
        module = modules.get(item["module"])
        value = None if module is None else number_at(module, item["name"])
        if module is None or value is None or value != item["before"]:
            raise InputRefused(
                f"a pruning record changes '{item['module'][:80]}.{item['name'][:80]}', which the "
                "network does not have, or not with this value"
            )
        if not 0 < item["after"] <= item["before"]:
            raise InputRefused(f"a pruning record sets '{item['name']}' to {item['after']}")
        attributes.append((module, item["name"], item["after"]))
    return tensors, attributes


def _items(record: Mapping[str, Any], key: str, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    items = record[key]
    if not isinstance(items, list):
        raise InputRefused(f"'{key}' of a pruning record is not a list")
    for item in items:
        if (
            not isinstance(item, dict)
            or set(item) != set(fields)
            or any(type(item[name]) is not kind for name, kind in fields.items())
        ):
            raise InputRefused(f"an entry of '{key}' in a pruning record is malformed")
    return items


def _kept(keep: list[Any], size: int, label: str) -> list[int]:
    if not keep or any(type(index) is not int for index in keep):
        raise InputRefused(f"a pruning record keeps nothing, or no list of numbers, of {label}")
    rising = all(a < b for a, b in pairwise(keep))
    if not rising or keep[0] < 0 or keep[-1] >= size:
        raise InputRefused(f"a pruning record keeps channels that {label} does not have")
    return keep
