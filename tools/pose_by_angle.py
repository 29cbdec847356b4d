"""Pose error by angle on rendered heads whose pose is exact: where a network is blind.

    python tools/make_calib_faces.py --closeups --output work/closeups --train 2400 --val 300 --seed 20261201
    python tools/pose_by_angle.py examples/mos_m.pt examples/mos_t.pt --data work/closeups

A validation split of ordinary photographs holds few heads that look up, down or sideways, so its
mean says little about them. These heads are drawn (they are synthetic), their faces fill the image,
and every range of angles is there as often as any other.
"""

# ruff: noqa: E501 - commands are shown on one line

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))

from entry import run_tool
from pruning.tables import markdown

from edgemtl.data.faces import FaceFolder
from edgemtl.data.preprocess import letterbox
from edgemtl.measure.accuracy import decode_all, network_runner
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.tasks.detection import match_to_labels

#: edges of the ranges in degrees: 30 each, up to 60
EDGES = (-60, -30, 0, 30, 60)
#: detections below it are not looked at
SCORE = 0.02


def answers(
    network: MultiTaskNetwork, data: FaceFolder
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Labelled and answered (n, 3) yaw, pitch, roll in degrees; NaN where no face was found."""
    run, labels, found = network_runner(network), [], []
    for sample in data:
        faces = sample.labels["faces"]
        canvas, view = letterbox(sample.image, network.input_spec)
        outputs = {key: value[0] for key, value in run(canvas[None]).items()}
        decoded = decode_all(network.tasks, outputs, view)
        match = match_to_labels(decoded["detection"], faces, SCORE)[0]
        labels.append(faces.pose[0])
        found.append(decoded["pose"][match] if match >= 0 else np.full(3, np.nan, np.float32))
    return np.array(labels, np.float32), np.array(found, np.float32)


def rows_of(name: str, labels: NDArray[np.float32], found: NDArray[np.float32]) -> list[list[str]]:
    """One row for each of yaw and pitch: the mean error over all three angles in each range."""
    error = np.abs(found - labels).mean(axis=1)
    rows = []
    for axis, angle in enumerate(("yaw", "pitch")):
        cells = []
        for low, high in itertools.pairwise(EDGES):
            other = np.abs(labels[:, 1 - axis]) <= EDGES[-1]
            inside = (labels[:, axis] >= low) & (labels[:, axis] < high) & other
            seen = inside & np.isfinite(error)
            mean = f"{error[seen].mean():.1f}" if seen.any() else "none found"
            cells.append(f"{mean} ({seen.sum()} of {inside.sum()})")
        rows.append([name, angle, *cells])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", help="checkpoints with detection and pose")
    parser.add_argument("--data", type=Path, default=Path("work/closeups"), help="see above")
    options = parser.parse_args()
    ranges = [f"{low} to {high}" for low, high in itertools.pairwise(EDGES)]
    rows = []
    for path in options.models:
        data = FaceFolder.open(options.data, "val")
        rows += rows_of(path.stem, *answers(load_network(path), data))
    head = ["network", "angle", *(f"{one} deg: error deg (found)" for one in ranges)]
    print("\n".join(markdown(head, rows)))
    return 0


if __name__ == "__main__":
    run_tool(main)
