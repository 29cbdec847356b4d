"""The router that was trained is the one that is exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgemtl.compress.batches import Prepared
from edgemtl.compress.dynamic.router import Router
from edgemtl.errors import ParityFailed
from edgemtl.exporting.routed import ROUTER_FILE, _export_router
from edgemtl.pipeline.mask import require_same_router

SIZE = (48, 64)


def router(seed: int) -> Router:
    """With weights of its own; in eval mode."""
    torch.manual_seed(seed)
    return Router(2, SIZE).eval()


def test_the_exported_router_is_held_against_the_trained_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [Prepared(rng.normal(size=(3, *SIZE)).astype(np.float16), {}) for _ in range(3)]
    trained, path = router(0), tmp_path / ROUTER_FILE
    _export_router(trained, torch.zeros(1, 3, *SIZE), path, 17)
    require_same_router(trained, path, images)
    with pytest.raises(ParityFailed, match="the exported router differs"):
        require_same_router(router(1), path, images)
