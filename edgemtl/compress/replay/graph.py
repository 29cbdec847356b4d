"""A masked network as a graph of operators that re-runs only what a changed mask touches.

Any network that runs can be recorded: the operators are traced (``make_fx``), so residual sums,
concatenations, attention and a user's own functions need no special case. Between runs the outputs
of the expensive operators are kept, in half precision; a trial that changes one group's mask
re-computes the operators downstream of that mask, and cheap operators wherever they are needed.

Every expensive operator's output is rounded to half precision whether it is kept or not, so that
an answer does not depend on what happened to be in the cache.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import Node, map_arg
from torch.utils.flop_counter import flop_registry

from edgemtl.compress.replay.folded_norm import FoldedNorm, Statistics

#: runs a masked network: images, gate per group name -> output name -> tensor
Run = Callable[[Tensor, Mapping[str, Tensor]], dict[str, Tensor]]
_NORMS = (
    torch.ops.aten.native_batch_norm.default,
    torch.ops.aten._native_batch_norm_legit_no_training.default,
)
#: dear although they multiply no matrices
_DEAR = (torch.ops.aten.grid_sampler_2d.default,)


@dataclass
class Step:
    """One operator.

    Attributes:
        node: what was traced.
        inputs: steps whose outputs it reads.
        bits: which groups' masks it depends on, one bit per group.
        pictures: whether it depends on the pictures (and not on masks alone).
        macs: multiply-accumulates of one run over a batch.
        kept: whether its output is worth keeping (and therefore rounded).
        stored: whether there is room to keep it.
        norm: the folded norm, if it is a convolution with one.
    """

    node: Node
    inputs: tuple[int, ...]
    bits: int = 0
    pictures: bool = True
    macs: int = 0
    kept: bool = False
    stored: bool = True
    norm: FoldedNorm | None = None


@dataclass
class State:
    """Masks and batch statistics that differ from the dense network.

    Attributes:
        gates: group -> (width,) 1 for kept, 0 for removed; all ones where absent.
        statistics: step -> statistics in place of the trained ones.
    """

    gates: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[int, Statistics] = field(default_factory=dict)

    def changed(self, name: str, gate: Tensor) -> State:
        """A copy with another mask for one group."""
        return State({**self.gates, name: gate}, dict(self.statistics))


class TracedNetwork:
    """The graph of a masked network at one batch size, BN folded.

    Args:
        run: the masked network.
        images: (B, 3, H, W) example; all batches must have this shape.
        widths: group name -> width, in topological order.
    """

    def __init__(self, run: Run, images: Tensor, widths: Mapping[str, int]) -> None:
        self.groups = tuple(widths)
        self.ones = {name: torch.ones(width) for name, width in widths.items()}
        outputs: list[str] = []

        def flat(pixels: Tensor, *gates: Tensor) -> tuple[Tensor, ...]:
            answers = run(pixels, dict(zip(self.groups, gates, strict=True)))
            outputs[:] = list(answers)
            return tuple(answers.values())

        with torch.no_grad():
            module = make_fx(torch.func.functionalize(flat), tracing_mode="real")(
                images, *self.ones.values()
            )
        module.graph.eliminate_dead_code()
        self._module = module
        self.bit = {name: 1 << index for index, name in enumerate(self.groups)}
        self.steps: list[Step] = []
        self._constants: dict[Node, Any] = {}
        self._index: dict[Node, int] = {}
        self._gate_nodes: dict[Node, str] = {}
        #: folded norms, and what only picks their first result -> the convolution
        self._alias: dict[Node, Node] = {}
        self._images: Node | None = None
        self._build(list(module.graph.nodes))
        answer = next(n for n in module.graph.nodes if n.op == "output").args[0]
        assert isinstance(answer, tuple | list)
        self.outputs = {
            name: self._index[self._alias.get(node, node)]
            for name, node in zip(outputs, answer, strict=True)
            if isinstance(node, Node)
        }
        self._measure(images)

    def bits_of(self, outputs: Sequence[str]) -> int:
        """The groups that any of these outputs depends on."""
        found = 0
        for name in outputs:
            found |= self.steps[self.outputs[name]].bits
        return found

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole network over one batch."""
        return sum(step.macs for step in self.steps)

    @property
    def norms(self) -> list[int]:
        """Steps with a folded batch norm."""
        return [index for index, step in enumerate(self.steps) if step.norm is not None]

    def fit_into(self, store: dict[int, Tensor], copies: int, memory_bytes: int) -> None:
        """Decide which outputs are kept from now on: the smallest first, as many as fit.

        The few largest outputs, early in a network, hold most of the memory and little of the work.

        Args:
            store: everything worth keeping of one batch; what does not fit is dropped from it.
            copies: batches that are kept.
            memory_bytes: for all of them.
        """
        room = memory_bytes // max(copies, 1)
        for index, value in sorted(store.items(), key=lambda item: (item[1].numel(), item[0])):
            room -= value.numel() * value.element_size()
            self.steps[index].stored = room >= 0
        for index in [index for index in store if not self.steps[index].stored]:
            del store[index]

    def weights(self, names: Mapping[int, str]) -> list[tuple[Step, str | None]]:
        """Every step that multiplies, with the name of its weight (None when it has none).

        Args:
            names: address of a parameter's data -> its name.
        """
        found: list[tuple[Step, str | None]] = []
        for step in self.steps:
            if step.macs == 0:
                continue
            known = [
                name for node in step.node.all_input_nodes if (name := self._origin(node, names))
            ]
            found.append((step, known[0] if known else None))
        return found

    def _origin(self, node: Node, names: Mapping[int, str]) -> str | None:
        """The parameter that this node, which depends on masks only, was computed from."""
        if node in self._index and self.steps[self._index[node]].pictures:
            return None
        value = self._constants.get(node)
        if isinstance(value, Tensor) and value.dim() > 1 and value.data_ptr() in names:
            return names[value.data_ptr()]
        for source in node.all_input_nodes:
            if (name := self._origin(source, names)) is not None:
                return name
        return None

    def _constant(self, node: Node) -> Any:
        value: Any = self._module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value.detach() if isinstance(value, Tensor) else value

    def _build(self, nodes: list[Node]) -> None:
        placeholders = [node for node in nodes if node.op == "placeholder"]
        self._images = placeholders[0]
        self._gate_nodes = dict(zip(placeholders[1:], self.groups, strict=True))
        alias = self._alias
        for node in nodes:
            if node.op == "get_attr":
                self._constants[node] = self._constant(node)
            if node.op != "call_function":
                continue
            node.args = map_arg(node.args, lambda n: alias.get(n, n))
            node.kwargs = map_arg(node.kwargs, lambda n: alias.get(n, n))
            if self._is_constant(node):
                with torch.no_grad():
                    self._constants[node] = self._call(node, self._constants)
                continue
            if (folded := self._folds_into(node)) is not None:
                alias[node] = folded
                continue
            if node.target is operator.getitem and node.args[0] in self._index:
                base = self.steps[self._index[node.args[0]]]  # type: ignore[index]
                if base.norm is not None and node.args[0] in alias.values():
                    alias[node] = node.args[0]  # type: ignore[assignment]
                    continue
            inputs = tuple(self._index[n] for n in node.all_input_nodes if n in self._index)
            bits = 0
            pictures = self._images in node.all_input_nodes
            for index in inputs:
                bits |= self.steps[index].bits
                pictures = pictures or self.steps[index].pictures
            for source in node.all_input_nodes:
                if source in self._gate_nodes:
                    bits |= self.bit[self._gate_nodes[source]]
            self._index[node] = len(self.steps)
            self.steps.append(Step(node, inputs, bits, pictures))

    def _is_constant(self, node: Node) -> bool:
        return all(source in self._constants for source in node.all_input_nodes)

    def _folds_into(self, node: Node) -> Node | None:
        """The convolution that this norm was folded into, if it is one that can be."""
        if node.target not in _NORMS:
            return None
        conv = node.args[0]
        if not isinstance(conv, Node) or conv.target is not torch.ops.aten.convolution.default:
            return None
        used = [user for user in node.users if user.target is operator.getitem and user.users]
        if len(conv.users) != 1 or any(user.args[1] != 0 for user in used):
            return None
        values = [self._constants.get(n) for n in node.args[1:5] if isinstance(n, Node)]
        found = [value for value in values if isinstance(value, Tensor)]
        transposed = conv.args[6]
        training = node.target is _NORMS[0] and bool(node.args[5])
        if len(found) != 4 or transposed or training:
            return None
        gamma, beta, mean, var = found
        bias = conv.args[2]
        self.steps[self._index[conv]].norm = FoldedNorm(
            self._constants[bias] if isinstance(bias, Node) else None,
            gamma,
            beta,
            mean,
            var,
            float(node.args[-1]),  # type: ignore[arg-type]
            tuple(conv.args[3:]),
        )
        return conv

    def _call(self, node: Node, values: Mapping[Node, Any]) -> Any:
        args = map_arg(node.args, lambda n: values[n])
        kwargs = map_arg(node.kwargs, lambda n: values[n])
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _measure(self, images: Tensor) -> None:
        """Count every step's work, and learn which outputs are worth keeping."""
        shapes: dict[Node, Any] = {}

        def watch(index: int, args: Any, kwargs: Any, out: Any) -> None:
            step = self.steps[index]
            shapes[step.node] = out
            packet = getattr(step.node.target, "overloadpacket", None)
            if packet in flop_registry:
                step.macs = int(flop_registry[packet](*args, **kwargs, out_val=out)) // 2
            step.kept = step.macs > 0 or step.node.target in _DEAR

        self.evaluate(images, State(), {}, 0, list(self.outputs), watch=watch)

    @torch.no_grad()
    def evaluate(
        self,
        images: Tensor,
        state: State,
        store: dict[int, Tensor],
        dirty: int,
        wanted: Sequence[str],
        *,
        keep: bool = False,
        fresh: dict[int, Tensor] | None = None,
        watch: Callable[[int, Any, Any, Any], None] | None = None,
        observe: Callable[[int, Tensor], Statistics | None] | None = None,
    ) -> tuple[dict[str, Tensor], int]:
        """Compute outputs of one batch.

        Args:
            images: (B, 3, H, W).
            state: masks and statistics.
            store: step -> kept output (half precision) of the committed state of this batch.
            dirty: groups whose mask differs from the committed one: what depends on them is
                computed and not stored.
            wanted: names of the outputs.
            keep: add what was computed and is not dirty to ``store``.
            fresh: where what was computed and is dirty goes, if worth keeping: it belongs into the
                store once ``state`` is the committed one.
            observe: called with a folded norm's step and its raw convolution output; the
                statistics it returns are used from there on.

        Returns:
            The outputs, and the multiply-accumulates spent.
        """
        targets = {self.outputs[name] for name in wanted}
        needed = self.needed(targets, store, dirty)
        uses = [0] * len(self.steps)
        for index in needed:
            if index not in store or self.steps[index].bits & dirty:
                for source in self.steps[index].inputs:
                    uses[source] += 1
        values: dict[Node, Any] = {**self._constants}
        assert self._images is not None
        values[self._images] = images
        for node, name in self._gate_nodes.items():
            values[node] = state.gates.get(name, self.ones[name])
        spent = 0
        for index in needed:
            step = self.steps[index]
            clean = not step.bits & dirty
            if clean and index in store:
                values[step.node] = store[index].float()
                continue
            if step.norm is not None:
                x, weight = (values[node] for node in step.node.args[:2])  # type: ignore[index]
                out = self._normed(index, step.norm, (x, weight), state, observe)
            else:
                out = self._call(step.node, values)
            spent += step.macs
            if watch is not None:
                args = map_arg(step.node.args, lambda n: values[n])
                kwargs = map_arg(step.node.kwargs, lambda n: values[n])
                watch(index, args, kwargs, out)
            if step.kept:
                half = out.half()
                kept = (store if keep else None) if clean else fresh
                if kept is not None and step.stored:
                    kept[index] = half
                out = half.float()
            values[step.node] = out
            for source in step.inputs:
                uses[source] -= 1
                if uses[source] == 0 and source not in targets:
                    del values[self.steps[source].node]
        return {name: values[self.steps[self.outputs[name]].node] for name in wanted}, spent

    def needed(self, targets: set[int], store: Mapping[int, Any], dirty: int) -> list[int]:
        """Steps that these steps' outputs take, in order, with those that are read from a store."""
        found: set[int] = set()
        pending = list(targets)
        while pending:
            index = pending.pop()
            if index in found:
                continue
            found.add(index)
            if index in store and not self.steps[index].bits & dirty:
                continue
            pending.extend(self.steps[index].inputs)
        return sorted(found)

    def _normed(
        self,
        index: int,
        norm: FoldedNorm,
        inputs: tuple[Tensor, Tensor],
        state: State,
        observe: Callable[[int, Tensor], Statistics | None] | None,
    ) -> Tensor:
        if observe is not None:
            raw = norm.raw(*inputs)
            if (replaced := observe(index, raw)) is not None:
                state.statistics[index] = replaced
            mean, var = state.statistics.get(index, (norm.mean, norm.var))
            shape = (1, -1, *[1] * (raw.dim() - 2))
            scale = norm.gamma * (var + norm.eps).rsqrt()
            return raw * scale.view(shape) + (norm.beta - mean * scale).view(shape)
        return norm.run(*inputs, state.statistics.get(index))
