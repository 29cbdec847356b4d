"""What tests of Arm code need."""

from __future__ import annotations

import shutil

import pytest

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.tvm import board
from edgemtl.backends.tvm.settings import options_of
from edgemtl.errors import TargetUnavailable


def skip_without_arm_tools(*programs: str) -> None:
    """Skip a test, with the reason, where TVM, the cross-compiler, qemu or ``programs`` miss."""
    state = registry.get("tvm").availability()
    if not state.ok:
        pytest.skip(state.reason)
    options = options_of(targets.load("rpi4"))
    for program in (options.compiler, options.emulator, *programs):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    try:
        board.runtime()
    except TargetUnavailable as error:
        pytest.skip(f"no aarch64 runtime: {error}")
