"""Which licences the core may pull in."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import check_licences


@pytest.mark.parametrize(
    ("licence", "verdict"),
    [
        ("MIT", "ok"),
        ("BSD 3", "ok"),
        ("Apache 2.0; Apache Software License", "ok"),
        ("GPL-3.0-or-later", "refused"),
        ("AGPL-3.0-only", "refused"),
        ("GNU General Public License v3 (GPLv3)", "refused"),
        ("GNU Affero General Public License v3", "refused"),
        ("LGPL-2.1-or-later", "lgpl"),
        ("GNU Lesser General Public License v2 (LGPLv2)", "lgpl"),
        ("LGPLv3; GPLv2", "refused"),
        ("MIT OR GPL-2.0-only", "ok"),
        ("MIT AND GPL-2.0-only", "refused"),
        ("(MIT OR Apache-2.0) AND AGPL-3.0-only", "refused"),
        ("MIT AND LGPL-2.1-or-later", "lgpl"),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", "ok"),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", "refused"),
        ("", "unknown"),
        ("UNKNOWN", "unknown"),
    ],
)
def test_verdicts(licence: str, verdict: str) -> None:
    assert check_licences.verdict_of(licence) == verdict


def install(folder: Path, name: str, *headers: str) -> None:
    """Make a package that only has metadata."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *headers]
    (info / "METADATA").write_text("\n".join(lines) + "\n", "utf-8")


def test_a_gpl_package_deep_in_the_tree_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "rootpkg", "Requires-Dist: midpkg[fast]", "Requires-Dist: gone; extra == 'x'")
    install(tmp_path, "midpkg", "License: MIT", "Requires-Dist: leafpkg; extra == 'fast'")
    install(tmp_path, "leafpkg", "Classifier: License :: OSI Approved :: GNU GPLv3")
    monkeypatch.syspath_prepend(str(tmp_path))

    found = {finding.name: finding.verdict for finding in check_licences.check("rootpkg")}
    assert found == {"midpkg": "ok", "leafpkg": "refused"}
    assert check_licences.main(["--root", "rootpkg"]) == 1
    assert "not acceptable: leafpkg" in capsys.readouterr().out
    assert check_licences.main(["--root", "midpkg"]) == 0


def test_a_package_that_is_missing_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "lonelypkg", "Requires-Dist: surely-not-installed")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PackageNotFoundError):
        check_licences.check("lonelypkg")
    assert check_licences.main(["--root", "lonelypkg"]) == 2


def test_a_long_text_is_judged_by_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "wordypkg", "License: BSD 3-Clause", "        compatible with the GPL")
    install(tmp_path, "wordyroot", "Requires-Dist: wordypkg")
    monkeypatch.syspath_prepend(str(tmp_path))
    (finding,) = check_licences.check("wordyroot")
    assert (finding.licence, finding.verdict) == ("BSD 3-Clause", "ok")
