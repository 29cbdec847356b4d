"""Weights that a module computes on each call, as the values that they have."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized


@torch.no_grad()
def settle_parametrisations(network: nn.Module) -> None:
    """Replace weights under torch's parametrisations (weight norm, spectral norm), in place.

    In eval mode they are constants, and some of what computes them has no ONNX form. Torch's own
    ``remove_parametrizations`` takes the property off the module's class, which a copy shares with
    the network that it was copied from; so the class is left alone here, and the module leaves it.

    Args:
        network: in eval mode.
    """
    for module in list(network.modules()):
        if not is_parametrized(module):
            continue
        parametrisations = module.parametrizations
        assert isinstance(parametrisations, nn.ModuleDict)
        values = {name: getattr(module, name).detach().clone() for name in parametrisations}
        module.__class__ = type(module).__bases__[0]
        del module._modules["parametrizations"]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
