import json

import cv2
import numpy as np
import pytest

from edgemtl.data.open import open_dataset
from edgemtl.errors import InputRefused


def test_a_folder_is_recognised_and_a_damaged_image_is_named(tmp_path):
    (tmp_path / "val" / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "val" / "images" / "a.png"), np.zeros((6, 8, 3), np.uint8))
    (tmp_path / "val" / "images" / "b.png").write_bytes(b"no picture")
    (tmp_path / "val" / "steering.json").write_text(json.dumps({"a.png": 5, "b.png": -5}))
    found = open_dataset(tmp_path, "val")
    (sample,) = found
    assert sample.labels["steering"] == 5.0 and sample.labels["segmentation"].shape == (6, 8)
    assert len(found.problems) == 1 and found.problems[0].startswith("b.png")


def test_a_damaged_file_of_angles_is_refused(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "steering.json").write_text("[1, 2]")
    with pytest.raises(InputRefused, match="no angles in it"):
        open_dataset(tmp_path, "val")
