"""The renderer of synthetic rooms: labels against geometry worked out another way."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgemtl.data.calibration import embedded
from edgemtl.data.dense import DenseFolder
from edgemtl.data.derive import Camera, normals_of_depth
from edgemtl.data.open import open_dataset
from edgemtl.errors import UsageError
from edgemtl.tasks import kinds

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "calib_data" / "rooms"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools" / "make_calib_rooms.py"
    spec = importlib.util.spec_from_file_location("make_calib_rooms", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_an_empty_room_by_hand(tool: ModuleType) -> None:
    """A camera in the middle of a 4 x 3 x 6 room, looking straight at the far wall."""
    room = tool.Room(
        np.array([4.0, 3.0, 6.0]), (), np.full((3, 3), 0.5), np.zeros(3), np.array([2.0, 2.8, 3.0])
    )
    camera = tool.Camera(np.array([2.0, 1.5, 3.0]), np.eye(3))
    rays = tool.rays_of(121, 161, 100.0)
    hits = tool.cast(room, camera, rays)
    middle = (60, 80)
    assert hits.depth[middle] == 3 and hits.classes[middle] == tool.WALL
    np.testing.assert_allclose(hits.normal[middle], [0, 0, 1], atol=1e-12)
    # the floor lies 1.5 m lower: row 120 looks down by 60 / 100, so it meets it 2.5 m ahead
    assert hits.classes[120, 80] == tool.FLOOR and hits.depth[120, 80] == pytest.approx(2.5)
    np.testing.assert_allclose(hits.normal[120, 80], [0, 1, 0], atol=1e-12)
    assert hits.classes[0, 80] == tool.CEILING
    np.testing.assert_allclose(hits.normal[60, 160], [-1, 0, 0], atol=1e-12)
    # the wall at the right is 2 m away: column 160 looks aside by 80 / 100
    assert hits.depth[60, 160] == pytest.approx(2.5)


def test_things_lie_where_they_were_put(tool: ModuleType) -> None:
    ball = tool.Thing(tool.BALL, np.array([2.0, 1.5, 1.0]), np.full(3, 0.5), 0.0, np.ones(3))
    box = tool.Thing(
        tool.CUPBOARD, np.array([2.0, 1.5, 1.0]), np.full(3, 0.5), np.pi / 4, np.ones(3)
    )
    camera = tool.Camera(np.array([2.0, 1.5, 5.0]), np.eye(3))
    for thing, nearest in ((ball, 0.5), (box, 0.5 * np.sqrt(2))):
        room = tool.Room(
            np.array([4.0, 3.0, 6.0]),
            (thing,),
            np.full((3, 3), 0.5),
            np.zeros(3),
            np.array([2.0, 2.8, 3.0]),
        )
        hits = tool.cast(room, camera, tool.rays_of(1, 3, 1e6))
        np.testing.assert_allclose(hits.depth, 4 - nearest, atol=1e-5)
        assert (hits.classes == thing.kind).all()
    np.testing.assert_allclose(np.linalg.norm(hits.normal, axis=-1), 1)


def test_the_same_seed_gives_the_same_labels(tool: ModuleType, tmp_path: Path) -> None:
    assert tool.main(["--output", str(tmp_path), "--train", "1", "--val", "1"]) == 0
    for split in tool.SPLITS:
        again = DenseFolder.open(tmp_path, split).load(0)
        kept = DenseFolder.open(COMMITTED, split).load(0)
        assert again is not None and kept is not None and again.name == kept.name
        for kind, label in kept.labels.items():
            np.testing.assert_array_equal(label, again.labels[kind], err_msg=kind)


def test_normals_agree_with_planes_fitted_to_the_depth() -> None:
    sample = DenseFolder.open(COMMITTED, "val").load(0)
    assert sample is not None
    depth, normals = sample.labels["depth"], sample.labels["normals"]
    height, width = depth.shape
    fitted = normals_of_depth(depth, Camera(0.9 * width, width / 2 - 0.5, height / 2 - 0.5))
    known = np.isfinite(fitted).all(axis=-1)
    angle = np.degrees(np.arccos((fitted * normals).sum(-1)[known].clip(-1, 1)))
    assert known.mean() > 0.9
    assert np.median(angle) < 0.5


def test_rooms_are_the_embedded_set_of_dense_tasks() -> None:
    maps = {"depth", "normals", "edges", "segmentation", "saliency", "parts"}
    assert maps == {kind.label_kind for kind in kinds().values() if kind.label_is_map}
    rooms = embedded(maps, "val", maps)
    assert rooms.name == "calib_data/rooms/val (synthetic)" and len(rooms) == 16
    sample = next(iter(rooms))
    assert set(sample.labels) == {"depth", "normals", "edges", "saliency"}
    assert rooms.problems == []
    with pytest.raises(UsageError, match="faces"):
        embedded({"depth", "faces"}, "val", {"depth"})
    with pytest.raises(UsageError, match="classes"):
        embedded({"depth", "classes"}, "val")  # a label that is no map


def test_the_folder_itself_has_classes() -> None:
    rooms = open_dataset(COMMITTED, "val")
    assert isinstance(rooms, DenseFolder)
    sample = next(iter(rooms))
    assert rooms.classes[int(sample.labels["segmentation"].max())] in ("cupboard", "ball")
