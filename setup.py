"""Puts targets/, calib_data/ and an example into the built package, and says where the project is.

In a checkout they lie beside the package, where people look for them. An installation has no
"beside", so there they become ``edgemtl/_targets``, ``edgemtl/_calib_data`` and
``edgemtl/_examples``. All else is said in pyproject.toml.

Who publishes a wheel names the project's address: ``EDGEMTL_URL=https://... make wheel``.
"""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: of examples/; the others are left out for their size (edgemtl/pipeline/examples.py: FILES)
EXAMPLES = ("mos_t.pt", "picture.jpg", "README.md")


def urls() -> dict[str, str]:
    """Links of the metadata."""
    found = {"License": "https://www.apache.org/licenses/LICENSE-2.0"}
    home = os.environ.get("EDGEMTL_URL", "").rstrip("/")
    if home:
        found["Source"] = home
        found["Documentation"] = f"{home}/blob/main/docs/index.md"
        found["Changelog"] = f"{home}/blob/main/CHANGELOG.md"
        found["Issues"] = f"{home}/issues"
    return found


class BuildWithData(build_py):
    """The usual build, then the folders; an editable installation keeps using the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source in ("targets", "calib_data"):
            destination = Path(self.build_lib) / "edgemtl" / f"_{source}"
            shutil.rmtree(destination, ignore_errors=True)  # left by an earlier build
            shutil.copytree(source, destination)
        destination = Path(self.build_lib) / "edgemtl" / "_examples"
        shutil.rmtree(destination, ignore_errors=True)
        destination.mkdir(parents=True)
        for name in EXAMPLES:
            shutil.copyfile(Path("examples") / name, destination / name)


setup(cmdclass={"build_py": BuildWithData}, project_urls=urls())
