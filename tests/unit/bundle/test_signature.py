"""Signed bundles: who signed, what a signature holds, and what breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import edgemtl
from support.tiny_bundle import load_plain, members_of, rehashed, write_members

from edgemtl.bundle import open_bundle
from edgemtl.bundle.signature import private_key, public_key, sign_bundle
from edgemtl.bundle.verify import verify
from edgemtl.devices.runner.cli import main as runner_main
from edgemtl.devices.runner.container import SIGNATURE
from edgemtl.errors import InputRefused, VerificationFailed

pytest.importorskip("cryptography", reason="signatures need the extra 'sign'")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

Keys = tuple[Path, Path]


def write_private(path: Path, key: ed25519.Ed25519PrivateKey, password: bytes = b"") -> Path:
    lock = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    path.write_bytes(key.private_bytes(*form, lock))
    return path


@pytest.fixture
def make_keys(tmp_path: Path) -> Callable[[int], Keys]:
    def make(seed: int) -> Keys:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        public = tmp_path / f"{seed}.pub"
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        public.write_bytes(key.public_key().public_bytes(*form))
        return write_private(tmp_path / f"{seed}.pem", key), public

    return make


def test_a_signed_bundle_is_believed_by_who_has_the_key(
    bundle_path: Path, make_keys: Callable[[int], Keys]
) -> None:
    private, public = make_keys(1)
    before = members_of(bundle_path)
    signer = sign_bundle(bundle_path, private_key(private))
    assert {**before, SIGNATURE: b""}.keys() == members_of(bundle_path).keys()
    signed = bundle_path.read_bytes()
    assert sign_bundle(bundle_path, private_key(private)) == signer
    assert bundle_path.read_bytes() == signed  # the same again, byte for byte

    _, other = make_keys(2)
    report = verify(bundle_path, load_plain, [other, public])
    assert report.signed and report.signed_by == signer
    assert verify(bundle_path, load_plain).signed_by is None
    with pytest.raises(VerificationFailed, match=f"another key: {signer}"):
        verify(bundle_path, load_plain, [other])


def test_an_unsigned_bundle_is_not_believed(
    bundle_path: Path, make_keys: Callable[[int], Keys]
) -> None:
    assert not verify(bundle_path, load_plain).signed
    with pytest.raises(VerificationFailed, match="not signed"):
        verify(bundle_path, load_plain, [make_keys(1)[1]])


def test_an_altered_bundle_with_fresh_hashes_is_caught(
    bundle_path: Path, make_keys: Callable[[int], Keys]
) -> None:
    private, public = make_keys(1)
    sign_bundle(bundle_path, private_key(private))
    members = members_of(bundle_path)
    signature = members.pop(SIGNATURE)
    members["README.txt"] = b"do something else"
    write_members(bundle_path, {**rehashed(members), SIGNATURE: signature})
    assert verify(bundle_path, load_plain).signed  # the hashes hold: only the key tells
    with pytest.raises(VerificationFailed, match="does not fit"):
        verify(bundle_path, load_plain, [public])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"algorithm": "none"}',
        b'{"algorithm": "ed25519", "public_key": "zz", "signature": ""}',
        b'{"algorithm": "ed25519", "public_key": 7, "signature": []}',
        b"[" * 4000,
    ],
)
def test_a_signature_that_is_none_is_refused(
    bundle_path: Path, make_keys: Callable[[int], Keys], content: bytes
) -> None:
    write_members(bundle_path, {**members_of(bundle_path), SIGNATURE: content})
    with pytest.raises(VerificationFailed):
        verify(bundle_path, load_plain, [make_keys(1)[1]])


def test_a_huge_signature_is_not_read(bundle_path: Path, make_keys: Callable[[int], Keys]) -> None:
    write_members(bundle_path, {**members_of(bundle_path), SIGNATURE: b"x" * 5000})
    with pytest.raises(InputRefused, match=r"larger than 4096 bytes"):
        verify(bundle_path, load_plain, [make_keys(1)[1]])


def test_the_runner_takes_a_signed_bundle(
    bundle_path: Path, make_keys: Callable[[int], Keys], capsys: pytest.CaptureFixture[str]
) -> None:
    sign_bundle(bundle_path, private_key(make_keys(1)[0]))
    assert runner_main(["verify"], str(bundle_path)) == 0
    assert json.loads(capsys.readouterr().out)["manifest_sha256"]
    open_bundle(bundle_path)


def test_keys_that_are_none_are_refused(
    tmp_path: Path, bundle_path: Path, make_keys: Callable[[int], Keys]
) -> None:
    private, public = make_keys(1)
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing", "utf-8")
    locked = write_private(
        tmp_path / "locked.pem", ed25519.Ed25519PrivateKey.from_private_bytes(b"x" * 32), b"word"
    )
    curve = tmp_path / "curve.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    curve.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(*form, serialization.NoEncryption())
    )
    for path, words in (
        (wrong, "not a private key"),
        (public, "not a private key"),
        (locked, "password"),
        (curve, "not an Ed25519 key"),
        (tmp_path / "absent.pem", "cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        told = edgemtl("sign", bundle_path, "--sign-key", path)
        assert told.code == 3 and words in told.error()
    for path in (wrong, private, tmp_path / "absent.pub"):
        with pytest.raises(InputRefused):
            public_key(path)
    told = edgemtl("verify", bundle_path, "--trusted-key", wrong)
    assert told.code == 3 and "wrong.pem" in told.error()


def test_a_damaged_bundle_is_not_signed(
    bundle_path: Path, make_keys: Callable[[int], Keys]
) -> None:
    members = members_of(bundle_path)
    write_members(bundle_path, {**members, "README.txt": b"x" * len(members["README.txt"])})
    with pytest.raises(VerificationFailed):
        sign_bundle(bundle_path, private_key(make_keys(1)[0]))


def test_without_the_package_it_is_named(
    bundle_path: Path, make_keys: Callable[[int], Keys], monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = make_keys(1)
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    told = edgemtl("sign", bundle_path, "--sign-key", private)
    assert told.code == 8 and "edgemtl[sign]" in told.hint()
