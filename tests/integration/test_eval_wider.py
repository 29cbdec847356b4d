"""``eval --wider-ground-truth`` on rendered faces laid out as WIDER FACE."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from edgemtl.data.calibration import embedded
from edgemtl.data.faces import FaceFolder
from edgemtl.errors import UsageError
from edgemtl.pipeline.evaluation import evaluate_wider

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "examples" / "mos_t.pt"
EVENT = "0--Rendered"


def _cell(values: list[object]) -> np.ndarray:
    """A MATLAB column of cells."""
    column = np.empty((len(values), 1), object)
    for row, value in enumerate(values):
        column[row, 0] = value
    return column


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A WIDER FACE folder of six rendered pictures, and its ground truth; all faces count."""
    root = tmp_path_factory.mktemp("wider")
    truth = tmp_path_factory.mktemp("truth")
    faces = embedded({"faces"}, "val")
    assert isinstance(faces, FaceFolder)
    entries = faces.entries[:6]
    images = root / "WIDER_val" / "images" / EVENT
    images.mkdir(parents=True)
    lines = []
    for entry in entries:
        shutil.copy(entry.path, images / entry.name)
        lines += [f"{EVENT}/{entry.name}", str(len(entry.faces))]
        for x1, y1, x2, y2 in entry.faces.boxes:
            lines.append(f"{x1:.0f} {y1:.0f} {x2 - x1:.0f} {y2 - y1:.0f} 0 0 0 0 0 0")
    (root / "wider_face_split").mkdir()
    text = root / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    text.write_text("\n".join(lines) + "\n", "utf-8")
    boxes = [
        np.hstack([e.faces.boxes[:, :2], e.faces.boxes[:, 2:] - e.faces.boxes[:, :2]])
        for e in entries
    ]
    names = _cell([np.array([Path(e.name).stem]) for e in entries])
    savemat(
        truth / "wider_face_val.mat",
        {
            "event_list": _cell([np.array([EVENT])]),
            "file_list": _cell([names]),
            "face_bbx_list": _cell([_cell([b.astype(np.float64) for b in boxes])]),
        },
    )
    kept = _cell([np.arange(1, len(b) + 1, dtype=np.float64)[:, None] for b in boxes])
    for subset in ("easy", "medium", "hard"):
        savemat(truth / f"wider_{subset}_val.mat", {"gt_list": _cell([kept])})
    return root, truth


def test_one_pass_finds_the_rendered_faces(wider: tuple[Path, Path]) -> None:
    found = evaluate_wider(MODEL, *wider)
    assert set(found) == {"easy", "medium", "hard"}
    assert found["easy"] == found["hard"], "the three subsets hold the same faces here"
    assert found["easy"] is not None and found["easy"] > 0.8


def test_several_scales_need_a_checkpoint(wider: tuple[Path, Path], tmp_path: Path) -> None:
    from edgemtl import targets
    from edgemtl.pipeline.exporting import export_file

    onnx = tmp_path / "model.onnx"
    export_file(MODEL, onnx, targets.load("cpu"))
    with pytest.raises(UsageError, match="several scales need a checkpoint"):
        evaluate_wider(onnx, *wider, multiscale=True)
