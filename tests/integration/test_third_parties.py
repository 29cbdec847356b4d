"""Other packages: what is told of broken ones, and what happens to labels that are no maps.

What whole ones do is in test_plugin_packages.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.command import edgemtl
from support.driving import write_driving_folder
from support.plugins import install, installed

from edgemtl import targets
from edgemtl.backends.registry import with_backend
from edgemtl.compress.augmentation import random_view
from edgemtl.compress.prune import methods
from edgemtl.data import open as formats
from edgemtl.data.preprocess import InputSpec, Part, View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused, UsageError
from edgemtl.tasks import TaskSpec, build
from edgemtl.tasks.base import Task
from edgemtl.tasks.labels import cropped, labels_on_canvas, mirrored


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with installed(tmp_path_factory.mktemp("site")) as folder:
        yield folder


def test_what_is_installed_is_named_where_one_chooses(tmp_path: Path) -> None:
    assert "first-units" in methods()
    assert formats.formats()[-1] == "driving"  # ours are asked first
    data = write_driving_folder(tmp_path / "data", "val", 2)
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
        ("edgemtl.datasets", "support.dense_family:CLASSES", "is not an edgemtl.data.open"),
        ("edgemtl.pruning_methods", "support.dense_family:CLASSES", "is not a function of an"),
        ("edgemtl.tasks", "no_such_module", "'theirs' cannot be imported"),
        ("edgemtl.models", "no_such_module", "'theirs' cannot be imported"),
        ("edgemtl.targets", "no_such_module", "'theirs' cannot be imported"),
        ("edgemtl.targets", "two_threads:TWO_THREADS", "'broken' is not an edgemtl.targets.Target"),
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
        "edgemtl.targets": lambda: targets.load("broken"),
    }[group]
    with pytest.raises(UsageError, match=said) as refused:
        ask()
    assert group in str(refused.value.where) and value in str(refused.value.where)


def test_a_broken_package_stops_nothing_that_does_not_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"broken": "no_such_module:X"}
    install(tmp_path, monkeypatch, {"edgemtl.backends": broken, "edgemtl.targets": broken})
    listed = {one["name"] for one in edgemtl("targets", "--json").json()}
    assert {"cpu", "two-threads"} <= listed and "broken" not in listed
    assert edgemtl("devices").code == 0
    assert with_backend(targets.load("rpi4"), "onnxruntime").backend == "onnxruntime"
    told = edgemtl("doctor")
    assert told.code == 0 and "NO  package theirs: 1, 'broken' of the installed package" in told.out
    assert "next: repair or uninstall theirs" in told.out
    assert edgemtl("inspect", "model.pt", "--target=broken").code == 2


# --- what happens to labels that are no maps -----------------------------------------------------

IMAGE = np.zeros((40, 60, 3), np.uint8)


def steering() -> Task:
    return build(TaskSpec("wheel", "steering"))


def test_a_number_stays_turns_in_the_mirror_and_keeps_the_image_whole() -> None:
    sample = Sample("one", IMAGE, {"steering": 7.5})
    view = View(0.5, 4.0, 0.0, (40, 60), (32, 48))
    assert labels_on_canvas(sample.labels, [steering()], view) == {"steering": 7.5}
    assert mirrored(sample, [steering()]).labels == {"steering": -7.5}
    assert cropped(sample, [steering()], Part((40, 60), 0, 0, 20, 30)) is sample


def test_a_label_without_a_mirror_image_keeps_the_image_as_it_is() -> None:
    class Plate(type(steering())):  # type: ignore[misc]
        kind = "plate"
        mirror = Task.mirror

    sample = Sample("one", IMAGE, {"steering": 7.5})
    assert mirrored(sample, [Plate("plate")]) is sample


def test_labels_that_nobody_reads_forbid_nothing() -> None:
    sample = Sample("one", IMAGE, {"steering": 7.5, "notes": object()})
    prepared = random_view(sample, [steering()], InputSpec((32, 48)), np.random.default_rng(0))
    assert set(prepared.labels) == {"steering"}


@pytest.mark.parametrize("label", [np.zeros((3, 2), np.float32), object(), [1, 2]])
def test_a_label_that_has_to_move_and_does_not_say_how_is_refused(label: object) -> None:
    with pytest.raises(InputRefused, match="'wheel' has a label that is no map") as refused:
        steering().to_canvas(label, View(0.5, 4.0, 0.0, (40, 60), (32, 48)))
    assert "override to_canvas in steering_task.Steering" in str(refused.value.hint)
