"""The wheel in an empty folder: its metadata, what is in it, and README's quick example."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from support.dense_work import NO_BENCH

from edgemtl import targets
from edgemtl.pipeline.examples import FILES

ROOT = Path(__file__).resolve().parents[2]
#: what the build reads
PARTS = ("edgemtl", "targets", "calib_data", "examples", "constraints.txt", "LICENSE")
PARTS += ("MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
#: runs each line of standard input as the console script would, in one process
DRIVER = """
import json, shlex, sys
import edgemtl
from edgemtl.cli.main import main
codes = []
for line in sys.stdin.read().splitlines():
    sys.argv = shlex.split(line)
    try:
        main()
    except SystemExit as leaving:
        codes.append(leaving.code)
print(json.dumps([edgemtl.__file__, codes]))
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network and without an environment of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PARTS:  # built beside the checkout, which stays as it is
        (folder / name).symlink_to(ROOT / name)
    (folder / "dist").mkdir()
    env = {**os.environ, "EDGEMTL_URL": "https://example.org/edgemtl/"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, "dist"], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder: a wheel of Python alone is a zip of what goes there."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def metadata(site: Path) -> Message:
    (info,) = site.glob("*.dist-info")
    return Parser().parsestr((info / "METADATA").read_text("utf-8"))


def test_the_metadata_say_whose_it_is_and_where(metadata: Message, site: Path) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11" and metadata["Keywords"]
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert urls["Source"] == "https://example.org/edgemtl"
    assert urls["Changelog"].startswith(urls["Source"]) and "License" in urls
    classifiers = metadata.get_all("Classifier", [])
    assert "Operating System :: POSIX :: Linux" in classifiers
    # refused beside a License-Expression; macOS and Windows are not tried
    assert not [c for c in classifiers if re.match("License|.*(MacOS|Windows|Independent)", c)]
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert "edgemtl = edgemtl.cli.main:main" in entry_points.read_text("utf-8")


def test_all_that_lies_beside_the_package_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = set(archive.namelist())
    expected = {
        f"edgemtl/_{path.relative_to(ROOT)}"
        for folder in ("targets", "calib_data")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    expected |= {f"edgemtl/_examples/{name}" for name in FILES}
    expected |= {
        str(path.relative_to(ROOT))
        for path in (ROOT / "edgemtl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - members == set()
    strangers = {name for name in members - expected if ".dist-info/" not in name}
    assert strangers == set()
    assert {f"edgemtl/_targets/{name}.toml" for name in targets.shipped()} <= members


def test_the_readme_says_its_size(wheel: Path) -> None:
    said = re.search(r"The wheel has (\d+) MB", (ROOT / "README.md").read_text("utf-8"))
    assert said is not None and abs(wheel.stat().st_size / 1e6 - int(said[1])) < 1


def test_the_quick_example_works_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    block = page.split("## Quick example")[1].split("```")[1]
    lines = [line.split("  #")[0].strip() for line in block.strip().splitlines()]
    verbs = [shlex.split(line)[1] for line in lines]
    assert verbs == ["examples", "inspect", "compile", "verify", "run"]
    # Times mean nothing where tests run, and a few pictures do.
    quick = shlex.join([*NO_BENCH, "--set=data.limit=6"])
    lines = [f"{line} {quick}" if " compile " in line else line for line in lines]
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER],
        input="\n".join(lines),
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    place, codes = json.loads(done.stdout.splitlines()[-1])
    assert Path(place).is_relative_to(site)
    assert codes == [0, 0, 0, 0, 0], done.stdout + done.stderr
    for name in ("examples/mos_t.pt", "examples/picture.jpg", "runs/first/report.html", "seen.png"):
        assert (tmp_path / name).stat().st_size > 1000
