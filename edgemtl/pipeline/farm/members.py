"""What a farm's members offer, and the way to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edgemtl.backends import registry
from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.devices.farm.client import Farm
from edgemtl.errors import TargetUnavailable, UsageError
from edgemtl.pipeline.cache import code_fingerprint, default_folder

#: resources: a device, the one board it is, our code with its tools, a backend that works
DEVICE, BOARD, CODE, BACKEND = "device:", "board:", "code:", "backend:"


def own_folder() -> Path:
    """Where scheduler and workers keep files by default."""
    return default_folder() / "farm"


def same_code() -> str:
    """The resource of those who run the same code with the same tools as this process."""
    return f"{CODE}{code_fingerprint()[:12]}"


def offered(device: str | None, name: str) -> dict[str, float]:
    """Resources of a worker on this machine.

    A board offers itself for benches and nothing else, so that no other job disturbs a measurement
    or is slow because the board is.

    Raises:
        UsageError: no name for a device.
    """
    if device is not None:
        if not device or any(c in device for c in " =,:\n"):
            raise UsageError("not a name for a device", where="--device", hint="for example rpi4")
        return {f"{DEVICE}{device}": 1, f"{BOARD}{name}": 1}
    found = {same_code(): 1.0}
    for backend in registry.names():
        try:
            if registry.get(backend).availability().ok:
                found[f"{BACKEND}{backend}"] = 1.0
        except TargetUnavailable:
            continue
    return found


def needed(backend: str | None = None) -> Mapping[str, float]:
    """Resources of a job that must come to what it would come to here."""
    return {same_code(): 1.0, **({} if backend is None else {f"{BACKEND}{backend}": 1.0})}


def open_farm(
    address: str, certificates: Path | None, without_tls: bool, tell: Callable[[str], None]
) -> Farm:
    """A farm to give work to; enter it to connect.

    Raises:
        UsageError: no address of a farm, or no certificates are named.
        InputRefused: a certificate is missing.
    """
    where = FarmAddress.parse(address, without_tls)
    return Farm(where, Credentials.of(where, certificates, "client"), tell=tell)
