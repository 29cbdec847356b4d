"""Train the MOS example checkpoints on real pictures; resumable.

    python tools/train_mos.py mos-t --data ../shared/data --output examples/mos_t.pt
    python tools/train_mos.py mos-m --data ../shared/data --output examples/mos_m.pt

``mos-t`` starts from RetinaFace (bgr, relu) and adds stitching and pose; ``mos-m`` starts from the
ImageNet MobileNetV2 with plain context convolutions. Both learn from the labels and, where a label
is missing, from RetinaFace's landmarks and FSA-Net's pose (tools/training/teachers.py). The
mixture is described in tools/training/face_mixture.py. Killed training goes on where it was:
everything is kept under ``--work``. The validation splits are never read during training.
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
from training.face_mixture import FaceMixture
from training.loop import Plan, Trainer
from training.teachers import PoseTeacher, fill_gaps

from edgemtl.data.faces import FaceFolder
from edgemtl.data.images import read_image
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models.checkpoint import from_network, load, load_network, load_tensors, save
from edgemtl.models.mos.heads import CrossStitch, LevelHead
from edgemtl.models.mos.importers import (
    RETINAFACE_PRESETS,
    imagenet_backbone,
    import_retinaface,
)
from edgemtl.models.mos.network import MOS

#: half the published anchors: at 320 px a face is half as large as at the published 640
ANCHORS = {
    "strides": [8, 16, 32],
    "sizes": [list(level) for level in RETINAFACE_PRESETS["retinaface-bgr-relu"].sizes],
    "variances": [0.1, 0.2],
}
SIZE = (320, 320)


def fresh_network(variant: str, weights: Path, seed: int) -> MOS:
    """The untrained starting point of a variant."""
    torch.manual_seed(seed)
    if variant == "mos-m":
        network = MOS(variant=variant, context="plain", size=SIZE, anchors=ANCHORS)
        imagenet_backbone(network, load_tensors(weights / "mobilenet_v2-b0353104.pth"))
        return network
    network = MOS(variant=variant, context="plain", size=SIZE, anchors=ANCHORS, activation="relu")
    payload = load_tensors(weights / "retinaface_mobilenet025_bgr_relu.pth")
    source = import_retinaface(payload, "retinaface-bgr-relu", SIZE)
    start = source.state_dict()
    network.load_state_dict(network.state_dict() | start)
    for level in network.levels:
        # A transparent stitch: training starts exactly at RetinaFace's answers.
        assert isinstance(level, LevelHead)
        level.stitch = CrossStitch(level.streams, own=1.0, other=0.0)
        for conv in level.stitch.convs.values():
            assert isinstance(conv, torch.nn.Conv2d) and conv.bias is not None
            torch.nn.init.dirac_(conv.weight)
            torch.nn.init.zeros_(conv.bias)
    return network


def mixture(data: Path, rendered: Path, side: int, average: bool) -> FaceMixture:
    """Read everything into memory (about 1 GB) and let the teachers fill the gaps.

    ``average`` takes the mean of the pose teacher's answers over crops and mirrorings.
    """
    crowds = fill_gaps(list(FaceFolder.open(data / "faces_crowd", "train")), data / "weights")
    singles = list(FaceFolder.open(data / "faces_landmarks", "train"))
    if average:
        teacher = PoseTeacher(data / "weights")
        singles = [teacher.averaged(sample) for sample in singles]
    synthetic = list(FaceFolder.open(rendered, "train"))
    rooms = sorted((data / "indoor_rgbd" / "train").rglob("*.jpg"))
    rooms = rooms or sorted((data / "indoor_rgbd" / "train").rglob("*color*"))
    backgrounds = [read_image(path) for path in rooms]
    print(
        f"{len(crowds)} crowds, {len(singles)} singles, {len(synthetic)} rendered, "
        f"{len(backgrounds)} backgrounds",
        flush=True,
    )
    return FaceMixture(crowds, singles, synthetic, backgrounds, side)


def report(network: MOS, data: Path) -> dict[str, object]:
    """Accuracy on the validation splits: what README quotes."""
    found: dict[str, object] = {}
    for name in ("faces_crowd", "faces_landmarks"):
        result = evaluate(
            network_runner(network),
            network.tasks,
            network.input_spec,
            FaceFolder.open(data / name, "val"),
        )
        found[f"{name}/val"] = result.to_dict()["tasks"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variant", choices=["mos-t", "mos-m"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rendered", type=Path, default=Path("calib_data/faces"))
    parser.add_argument("--work", type=Path, default=Path("work"), help="kept state (git-ignored)")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--start", type=Path, help="go on from this checkpoint instead of afresh")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=256, help="training picture side in pixels")
    parser.add_argument("--single-faces", type=float, nargs=2, default=(18, 180), metavar="PX")
    parser.add_argument("--tilt", type=float, default=12.0, help="of turned singles, degrees")
    parser.add_argument("--closeups", type=Path, help="folder of make_calib_faces.py --closeups")
    parser.add_argument("--closeup-share", type=float, default=0.35, help="of the singles drawn")
    parser.add_argument("--average-pose", action="store_true", help="teacher's mean over crops")
    parser.add_argument("--singles", type=float, default=0.42, help="share of single faces")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--freeze", nargs="*", default=[], help="parameter name prefixes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    network = fresh_network(options.variant, options.data / "weights", options.seed)
    if options.start is not None:
        network.load_state_dict(load_network(options.start).state_dict())
    plan = Plan(
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        frozen=tuple(options.freeze),
        seed=options.seed,
    )
    trainer = Trainer(
        network,
        plan,
        options.work / options.output.stem,
        options.side,
        log=lambda line: print(time.strftime("%H:%M:%S"), line, flush=True),
    )
    source = mixture(options.data, options.rendered, options.side, options.average_pose)
    if options.closeups is not None:
        source.closeups = list(FaceFolder.open(options.closeups, "train"))
        source.closeup_share = options.closeup_share
    source.tilt = options.tilt
    source.single_faces = tuple(options.single_faces)
    source.shares = (0.84 - options.singles, options.singles, 0.12, 0.04)
    averaged = trainer.run(source.draw)
    assert isinstance(averaged, MOS)
    found = report(averaged, options.data)
    print(json.dumps(found, indent=2), flush=True)
    meta = {
        "training": {
            "command": "python " + " ".join(["tools/train_mos.py", *sys.argv[1:]]),
            "steps": plan.steps,
            "batch": plan.batch,
            "seed": plan.seed,
            "after": load(options.start).meta.get("training", {}) if options.start else {},
        },
        "validation": found,
        "licence": "Apache-2.0; trained on data with its own terms, see examples/README.md",
    }
    save(from_network(averaged, meta), options.output)
    return 0


if __name__ == "__main__":
    run_tool(main)
