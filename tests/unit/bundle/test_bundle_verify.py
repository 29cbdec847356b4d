"""Altered files and altered networks are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_bundle import (
    SIZE,
    PlainSession,
    load_plain,
    members_of,
    rehashed,
    with_manifest,
    write_members,
    write_network,
)

from edgemtl.backends import registry
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle import BundleContents, read, record_selftest, verify, write_bundle
from edgemtl.bundle.selftest import TOLERANCES, npy_bytes
from edgemtl.devices.runner.cli import main
from edgemtl.devices.runner.container import ZipFiles
from edgemtl.devices.runner.selftest import OutputCheck
from edgemtl.errors import ExitCode, InputRefused, TargetUnavailable, VerificationFailed

MEMBERS = (
    "LICENSES/edgemtl.txt",
    "LICENSES/model.txt",
    "README.txt",
    "__main__.py",
    "model.onnx",
    "runner.pyz",
    "sbom.cdx.json",
    "selftest/expected-00.npy",
    "selftest/expected-01.npy",
    "selftest/input.npy",
)


def test_a_good_bundle(bundle_path: Path) -> None:
    report = verify(bundle_path, load_plain)
    assert report.files == len(MEMBERS)
    assert report.cases == 2
    assert [check.output for check in report.outputs] == ["étiquettes.logits", "depth.depth"]
    assert all(check.passed for check in report.outputs)
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_members_tested_below_are_all(bundle_path: Path) -> None:
    assert {*MEMBERS, "manifest.json"} == set(members_of(bundle_path))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_tampered_member_is_named(bundle_path: Path, name: str) -> None:
    members = members_of(bundle_path)
    middle = len(members[name]) // 2
    changed = bytearray(members[name])
    changed[middle] ^= 1
    for content in (bytes(changed), members[name] + b"x", members[name][:-1]):
        write_members(bundle_path, {**members, name: content})
        with pytest.raises(VerificationFailed, match=f"'{name}'") as caught:
            verify(bundle_path, load_plain)
        assert caught.value.exit_code == ExitCode.VERIFICATION


@pytest.mark.parametrize("name", [*MEMBERS, "manifest.json"])
def test_a_bit_flipped_in_place_is_named(bundle_path: Path, name: str) -> None:
    content = members_of(bundle_path)[name]
    data = bytearray(bundle_path.read_bytes())
    start = data.index(content)
    data[start + len(content) // 2] ^= 1
    bundle_path.write_bytes(data)
    with pytest.raises(VerificationFailed, match=f"'{name}'"):
        verify(bundle_path, load_plain)


def test_altered_weights_fail_the_selftest_though_the_hashes_hold(
    bundle_path: Path, tmp_path: Path
) -> None:
    members = members_of(bundle_path)
    members["model.onnx"] = write_network(tmp_path / "n.onnx", scale=1.01).read_bytes()
    write_members(bundle_path, rehashed(members))
    with pytest.raises(VerificationFailed, match=r"output 'étiquettes\.logits' differs"):
        verify(bundle_path, load_plain)


def test_a_network_that_answers_nan_fails(bundle_path: Path, tmp_path: Path) -> None:
    members = members_of(bundle_path)
    members["model.onnx"] = write_network(tmp_path / "n.onnx", scale=np.nan).read_bytes()
    write_members(bundle_path, rehashed(members))
    with pytest.raises(VerificationFailed, match="not finite"):
        verify(bundle_path, load_plain)


def test_an_artefact_that_does_not_load_is_an_error_of_its_loader(bundle_path: Path) -> None:
    def absent(artefact: Artefact, options: SessionOptions) -> Session:
        raise TargetUnavailable("no such runtime here")

    with pytest.raises(TargetUnavailable):
        verify(bundle_path, absent)


def test_hashes_are_checked_before_anything_is_loaded(bundle_path: Path) -> None:
    members = {**members_of(bundle_path), "README.txt": b"other"}
    write_members(bundle_path, members)

    def never(artefact: Artefact, options: SessionOptions) -> Session:
        raise AssertionError("loaded an unverified artefact")

    with pytest.raises(VerificationFailed, match=r"README\.txt"):
        verify(bundle_path, never)


def test_the_work_grows_with_the_members_and_not_with_their_square(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    listed: list[int] = []

    class Counting(ZipFiles):
        def __init__(self, path: str) -> None:
            opened.append(path)
            super().__init__(path)

        def names(self) -> list[str]:
            listed.append(1)
            return super().names()

    monkeypatch.setattr(read, "ZipFiles", Counting)
    counts = []
    for extra in (10, 200):
        members = members_of(bundle_path)
        members |= {f"LICENSES/more-{number}.txt": b"text" for number in range(extra)}
        opened.clear(), listed.clear()
        verify(write_members(tmp_path / f"{extra}.edgemtl", rehashed(members)), load_plain)
        counts.append((len(opened), len(listed)))
    assert counts[0] == counts[1]


def test_a_session_gets_the_recorded_options(bundle_path: Path) -> None:
    seen = []

    def load(artefact: Artefact, options: SessionOptions) -> Session:
        seen.append((artefact.backend, artefact.target, dict(artefact.facts), options))
        return load_plain(artefact, options)

    verify(bundle_path, load)
    facts = {"precision": ["fp32"]}
    assert seen == [("onnxruntime", "cpu", facts, SessionOptions(threads=1))]


def test_a_recorded_array_must_not_be_a_pickle(bundle_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], object), allow_pickle=True)
    members = members_of(bundle_path)
    members["selftest/input.npy"] = (tmp_path / "evil.npy").read_bytes()
    write_members(bundle_path, rehashed(members))
    with pytest.raises(VerificationFailed, match=r"'selftest/input\.npy' is not a readable array"):
        verify(bundle_path, load_plain)


def test_recorded_arrays_that_announce_too_much_or_fit_nothing(bundle_path: Path) -> None:
    members = members_of(bundle_path)
    huge = members["selftest/input.npy"].replace(b"(2, 1, 3, 6, 8)", b"(9, 9, 9, 9, 9)")
    other = npy_bytes(np.zeros((2, 1, 3, 4, 4), np.float32))
    for content in (huge, other, b"\x93NUMPY"):
        write_members(bundle_path, rehashed({**members, "selftest/input.npy": content}))
        with pytest.raises(VerificationFailed):
            verify(bundle_path, load_plain)


def test_a_tolerance_must_be_a_number(bundle_path: Path) -> None:
    def edit(manifest: dict) -> None:  # type: ignore[type-arg]
        manifest["selftest"]["expected"][0]["max_abs_error"] = float("inf")

    with pytest.raises(InputRefused):
        verify(with_manifest(bundle_path, edit), load_plain)


def test_tolerance_follows_the_size_of_the_output(tmp_path: Path) -> None:
    inputs = np.ones((1, 1, 3, *SIZE), np.float32)
    small = record_selftest(PlainSession(write_network(tmp_path / "a.onnx")), inputs)
    large = record_selftest(PlainSession(write_network(tmp_path / "b.onnx", scale=100)), inputs)
    name = "étiquettes.logits"
    ratio = large.max_abs_error[name] / small.max_abs_error[name]
    assert ratio == pytest.approx(100, rel=1e-4)
    assert small.max_abs_error[name] == pytest.approx(1e-3 * np.abs(small.expected[name]).max())


def test_the_registry_is_the_default_loader(bundle_path: Path) -> None:
    assert verify(bundle_path).cases == 2


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_what_a_real_backend_compiled_runs_in_the_runner_too(
    tmp_path: Path, contents: BundleContents, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = registry.get(name)
    if not backend.availability().ok:
        pytest.skip(backend.availability().reason)
    target = contents.target.model_copy(update={"backend": name})
    folder = tmp_path / "real"
    folder.mkdir()
    artefact = backend.compile(contents.onnx, target, folder)
    session = backend.load(artefact, contents.session)
    selftest = record_selftest(session, contents.selftest.inputs)
    path = tmp_path / "real.edgemtl"
    write_bundle(path, replace(contents, artefact=artefact, target=target, selftest=selftest))
    report = verify(path)
    assert main(["verify", "--bundle", str(path)], "") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["runtime"]["name"] == name
    # The runner sets its session like the backend, so it reproduces it to the last digits.
    for check in (*report.outputs, *(OutputCheck(**o) for o in document["selftest"]["outputs"])):
        assert check.max_abs_error is not None
        assert check.max_abs_error <= check.allowed / 10


class Nudged(PlainSession):
    """Another way of computing: some values move by a step, or all by a little."""

    def __init__(self, path: Path, one: float = 0.0, every: float = 0.0) -> None:
        super().__init__(path)
        self._one, self._every = one, every

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        answers = super().run_impl(images)
        for values in answers.values():
            values += self._every * values.std()
            values.flat[0] += self._one * np.abs(values).max()
        return answers


@pytest.mark.parametrize(
    ("precision", "one", "every", "fault"),
    [
        ("fp32", 5e-4, 0.0, ""),
        ("fp32", 5e-3, 0.0, "largest error"),
        ("fp16", 2e-2, 1e-2, ""),
        ("fp16", 1e-3, 2.4e-2, "mean error"),
        ("int8", 0.2, 0.1, ""),
        ("int8", 0.1, 0.24, "mean error"),
        ("int8", 0.9, 0.0, "largest error"),
    ],
)
def test_a_precision_has_its_own_tolerance(
    tmp_path: Path, contents: BundleContents, precision: str, one: float, every: float, fault: str
) -> None:
    inputs = contents.selftest.inputs
    selftest = record_selftest(PlainSession(contents.onnx), inputs, TOLERANCES[precision])
    path = tmp_path / "net.edgemtl"
    write_bundle(path, replace(contents, selftest=selftest))

    def other(artefact: Artefact, options: SessionOptions) -> Session:
        return Nudged(artefact.folder / artefact.files[0], one, every)

    if not fault:
        assert verify(path, other).cases == 2
        return
    with pytest.raises(VerificationFailed, match=fault):
        verify(path, other)
