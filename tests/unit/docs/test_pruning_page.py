"""docs/pruning-howto.md: the numbers that it repeats from the code are those of the code."""

from __future__ import annotations

from pathlib import Path

from edgemtl.compress.compensation.descent import RUNGS
from edgemtl.pipeline.prune_default import FEWEST_IMAGES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "pruning-howto.md").read_text("utf-8")


def test_the_shares_at_which_held_out_images_are_looked_at() -> None:
    *first, last = (f"{100 * share:.0f}" for share in RUNGS)
    assert f"At {', '.join(first)} and {last} % of the cost" in " ".join(PAGE.split())


def test_the_images_that_the_default_needs() -> None:
    assert f"at least {FEWEST_IMAGES} pictures" in PAGE
