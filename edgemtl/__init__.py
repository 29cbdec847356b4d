"""EdgeMTL: from a trained multi-task network to a verified bundle for an edge device.

    import edgemtl

    run = edgemtl.compile("model.pt", target="cpu")
    print(run)

All public names stand in :mod:`edgemtl.api`, whose parts are imported when a name is first used.
"""

import logging
import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# A program that imports us hears of us only when it asks for it (edgemtl/logs.py).
logging.getLogger(__name__).addHandler(logging.NullHandler())

# ONNX Runtime from 1.32 on collects telemetry on Linux unless this is set when it is first imported
# (its Privacy.md), whoever imports it. What the user has set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgemtl.api import *  # noqa: F403 - for type checkers and editors
else:

    def __getattr__(name):
        # Submodules, too, come here first ("from edgemtl import targets").
        if name == "__all__" or not name.startswith("_"):
            from importlib import import_module

            # Named relatively: what this file imports by name is part of every stage's key
            # (pipeline/code_key.py), and nothing that a stage computes depends on the door.
            api = import_module(".api", __name__)
            if name == "__all__":
                return api.__all__
            if name in api.__all__:
                found = globals()[name] = getattr(api, name)
                return found
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})
