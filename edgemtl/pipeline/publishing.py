"""Results of stages, laid out in the run folder under the names that readers know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemtl.exporting.routed import SINGLE_FILE
from edgemtl.files import read_json
from edgemtl.pipeline.check_stages import metric_specs
from edgemtl.pipeline.run_folder import RunFolder
from edgemtl.pipeline.stage import ARTEFACT_FOLDER, CHECKPOINT, ONNX, Context
from edgemtl.record.run_record import (
    ACCURACY,
    BENCH,
    COST,
    GATES,
    JUNIT,
    MASK,
    PARITY,
    PRUNE,
    QUANTIZE,
    TIMINGS,
)

#: stage, its file, where it goes in the run folder
_PUBLISHED = (
    ("export", ONNX, "model/model.onnx"),
    ("prune", CHECKPOINT, "model/pruned.pt"),
    ("prune", PRUNE, PRUNE),
    ("mask", MASK, MASK),
    ("mask", SINGLE_FILE, f"model/{SINGLE_FILE}"),
    ("quantize", QUANTIZE, QUANTIZE),
    ("quantize", ONNX, "model/quantized.onnx"),
    ("compile", f"{ARTEFACT_FOLDER}/plan.json", "modelled.json"),
    ("parity", PARITY, PARITY),
    ("gates", GATES, GATES),
    ("gates", JUNIT, JUNIT),
    *(("bench", name, f"{BENCH}/{name}") for name in TIMINGS),
)


def publish_results(context: Context, run: RunFolder) -> None:
    """Link or copy what the stages of a run left, as far as it came."""
    folders = context.folders
    for stage, source, name in _PUBLISHED:
        if stage in folders:
            run.publish(folders[stage] / source, name)
    _publish_pairs(context, run)
    for image in sorted(folders["pictures"].glob("*.png")) if "pictures" in folders else ():
        run.publish(image, f"pictures/{image.name}")


def _publish_pairs(context: Context, run: RunFolder) -> None:
    """``accuracy.json`` and ``cost.json``: reference and artefact side by side."""
    extra: Mapping[str, Mapping[str, Any]] = {ACCURACY: {"metrics": metric_specs(context)}}
    for file, stage in ((ACCURACY, "accuracy"), (COST, "cost")):
        if stage in context.folders and f"{stage}-reference" in context.folders:
            run.publish_json(
                file,
                {
                    "reference": read_json(context.folders[f"{stage}-reference"] / file),
                    "artefact": read_json(context.folders[stage] / file),
                    **extra.get(file, {}),
                },
            )
