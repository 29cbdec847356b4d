"""Let torchvision load beside a torch that its operators were not built for.

Packages of networks import torchvision for its pictures and feature extractors and never call its
compiled operators here. Where those do not load, torchvision stops at registering shapes for them;
declaring their names, without a kernel, lets the rest of it work. This belongs to the tool: the
product does not need torchvision.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

_REGISTERED = re.compile(r"register_(?:meta|fake)\(\"(?:torchvision::)?(\w+)\"\)")
#: the declarations live as long as this does
_DECLARED = torch.library.Library("torchvision", "FRAGMENT")


def declare_operators() -> None:
    """Declare the names of torchvision's operators that are not there; call before importing it.

    Does nothing where torchvision is not installed.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    source = Path(found.origin).with_name("_meta_registrations.py").read_text("utf-8")
    for name in sorted(set(_REGISTERED.findall(source))):
        if not hasattr(torch.ops.torchvision, name):
            _DECLARED.define(f"{name}(Tensor x) -> Tensor")
