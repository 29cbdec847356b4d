"""``bench BUNDLE --device``: the bundle measured where it belongs, results brought back."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

from edgemtl.backends import registry
from edgemtl.backends.base import Backend
from edgemtl.bundle.read import open_bundle
from edgemtl.devices.results import check_exit, checked_results
from edgemtl.devices.rpc import RpcAddress, RpcJob, bench
from edgemtl.devices.ssh import Address, DeviceRun, SshDevice
from edgemtl.errors import StageFailed, UsageError
from edgemtl.pipeline.benchmarking import BenchFiles
from edgemtl.pipeline.loaded_model import kind_of


def bench_on_device(asked: BenchFiles, device: str, python: str) -> DeviceRun:
    """Measure a bundle on a device.

    Args:
        asked: the bundle, threads, least runs and seconds; the rest does not reach the device.
        device: ``ssh://[user@]host[:port]``, or ``tvm-rpc://host:port[?key=NAME]``.
        python: interpreter on the device; a TVM server needs none.

    The environment variable ``EDGEMTL_SSH_CONFIG`` names another configuration for OpenSSH.

    Raises:
        UsageError: the address or the file is not of the right kind.
        InputRefused: the bundle is damaged.
        TargetUnavailable: the device cannot be reached, or not trusted.
        StageFailed: the results are those of another bundle, or none.
    """
    if (backend := registry.with_server(device)) is not None:
        return _bench_on_server(asked, backend, device)
    address, path = Address.parse(device), asked.path
    if kind_of(path) != "bundle":
        raise UsageError("a device measures bundles only", where=str(path))
    wanted = open_bundle(path).manifest_sha256
    config = os.environ.get("EDGEMTL_SSH_CONFIG")
    runner = SshDevice(address, python, Path(config) if config else None)
    run = runner.bench(path, asked.runner_flags())
    if run.results is not None and run.results.get("manifest_sha256") != wanted:
        raise StageFailed("the device answered about another bundle", where=str(address))
    return run


def _bench_on_server(asked: BenchFiles, backend: Backend, device: str) -> DeviceRun:
    """The same on a runtime's own server, which runs the artefact itself: its bundles only."""
    server = backend.capabilities.rpc
    assert server is not None
    address = RpcAddress.parse(device, server.scheme)
    path, how = asked.path, asked.how
    if kind_of(path) != "bundle":
        raise UsageError("a device measures bundles only", where=str(path))
    bundle = open_bundle(path)
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        artefact = bundle.artefact(Path(folder))
        if artefact.backend != backend.name or not artefact.files[0].endswith(server.suffix):
            raise UsageError(
                f"a {server.name} server runs bundles for {server.name}, this one is for "
                f"'{artefact.backend}'",
                where=str(path),
                hint="ssh://[user@]host runs every bundle",
            )
        recorded = bundle.selftest()
        job = RpcJob(
            artefact.folder / artefact.files[0],
            recorded.inputs,
            recorded.expected,
            recorded.max_abs_error,
            recorded.max_mean_error,
            bundle.session_options().threads if asked.threads is None else asked.threads,
            how.warmup_seconds,
            how.seconds,
            how.min_runs,
        )
        run = bench(backend, address, job)
    assert run.results is not None
    run = dataclasses.replace(run, results=checked_results(run.results, str(address)))
    check_exit(run.exit_code, run.results, str(address))
    assert run.results is not None
    facts = {"bundle": path.name, "manifest_sha256": bundle.manifest_sha256}
    return dataclasses.replace(run, results={"schema_version": 1, **facts, **run.results})
