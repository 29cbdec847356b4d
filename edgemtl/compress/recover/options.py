"""How to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: what may be trained: the cheapest that suffices, norms and biases alone, or everything
Train = Literal["auto", "norms", "all"]


@dataclass(frozen=True)
class RecoverOptions:
    """How to train.

    Attributes:
        steps: optimiser steps at most, trials of rates not counted.
        batch: pictures per step.
        learning_rate: peak, warmed up over ``warmup`` steps (at most an eighth of a stage), then
            cosine to 2 %; None finds it by a short trial in each stage.
        weight_decay: on weights of more than one dimension.
        ema: decay of the averaged weights, which are what is evaluated and kept.
        answers: weight of the distillation of answers relative to the task's own loss.
        features: weight of the distillation of maps inside the network.
        size: training canvas (height, width) in pixels; the network's own when None.
        evaluate_every: steps between evaluations on the held-out pictures.
        patience: a task whose drop has not improved in so many evaluations no longer adds its
            loss; a stage ends when that is true of all.
        seed: of everything random.
        train: ``all`` trains every parameter, ``norms`` only biases and norms. ``auto`` tries
            norms, then what belongs to the one task that is behind (if it is one), then all.
        allowed: task -> largest relative drop that its gate allows: tasks pull in proportion to
            what they lost of it, and the worst task is the one that lost most of it. All alike
            where empty.
        enough: task -> relative drop on held-out pictures at which ``auto`` stops once every named
            task is there, before the first step too; empty: it takes all its steps, with all
            parameters.
    """

    steps: int = 800
    batch: int = 16
    learning_rate: float | None = None
    weight_decay: float = 5e-4
    warmup: int = 40
    ema: float = 0.995
    answers: float = 1.0
    features: float = 1.0
    size: tuple[int, int] | None = None
    evaluate_every: int = 200
    patience: int = 3
    seed: int = 0
    train: Train = "all"
    allowed: Mapping[str, float] = field(default_factory=dict)
    enough: Mapping[str, float] = field(default_factory=dict)
