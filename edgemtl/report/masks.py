"""The report's section on networks chosen for each image."""

from __future__ import annotations

from typing import Any

from edgemtl.record.mask_story import MaskFacts, RouterFacts
from edgemtl.report import charts
from edgemtl.report.figures import (
    DASH,
    Figure,
    less,
    nothing,
    percent,
    pointer,
    scaled_figures,
    worse,
)

FILE = "mask.json"


def section(facts: MaskFacts | None) -> dict[str, Any] | None:
    """Tables and sentences of the report's page; None where the stage did not run."""
    if facts is None:
        return None
    return {
        "decision": facts.decision or "the decision is not known",
        "outcome": _outcome(facts),
        "networks": _networks(facts),
        "tasks": list(dict.fromkeys(task for one in facts.networks for task in one.drops)),
        "sentences": _sentences(facts),
        "added": [
            {"task": task, "static": _rise(static), "prototypes": _rise(prototypes)}
            for task, (static, prototypes) in facts.added.items()
        ],
    }


def _outcome(facts: MaskFacts) -> str:
    if not facts.networks:
        return "No other network was built."
    return "" if facts.worth_it else "They were built all the same, as the recipe asks (force)."


def average(facts: MaskFacts | None) -> str:
    """What an image takes on average, a clause; empty where there is one network only."""
    full = facts.networks[0].macs if facts and facts.networks else None
    if facts is None or not full or facts.mean_macs is None:
        return ""
    share = percent(facts.mean_macs / full)
    return f"an image takes {share} of the full network's multiply-accumulates on average"


def _networks(facts: MaskFacts) -> list[dict[str, Any]]:
    full = facts.networks[0].macs if facts.networks else None
    tasks = list(dict.fromkeys(task for one in facts.networks for task in one.drops))
    places = [pointer(FILE, "built", "macs", index) for index in range(len(facts.networks))]
    macs = scaled_figures([one.macs for one in facts.networks], "", places)
    found = []
    for index, one in enumerate(facts.networks):
        drops = [worse(one.drops.get(task)) for task in tasks]
        found.append(
            {
                "name": f"prototype {index}" if index else "full network",
                "share": _share(one.share, pointer(FILE, "built", "shares", index)),
                "bar": charts.draw_bar(min(max(one.share or 0.0, 0.0), 1.0)),
                "macs": macs[index],
                "change": less(full, one.macs) if index else nothing(text=DASH),
                "drops": [drop if drop.value is not None else nothing(text=DASH) for drop in drops],
            }
        )
    return found


def _sentences(facts: MaskFacts) -> list[str]:
    mean = average(facts)
    found = [mean[0].upper() + mean[1:]] if mean else []
    if facts.router is not None:
        found += _routed(facts.router)
    if facts.bytes_apart and facts.bytes_shared is not None:
        found.append(
            f"The networks share weights: their files take "
            f"{percent(facts.bytes_shared / facts.bytes_apart)} of what they would take apart"
        )
    return found


def _routed(router: RouterFacts) -> list[str]:
    found = []
    if router.accuracy is not None and router.most_frequent is not None:
        found.append(
            f"The router names the right prototype for {percent(router.accuracy)} of the held-out "
            f"images; always naming the most frequent one is right for "
            f"{percent(router.most_frequent)}"
        )
    if router.accepted is not None and router.threshold is not None:
        right = "" if router.precision is None else f"; {percent(router.precision)} of them rightly"
        found.append(
            f"It is sure enough (probability {router.threshold:.2f} or more) of "
            f"{percent(router.accepted)} of them{right}. The full network answers the others"
        )
    return found


def _share(value: float | None, source: str) -> Figure:
    return nothing(source) if value is None else Figure(value, percent(value), source)


def _rise(value: float | None) -> Figure:
    """A rise of a loss in words; below nothing is a fall."""
    if value is None:
        return nothing()
    if value == 0:
        return Figure(0.0, "unchanged")
    return Figure(value, f"{percent(value)} {'more' if value > 0 else 'less'}")
