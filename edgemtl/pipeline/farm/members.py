"""What a farm's members offer, and the way to one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from edgemtl.backends import registry
from edgemtl.backends.processor import processor_name
from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.devices.farm.client import Farm
from edgemtl.errors import TargetUnavailable, UsageError
from edgemtl.pipeline.cache import code_fingerprint, default_folder
from edgemtl.plugins import packages

#: resources: a device, the one board it is, our code with its tools, a backend that works, a kind
#: of processor, another package that adds something to ours
DEVICE, BOARD, CODE, BACKEND, PROCESSOR = "device:", "board:", "code:", "backend:", "processor:"
PACKAGE = "package:"


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
    found = {same_code(): 1.0, processor(processor_name()): 1.0}
    for backend in registry.names():
        try:
            if registry.get(backend).availability().ok:
                found[f"{BACKEND}{backend}"] = 1.0
        except TargetUnavailable:
            continue
    return found | _packages(None)


def needed(backend: str | None = None, modules: Iterable[str] = ()) -> Mapping[str, float]:
    """Resources of a job that must come to what it would come to here.

    Args:
        backend: that it compiles or runs with.
        modules: of the network, its tasks and all else that another package may have added; the
            worker then has the same versions of these packages.
    """
    found = {same_code(): 1.0} | _packages(modules)
    if backend is not None:
        found |= {f"{BACKEND}{backend}": 1.0} | _packages([type(registry.get(backend)).__module__])
    return found


def _packages(modules: Iterable[str] | None) -> dict[str, float]:
    return {f"{PACKAGE}{name}-{version}": 1.0 for name, version in packages(modules).items()}


def processor(name: str) -> str:
    """The resource of those whose processor has this name."""
    return PROCESSOR + (re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-") or "unknown")


def of_one_kind(farm: Farm, needs: Mapping[str, float], first: Collection[str]) -> dict[str, float]:
    """The same needs on processors of one kind, whose answers can be put together.

    Args:
        farm: connected.
        needs: of the jobs.
        first: resources of the kinds to take where there are workers of one of them; otherwise the
            kind that most workers are of.
    """
    kinds = Counter(
        resource
        for worker in farm.workers()
        if worker.offers(needs)
        for resource in worker.resources
        if resource.startswith(PROCESSOR)
    )
    if not kinds:
        # Nobody could take the jobs whatever their processor: that is what will be told.
        return dict(needs)
    return {**needs, max(kinds, key=lambda kind: (kind in first, kinds[kind], kind)): 1.0}


def open_farm(address: str, certificates: Path | None, without_tls: bool) -> Farm:
    """A farm to give work to; enter it to connect.

    Raises:
        UsageError: no address of a farm, or no certificates are named.
        InputRefused: a certificate is missing.
    """
    where = FarmAddress.parse(address, without_tls)
    return Farm(where, Credentials.of(where, certificates, "client"))
