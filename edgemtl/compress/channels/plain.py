"""Let torch compute with the operators that the tracer knows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from edgemtl.models.fast_path import without_fast_path


@contextmanager
def plain_operators(network: nn.Module) -> Iterator[None]:
    """No fused forms: attention layers' fast path in eval mode, whole recurrent layers in one."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    with without_fast_path(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=not recurrent):
            yield
