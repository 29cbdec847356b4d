"""Fixtures of the runner's tests."""

from support.tiny_bundle import bundle_path, contents

__all__ = ["bundle_path", "contents"]
