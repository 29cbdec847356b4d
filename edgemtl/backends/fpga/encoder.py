"""The encoder of a vision transformer with expert layers, as the paper's accelerator runs it.

Follows M3ViT's section on hardware: 16-bit weights, layers one after the other on one array, even
blocks dense, odd blocks expert layers. The split of memory into buffers is our reading of the
paper's figures, not stated there; it is held against its Table 4 by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgemtl.backends.fpga.device import MoeSchedule
from edgemtl.backends.fpga.work import Work


@dataclass(frozen=True)
class Encoder:
    """A pre-norm vision transformer without decoders.

    Attributes:
        dim: of a token.
        depth: blocks.
        heads: of attention.
        hidden: of the dense MLP.
        tokens: with the class token, at the size in question.
        most_tokens: that the token buffer is built for.
        experts, top_k, expert_hidden: of the odd blocks; 0 experts for a dense network.
        patch: side of a patch in pixels.
        weight_bytes: per weight (and per activation).
    """

    dim: int
    depth: int
    heads: int
    hidden: int
    tokens: int
    most_tokens: int
    experts: int = 0
    top_k: int = 0
    expert_hidden: int = 0
    patch: int = 16
    weight_bytes: int = 2

    @property
    def expert_bytes(self) -> int:
        """Weights and biases of one expert."""
        return self.weight_bytes * _mlp(self.dim, self.expert_hidden)

    @property
    def dense_bytes(self) -> int:
        """Weights and biases of one dense MLP."""
        return self.weight_bytes * _mlp(self.dim, self.hidden)

    @property
    def gate_bytes(self) -> int:
        """Weights of one gate of one task."""
        return self.weight_bytes * self.dim * self.experts

    def works(self) -> list[Work]:
        """Its layers in order; biases count as weights."""
        n, d, b = self.tokens, self.dim, self.weight_bytes
        found: list[Work] = []
        stream = n * d * b

        def add(name: str, kind: str, reduction: int, outputs: int, **more: int) -> None:
            before = found[-1].output if found else "patches"
            written = n * (outputs if kind == "matmul" else d) * b
            found.append(
                Work(
                    name,
                    kind,  # type: ignore[arg-type] # one of the kinds, below
                    more.pop("positions", n),
                    reduction,
                    outputs,
                    inputs=(before,),
                    output=name,
                    input_bytes=(found[-1].output_bytes if found else stream,),
                    output_bytes=written,
                    **more,
                )
            )

        patch = 3 * self.patch**2
        add("patch", "matmul", patch, d, positions=n - 1, weight_bytes=b * (patch + 1) * d)
        for block in range(self.depth):
            at = f"block{block}"
            add(f"{at}.qkv", "matmul", d, 3 * d, weight_bytes=b * 3 * d * (d + 1))
            add(f"{at}.attention", "attention", d // self.heads, d, heads=self.heads)
            add(f"{at}.proj", "matmul", d, d, weight_bytes=b * d * (d + 1))
            if self.experts and block % 2:
                add(f"{at}.gate", "gate", d, self.experts, weight_bytes=self.gate_bytes)
                add(
                    f"{at}.experts",
                    "experts",
                    d,
                    self.expert_hidden,
                    weight_bytes=self.experts * self.expert_bytes,
                    experts=self.experts,
                    top_k=self.top_k,
                )
            else:
                h = self.hidden
                add(f"{at}.fc1", "matmul", d, h, weight_bytes=b * h * (d + 1))
                add(f"{at}.fc2", "matmul", h, d, weight_bytes=b * d * (h + 1))
        return found

    def memory_bytes(self, schedule: MoeSchedule) -> int:
        """On the chip: attention, patch and MLP weights of one block, tokens, norms, the gate.

        Expert and dense MLPs use the same buffer in turn, which the larger one sizes; resident
        experts need one of their own, beside which the dense MLP is streamed through.
        """
        d, b = self.dim, self.weight_bytes
        base = b * (4 * d * d + 4 * d) + b * (3 * self.patch**2 * d + d)
        base += b * self.most_tokens * d + b * 4 * d
        if not self.experts:
            return base + self.dense_bytes
        if schedule == "resident":
            return base + self.experts * self.expert_bytes + self.gate_bytes
        return base + max(self.dense_bytes, 2 * self.expert_bytes) + self.gate_bytes


def _mlp(dim: int, hidden: int) -> int:
    return 2 * dim * hidden + hidden + dim
