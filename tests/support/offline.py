"""Processes that write down every attempt to reach the network.

Put into ``PYTHONPATH`` as ``sitecustomize``, so that processes which a process starts do it too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

LOG = "EDGEMTL_TEST_NETWORK_LOG"
#: what Python tells of the network before it happens
_EVENTS = {
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.bind",
}

SITECUSTOMIZE = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.offline import listen
listen()
"""


def listen() -> None:
    """Log attempts to the file that the environment names; sockets of files are none."""
    place = os.environ.get(LOG)
    if not place:
        return
    log = Path(place).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115 - kept open
    log.write("listening\n")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        family = getattr(arguments[0], "family", None)
        if family is None or "AF_UNIX" not in str(family):
            log.write(f"{event} {arguments[1:] or arguments}\n")

    sys.addaudithook(hook)
