"""EdgeMTL: from a trained multi-task network to a verified bundle for an edge device."""

import logging
import os

__version__ = "0.1.0"

# A program that imports us hears of us only when it asks for it (edgemtl/logs.py).
logging.getLogger(__name__).addHandler(logging.NullHandler())

# ONNX Runtime from 1.32 on collects telemetry on Linux unless this is set when it is first imported
# (its Privacy.md), whoever imports it. What the user has set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
