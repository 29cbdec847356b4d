"""EdgeMTL: from a trained multi-task network to a verified bundle for an edge device."""

__version__ = "0.1.0"
