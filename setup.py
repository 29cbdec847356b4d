"""Puts targets/ and calib_data/ into the built package; all else is said in pyproject.toml.

In a checkout they lie beside the package, where people look for them. An installation has no
"beside", so there they become ``edgemtl/_targets`` and ``edgemtl/_calib_data``.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """The usual build, then the two folders; an editable installation keeps using the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source in ("targets", "calib_data"):
            destination = Path(self.build_lib) / "edgemtl" / f"_{source}"
            shutil.rmtree(destination, ignore_errors=True)  # left by an earlier build
            shutil.copytree(source, destination)


setup(cmdclass={"build_py": BuildWithData})
