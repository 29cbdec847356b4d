"""Another package's task, data set, network and pruning method through the whole product.

The task's label is a number per picture, not a map: who takes every label for a map fails here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import driving
from support.command import edgemtl
from support.dense_work import NO_BENCH
from support.plugins import install

from edgemtl import plugins
from edgemtl.compress import context as pruning
from edgemtl.compress.augmentation import random_view
from edgemtl.compress.prune import methods
from edgemtl.data import open as formats
from edgemtl.data.preprocess import InputSpec, Part, View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused, UsageError
from edgemtl.models.checkpoint import from_network, load, save
from edgemtl.tasks.base import Task
from edgemtl.tasks.labels import cropped, labels_on_canvas, mirrored

GROUPS = {
    "edgemtl.datasets": {"driving": "support.driving:DRIVING"},
    "edgemtl.models": {"tiny-driver": "support.driving"},
    "edgemtl.pruning_methods": {"first-units": "support.driving:first_units"},
    "edgemtl.tasks": {"steering": "support.driving"},
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield install(tmp_path, monkeypatch, GROUPS)
    formats._FORMATS.pop("driving", None)
    pruning.METHODS.pop("first-units", None)


@pytest.mark.parametrize("method", ["l1-uniform", "first-units"])
def test_a_scalar_label_goes_through_pruning_recovery_and_quantisation(
    installed: Path, tmp_path: Path, method: str
) -> None:
    model, data = tmp_path / "driver.pt", tmp_path / "data"
    save(from_network(driving.build()), model)
    for split, count in (("train", 40), ("val", 6)):
        driving.write_driving_folder(data, split, count, seed=len(split))
    asked = {
        "prune.method": f"'{method}'",
        "prune.flops": "0.7",
        "prune.params": "0.7",
        "prune.priority": "'goal'",
        "prune.rounds": "1",
        "prune.channel_multiple": "2",
        "prune.oracle_images": "8",
        "prune.calibration_images": "8",
        "recover.steps": "4",
        "recover.batch": "4",
        "quantize.precision": "'int8'",
        "quantize.images": "8",
        "quantize.budgets.wheel": "0.9",
        "quantize.budgets.road": "0.9",
        "quantize.recovery_steps": "2",
        "quantize.recovery_images": "4",
        "gates.tasks.wheel.max_relative_drop": "false",
        "gates.tasks.road.max_relative_drop": "false",
    }
    told = edgemtl(
        *("compile", model, "--target=cpu", f"--data={data}", "--prune", *NO_BENCH),
        *(f"--set={key}={value}" for key, value in asked.items()),
        *("-o", tmp_path / "run"),
    )
    assert told.code in (0, 6), told.err
    accuracy = json.loads((tmp_path / "run" / "accuracy.json").read_text("utf-8"))
    for side in ("reference", "artefact"):
        assert accuracy[side]["tasks"]["wheel"]["mae_deg"] is not None
        assert accuracy[side]["counts"]["wheel"] == 6
    pruned = load(tmp_path / "run" / "model" / "pruned.pt").network()
    assert pruned.stem.conv.weight.shape[0] < driving.build().stem.conv.weight.shape[0]
    quantised = json.loads((tmp_path / "run" / "quantize.json").read_text("utf-8"))
    assert quantised["precision"] == "int8" and quantised["layers"]
    (bundle,) = (tmp_path / "run" / "bundle").glob("*.edgemtl")
    assert edgemtl("verify", bundle).code == 0


def test_what_is_installed_is_named_where_one_chooses(installed: Path, tmp_path: Path) -> None:
    assert "first-units" in methods()
    assert formats.formats()[-1] == "driving"  # ours are asked first
    data = driving.write_driving_folder(tmp_path / "data", "val", 2)
    assert formats.open_dataset(data, "val").name == "data/val"
    with pytest.raises(InputRefused) as refused:
        formats.open_dataset(tmp_path, "val")
    assert "SPLIT/images with SPLIT/steering.json".replace("SPLIT", "val") in str(
        refused.value.hint
    )


@pytest.mark.parametrize(
    ("group", "value", "said"),
    [
        ("edgemtl.datasets", "no_such_module:X", "'theirs' cannot be imported"),
        ("edgemtl.datasets", "support.driving:CLASSES", "is not an edgemtl.data.open"),
        ("edgemtl.pruning_methods", "support.driving:CLASSES", "is not a function of an"),
        ("edgemtl.tasks", "no_such_module", "'theirs' cannot be imported"),
        ("edgemtl.models", "no_such_module", "'theirs' cannot be imported"),
    ],
)
def test_a_broken_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, value: str, said: str
) -> None:
    from edgemtl.models import registry as families
    from edgemtl.tasks import registry as kinds

    install(tmp_path, monkeypatch, {group: {"broken": value}})
    ask = {
        "edgemtl.datasets": formats.formats,
        "edgemtl.pruning_methods": methods,
        "edgemtl.tasks": kinds.kinds,
        "edgemtl.models": lambda: families.family("broken"),
    }[group]
    with pytest.raises(UsageError, match=said) as refused:
        ask()
    assert group in str(refused.value.where) and value in str(refused.value.where)


# --- what happens to labels that are no maps -----------------------------------------------------

STEERING = driving.Steering("wheel")
IMAGE = np.zeros((40, 60, 3), np.uint8)


def test_a_number_stays_turns_in_the_mirror_and_keeps_the_picture_whole() -> None:
    sample = Sample("one", IMAGE, {"steering": 7.5})
    view = View(0.5, 4.0, 0.0, (40, 60), (32, 48))
    assert labels_on_canvas(sample.labels, [STEERING], view) == {"steering": 7.5}
    assert mirrored(sample, [STEERING]).labels == {"steering": -7.5}
    assert cropped(sample, [STEERING], Part((40, 60), 0, 0, 20, 30)) is sample


def test_a_label_without_a_mirror_image_keeps_the_picture_as_it_is() -> None:
    class Plate(driving.Steering):
        kind = "plate"
        mirror = Task.mirror

    sample = Sample("one", IMAGE, {"steering": 7.5})
    assert mirrored(sample, [Plate("plate")]) is sample


def test_labels_that_nobody_reads_forbid_nothing() -> None:
    sample = Sample("one", IMAGE, {"steering": 7.5, "notes": object()})
    prepared = random_view(sample, [STEERING], InputSpec((32, 48)), np.random.default_rng(0))
    assert set(prepared.labels) == {"steering"}


@pytest.mark.parametrize("label", [np.zeros((3, 2), np.float32), object(), [1, 2]])
def test_a_label_that_has_to_move_and_does_not_say_how_is_refused(label: object) -> None:
    with pytest.raises(InputRefused, match="'wheel' has a label that is no map") as refused:
        STEERING.to_canvas(label, View(0.5, 4.0, 0.0, (40, 60), (32, 48)))
    assert "override to_canvas in support.driving.Steering" in str(refused.value.hint)


# --- what the guide for contributors shows --------------------------------------------------------


def test_the_guide_shows_the_code_that_these_tests_run() -> None:
    root = Path(__file__).parents[2]
    guide = (root / "CONTRIBUTING.md").read_text("utf-8")
    source = (root / "tests" / "support" / "driving.py").read_text("utf-8")
    shown = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(shown) >= 2
    code = "\n".join(line for line in source.splitlines() if not line.startswith('    """'))
    for block in shown:
        assert block.strip() in code
    for group in plugins.GROUPS:
        assert f'"{group}"' in guide
