"""Dynamic masks measured: the tables of docs/dynamic.md; resumable.

    python tools/bench_dynamic.py mechanism --network vgg16-bn
    python tools/bench_dynamic.py table

``mechanism`` trains the paper's method on 32x32 crops of people_parts (this is not CIFAR-10).
What was found is kept under ``--work``; a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# With more threads than free processors spinning makes everything many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

sys.path.insert(0, str(Path(__file__).parent))

from dynamic import mechanism
from dynamic.networks import NETWORKS

ROOT = Path(__file__).resolve().parent.parent


def tell(line: str) -> None:
    """Print with the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("mechanism", "table"))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "dynamic")
    parser.add_argument("--network", choices=list(NETWORKS), default="vgg16-bn")
    parser.add_argument("--base-steps", type=int, default=900)
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.9, 1.0, 0.8, 0.95])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "mechanism":
        mechanism.run(
            options.network,
            options.data,
            options.work,
            options.base_steps,
            options.steps,
            options.thresholds,
            tell,
        )
    else:
        print(mechanism.table(options.work))


if __name__ == "__main__":
    main()
