"""Fixtures of the bundle's tests."""

from support.tiny_bundle import bundle_path, contents

__all__ = ["bundle_path", "contents"]
