"""Cut an M3ViT's decoders and train them again, on a backbone that stays as it is.

    python tools/prune_m3vit.py --data ../shared/data --output examples/m3vit_t_pruned.pt
    python tools/prune_m3vit.py --further examples/m3vit_t_pruned.pt --task depth --output NEW.pt

Decoders hold most of the work (61 % of one task's in the paper, 65 % of the example's), and each
reads the last block's tokens and nothing else. So tokens are computed once per picture, and a
decoder's channels are scored, cut and trained again without the backbone: minutes where
``edgemtl prune``, which cuts heads, MLPs and experts too, takes an hour.

Channels are ranked by the first-order effect of closing them on their task's loss (PAGCP, section
on saliency; each decoder answers one task, so the worst task is that one). Widths fall in
multiples of 16, always where the predicted rise of the loss, relative to that loss, is smallest per
multiply-accumulate that is saved, until the share in ``--keep`` is reached. Training uses the
task's loss and the uncut decoder's answers, or with ``--answers-only`` these alone, which need no
labels and so take pictures of every data set. Validation splits are never read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from entry import run_tool
from torch import Tensor, nn

from edgemtl.compress.augmentation import random_view
from edgemtl.compress.batches import Prepared, images_of, targets_of
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.data.open import open_dataset
from edgemtl.exporting.module_cost import module_costs
from edgemtl.models.checkpoint import from_network, load, load_network, save
from edgemtl.models.m3vit.decoders import Decoder
from edgemtl.models.m3vit.network import M3ViT
from edgemtl.tasks.base import Task

#: data set -> kinds of tasks it has labels for
LABELLED = {"people_parts": ("parts", "saliency", "edges"), "indoor_rgbd": ("normals", "depth")}
MULTIPLE = 16
SCORED = 64
LAST_RATE = 0.02


@dataclass
class View:
    """A training picture as the decoders see it.

    Attributes:
        tokens: task -> (1 + N, dim) float16, of the last block.
        answers: task -> (C, H, W) float16, of the uncut decoder.
        labels: the picture's, on the network's canvas; its pixels are gone.
    """

    tokens: dict[str, Tensor]
    answers: dict[str, Tensor]
    labels: Prepared


def decoder_of(network: M3ViT, task: str) -> Decoder:
    """A task's decoder."""
    found = network.decoders[task]
    assert isinstance(found, Decoder)
    return found


@torch.no_grad()
def views_of(
    network: M3ViT, folder: Path, tasks: Sequence[Task], count: int, each: int
) -> list[View]:
    """Tokens and answers on ``each`` random views of ``count`` training pictures."""
    dataset = open_dataset(folder, "train")
    rng = np.random.default_rng([count, each])
    chosen = rng.permutation(len(dataset))[:count].tolist()
    names = [task.name for task in tasks]
    found = []
    for sample in dataset.subset(chosen):
        drawn = [random_view(sample, tasks, network.input_spec, rng) for _ in range(each)]
        tokens = network.backbone(images_of(drawn), names)
        for index, view in enumerate(drawn):
            own = {name: x[index] for name, x in zip(names, tokens, strict=True)}
            answers = {
                name: decoder_of(network, name)(x[None])[0].half() for name, x in own.items()
            }
            kept = {kind: view.labels.get(kind) for kind in {t.label_kind for t in tasks}}
            empty = np.zeros((3, 1, 1), np.float16)
            found.append(
                View({n: x.half() for n, x in own.items()}, answers, Prepared(empty, kept))
            )
    return found


def batch_of(
    views: Sequence[View], task: Task, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Any]:
    """Tokens, answers and targets of a task."""
    tokens = torch.stack([view.tokens[task.name] for view in views]).float()
    answers = torch.stack([view.answers[task.name] for view in views]).float()
    return tokens, answers, targets_of([view.labels for view in views], task, size)


def scores_of(
    decoder: Decoder, task: Task, views: Sequence[View], size: tuple[int, int]
) -> list[Tensor]:
    """Per stage: (width,) predicted rise of the loss, relative to it, when a channel closes."""
    gates = [torch.ones(stage.conv.out_channels, requires_grad=True) for stage in decoder.stages]
    handles = [
        stage.register_forward_hook(lambda m, i, out, gate=gate: out * gate[None, :, None, None])
        for stage, gate in zip(decoder.stages, gates, strict=True)
    ]
    total = [torch.zeros_like(gate) for gate in gates]
    losses = 0.0
    for start in range(0, len(views), 4):
        tokens, _, targets = batch_of(views[start : start + 4], task, size)
        loss = task.loss({task.outputs[0]: decoder(tokens)}, targets)
        losses += float(loss.detach())
        for sum_, gradient in zip(total, torch.autograd.grad(loss, gates), strict=True):
            sum_ += gradient.detach().abs()
    for handle in handles:
        handle.remove()
    return [sum_ / losses for sum_ in total]


def decoder_macs(dim: int, widths: Sequence[int], channels: int, grid: tuple[int, int]) -> int:
    """Multiply-accumulates of a decoder with these widths."""
    macs, inputs = 0, dim
    for index, width in enumerate(widths):
        macs += grid[0] * grid[1] * 4**index * 9 * inputs * width
        inputs = width
    return macs + grid[0] * grid[1] * 4 ** (len(widths) - 1) * inputs * channels


def choose_widths(
    network: M3ViT, scores: dict[str, list[Tensor]], to_save: int
) -> dict[str, list[int]]:
    """Widths of every decoder's stages, narrowed step by step until enough is saved."""
    dim = network.backbone.token.shape[2]
    widths = {name: [len(s) for s in each] for name, each in scores.items()}

    def macs(name: str, of: Sequence[int]) -> int:
        decoder = decoder_of(network, name)
        return decoder_macs(dim, of, decoder.classifier.out_channels, decoder.grid)

    saved = 0
    while saved < to_save:
        best: tuple[float, str, int, int] | None = None
        for name, now in widths.items():
            for stage, width in enumerate(now):
                if width <= MULTIPLE:
                    continue
                narrower = [w - MULTIPLE * (i == stage) for i, w in enumerate(now)]
                gain = macs(name, now) - macs(name, narrower)
                ranked = scores[name][stage].sort(descending=True).values
                rise = float(ranked[width - MULTIPLE : width].sum())
                if best is None or rise / gain < best[0]:
                    best = (rise / gain, name, stage, gain)
        if best is None:
            raise SystemExit("the decoders alone cannot save that much")
        widths[best[1]][best[2]] -= MULTIPLE
        saved += best[3]
    return widths


def cut_decoders(
    network: M3ViT, seen: dict[str, list[View]], to_save: int
) -> tuple[Any, dict[str, list[int]]]:
    """The network with narrower decoders, and their widths; not trained yet."""
    size = network.input_spec.size
    scores = {
        task.name: scores_of(decoder_of(network, task.name), task, seen[task.name][:SCORED], size)
        for task in network.tasks
    }
    widths = choose_widths(network, scores, to_save)
    say(json.dumps(widths))
    keep = {}
    for name, each in widths.items():
        for stage, width in enumerate(each):
            mask = torch.zeros(len(scores[name][stage]), dtype=torch.bool)
            mask[scores[name][stage].topk(width).indices] = True
            keep[f"decoders.{name}.stages.{stage}.conv"] = mask
    return cut(network, keep, channel_groups(network)), widths


def train(
    decoder: Decoder, task: Task, views: Sequence[View], size: tuple[int, int], options: Any
) -> None:
    """Recover a cut decoder in place; leaves it in eval mode."""
    torch.manual_seed(options.seed)
    decoder.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(decoder.parameters(), options.learning_rate, weight_decay=1e-4)
    rng = np.random.default_rng([options.seed, len(views)])
    order: list[int] = []
    mean = 0.0
    for step in range(options.steps):
        while len(order) < options.batch:
            order += rng.permutation(len(views)).tolist()
        picked, order = order[: options.batch], order[options.batch :]
        tokens, answers, targets = batch_of([views[i] for i in picked], task, size)
        done = step / options.steps
        warm = min(1.0, (step + 1) / 20)
        rate = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * warm * rate
        outputs = {task.outputs[0]: decoder(tokens)}
        own = task.distil(outputs, {task.outputs[0]: answers}, targets)
        loss = 3 * own
        if not options.answers_only:
            own = task.loss(outputs, targets)
            # Divided by its own size, so that both pull equally whatever a task's unit is.
            loss = loss + own / own.detach().clamp(min=1e-6)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimiser.step()
        mean += (float(own.detach()) - mean) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            say(f"{task.name}: step {step + 1}/{options.steps}, loss {mean:.4f}")
    decoder.eval().requires_grad_(False)


def say(line: str) -> None:
    """With the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("examples/m3vit_t.pt"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument(
        "--further", type=Path, help="train this cut network on, instead of cutting"
    )
    parser.add_argument("--task", action="append", help="train only this task's decoder")
    parser.add_argument(
        "--answers-only", action="store_true", help="no labels: the uncut answers, on all pictures"
    )
    parser.add_argument("--keep", type=float, default=0.48, help="share of all tasks' MACs")
    parser.add_argument("--pictures", type=int, nargs=2, default=[200, 80], help="of each data set")
    parser.add_argument("--views", type=int, default=2, help="of each picture")
    parser.add_argument("--steps", type=int, default=350, help="per decoder")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.task and options.further is None:
        parser.error("--task goes with --further: all decoders are cut together")
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(options.seed)
    network = load_network(options.model)
    assert isinstance(network, M3ViT)
    network.eval().requires_grad_(False)
    before = module_costs(network)
    size = network.input_spec.size
    trained = [task for task in network.tasks if not options.task or task.name in options.task]
    seen: dict[str, list[View]] = {}
    for (name, kinds), count in zip(LABELLED.items(), options.images, strict=True):
        tasks = [task for task in trained if options.answers_only or task.kind in kinds]
        if not tasks or not count:
            continue
        views = views_of(network, options.data / name, tasks, count, options.views)
        for task in tasks:
            seen[task.name] = seen.get(task.name, []) + views
        say(f"{len(views)} views of {name}")
    command = "python " + " ".join(["tools/prune_m3vit.py", *sys.argv[1:]])
    if options.further is None:
        smaller, widths = cut_decoders(network, seen, round(before.macs * (1 - options.keep)))
        meta = {
            "pruned_from": options.model.name,
            "command": command,
            "widths": widths,
            "licence": "Apache-2.0; trained on data with its own terms, see examples/README.md",
        }
    else:
        checkpoint = load(options.further)
        smaller = checkpoint.network()
        smaller.eval().requires_grad_(False)
        meta = {**checkpoint.meta, "further": [*checkpoint.meta.get("further", []), command]}
    assert isinstance(smaller, M3ViT)
    for task in trained:
        train(decoder_of(smaller, task.name), task, seen[task.name], size, options)
    after = module_costs(smaller)
    say(f"{after.macs / before.macs:.1%} of the multiply-accumulates of all tasks are left")
    save(from_network(smaller, meta), options.output)
    return 0


if __name__ == "__main__":
    run_tool(main)
