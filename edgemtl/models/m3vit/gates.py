"""Gates: which experts a token goes to, with which weights (M3ViT, sections 1 and 5).

A gate is one matrix over token features. Three arrangements: one gate per task; one gate that also
reads an embedding of the task; one gate for all. Two kinds of noise, both for training only:

- ``vmoe``: softmax over all E experts, the K largest kept as they are (they sum to less than 1);
  noise of a fixed standard deviation ``noise_std / E`` on the logits.
- ``shazeer``: the K largest logits kept, softmax over these; the noise's size is learned per token
  and expert, times ``noise_std``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gating = Literal["per_task", "task_conditioned", "single"]
Noise = Literal["vmoe", "shazeer"]
GATINGS: tuple[Gating, ...] = ("per_task", "task_conditioned", "single")
NOISES: tuple[Noise, ...] = ("vmoe", "shazeer")

#: width of the embedding of a task
EMBEDDING = 64
#: smallest learned noise, so that the probabilities of the balance loss stay defined
LOWEST_NOISE = 1e-2


@dataclass(frozen=True)
class Routing:
    """Where the tokens of a batch go in one layer.

    Attributes:
        experts: (T, K) int64, per token the chosen experts, different ones.
        weights: (T, K) float, what their answers are multiplied by.
        importance: (E,) sum of the weights that each expert got; only in training.
        load: (E,) tokens per expert, smooth where there is noise; only in training.
    """

    experts: Tensor
    weights: Tensor
    importance: Tensor | None = None
    load: Tensor | None = None


class NoiseSource:
    """One seeded stream of normal numbers that all gates of a network share."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def seed(self, seed: int) -> None:
        """Start anew."""
        self._generator.manual_seed(seed)

    def like(self, values: Tensor) -> Tensor:
        """Standard normal numbers of this tensor's shape, type and device."""
        drawn = torch.randn(values.shape, generator=self._generator)
        return drawn.to(values.device, values.dtype)


class TaskEmbedding(nn.Module):
    """One-hot task -> two layers -> layer norm: what a task-conditioned gate reads.

    Args:
        tasks: number of tasks.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tasks, EMBEDDING)
        self.fc2 = nn.Linear(EMBEDDING, EMBEDDING)
        self.norm = nn.LayerNorm(EMBEDDING)

    def forward(self, one_hot: Tensor) -> Tensor:
        """(1, tasks) -> (1, 64)."""
        out: Tensor = self.norm(self.fc2(F.gelu(self.fc1(one_hot))))
        return out


class Gate(nn.Module):
    """Scores every token for every expert and keeps the K best.

    Args:
        features: width of what the gate reads (token, and task embedding where there is one).
        experts: E.
        top_k: K, at most E.
        noise: kind of noise, and with it of normalisation.
        noise_std: factor on the noise; 0 trains without.
        source: where the noise comes from.
    """

    def __init__(
        self,
        features: int,
        experts: int,
        top_k: int,
        noise: Noise,
        noise_std: float,
        source: NoiseSource,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.noise = noise
        self.noise_std = noise_std
        self._source = source
        self.score = nn.Linear(features, experts, bias=False)
        self.spread = nn.Linear(features, experts, bias=False) if noise == "shazeer" else None
        if self.spread is not None:  # as Shazeer et al. (1701.06538): no preference at first
            nn.init.zeros_(self.spread.weight)

    def forward(self, tokens: Tensor, embedding: Tensor | None = None) -> Routing:
        """(T, d) tokens, (1, 64) embedding of the task or None -> their routing."""
        if embedding is not None:
            tokens = torch.cat([tokens, embedding.expand(tokens.shape[0], -1)], dim=1)
        clean = self.score(tokens)
        if not self.training:
            experts, weights, _ = self._chosen(clean, self.top_k)
            return Routing(experts, weights)
        std = self._std(tokens, clean)
        noisy = clean if std is None else clean + std * self._source.like(clean)
        count = clean.shape[1]
        experts, weights, scores = self._chosen(noisy, min(self.top_k + 1, count))
        chosen = F.one_hot(experts, count).to(weights.dtype)
        importance = (chosen * weights.unsqueeze(-1)).sum(dim=(0, 1))
        if std is None or self.top_k == count:
            load = chosen.sum(dim=(0, 1))
        else:
            load = _probability_chosen(clean, noisy, std, scores).sum(dim=0)
        return Routing(experts, weights, importance, load)

    def _std(self, tokens: Tensor, clean: Tensor) -> Tensor | None:
        """Standard deviation of the noise on the logits, (T, E); None without noise."""
        if self.noise_std == 0:
            return None
        if self.spread is None:
            return torch.full_like(clean, self.noise_std / clean.shape[1])
        return (F.softplus(self.spread(tokens)) + LOWEST_NOISE) * self.noise_std

    def _chosen(self, logits: Tensor, ranked: int) -> tuple[Tensor, Tensor, Tensor]:
        """Experts and weights (T, K), and the logits of the ``ranked`` best, largest first."""
        best, order = logits.topk(ranked, dim=1)
        experts = order[:, : self.top_k]
        if self.noise == "vmoe":
            return experts, logits.softmax(dim=1).gather(1, experts), best
        return experts, best[:, : self.top_k].softmax(dim=1), best


def _probability_chosen(clean: Tensor, noisy: Tensor, std: Tensor, best: Tensor) -> Tensor:
    """(T, E) probability that an expert is among the K best when its own noise is drawn again."""
    last_in, first_out = best[:, -2:-1], best[:, -1:]
    # To be in, an expert has to beat the K-th best of the others: that is the K-th best overall
    # for one that is out, and the next one for one that is in.
    threshold = torch.where(noisy > first_out, first_out, last_in)
    probability: Tensor = torch.special.ndtr((clean - threshold) / std)
    return probability


def squared_variation(values: Tensor) -> Tensor:
    """Squared coefficient of variation of (E,) values: unbiased variance over squared mean."""
    if values.numel() < 2:
        return values.sum() * 0.0
    return values.var(unbiased=True) / (values.mean() ** 2 + 1e-10)


def balance_loss(routings: Sequence[Routing]) -> Tensor:
    """Sum over layers and gates of how unequally experts are used (M3ViT, section 5).

    The published weight of this term is 0.01.

    Raises:
        ValueError: no routing of a training forward is given.
    """
    terms = [
        squared_variation(routing.importance) + squared_variation(routing.load)
        for routing in routings
        if routing.importance is not None and routing.load is not None
    ]
    if not terms:
        raise ValueError("routings of a forward in training mode are needed")
    return torch.stack(terms).sum()
