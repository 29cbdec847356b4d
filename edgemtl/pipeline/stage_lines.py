"""How a run goes, as one log message per stage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgemtl.pipeline.stage import StageRecord

_log = logging.getLogger(__name__)


class StageLines:
    """A :class:`edgemtl.pipeline.compile.Reporter` that logs what every stage came to."""

    def __init__(self) -> None:
        self.head = ""

    def started(self, position: int, total: int, stage: str) -> None:
        """A stage has begun."""
        self.head = f"[{position:>2}/{total}] {stage:<20}"

    def finished(self, record: StageRecord) -> None:
        """A stage has ended."""
        words = {"cached": "cached", "skipped": "skipped", "failed": "FAILED"}
        how = words.get(record.status, f"{record.seconds:.1f} s")
        said = record.notes or ("",)
        _log.info(f"{self.head} {how:>8}  {said[0]}")
        for line in said[1:]:
            _log.info(f"{'':<28} {'':>8}  {line}")
