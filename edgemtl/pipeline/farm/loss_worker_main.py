"""The program that looks at held-out pictures for a pruning search that runs elsewhere.

    python -m edgemtl.pipeline.farm.loss_worker_main request.json CHANNEL

It stays on its worker for as long as it is asked (``edgemtl.devices.farm.resident_worker``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from edgemtl.devices.farm.channel import serve
from edgemtl.files import read_json

NETWORK, IMAGES = "network.pt", "pictures.pt"
#: between rounds a search trains for longer than that, and comes back with another network
IDLE_SECONDS = 600.0


def main() -> None:
    """Answer until nobody asks."""
    path = Path(sys.argv[1]).resolve()
    serve(int(sys.argv[2]), lambda: _ready(path), IDLE_SECONDS)


def _ready(path: Path) -> Callable[[bytes], bytes]:
    import torch

    from edgemtl.compress.context import PruneOptions
    from edgemtl.compress.loss_worker import Answers, load_images
    from edgemtl.models.checkpoint import load_network

    request = read_json(path)
    # Sums are split by threads; as many as there make the same sums.
    torch.set_num_threads(int(request["threads"]))
    network = load_network(path.parent / NETWORK, request["factory"])
    oracle, calibration = load_images(path.parent / IMAGES)
    options = PruneOptions(keep_whole=tuple(request["keep_whole"]), only=tuple(request["only"]))
    return Answers(network, (oracle, calibration), request["signature"], options).answer


if __name__ == "__main__":
    main()
