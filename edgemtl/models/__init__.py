"""Networks: one interface, a registry of families, a checkpoint format that is safe to read."""

from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.registry import build, families, from_factory, register_family

__all__ = ["MultiTaskNetwork", "build", "families", "from_factory", "register_family"]
