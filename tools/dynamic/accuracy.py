"""Routed mos_m against one static mask at the same mean cost, on pictures no training has seen."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamic.dependence import DATA_SETS, IMAGES, MULTIPLE, PROTOTYPES
from edgemtl import recipes, targets
from edgemtl.backends.artefacts import compile_for, open_session
from edgemtl.backends.routed import ROUTING, read_routing
from edgemtl.backends.session import Session
from edgemtl.backends.types import SessionOptions
from edgemtl.compress.batches import Prepared, prepare
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.dynamic.accounting import cost_model
from edgemtl.compress.dynamic.analysis import MaskableNetwork
from edgemtl.compress.dynamic.build import CALIBRATION, _spread, build
from edgemtl.compress.dynamic.network import DynamicNetwork
from edgemtl.compress.dynamic.prototypes import make_prototypes
from edgemtl.compress.dynamic.sites import mask_sites
from edgemtl.compress.dynamic.subnets import subnet
from edgemtl.compress.recover import recover
from edgemtl.data.open import open_dataset
from edgemtl.exporting.network import export_alone
from edgemtl.exporting.routed import FULL_FILE, SINGLE_FILE, export_routed, single_file
from edgemtl.files import sha256_file, write_atomically, write_json
from edgemtl.measure.accuracy import evaluate
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.export import ExportRequest
from edgemtl.pipeline.mask import MaskRequest, saliency_images
from edgemtl.pipeline.routed_set import folded
from edgemtl.record.run_record import MASK as STORY

TARGET = "cpu"
#: (heading, data set, task, figure, whether more is better)
FIGURES = (
    ("AP (crowd)", "faces_crowd", "detection", "ap_20px", True),
    ("NME %", "faces_landmarks", "landmarks", "nme_percent", False),
    ("pose MAE deg", "faces_landmarks", "pose", "mae_deg", False),
)
#: another static mask is made when the safety rule moves the mean cost by more than this
SAME_COST = 0.03
#: a static mask with more work than this is the dense network
LARGEST_SHARE = 0.97
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """What is compared, and where it is kept.

    Attributes:
        checkpoint: the dense network.
        data: root of the data sets.
        folder: everything that was made or measured.
        kept: share of the work that prototypes keep, mean over pictures.
        steps: of training, per network: each prototype gets as many as the one static network.
    """

    checkpoint: Path
    data: Path
    folder: Path
    kept: float
    steps: int

    @property
    def routed(self) -> Path:
        """Folder that ``edgemtl mask`` wrote."""
        return self.folder / f"routed-{self.kept:g}-{self.steps}"

    def static(self, share: float) -> Path:
        """ONNX file of one static mask."""
        return self.folder / f"static-{share:g}-{self.steps}.onnx"

    def request(self) -> MaskRequest:
        """What the verb is asked."""
        asked = {
            "mask.macs": self.kept,
            "mask.prototypes": PROTOTYPES,
            "mask.channel_multiple": MULTIPLE,
            "mask.images": IMAGES,
            "mask.steps": self.steps,
        }
        recipe = recipes.resolve({}, None, [f"{key}={value}" for key, value in asked.items()], {})
        network = load_network(self.checkpoint)
        return MaskRequest(network, recipe, targets.load(TARGET), self.checkpoint.name)


class Remembered(MaskableNetwork):
    """A network that keeps what it found in files: saliency and activations take minutes.

    Args:
        network, calibration: as for :class:`MaskableNetwork`.
        folder: where to keep; of this network alone.
    """

    def __init__(
        self, network: MultiTaskNetwork, calibration: Sequence[Prepared], folder: Path
    ) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "weights.pt"
        if not kept.is_file():
            super().__init__(network, calibration)
            write_atomically(kept, lambda stream: torch.save(self.weights, stream))
            return
        self.network = network.eval().requires_grad_(False)
        self.groups = channel_groups(network)
        self.model = cost_model(network, self.groups)
        self.dynamic = DynamicNetwork(network, mask_sites(network, self.groups))
        self.dynamic.remove()
        self.weights = torch.load(kept, weights_only=True)

    def mass(self, images: Sequence[Prepared]) -> dict[str, Tensor]:
        """See :meth:`MaskableNetwork.mass`."""
        digest = hashlib.sha256(b"".join(p.canvas[:, ::8, ::8].tobytes() for p in images))
        kept = self._folder / f"mass-{digest.hexdigest()[:16]}.pt"
        if not kept.is_file():
            found = super().mass(images)
            write_atomically(kept, lambda stream: torch.save(found, stream))
        mass: dict[str, Tensor] = torch.load(kept, weights_only=True)
        return mass


class Made:
    """What routed and static networks are made from, prepared once."""

    def __init__(self, work: Work, tell: Tell) -> None:
        tell("what each channel matters to each task")
        self.request = work.request()
        self.network = folded(self.request.network, self.request.recipe)
        sets = [open_dataset(work.data / name, "train") for name in DATA_SETS]
        self.slices = DataSplits.split(sets, IMAGES, IMAGES, self.request.masks.seed)
        tasks, spec = self.network.tasks, self.network.input_spec
        self.calibration = [prepare(sample, tasks, spec) for sample in self.slices.calibration]
        self.held_out = [prepare(sample, tasks, spec) for sample in self.slices.oracle]
        place = work.folder / f"subject-{sha256_file(work.checkpoint)[:16]}"
        self.maskable = Remembered(self.network, saliency_images(self.calibration), place)


def run(work: Work, tell: Tell) -> None:
    """Build and measure what is missing.

    Built as ``edgemtl mask --force`` does, without repeating its analysis.
    """
    made: Made | None = None
    if not (work.routed / STORY).is_file():
        made = Made(work, tell)
        _routed(work, made)
    built = json.loads((work.routed / STORY).read_text("utf-8"))["built"]
    macs = built["macs"]
    wanted = [work.kept]
    mean = built["mean_macs"] / macs[0]
    if mean - work.kept > SAME_COST and mean < LARGEST_SHARE:
        wanted.append(round(mean, 2))
    for share in wanted:
        if not work.static(share).with_suffix(".json").is_file():
            made = made or Made(work, tell)
            _static(work, made, share, tell)
    _measure(work, "dense", work.routed / FULL_FILE, {"full": macs[0]}, tell)
    for share in wanted:
        path = work.static(share)
        own = {"static": json.loads(path.with_suffix(".json").read_text("utf-8"))["macs"]}
        _measure(work, f"one static mask, {share:g}", path, own, tell)
    own = {"full": macs[0]} | {f"prototype-{i}": m for i, m in enumerate(macs[1:], 1)}
    _measure(work, "routed", work.routed / ROUTING, own, tell)
    _measure(work, "routed, always sure", work.routed / ROUTING, own, tell)


def _routed(work: Work, made: Made) -> None:
    request, state = made.request, work.folder / f"{work.routed.name}.state"
    routed = build(
        made.maskable, made.slices, made.calibration, made.held_out, request.build, state
    )
    work.routed.mkdir(parents=True, exist_ok=True)
    read_as = ExportRequest(made.network, request.target, request.recipe).read_as
    sharing = export_routed(
        *(routed.router, routed.full, routed.prototypes, routed.report.threshold),
        work.routed,
        read_as,
    )
    single_file(work.routed, work.routed / SINGLE_FILE)
    story = {"built": routed.to_dict(), "weights": sharing.to_dict()}
    write_json(work.routed / STORY, story)


def _static(work: Work, made: Made, share: float, tell: Tell) -> None:
    """One mask for all pictures, trained as every prototype was."""
    path = work.static(share)
    tell(f"one static mask with {share:g} of the work")
    request, maskable = made.request, made.maskable
    masks = make_prototypes(
        maskable.importance(made.calibration),
        maskable.groups,
        maskable.model,
        count=1,
        kept=share,
        multiple=request.masks.multiple,
        seed=request.masks.seed,
    )
    images = [b.images for b in maskable.batches(made.calibration[:CALIBRATION])]
    smaller = subnet(made.network, masks.keep[0], maskable.groups, images)
    recovery, training = request.build.recovery, made.slices.recovery
    trained: dict[str, Any] | None = None
    if recovery is not None and training is not None:
        smaller.requires_grad_(True)
        training = _spread(training, request.build.router_images, request.masks.seed)
        state = path.with_suffix(".state")
        found = recover(smaller, made.network, training, made.slices.oracle, recovery, state)
        trained = found.to_dict()
    smaller.eval().requires_grad_(False)
    export_alone(smaller, targets.load(TARGET), path)
    write_json(path.with_suffix(".json"), {"macs": masks.macs[0], "recovered": trained})


def _measure(work: Work, name: str, source: Path, macs: Mapping[str, float], tell: Tell) -> None:
    """Every task's figures on the val splits, and what the pictures cost; one JSON file."""
    label = name.replace(" ", "-").replace(",", "")
    path = work.folder / f"accuracy-{work.kept:g}-{work.steps}-{label}.json"
    key = sha256_file(source)
    if path.is_file() and json.loads(path.read_text("utf-8"))["key"] == key:
        return
    tell(f"accuracy: {name}")
    network = load_network(work.checkpoint)
    found: dict[str, Any] = {}
    with opened(source, always_sure="always sure" in name) as session:
        for data_set in DATA_SETS:
            before = dict(getattr(session, "chosen", {}))
            dataset = open_dataset(work.data / data_set, "val")
            report = evaluate(session.run, network.tasks, network.input_spec, dataset)
            after = dict(getattr(session, "chosen", {next(iter(macs)): report.images}))
            chosen = {n: count - before.get(n, 0) for n, count in after.items()}
            mean = sum(macs[n] * count for n, count in chosen.items()) / report.images
            found[data_set] = {
                "tasks": report.to_dict()["tasks"],
                "chosen": chosen,
                "mean_macs": mean,
                "images": report.images,
            }
    write_json(path, {"key": key, "name": name, "data_sets": found})


@contextmanager
def opened(source: Path, target: str = TARGET, always_sure: bool = False) -> Iterator[Session]:
    """A compiled and loaded file, or a routed set, which may be told to be always sure."""
    chosen = targets.load(target)
    with tempfile.TemporaryDirectory() as place:
        artefact = compile_for(chosen, source, Path(place))
        if always_sure:
            routing = replace(read_routing(Path(place, ROUTING)), threshold=0.0)
            write_json(Path(place, ROUTING), routing.to_dict())
        with open_session(artefact, SessionOptions(threads=1)) as session:
            yield session


def table(folder: Path) -> str:
    """All rows found in a folder, as Markdown."""
    rows = [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("accuracy-*.json"))]
    dense = next((row for row in rows if row["name"] == "dense"), None)
    if dense is None:
        return ""
    heads = " | ".join(f"{h} | drop" for h, *_ in FIGURES)
    lines = [f"| network | mean MACs, crowd / landmarks | {heads} | worst drop |"]
    lines.append("|---|---|" + "---|---|" * len(FIGURES) + "---|")
    for row in rows:
        sets = row["data_sets"]
        whole = dense["data_sets"]
        shares = [sets[n]["mean_macs"] / whole[n]["mean_macs"] for n in DATA_SETS]
        cells, drops = [], []
        for _, data_set, task, figure, more in FIGURES:
            value = sets[data_set]["tasks"][task][figure]
            before = whole[data_set]["tasks"][task][figure]
            drops.append((before - value if more else value - before) / before)
            cells.append(f"{value:.3f} | {100 * drops[-1]:+.1f} %")
        lines.append(
            f"| {row['name']} | {' / '.join(f'{100 * s:.0f} %' for s in shares)} "
            f"| {' | '.join(cells)} | {100 * max(drops):+.1f} % |"
        )
    routed = next((row for row in rows if row["name"] == "routed"), None)
    if routed is not None:
        lines.append("")
        for data_set in DATA_SETS:
            one = routed["data_sets"][data_set]
            shown = ", ".join(f"{n} {c}" for n, c in one["chosen"].items())
            lines.append(f"Answered on {data_set} ({one['images']} pictures): {shown}.")
    lines += [_told(json.loads(p.read_text("utf-8"))) for p in sorted(folder.glob(f"*/{STORY}"))]
    return "\n".join(lines)


def _told(story: dict[str, Any]) -> str:
    built, weights = story["built"], story["weights"]
    router = built["router"]
    widths = ", ".join(f"{100 * m / built['macs'][0]:.0f} %" for m in built["macs"][1:])
    return (
        f"Prototypes with {widths} of the work. Router, held-out training pictures: "
        f"{100 * router['accuracy']:.0f} % right ({100 * router['most_frequent']:.0f} % by always "
        f"naming the most frequent), sure of {100 * router['accepted']:.0f} %. On disk "
        f"{weights['bytes_shared'] / 1e6:.1f} MB, {weights['bytes_apart'] / 1e6:.1f} MB with own "
        f"weights each ({weights['cut'] + weights['equal']} of "
        f"{weights['cut'] + weights['equal'] + weights['own']} weights shared)."
    )
