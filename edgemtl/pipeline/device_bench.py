"""``bench BUNDLE --device``: the bundle measured where it belongs, results brought back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgemtl.bundle.read import open_bundle
from edgemtl.devices.ssh import Address, DeviceRun, SshDevice
from edgemtl.errors import StageFailed, UsageError
from edgemtl.pipeline.benchmarking import Timing
from edgemtl.pipeline.subject import kind_of


def bench_on_device(
    path: Path, device: str, python: str, timing: Timing, tell: Callable[[str], None]
) -> DeviceRun:
    """Measure a bundle on a device.

    Args:
        path: the bundle.
        device: ``ssh://[user@]host[:port]``.
        python: interpreter on the device.
        timing: threads, least runs and seconds; the rest does not reach the device.
        tell: for progress.

    The environment variable ``EDGEMTL_SSH_CONFIG`` names another configuration for OpenSSH.

    Raises:
        UsageError: the address or the file is not of the right kind.
        InputRefused: the bundle is damaged.
        TargetUnavailable: the device cannot be reached, or not trusted.
        StageFailed: the results are those of another bundle, or none.
    """
    address = Address.parse(device)
    if kind_of(path) != "bundle":
        raise UsageError("a device measures bundles only", where=str(path))
    wanted = open_bundle(path).manifest_sha256
    config = os.environ.get("EDGEMTL_SSH_CONFIG")
    flags = {
        "--threads": str(timing.threads),
        "--warm-up": str(timing.warmup_seconds),
        "--min-runs": str(timing.min_runs),
        "--min-seconds": str(timing.seconds),
    }
    arguments = [part for pair in flags.items() for part in pair]
    run = SshDevice(address, python, Path(config) if config else None).bench(path, arguments, tell)
    if run.results is not None and run.results.get("manifest_sha256") != wanted:
        raise StageFailed("the device answered about another bundle", where=str(address))
    return run
