"""Dynamic masks measured: the tables of docs/dynamic.md; resumable.

    python tools/bench_dynamic.py mechanism --network vgg16-bn
    python tools/bench_dynamic.py analysis
    python tools/bench_dynamic.py accuracy --keep 0.45 --steps 60
    python tools/bench_dynamic.py speed            # on an idle machine
    python tools/bench_dynamic.py stream           # after accuracy, on an idle machine
    python tools/bench_dynamic.py table

``mechanism`` trains the paper's method on 32x32 crops of people_parts (this is not CIFAR-10).
``analysis`` asks whether the pictures of mos_m differ enough, ``accuracy`` builds it routed and
measures every task on the val splits beside one static mask of the same mean cost. ``speed`` forces
widths, ``stream`` lets the router of ``accuracy`` choose on real val pictures.
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

from dynamic import accuracy, dependence, mechanism, speed, stream
from dynamic.networks import NETWORKS

from edgemtl.logs import Lines

#: of training where not told otherwise
STEPS, ROUTED_STEPS = 180, 60
ROOT = Path(__file__).resolve().parent.parent


def tell(line: str) -> None:
    """Print with the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


@Lines(tell).shown()
def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    what = ("mechanism", "analysis", "accuracy", "speed", "stream", "table")
    parser.add_argument("what", choices=what)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "dynamic")
    parser.add_argument("--network", choices=list(NETWORKS), default="vgg16-bn")
    parser.add_argument("--base-steps", type=int, default=900)
    parser.add_argument("--steps", type=int, help="of training; 180, or 60 per routed network")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "examples" / "mos_m.pt")
    parser.add_argument("--keep", type=float, default=0.45, help="accuracy: share of the work")
    parser.add_argument("--kept", type=float, nargs="*", default=[0.6, 0.45, 0.3])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each speed or stream run")
    parser.add_argument("--subjects", nargs="*", default=list(speed.SUBJECTS))
    parser.add_argument("--runtimes", nargs="*", default=list(speed.TARGETS))
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.9, 1.0, 0.8, 0.95])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.work / options.checkpoint.stem
    steps = ROUTED_STEPS if options.steps is None else options.steps
    work = accuracy.Work(options.checkpoint, options.data, folder, options.keep, steps)
    if options.what == "mechanism":
        mechanism.run(
            options.network,
            options.data,
            options.work,
            options.base_steps,
            STEPS if options.steps is None else options.steps,
            options.thresholds,
            tell,
        )
    elif options.what == "analysis":
        dependence.run(options.checkpoint, options.data, folder, options.kept, tell)
    elif options.what == "accuracy":
        accuracy.run(work, tell)
    elif options.what == "speed":
        speed.run(
            options.subjects,
            options.runtimes,
            options.checkpoint,
            options.work / "speed",
            options.seconds,
            tell,
        )
    elif options.what == "stream":
        stream.run(work, options.runtimes, options.seconds, tell)
    else:
        parts = (
            mechanism.table(options.work),
            dependence.table(folder),
            accuracy.table(folder),
            speed.table(options.work / "speed"),
            stream.table(folder),
        )
        print("\n\n".join(part for part in parts if part))


if __name__ == "__main__":
    main()
