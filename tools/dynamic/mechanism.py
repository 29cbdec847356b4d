"""The method as published, on a real small problem: thresholds, two losses, static masks beside."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamic.crops import Crops, part_crops
from dynamic.networks import NETWORKS, SPEC, TASK
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.cost import CostModel
from edgemtl.compress.dynamic.accounting import Estimator, cost_model
from edgemtl.compress.dynamic.dependence import input_dependence
from edgemtl.compress.dynamic.network import DynamicNetwork, MaskOptions
from edgemtl.compress.dynamic.predictor import PredictorOptions
from edgemtl.compress.dynamic.sites import mask_sites
from edgemtl.compress.dynamic.training import (
    Loss,
    TrainOptions,
    hold_widths,
    measure_masks,
    start_at_rates,
    train,
)
from edgemtl.files import write_atomically, write_json
from edgemtl.models.base import MultiTaskNetwork

BATCH = 64
HEAD_RATE = 0.05
MODES = ("decoupled", "joint", "static")
Tell = Callable[[str], None]


def pixels(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """(B, 3, 32, 32) uint8 -> normalised float32, channels last."""
    mean = torch.tensor(SPEC.mean).view(1, 3, 1, 1)
    std = torch.tensor(SPEC.std).view(1, 3, 1, 1)
    scaled = (torch.from_numpy(images).float() - mean) / std
    return scaled.to(memory_format=torch.channels_last)


class Drawing:
    """Random batches, mirrored and shifted by up to four pixels."""

    def __init__(self, crops: Crops, seed: int) -> None:
        self._crops, self._seed = crops, seed

    def __call__(self, step: int) -> tuple[Tensor, Loss]:
        rng = np.random.default_rng([self._seed, step])
        index = rng.integers(len(self._crops.labels), size=BATCH)
        images = self._crops.images[index]
        mirrored = rng.random(BATCH) < 0.5
        images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
        padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)), mode="edge")
        y, x = rng.integers(0, 9, size=2)
        batch = pixels(np.ascontiguousarray(padded[:, :, y : y + 32, x : x + 32]))
        labels = torch.from_numpy(self._crops.labels[index])

        def loss(outputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Tensor:
            return F.cross_entropy(outputs[f"{TASK}.logits"].float(), labels)

        return batch, loss


def batches_of(crops: Crops) -> list[Tensor]:
    """All pictures, in order."""
    return [pixels(crops.images[i : i + BATCH]) for i in range(0, len(crops.labels), BATCH)]


@torch.no_grad()
def accuracy(run: Callable[[Tensor], dict[str, Tensor]], crops: Crops) -> float:
    """Share of pictures whose class is right."""
    answers = [run(images)[f"{TASK}.logits"].argmax(dim=1) for images in batches_of(crops)]
    return float((torch.cat(answers).numpy() == crops.labels).mean())


def train_base(network: MultiTaskNetwork, crops: Crops, steps: int, tell: Tell) -> None:
    """Train the dense network: SGD, cosine from 0.05."""
    draw = Drawing(crops, 0)
    optimiser = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)
    network.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 50)
            group["lr"] = 0.05 * warm * (1 + math.cos(math.pi * step / steps)) / 2
        images, loss = draw(step)
        value = loss(network(images), [TASK])
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if (step + 1) % 100 == 0:
            tell(f"base step {step + 1}/{steps}: loss {float(value.detach()):.3f}")
    network.eval()


def run(
    name: str,
    data: Path,
    work: Path,
    base_steps: int,
    steps: int,
    thresholds: Sequence[float],
    tell: Tell,
) -> None:
    """Train what is missing; one JSON file per row under ``work``."""
    crops = part_crops(data / "people_parts", work / "crops.npz")
    folder = work / name
    base = folder / "base.pt"
    if not base.is_file():
        torch.manual_seed(0)
        network = NETWORKS[name](len(crops["train"].classes))
        train_base(network.to(memory_format=torch.channels_last), crops["train"], base_steps, tell)
        state = network.state_dict()
        write_atomically(base, lambda stream: torch.save(state, stream))
    for threshold in thresholds:
        for mode in MODES:
            path = folder / f"{mode}-{threshold:g}.json"
            if not path.is_file():
                tell(f"{name}, {mode}, threshold {threshold:g}")
                write_json(path, _row(name, base, crops, threshold, mode, steps, tell))


def _row(
    name: str,
    base: Path,
    crops: Mapping[str, Crops],
    threshold: float,
    mode: str,
    steps: int,
    tell: Tell,
) -> dict[str, Any]:
    network = NETWORKS[name](len(crops["train"].classes))
    network.load_state_dict(torch.load(base, weights_only=True))
    network.to(memory_format=torch.channels_last).eval()
    groups = channel_groups(network)
    model = cost_model(network, groups)
    dense = accuracy(network, crops["val"])
    torch.manual_seed(0)
    # The published head needs 100 epochs to learn the rates; so short a training starts there.
    predictor = PredictorOptions(scale="rms")
    options = MaskOptions(threshold, detached=mode != "joint", predictor=predictor)
    dynamic = DynamicNetwork(network, mask_sites(network, groups), options)
    calibration = Estimator(dynamic, batches_of(crops["train"])[::4], model)
    estimate = calibration.at(threshold)
    found: dict[str, Any] = {
        "network": name,
        "mode": mode,
        "threshold": threshold,
        "steps": steps,
        "dense_accuracy": dense,
        "dense_macs": float(np.asarray(model.macs({}))),
        "head_macs": dynamic.head_macs,
        "estimated_kept": estimate.kept,
        "dependence": input_dependence(calibration.masks(threshold), model).to_dict(),
    }
    train_options = TrainOptions(steps, head_learning_rate=HEAD_RATE)
    started = time.monotonic()
    if mode == "static":
        _set_static(dynamic, calibration.masks(threshold))
        train(dynamic, Drawing(crops["train"], 1), train_options, "given")
        kept = {name: mask[None] for name, mask in dynamic.given.items()}
        found["kept"] = _share(model, kept)
    else:
        start_at_rates(dynamic, calibration.masks(threshold))
        half = replace(train_options, steps=steps // 2, head_share=1.0)
        found |= train(dynamic, Drawing(crops["train"], 1), half)
        report = measure_masks(dynamic, batches_of(crops["val"]), model)
        found["kept_before_holding"] = report.kept
        hold_widths(dynamic, batches_of(crops["train"])[::4], estimate.widths)
        half = replace(half, head_share=0.0, learning_rate=half.learning_rate / 4)
        train(dynamic, Drawing(crops["train"], 2), half)
        final = measure_masks(dynamic, batches_of(crops["val"]), model).to_dict()
        found |= {**final, "accuracy_of_masks": final["accuracy"]}
    found["accuracy"] = accuracy(dynamic, crops["val"])
    found["seconds"] = time.monotonic() - started
    dynamic.remove()
    tell(f"accuracy {dense:.4f} -> {found['accuracy']:.4f}, MACs kept {found['kept']:.3f}")
    return found


def _set_static(dynamic: DynamicNetwork, masks: Mapping[str, Tensor]) -> None:
    """One mask for all pictures: as wide as theirs on average, of the channels most often on."""
    given = {}
    for name, mask in masks.items():
        width = max(1, round(float(mask.sum(dim=1).double().mean())))
        rate = mask.double().mean(dim=0)
        order = rate.argsort(descending=True, stable=True)[:width]
        given[name] = torch.zeros(mask.shape[1], dtype=torch.bool).index_fill(0, order, True)
    dynamic.given, dynamic.mode = given, "given"


def _share(model: CostModel, masks: Mapping[str, Tensor]) -> float:
    removed = {name: int((~mask).sum()) for name, mask in masks.items()}
    return float(model.macs(removed)) / float(model.macs({}))


def table(work: Path) -> str:
    """All rows found under ``work``, as Markdown."""
    lines = [
        "| network | masks | threshold | estimated MACs cut | realised | accuracy % (dense) "
        "| heads right % | always on % | per-channel majority % | mean D |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [json.loads(path.read_text("utf-8")) for path in sorted(work.glob("*/*-*.json"))]
    rows = [row for row in rows if row.get("mode") in MODES]
    for row in sorted(rows, key=lambda r: (r["network"], -r["threshold"], r["mode"])):
        heads = [
            f"{100 * row[key]:.1f}" if key in row else "-"
            for key in ("accuracy_of_masks", "always_on", "most_frequent")
        ]
        lines.append(
            f"| {row['network']} | {row['mode']} | {row['threshold']:g} "
            f"| {100 * (1 - row['estimated_kept']):.1f} % | {100 * (1 - row['kept']):.1f} % "
            f"| {100 * row['accuracy']:.1f} ({100 * row['dense_accuracy']:.1f}) "
            f"| {' | '.join(heads)} | {row['dependence']['mean']:.2f} |"
        )
    return "\n".join(lines)
