"""Train the four networks that pruning is tried on besides our own, minutes each; resumable.

    python tools/train_strangers.py --data ../shared/data --work work/strangers

Writes ``NAME.pt`` and ``NAME.json`` (validation figures) under ``--work``, which git ignores: these
networks are there to be pruned, not to be shipped. The validation splits are never read during
training.
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
from pruning.strangers import SIZE, STRANGERS, build
from training.dense_loop import DensePlan, DenseTrainer
from training.dense_mixture import DenseMixture, read_people, read_rooms

from edgemtl.data.open import open_dataset
from edgemtl.files import write_json
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models.checkpoint import from_network, save

#: networks whose tasks are all of people see no rooms
SHARES = {"mobilenetv3": 1.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("work/strangers"))
    parser.add_argument("--only", choices=sorted(STRANGERS), help="one of them")
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    people = read_people(options.data / "people_parts", "train")
    rooms = read_rooms(options.data / "indoor_rgbd", "train", options.work)
    for name in [options.only] if options.only else list(STRANGERS):
        if (options.work / f"{name}.pt").exists():
            continue
        trainer = DenseTrainer(
            build(name, options.seed),  # type: ignore[arg-type] # it has what the trainer asks for
            DensePlan(steps=options.steps, batch=options.batch, seed=options.seed, ema=0.99),
            options.work / name,
            save_every=25,
            log=lambda line: print(time.strftime("%H:%M:%S"), line, flush=True),
        )
        share = SHARES.get(name, 0.65)
        mixture = DenseMixture(people, rooms, SIZE[0], people_share=share)
        network = trainer.run(mixture.draw)
        found = {}
        for folder in ("people_parts", "indoor_rgbd"):
            dataset = open_dataset(options.data / folder, "val")
            spec = network.input_spec
            report = evaluate(network_runner(network), network.tasks, spec, dataset).to_dict()
            found[folder] = report["tasks"]
        write_json(options.work / f"{name}.json", found)
        command = "python tools/train_strangers.py " + " ".join(sys.argv[1:])
        facts = {"command": command, "seconds": round(trainer.seconds), "steps": options.steps}
        save(from_network(network, {"training": facts}), options.work / f"{name}.pt")
        print(name, json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    run_tool(main)
