"""Errors a user can meet, each bound to one documented exit code.

Every error is one clear sentence, the place it concerns, and the next step; the command line
prints exactly that and no traceback. Code that fails in a way the user can act on raises one of
these classes; anything else is a defect of ours and leaves with exit code 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every verb (documented in docs/exit-codes.md)."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    INPUT_REFUSED = 3
    STAGE_FAILED = 4
    PARITY = 5
    ACCURACY_GATE = 6
    COST_GATE = 7
    UNAVAILABLE = 8
    UNSTABLE = 9
    VERIFICATION = 10


#: When several outcomes apply at once the first of these wins: what the user put in comes before
#: what was measured, and "could not be measured" comes last because it says least.
SERIOUSNESS: tuple[ExitCode, ...] = (
    ExitCode.UNEXPECTED,
    ExitCode.USAGE,
    ExitCode.INPUT_REFUSED,
    ExitCode.STAGE_FAILED,
    ExitCode.PARITY,
    ExitCode.VERIFICATION,
    ExitCode.ACCURACY_GATE,
    ExitCode.COST_GATE,
    ExitCode.UNSTABLE,
    ExitCode.UNAVAILABLE,
)


def most_serious(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the exit code that a run with all these outcomes leaves with (OK for none)."""
    found = set(codes) - {ExitCode.OK}
    return next((code for code in SERIOUSNESS if code in found), ExitCode.OK)


class EdgemtlError(Exception):
    """Base of all errors shown to a user.

    Args:
        message: one sentence saying what was wrong.
        where: file, key, layer or device the sentence is about.
        hint: the next step, as an instruction.
    """

    exit_code: ExitCode = ExitCode.UNEXPECTED
    #: the next step for errors of this kind that name none of their own
    general_hint: str = "run it again with EDGEMTL_DEBUG=1 and report what it says"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = self.message if self.where is None else f"{self.where}: {self.message}"
        return text if self.hint is None else f"{text} ({self.hint})"

    def to_dict(self) -> dict[str, str]:
        """Plain data for ``run.json``: ``message``, and ``where`` and ``hint`` if there are any."""
        parts = {"message": self.message, "where": self.where, "hint": self.hint}
        return {key: text for key, text in parts.items() if text is not None}


def unexpected(error: Exception) -> EdgemtlError:
    """The one sentence for an exception that nobody foresaw."""
    return EdgemtlError(
        f"unexpected {type(error).__name__}: {error}",
        hint="this is a defect in EdgeMTL; EDGEMTL_DEBUG=1 shows where",
    )


class UsageError(EdgemtlError):
    """A flag, a recipe key or a value that does not make sense."""

    exit_code = ExitCode.USAGE
    general_hint = "'edgemtl VERB --help' shows the flags, 'edgemtl init' the keys of a recipe"


class InputRefused(EdgemtlError):
    """An input file that is unsafe, unsupported or corrupt."""

    exit_code = ExitCode.INPUT_REFUSED
    general_hint = "nothing was run or changed; give another file or folder"


class StageFailed(EdgemtlError):
    """A stage of the pipeline, or an output location, that does not work."""

    exit_code = ExitCode.STAGE_FAILED
    general_hint = "'edgemtl doctor' tells what works here; the run's log.txt what the stage said"


class ParityFailed(EdgemtlError):
    """Two forms of the same network whose outputs differ by more than the tolerance."""

    exit_code = ExitCode.PARITY
    general_hint = "'edgemtl parity A B --bisect' names the first layer that differs"


class CostGateFailed(EdgemtlError):
    """Latency, size or cost over its limit."""

    exit_code = ExitCode.COST_GATE
    general_hint = "compress more, or change the gate"


class GatesFailed(EdgemtlError):
    """Results that are not good enough, raised where somebody asks for that (``raise_for_gates``).

    Its ``exit_code`` is what the verb would leave with: 6 or 7, 8 for a gate that was not measured,
    or 9 for a measurement that is not stable.
    """

    exit_code = ExitCode.ACCURACY_GATE
    general_hint = "compress less, give more training pictures, or change the gate"

    def __init__(
        self,
        message: str,
        exit_code: ExitCode = ExitCode.ACCURACY_GATE,
        *,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.exit_code = exit_code


class TargetUnavailable(EdgemtlError):
    """A target, device or optional package that is not here."""

    exit_code = ExitCode.UNAVAILABLE
    general_hint = "'edgemtl doctor' tells what is missing and how to install it"


class VerificationFailed(EdgemtlError):
    """A bundle whose hashes or self-test vectors do not hold."""

    exit_code = ExitCode.VERIFICATION
    general_hint = "do not use it; fetch or build it again"


_BY_NAME = {
    kind.__name__: kind
    for kind in (
        EdgemtlError,
        UsageError,
        InputRefused,
        StageFailed,
        ParityFailed,
        CostGateFailed,
        TargetUnavailable,
        VerificationFailed,
    )
}


def as_data(error: EdgemtlError) -> dict[str, str | None]:
    """An error as plain data, for another process; :func:`from_data` reads it there."""
    # The nearest class that both ends know: a subclass of one of ours stands for it.
    kind = next(c.__name__ for c in type(error).__mro__ if c.__name__ in _BY_NAME)
    return {"kind": kind, "message": error.message, "where": error.where, "hint": error.hint}


def from_data(data: Mapping[str, str | None]) -> EdgemtlError:
    """The error that another process met, of the same class and so with the same exit code."""
    kind = _BY_NAME.get(str(data.get("kind")), StageFailed)
    return kind(str(data.get("message")), where=data.get("where"), hint=data.get("hint"))
