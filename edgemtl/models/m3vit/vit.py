"""The backbone: a pre-norm vision transformer whose odd blocks hold experts (M3ViT, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models.m3vit.experts import MOST_TOGETHER, Experts, for_each
from edgemtl.models.m3vit.gates import Gate, Gating, Noise, NoiseSource, Routing, TaskEmbedding

PATCH = 16
EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """Sizes of a backbone.

    Attributes:
        dim: width of a token.
        depth: blocks.
        heads: attention heads, a divisor of ``dim``.
        hidden: width of a dense block's MLP.
    """

    dim: int
    depth: int
    heads: int
    hidden: int


@dataclass(frozen=True)
class ExpertShape:
    """The mixture of experts in odd blocks.

    Attributes:
        experts: E; 0 for a dense network.
        top_k: K.
        hidden: width of an expert.
        gating: arrangement of the gates.
        noise: kind of gate.
        noise_std: factor on the gate noise in training.
        kept: per layer the experts that are there; None for all.
    """

    experts: int
    top_k: int
    hidden: int
    gating: Gating
    noise: Noise
    noise_std: float
    kept: Sequence[Sequence[int]] | None = None


@dataclass
class Record:
    """What a forward leaves behind besides its tokens.

    Attributes:
        routings: one per layer with experts and per task (one for all tasks with a single gate),
            in the order of computing.
        dropped: per layer as above, (B,) float: choices of experts that had no room or are not
            there.
    """

    routings: list[Routing] = field(default_factory=list)
    dropped: list[Tensor] = field(default_factory=list)


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values from one layer, in this order."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.width = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        joined: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return joined


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Mixture(nn.Module):
    """Experts behind one gate per name; all tokens are routed, the class token too."""

    def __init__(
        self,
        dim: int,
        shape: ExpertShape,
        gates: Sequence[str],
        features: int,
        source: NoiseSource,
        layer: int,
    ) -> None:
        super().__init__()
        kept = None if shape.kept is None else shape.kept[layer]
        self.experts = Experts(shape.experts, dim, shape.hidden, kept=kept)
        self.gates = nn.ModuleDict(
            {
                name: Gate(
                    features, shape.experts, shape.top_k, shape.noise, shape.noise_std, source
                )
                for name in gates
            }
        )

    def forward(
        self,
        xs: Sequence[Tensor],
        gates: Sequence[str],
        embeddings: Sequence[Tensor | None],
        records: Sequence[Record],
    ) -> list[Tensor]:
        """(B, N, dim) -> (B, N, dim) through each of these gates; for several see experts.py.

        Args:
            xs: per gate; or a single one that all gates read.
            gates: their names; the same one may occur again, with another embedding.
            embeddings: of the task, per gate, where gates read one.
            records: per gate.
        """
        tokens = [x.flatten(0, 1) for x in xs]
        read = for_each(tokens, len(gates))
        routings: list[Routing] = [
            self.gates[gate](own, embedding)
            for own, gate, embedding in zip(read, gates, embeddings, strict=True)
        ]
        outs = []
        found = self.experts(tokens, routings)
        for routing, record, (answers, dropped) in zip(routings, records, found, strict=True):
            record.routings.append(routing)
            record.dropped.append(dropped.view(xs[0].shape[0], -1).sum(dim=1))
            outs.append(answers.view_as(xs[0]))
        return outs


class Block(nn.Module):
    """Attention, then an MLP or a mixture of experts, each behind a norm and around a shortcut."""

    def __init__(self, shape: Shape, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.dim, eps=EPSILON)
        self.attn = Attention(shape.dim, shape.heads)
        self.norm2 = nn.LayerNorm(shape.dim, eps=EPSILON)
        self.mlp = mlp

    def attend(self, x: Tensor) -> Tensor:
        """The first half, which no gate changes: (B, N, dim) -> (B, N, dim)."""
        out: Tensor = x + self.attn(self.norm1(x))
        return out

    def think(self, x: Tensor, gate: str, embedding: Tensor | None, record: Record) -> Tensor:
        """The second half, through this gate where there are experts."""
        if isinstance(self.mlp, Mixture):
            (mixed,) = self.mlp([self.norm2(x)], [gate], [embedding], [record])
            joined: Tensor = x + mixed
            return joined
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def forward(self, x: Tensor, gate: str, embedding: Tensor | None, record: Record) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        return self.think(self.attend(x), gate, embedding, record)


#: name of the only gate, where tasks do not have their own
SHARED = "shared"


class Backbone(nn.Module):
    """Patches to tokens, through all blocks, once per task from the first gate on.

    No norm at the end: each decoder has its own.

    Args:
        shape: of the transformer.
        experts: of the mixtures in odd blocks.
        tasks: names of the tasks, in gate order.
        size: height and width of the input in pixels, multiples of 16.
        source: noise for the gates.
    """

    def __init__(
        self,
        shape: Shape,
        experts: ExpertShape,
        tasks: Sequence[str],
        size: tuple[int, int],
        source: NoiseSource,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.gating = experts.gating
        self.patch = nn.Conv2d(3, shape.dim, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        #: tokens of a picture
        self.count = 1 + (size[0] // PATCH) * (size[1] // PATCH)
        self.position = nn.Parameter(torch.zeros(1, self.count, shape.dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        conditioned = experts.gating == "task_conditioned" and experts.experts > 0
        self.embedding = TaskEmbedding(len(tasks)) if conditioned else None
        features = shape.dim + (self.embedding.fc2.out_features if self.embedding else 0)
        gates = self.tasks if experts.gating == "per_task" else (SHARED,)

        def mlp(index: int) -> nn.Module:
            if index % 2 == 0 or experts.experts == 0:
                return Mlp(shape.dim, shape.hidden)
            return Mixture(shape.dim, experts, gates, features, source, index // 2)

        self.blocks = nn.ModuleList(Block(shape, mlp(index)) for index in range(shape.depth))

    def mixtures(self) -> list[Mixture]:
        """The layers with experts, in order."""
        return [module for module in self.modules() if isinstance(module, Mixture)]

    def keep_tasks(self, names: Sequence[str]) -> None:
        """Forget all other tasks, in place; the answers for these stay the same."""
        if self.embedding is not None:
            columns = [self.tasks.index(name) for name in names]
            old = self.embedding.fc1
            new = nn.Linear(len(names), old.out_features).to(old.weight)
            new.load_state_dict({"weight": old.weight[:, columns], "bias": old.bias})
            self.embedding.fc1 = new
        if self.gating == "per_task":
            for mixture in self.mixtures():
                mixture.gates = nn.ModuleDict({name: mixture.gates[name] for name in names})
        self.tasks = tuple(names)

    def forward(
        self, images: Tensor, tasks: Sequence[str], record: Record | None = None
    ) -> list[Tensor]:
        """Tokens of the last block for each of these tasks.

        What does not depend on the task (patches, the blocks before the first mixture and that
        block's attention; everything if there is one gate for all) is computed once.

        Args:
            images: (B, 3, H, W).
            tasks: names out of :attr:`tasks`.
            record: is filled where given.

        Returns:
            per task (B, 1 + H W / 256, dim), the class token first.
        """
        record = Record() if record is None else record
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        fork = len(blocks)
        if self.gating != "single":
            with_experts = [i for i, b in enumerate(blocks) if isinstance(b.mlp, Mixture)]
            fork = with_experts[0] if with_experts else fork
        for block in blocks[:fork]:
            x = block(x, SHARED, None, record)
        if fork == len(blocks):
            return [x for _ in tasks]
        x = blocks[fork].attend(x)
        static = all(mixture.experts.lowering == "static" for mixture in self.mixtures())
        if static and self.may_share_queues(tasks):
            return self._side_by_side(blocks[fork:], x, tasks, record)
        answers = []
        for name in tasks:
            gate = name if self.gating == "per_task" else SHARED
            embedding = self._embedding(name, x)
            y = blocks[fork].think(x, gate, embedding, record)
            for block in blocks[fork + 1 :]:
                y = block(y, gate, embedding, record)
            answers.append(y)
        return answers

    def may_share_queues(self, tasks: Sequence[str]) -> bool:
        """Whether static experts have one queue for all of these tasks together.

        Then tasks are computed side by side, layer by layer, and not one after the other.
        """
        apart = self.gating != "single" and len(tasks) > 1
        return apart and len(tasks) * self.count <= MOST_TOGETHER

    def _side_by_side(
        self, blocks: Sequence[Block], x: Tensor, tasks: Sequence[str], record: Record
    ) -> list[Tensor]:
        """From the first gate on, all tasks in the same queues; x has been attended to."""
        gates = [name if self.gating == "per_task" else SHARED for name in tasks]
        embeddings = [self._embedding(name, x) for name in tasks]
        records = [Record() for _ in tasks]
        answers = [x]  # of all tasks, until a gate tells them apart
        for index, block in enumerate(blocks):
            if index:
                answers = [block.attend(y) for y in answers]
            if isinstance(block.mlp, Mixture):
                normed = [block.norm2(y) for y in answers]
                mixed = block.mlp(normed, gates, embeddings, records)
                before = for_each(answers, len(tasks))
                answers = [y + z for y, z in zip(before, mixed, strict=True)]
            else:
                answers = [block.think(y, SHARED, None, record) for y in answers]
        # as if one task had been computed after the other
        record.routings += [routing for own in records for routing in own.routings]
        record.dropped += [dropped for own in records for dropped in own.dropped]
        return answers

    def _embedding(self, task: str, like: Tensor) -> Tensor | None:
        if self.embedding is None:
            return None
        one_hot = torch.zeros((1, len(self.tasks)), dtype=like.dtype, device=like.device)
        one_hot[0, self.tasks.index(task)] = 1
        out: Tensor = self.embedding(one_hot)
        return out
