"""Do the pictures of mos_m differ enough? The analysis of ``edgemtl mask`` over several budgets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgemtl import recipes
from edgemtl.compress.batches import prepare
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.dynamic.analysis import AnalyseOptions, MaskableNetwork, Observed, analyse
from edgemtl.data.open import open_dataset
from edgemtl.errors import UsageError
from edgemtl.files import sha256_file, write_json
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.mask import saliency_images
from edgemtl.pipeline.routed_set import folded

DATA_SETS = ("faces_crowd", "faces_landmarks")
#: calibration pictures, and as many held-out ones: the verb's default
IMAGES = 96
MULTIPLE = 16
PROTOTYPES = 3
Tell = Callable[[str], None]


def run(checkpoint: Path, data: Path, folder: Path, kept: Sequence[float], tell: Tell) -> None:
    """Analyse what is missing; one JSON file per row under ``folder``."""
    key = sha256_file(checkpoint)
    wanted = {
        folder / f"analysis-{share:g}{'-nested' if nested else ''}.json": (share, nested)
        for share in kept
        for nested in (False, True)
    }
    missing = {path: how for path, how in wanted.items() if not _is_of(path, key)}
    if not missing:
        return
    network = folded(load_network(checkpoint), recipes.resolve({}, None, [], {}))
    slices = DataSplits.split([open_dataset(data / n, "train") for n in DATA_SETS], IMAGES, IMAGES)
    calibration = [
        prepare(sample, network.tasks, network.input_spec) for sample in slices.calibration
    ]
    held_out = [prepare(sample, network.tasks, network.input_spec) for sample in slices.oracle]
    tell("what each channel matters to each task")
    observed = Observed(
        MaskableNetwork(network, saliency_images(calibration)), calibration, held_out
    )
    for path, (share, nested) in missing.items():
        options = AnalyseOptions(share, PROTOTYPES, multiple=MULTIPLE, nested=nested)
        tell(f"{checkpoint.stem}: {share:g} of the work kept{', nested' if nested else ''}")
        try:
            found = analyse(observed, options).to_dict()
        except UsageError as error:
            found = {"refused": error.message}
        write_json(path, {"checkpoint": key, "kept": share, "nested": nested, **found})


def _is_of(path: Path, key: str) -> bool:
    return path.is_file() and json.loads(path.read_text("utf-8"))["checkpoint"] == key


def table(folder: Path) -> str:
    """All rows found in a folder, as Markdown."""
    rows: list[dict[str, Any]] = [
        json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("analysis-*.json"))
    ]
    if not rows:
        return ""
    lines = [
        "| prototypes | work of one mask / of prototypes | loss that one mask adds "
        "| that the best prototype adds | taken away |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (-r["kept"], r["nested"])):
        kind = "nested" if row["nested"] else "free"
        if "refused" in row:
            lines.append(f"| {kind} | at {row['kept']:g}: {row['refused']} | | | |")
            continue
        added = [
            ", ".join(f"{task} {100 * value:+.1f} %" for task, value in row[key].items())
            for key in ("added_static", "added_prototypes")
        ]
        macs = [f"{100 * row[f'mean_macs_{kind}']:.0f} %" for kind in ("static", "prototypes")]
        lines.append(
            f"| {kind} | {macs[0]} / {macs[1]} | {added[0]} | {added[1]} "
            f"| {100 * row['gain']:+.0f} % |"
        )
    shown = next((row for row in rows if "refused" not in row), None)
    if shown is None:
        return "\n".join(lines)
    return "\n".join([*lines, "", _words(shown)])


def _words(row: dict[str, Any]) -> str:
    overlap = ", ".join(f"{pair} {value:.2f}" for pair, value in row["overlap"].items())
    parts = [f"Masks of two tasks are alike by (Jaccard): {overlap}."]
    for key, label in (
        ("dependence", "weighted by what channels matter to the tasks"),
        ("dependence_of_mass", "of the published masks (activation alone)"),
    ):
        one = row[key]
        parts.append(
            f"Mean dependence on the picture, {label}: {one['mean']:.3f}; "
            f"{100 * one['dependent_share']:.0f} % of the work is in groups above 0.1."
        )
    return " ".join(parts)
