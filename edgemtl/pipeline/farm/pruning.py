"""``prune --farm``: a search's held-out pictures, in parts, on workers of one kind."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from edgemtl.backends.processor import processor_name
from edgemtl.compress.context import PruneContext
from edgemtl.compress.loss_worker import save_images
from edgemtl.devices.farm.client import Farm
from edgemtl.devices.farm.resident_client import ResidentProgram
from edgemtl.devices.farm.resident_worker import CHANNEL
from edgemtl.devices.farm.work import FOLDER, PYTHON, Job
from edgemtl.files import write_json
from edgemtl.models.checkpoint import from_network, save
from edgemtl.pipeline.farm.loss_worker_main import IMAGES, NETWORK
from edgemtl.pipeline.farm.members import needed, of_one_kind, processor
from edgemtl.pipeline.farm.shipping import ADVICE, REQUEST
from edgemtl.pipeline.loaded_model import modules_of

_log = logging.getLogger(__name__)


def on_workers(farm: Farm, factory: str | None) -> Callable[[PruneContext], ResidentProgram]:
    """What :func:`edgemtl.compress.prune.prune` takes as ``workers``.

    The network of a round and its held-out pictures go to every worker that runs this code, on
    processors of this machine's kind where there are some: their losses are this machine's.

    Args:
        farm: connected, for as long as the search takes.
        factory: of the user's own network.
    """

    def ready(search: PruneContext) -> ResidentProgram:
        own = processor(processor_name())
        needs = of_one_kind(farm, needed(None, modules_of(search.network)), [own])
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
            place = Path(folder)
            save(from_network(search.network), place / NETWORK)
            save_images(place / IMAGES, *search.images)
            request = {
                "factory": factory,
                "threads": torch.get_num_threads(),
                "signature": search.signature,
                "keep_whole": search.options.keep_whole,
                "only": search.options.only,
            }
            write_json(place / REQUEST, request)
            digests = farm.put([place / name for name in (NETWORK, IMAGES, REQUEST)])
        files = {path.name: digest for path, digest in digests.items()}
        module = "edgemtl.pipeline.farm.loss_worker_main"
        command = (PYTHON, "-P", "-m", module, f"{FOLDER}/{REQUEST}", CHANNEL)
        program = ResidentProgram(
            farm, Job("held-out pictures", command, files, needs, advice=ADVICE)
        )
        _log.info(f"held-out pictures are looked at by {program.width} worker(s)")
        if own not in needs:
            _log.info(
                "their processors are not of this machine's kind: losses may differ in last digits"
            )
        return program

    return ready
