"""The command line called inside the test's process, with everything it says."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgemtl.cli.main import main


@dataclass(frozen=True)
class Told:
    """What a command left with.

    Attributes:
        code: exit code.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    def error(self) -> str:
        """The one ``error:`` line, after checking that it is one and that no traceback is there."""
        assert "Traceback" not in self.err + self.out
        lines = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("error:").strip()

    def hint(self) -> str:
        """The ``next:`` line that follows the error."""
        lines = self.err.splitlines()
        after = [b for a, b in itertools.pairwise(lines) if a.startswith("error:")]
        assert after and after[0].startswith("next:"), self.err
        return after[0].removeprefix("next:").strip()


def edgemtl(*arguments: object) -> Told:
    """Run ``edgemtl ARGUMENTS`` as its console script would."""
    out, err = io.StringIO(), io.StringIO()
    with _arguments(arguments), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    assert isinstance(code, int)
    return Told(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _arguments(arguments: tuple[object, ...]) -> Iterator[None]:
    kept = sys.argv
    sys.argv = ["edgemtl", *(str(argument) for argument in arguments)]
    try:
        yield
    finally:
        sys.argv = kept
