"""How many threads torch computes with: sums in another order have other last digits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with so many threads inside, whatever ``OMP_NUM_THREADS`` says.

    Args:
        count: of threads; 0 for as many as the machine has processors.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
