"""Keep torch's fused attention layers out of a forward that is looked at operator by operator.

In eval mode ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` replace their whole inside
by one operator. It has no ONNX form, no formula for its work, and hides which channels meet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_active = 0
_before = True


@contextmanager
def without_fast_path() -> Iterator[None]:
    """While active, attention runs as the operators that it is made of.

    The switch is torch's own and counts for the whole process: it goes back to where it was when
    the last of all that asked for it has left, whatever they left by.
    """
    global _active, _before
    with _lock:
        if _active == 0:
            _before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _active += 1
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if _active == 0:
                torch.backends.mha.set_fastpath_enabled(_before)
