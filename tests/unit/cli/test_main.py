"""The list of verbs, made without reading their flags."""

from __future__ import annotations

import copy

from typer.testing import CliRunner

from edgemtl.cli import main


def test_the_list_of_verbs_is_the_same_without_their_flags() -> None:
    bare = copy.deepcopy(main.app)
    main._forget_flags(bare)
    whole, short = (CliRunner().invoke(app, ["--help"]) for app in (main.app, bare))
    assert whole.exit_code == short.exit_code == 0
    assert "compile" in whole.output and "farm" in whole.output
    assert short.output == whole.output
    assert "--target" in CliRunner().invoke(main.app, ["compile", "--help"]).output
