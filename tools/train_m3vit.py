"""Train the M3ViT example on real pictures, and a dense ViT of the same MACs alike; resumable.

    python tools/train_m3vit.py moe --data ../shared/data --output examples/m3vit_t.pt
    python tools/train_m3vit.py dense --data ../shared/data --output work/m3vit_t_dense.pt

People (``people_parts``) teach body parts, saliency and edges; rooms (``indoor_rgbd``) teach depth
and normals. A batch is of one kind, so every picture supervises the tasks it has labels for. Both
variants start from random weights (seeded) and see the same batches; in the dense one an MLP of
four times the token's width stands where the other has 8 experts of twice the width, 2 of them
used: the same MACs per task. Killed training goes on where it was: everything is kept under
``--work``. The validation splits are never read during training.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from entry import run_tool
from training.dense_loop import DensePlan, DenseTrainer
from training.dense_mixture import BODY_PARTS, DenseMixture, read_people, read_rooms

from edgemtl.data.open import open_dataset
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models.checkpoint import from_network, save
from edgemtl.models.m3vit.decoders import Decoder
from edgemtl.models.m3vit.network import M3ViT

TASKS = [
    {"name": "parts", "kind": "parts", "options": {"classes": list(BODY_PARTS)}},
    {"name": "saliency", "kind": "saliency"},
    {"name": "normals", "kind": "normals"},
    {"name": "edges", "kind": "edges"},
    {"name": "depth", "kind": "depth"},
]
SIZE = (160, 160)
#: metres: what an untrained depth decoder answers
TYPICAL_DEPTH = 2.0


def fresh_network(variant: str, seed: int) -> M3ViT:
    """The untrained starting point."""
    torch.manual_seed(seed)
    network = M3ViT(
        TASKS,
        variant="tiny",
        size=SIZE,
        experts=8 if variant == "moe" else 0,
        top_k=2,
        expert_ratio=2.0,
        dim=160,
        depth=6,
        heads=5,
        decoder_width=64,
    )
    depth = network.decoders["depth"]
    assert isinstance(depth, Decoder) and depth.classifier.bias is not None
    torch.nn.init.constant_(depth.classifier.bias, TYPICAL_DEPTH)
    return network


def report(network: M3ViT, data: Path) -> dict[str, object]:
    """Accuracy on the validation splits: what README quotes."""
    found: dict[str, object] = {}
    for name in ("people_parts", "indoor_rgbd"):
        dataset = open_dataset(data / name, "val")
        result = evaluate(network_runner(network), network.tasks, network.input_spec, dataset)
        figures = result.to_dict()["tasks"]
        found[f"{name}/val"] = {
            task: values for task, values in figures.items() if None not in values.values()
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variant", choices=["moe", "dense"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("work/m3vit"), help="kept state")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    plan = DensePlan(
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    trainer = DenseTrainer(
        fresh_network(options.variant, options.seed),
        plan,
        options.work / options.variant,
        log=lambda line: print(time.strftime("%H:%M:%S"), line, flush=True),
    )
    mixture = DenseMixture(
        read_people(options.data / "people_parts", "train"),
        read_rooms(options.data / "indoor_rgbd", "train", options.work),
        SIZE[0],
    )
    averaged = trainer.run(mixture.draw)
    found = report(averaged, options.data)
    print(json.dumps(found, indent=2), flush=True)
    meta = {
        "training": {
            "command": "python " + " ".join(["tools/train_m3vit.py", *sys.argv[1:]]),
            "steps": plan.steps,
            "batch": plan.batch,
            "seed": plan.seed,
            "seconds": round(trainer.seconds),
        },
        "validation": found,
        "licence": "Apache-2.0; trained on data with its own terms, see examples/README.md",
    }
    save(from_network(averaged, meta), options.output)
    return 0


if __name__ == "__main__":
    run_tool(main)
