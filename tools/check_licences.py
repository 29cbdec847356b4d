"""Lists the licences of everything the core installs; no GPL or AGPL may be among them.

Walks the requirements of the installed ``edgemtl`` by their metadata, extras left out unless named.
Exit code 1 when a package is under the GPL or AGPL, or says nothing about its licence.

    python tools/check_licences.py [--extra openvino] [--root edgemtl]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any, Literal

from license_expression import ExpressionError, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Verdict = Literal["ok", "lgpl", "refused", "unknown"]

#: A package's own licence says nothing of the shared libraries inside its wheel. These were looked
#: at by hand in the pinned wheels; all are loaded dynamically and can be replaced by the user.
BUNDLED = {
    "matplotlib": "FreeType (FTL OR GPL-2.0-or-later, taken under the FTL)",
    "numpy": "libgfortran (GPL-3.0 WITH GCC-exception-3.1), libquadmath (LGPL-2.1-or-later)",
    "opencv-python-headless": "FFmpeg (LGPL-2.1-or-later), libquadmath (LGPL-2.1-or-later), "
    "libgfortran (GPL-3.0 WITH GCC-exception-3.1)",
    "scipy": "libgfortran (GPL-3.0 WITH GCC-exception-3.1), libquadmath (LGPL-2.1-or-later)",
    "torch": "libgomp (GPL-3.0 WITH GCC-exception-3.1)",
}

_LGPL = re.compile(r"LGPL|(Lesser|Library) General Public", re.IGNORECASE)
_GPL = re.compile(r"GPL|General Public", re.IGNORECASE)
_WORST_FIRST: tuple[Verdict, ...] = ("refused", "unknown", "lgpl", "ok")


@dataclass(frozen=True)
class Finding:
    """One installed package.

    Attributes:
        name: as the package writes it.
        version: installed version.
        licence: what its metadata declares, empty when nothing.
        verdict: "ok" (neither GPL nor LGPL), "lgpl", "refused" (GPL, AGPL) or "unknown".
    """

    name: str
    version: str
    licence: str
    verdict: Verdict


def verdict_of(licence: str) -> Verdict:
    """Judge an SPDX expression, or the words a package uses instead of one.

    Of ``A OR B`` the better counts, of ``A AND B`` the worse. The GPL with GCC's runtime exception
    does not reach the program that uses the library, so it is ok.
    """
    if not licence.strip() or licence.strip().upper() == "UNKNOWN":
        return "unknown"
    try:
        parsed = get_spdx_licensing().parse(licence, validate=True)
    except ExpressionError:
        return _verdict_of_words(licence)
    return _verdict_of_expression(parsed)


def _verdict_of_expression(parsed: Any) -> Verdict:
    operator = getattr(parsed, "operator", None)
    if operator is None:
        text = str(parsed)
        return "ok" if "WITH GCC-exception" in text else _verdict_of_words(text)
    ranks = [_WORST_FIRST.index(_verdict_of_expression(part)) for part in parsed.args]
    return _WORST_FIRST[max(ranks) if operator.strip() == "OR" else min(ranks)]


def _verdict_of_words(text: str) -> Verdict:
    # Lesser first: its name contains that of the stronger licence.
    without_lesser = re.sub(r"LGPL|(Lesser|Library) General Public", "", text, flags=re.IGNORECASE)
    if _GPL.search(without_lesser):
        return "refused"
    return "lgpl" if _LGPL.search(text) else "ok"


def declared(package: Distribution) -> str:
    """What a package says its licence is: the SPDX expression, else field and classifiers.

    A whole licence text in the field is not searched for names, as such texts discuss other
    licences; its first line stands for it when there is no classifier.
    """

    def entries(key: str) -> list[str]:
        return package.metadata.get_all(key) or []

    if expression := "".join(entries("License-Expression")):
        return expression
    field = "".join(entries("License")).strip()
    words = [] if "\n" in field else [field]
    for classifier in entries("Classifier"):
        if classifier.startswith("License ::"):
            words.append(classifier.split(" :: ")[-1])
    return "; ".join(dict.fromkeys(word for word in words if word)) or field.partition("\n")[0]


def closure(root: str, extras: Iterable[str] = ()) -> list[Distribution]:
    """The installed packages that ``root[extras]`` pulls in, itself left out, sorted by name.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    pending = [(root, extra) for extra in ("", *extras)]
    while pending:
        name, extra = pending.pop()
        key = (canonicalize_name(name), extra)
        if key in seen:
            continue
        seen.add(key)
        package = distribution(name)
        found[key[0]] = package
        for line in package.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                pending += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    del found[canonicalize_name(root)]
    return [found[name] for name in sorted(found)]


def check(root: str = "edgemtl", extras: Iterable[str] = ()) -> list[Finding]:
    """Judge every package of :func:`closure`."""
    findings = []
    for package in closure(root, extras):
        licence = declared(package)
        findings.append(
            Finding(package.metadata["Name"], package.version, licence, verdict_of(licence))
        )
    return findings


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0 when nothing is refused or unknown, 1 otherwise, 2 when incomplete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", default="edgemtl", help="installed package to start from")
    parser.add_argument("--extra", action="append", default=[], help="an extra to include")
    options = parser.parse_args(arguments)
    try:
        findings = check(options.root, options.extra)
    except PackageNotFoundError as error:
        print(f"not installed: {error.name} (the list would be incomplete)", file=sys.stderr)
        return 2
    for finding in findings:
        print(f"{finding.verdict:8} {finding.name} {finding.version}: {finding.licence or '-'}")
    print("\nLibraries inside those wheels, looked at by hand:")
    names = {canonicalize_name(finding.name) for finding in findings}
    for name in sorted(names & set(BUNDLED)):
        print(f"         {name}: {BUNDLED[name]}")
    bad = [finding.name for finding in findings if finding.verdict in ("refused", "unknown")]
    print(f"\n{len(findings)} packages; not acceptable: {', '.join(bad) or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
