"""Pictures and a network for the example packages that have to do with a car (``packages/``)."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from edgemtl.models.checkpoint import from_network, save
from support.data import random_image


def write_driver(path: Path, seed: int = 0) -> Path:
    """Write the checkpoint of a seeded network of family ``tiny-driver``, which is installed."""
    from tiny_driver import TinyDriver

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save(from_network(TinyDriver().eval()), path)
    return path


def write_driving_folder(root: Path, split: str, count: int, seed: int = 0) -> Path:
    """Write ``count`` pictures in the layout ``driving``, a random angle each; returns ``root``."""
    rng = np.random.default_rng(seed)
    degrees = {}
    (root / split / "images").mkdir(parents=True)
    for index in range(count):
        name = f"{index:04d}.png"
        cv2.imwrite(str(root / split / "images" / name), random_image(rng, (48, 72)))
        degrees[name] = float(rng.uniform(-20, 20))
    (root / split / "steering.json").write_text(json.dumps(degrees), "utf-8")
    return root
