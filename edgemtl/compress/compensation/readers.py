"""The layers that read channels, as one forward pass computes them.

Hooks of modules see neither functions nor weights that are used in parts (experts of a stack), so
the autograd graph of one pass is asked instead: whatever a weight took part in stands there, with
its operands, however it was called and however often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.compensation import layouts
from edgemtl.compress.compensation.layouts import Layout
from edgemtl.compress.compensation.rows import Window, convolution_rows, map_rows

Node = Any
#: what a constant output of a reader can be added to
Constant = tuple[Literal["bias", "mean"], str]


@dataclass(frozen=True)
class Reader:
    """A weight that reads channels of groups.

    Attributes:
        layout: of the weight.
        constant: where a constant goes that is to be added to its outputs: into a bias, or off the
            running mean of the batch norm that follows; None where there is neither.
    """

    layout: Layout
    constant: Constant | None

    @property
    def name(self) -> str:
        """The weight's."""
        return self.layout.tensor


@dataclass
class Call:
    """One use of a reader's weight in a pass.

    Attributes:
        reader: whose weight it is.
        block: which of its blocks; None for all at once.
        node: of the autograd graph; its gradient is that of the output.
        kind: of the operation.
    """

    reader: Reader
    block: int | None
    node: Node
    kind: Literal["convolution", "product", "batch"]

    @property
    def size(self) -> int:
        """Places of the output that rows can be taken at, per picture or in all."""
        if self.kind == "convolution":
            return int(torch.tensor(_output_size(self.node)).prod())
        operand = _operands(self.node)[0]
        return int(operand.shape[-2])

    def rows(self, places: Tensor) -> Tensor:
        """(blocks, n, features) what the weight is multiplied with at these places."""
        layout = self.reader.layout
        if self.kind == "convolution":
            node = self.node
            window = Window(
                tuple(node._saved_weight.shape[2:]),
                tuple(node._saved_stride),
                tuple(node._saved_padding),
                tuple(node._saved_dilation),
                bool(node._saved_transposed),
            )
            found = convolution_rows(
                node._saved_input.detach(), window, _output_size(node), places
            ).reshape(-1, layout.blocks, layout.features)
            return found.transpose(0, 1)
        operand: Tensor = _operands(self.node)[0].detach()
        found = operand[:, places] if self.kind == "batch" else operand[places][None]
        return found

    def gradients(self, gradient: Tensor, places: Tensor) -> Tensor:
        """(blocks, n, outputs) of the gradient of the call's output at these places."""
        layout = self.reader.layout
        if self.kind == "convolution":
            found = map_rows(gradient, places).reshape(-1, layout.blocks, layout.outputs)
            return found.transpose(0, 1)
        return gradient[:, places] if self.kind == "batch" else gradient[places][None]


def find_readers(
    network: nn.Module, groups: Sequence[ChannelGroup], outputs: Mapping[str, Tensor]
) -> tuple[list[Call], tuple[str, ...]]:
    """The readers of all groups' channels in the graph of one pass.

    Args:
        network: whose parameters all require gradients, in contiguous memory.
        groups: of it.
        outputs: of the pass, with their graph.

    Returns:
        Every use of a reader, and the names of the weights that read channels in a form that is not
        known (or are not reached by gradients).
    """
    dims = {member.tensor: member.dim for group in groups for member in group.with_role("consumer")}
    walk = _Walk(network)
    nodes = list(_reachable([value.grad_fn for value in outputs.values()]))
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        for source, _ in node.next_functions:
            if source is not None:
                users.setdefault(source, []).append(node)
    calls: list[Call] = []
    strange: set[str] = set()
    for node in nodes:
        for name, operand in walk.weights(node):
            if name not in dims:
                continue
            made = walk.call(node, name, dims[name], operand, users.get(node, []))
            if made is None:
                strange.add(name)
            else:
                calls.append(made)
    seen = {call.reader.name for call in calls}
    strange |= {name for name in dims if name not in seen}
    calls = [call for call in calls if call.reader.name not in strange]
    return _agreed(calls), tuple(name for name in dims if name in strange)


def ends(calls: Sequence[Call]) -> list[bool]:
    """Whether no other call lies between each of these and the images: gradients need go no
    farther."""
    own = {call.node for call in calls}
    found = []
    for call in calls:
        before = _reachable([source for source, _ in call.node.next_functions])
        found.append(not any(node in own for node in before))
    return found


def _agreed(calls: list[Call]) -> list[Call]:
    """The calls, with one reader per weight: a constant that differs between calls is none."""
    constants: dict[str, set[Constant | None]] = {}
    owners: dict[Constant, set[str]] = {}
    for call in calls:
        constants.setdefault(call.reader.name, set()).add(call.reader.constant)
        if call.reader.constant is not None:
            owners.setdefault(call.reader.constant, set()).add(call.reader.name)
    agreed: dict[str, Reader] = {}
    for call in calls:
        name, known = call.reader.name, constants[call.reader.name]
        single = next(iter(known)) if len(known) == 1 else None
        if single is not None and len(owners[single]) > 1:
            single = None
        agreed.setdefault(name, Reader(call.reader.layout, single))
        call.reader = agreed[name]
    return calls


def _reachable(starts: Sequence[Node | None]) -> Iterator[Node]:
    """All nodes of a graph, each once, in an order that is the same every time."""
    seen: set[Node] = set()
    pending = [node for node in starts if node is not None][::-1]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        pending += [source for source, _ in node.next_functions if source is not None][::-1]


class _Walk:
    """Tells which parameters the nodes of a graph work with."""

    def __init__(self, network: nn.Module) -> None:
        self._parameters = dict(network.named_parameters())
        self._modules = dict(network.named_modules())
        self._names = {
            parameter.untyped_storage().data_ptr(): name
            for name, parameter in self._parameters.items()
            if parameter.numel()
        }
        self._buffers = {
            buffer.data_ptr(): name for name, buffer in network.named_buffers() if buffer.numel()
        }

    def weights(self, node: Node) -> list[tuple[str, Tensor]]:
        """Parameters among a product's operands, with the view of them that it reads."""
        if not (kind := _KINDS.get(_type(node))):
            return []
        operands = [node._saved_weight] if kind == "convolution" else list(_operands(node))
        return [(name, t) for t in operands if t is not None and (name := self._name(t))]

    def call(
        self, node: Node, name: str, dim: int, operand: Tensor, users: Sequence[Node]
    ) -> Call | None:
        """A use of a weight; None where its form is not known."""
        kind, parameter = _KINDS[_type(node)], self._parameters[name]
        block: int | None = None
        if kind == "convolution":
            if operand.numel() != parameter.numel():
                return None
            transposed, groups = bool(node._saved_transposed), int(node._saved_groups)
            layout = layouts.convolution(name, parameter.shape, dim, groups, transposed)
        else:
            left, right = _operands(node)
            if right is None or left is None or self._name(right) != name:
                return None
            found = layouts.product(name, parameter, dim, right, right.dim() - 2)
            layout, block = found if found is not None else (None, None)
        if layout is None:
            return None
        return Call(Reader(layout, self._constant(node, users, layout)), block, node, kind)

    def _constant(self, node: Node, users: Sequence[Node], layout: Layout) -> Constant | None:
        bias = self._bias(node)
        if bias is not None:
            fits = self._parameters[bias].numel() == layout.blocks * layout.outputs
            return ("bias", bias) if fits else None
        owner, _, attribute = layout.tensor.rpartition(".")
        if isinstance(self._modules[owner], nn.Linear) and attribute == "weight":
            # Where the rows do not lie densely, torch adds the bias in a step of its own.
            named = f"{owner}.bias".removeprefix(".")
            return ("bias", named) if named in self._parameters else None
        if len(users) == 1 and _type(users[0]) == "NativeBatchNorm":
            norm = users[0]
            mean = norm._saved_running_mean
            name = None if mean is None else self._buffers.get(mean.data_ptr())
            if name is not None and not norm._saved_training:
                return ("mean", name)
        return None

    def _bias(self, node: Node) -> str | None:
        """The parameter that a product adds, itself or a slice of it."""
        place = {"Convolution": 2, "Addmm": 0, "Baddbmm": 0}.get(_type(node))
        source = None if place is None else node.next_functions[place][0]
        while source is not None:
            if _type(source) == "AccumulateGrad":
                return self._name(source.variable)
            if _type(source) not in ("Select", "View", "Expand", "Unsqueeze", "Split", "Slice"):
                return None
            source = source.next_functions[0][0]
        return None

    def _name(self, tensor: Tensor) -> str | None:
        return self._names.get(tensor.untyped_storage().data_ptr())


_KINDS: dict[str, Literal["convolution", "product", "batch"]] = {
    "Convolution": "convolution",
    "Addmm": "product",
    "Mm": "product",
    "Bmm": "batch",
    "Baddbmm": "batch",
}
_OPERANDS: dict[str, Callable[[Node], tuple[Tensor | None, Tensor | None]]] = {
    "Addmm": lambda node: (node._saved_mat1, node._saved_mat2),
    "Mm": lambda node: (node._saved_self, node._saved_mat2),
    "Bmm": lambda node: (node._saved_self, node._saved_mat2),
    "Baddbmm": lambda node: (node._saved_batch1, node._saved_batch2),
}


def _type(node: Node) -> str:
    """The operation that a node stands for."""
    name = type(node).__name__
    return name.rstrip("0123456789").removesuffix("Backward")


def _operands(node: Node) -> tuple[Any, Any]:
    return _OPERANDS[_type(node)](node)


def _output_size(node: Node) -> list[int]:
    """Spatial size of a convolution's output."""
    size = []
    for axis, length in enumerate(node._saved_input.shape[2:]):
        span = node._saved_dilation[axis] * (node._saved_weight.shape[2 + axis] - 1)
        stride, padding = node._saved_stride[axis], node._saved_padding[axis]
        if node._saved_transposed:
            extra = node._saved_output_padding[axis]
            size.append((length - 1) * stride - 2 * padding + span + extra + 1)
        else:
            size.append((length + 2 * padding - span - 1) // stride + 1)
    return size
