"""The bundle: one file with a compiled network and everything needed to trust it on a device."""

from edgemtl.bundle.manifest import Manifest
from edgemtl.bundle.read import Bundle, open_bundle
from edgemtl.bundle.selftest import SelfTest, record_selftest
from edgemtl.bundle.verify import VerifyReport, verify
from edgemtl.bundle.write import BundleContents, write_bundle

__all__ = [
    "Bundle",
    "BundleContents",
    "Manifest",
    "SelfTest",
    "VerifyReport",
    "open_bundle",
    "record_selftest",
    "verify",
    "write_bundle",
]
