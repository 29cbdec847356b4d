"""How well the rules say before compiling what a runtime does: held against what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnx import load_from_string

from edgemtl.backends.conformance.rules import known_problems
from edgemtl.backends.rewriting.settle import settle
from edgemtl.backends.tensorrt.optable import device_only, table_problems
from runtimes.cases import Case
from runtimes.kept import Found

#: rules were written with these variants in view, and are judged on the others
WRITTEN_FROM = ("constants", "17")


@dataclass
class Verdict:
    """Of one runtime on one set of cases.

    Attributes:
        bad: cases that the runtime alone gets wrong, fails on late, or dies of.
        named: of these, how many a rule names.
        right: cases that the runtime alone gets right.
        refused: of these, how many a rule refuses.
        missed: names of bad cases that no rule names.
        wrongly: names of right cases that a rule refuses.
    """

    bad: int = 0
    named: int = 0
    right: int = 0
    refused: int = 0
    missed: list[str] = field(default_factory=list)
    wrongly: list[str] = field(default_factory=list)

    def line(self) -> str:
        """What is printed."""
        named = self.named / self.bad if self.bad else 1.0
        refused = self.refused / self.right if self.right else 0.0
        return (
            f"{self.named} of {self.bad} wrong and late cases named ({named:.1%}), "
            f"{self.refused} of {self.right} right cases refused ({refused:.1%})"
        )


def judge(cases: Iterable[Case], found: Mapping[str, Found], runtime: str) -> dict[str, Verdict]:
    """Set of cases ("seen", "unseen") -> how the rules do on it.

    Args:
        cases: all.
        found: case -> what the runtime alone did.
        runtime: whose rules.
    """
    verdicts = {"seen": Verdict(), "unseen": Verdict()}
    for case in cases:
        one = found.get(case.name)
        if one is None or one.outcome in ("early", "ours"):
            continue
        seen = case.variant in WRITTEN_FROM and not drawn_later(case)
        verdict = verdicts["seen" if seen else "unseen"]
        model = load_from_string(case.model)
        named = bool(known_problems(model, runtime, lambda: ""))
        if one.outcome != "right":
            verdict.bad += 1
            verdict.named += named
            if not named:
                verdict.missed.append(case.name)
            continue
        verdict.right += 1
        settle(model, runtime)
        if named and any(p.fatal for p in known_problems(model, runtime, lambda: "")):
            verdict.refused += 1
            verdict.wrongly.append(case.name)
    return verdicts


@dataclass
class Agreement:
    """Of the operator table with the parser and builder of TensorRT-RTX, on the same cases.

    Attributes:
        both, neither: cases that both take, that both refuse.
        table_only: taken by the table, not built by TensorRT-RTX.
        device: the same, but told as "only the device can say".
        built_only: refused by the table, built by TensorRT-RTX.
    """

    both: int = 0
    neither: int = 0
    table_only: list[str] = field(default_factory=list)
    device: int = 0
    built_only: list[str] = field(default_factory=list)

    def line(self) -> str:
        """What is printed."""
        return (
            f"{self.both} cases taken by both, {self.neither} by neither, {len(self.built_only)} "
            f"built but refused by the table, {self.device} left to the device; "
            f"{len(self.table_only)} taken by the table and not built"
        )


def against_parser(
    cases: Iterable[Case], found: Mapping[str, Found], version: tuple[int, int]
) -> Agreement:
    """Hold the table of a version against what TensorRT-RTX built."""
    told = Agreement()
    for case in cases:
        one = found.get(case.name)
        if one is None:
            continue
        model = load_from_string(case.model)
        taken = not any(problem.fatal for problem in table_problems(model, version))
        built = one.outcome == "right"
        told.both += taken and built
        told.neither += not taken and not built
        if built and not taken:
            told.built_only.append(case.name)
        if taken and not built:
            told.device += bool(device_only(model))
            told.table_only += [] if device_only(model) else [case.name]
    return told


def drawn_later(case: Case) -> bool:
    """Whether the case has another seed than the one that rules were written with."""
    return case.source == "random" and case.name.split("/")[1].split("-")[1] != "1"


def counts(found: Iterable[Found]) -> Counter[str]:
    """right, early, late, wrong; what died counts as late."""
    told = Counter(one.outcome for one in found)
    return Counter(
        {
            "right": told["right"],
            "refused early": told["early"] + told["ours"],
            "refused late": told["late"] + told["died"],
            "wrong": told["wrong"],
        }
    )
