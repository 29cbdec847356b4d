"""``mask.json`` read: what the mask stage decided, the networks it built and who answers what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemtl.record.untrusted import integer, number, numbers, rows, table, text


@dataclass(frozen=True)
class MaskedNetwork:
    """One of the networks behind the router.

    Attributes:
        macs: multiply-accumulates; share: of the held-out images that it answers, in 0..1.
        drops: task -> relative drop on held-out images after its training; empty without training.
    """

    macs: float | None
    share: float | None
    drops: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RouterFacts:
    """How the router does on images that it did not learn from; all shares in 0..1.

    Attributes:
        accuracy: that go to the right prototype when none is refused.
        most_frequent: the same for a router that always names the most frequent one.
        threshold: probability below which the full network answers.
        accepted: images above it; precision: those of them that go where they should.
    """

    accuracy: float | None
    most_frequent: float | None
    threshold: float | None
    accepted: float | None
    precision: float | None


@dataclass(frozen=True)
class MaskFacts:
    """What the mask stage did; everything may be missing.

    Attributes:
        decision: in a sentence.
        worth_it: whether held-out images gain by prototypes.
        networks: the full one first; empty where the simpler network was kept.
        mean_macs: of the networks, by what they answer.
        router: None without networks.
        added: task -> rise of its held-out loss at equal cost, as a share of the dense loss: with
            one mask for all, with each image's best prototype.
        bytes_apart, bytes_shared: of the networks' files, with weights of their own and shared.
    """

    decision: str
    worth_it: bool
    networks: tuple[MaskedNetwork, ...] = ()
    mean_macs: float | None = None
    router: RouterFacts | None = None
    added: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    bytes_apart: int | None = None
    bytes_shared: int | None = None


def read_masks(data: Mapping[str, Any]) -> MaskFacts:
    """Parse ``mask.json``, which may have been written by anybody."""
    analysis, built, weights = (table(data, key) for key in ("analysis", "built", "weights"))
    static, prototypes = (numbers(analysis, f"added_{kind}") for kind in ("static", "prototypes"))
    router = table(built, "router")
    return MaskFacts(
        text(analysis, "decision"),
        analysis.get("worth_it") is True,
        _networks(built),
        number(built, "mean_macs"),
        RouterFacts(
            *(
                number(router, key)
                for key in ("accuracy", "most_frequent", "threshold", "accepted", "precision")
            )
        )
        if built
        else None,
        {
            task: (static.get(task), prototypes.get(task))
            for task in dict.fromkeys((*static, *prototypes))
        },
        integer(weights, "bytes_apart"),
        integer(weights, "bytes_shared"),
    )


def _networks(built: Mapping[str, Any]) -> tuple[MaskedNetwork, ...]:
    macs, shares, trained = (_series(built, key) for key in ("macs", "shares", "recovered"))
    found = []
    for place in range(len(macs)):
        # the full network is not trained, so the list of trainings begins with the first prototype
        own = trained[place - 1] if 0 < place <= len(trained) else None
        found.append(
            MaskedNetwork(
                number({"macs": macs[place]}, "macs"),
                number({"share": shares[place]}, "share") if place < len(shares) else None,
                _kept_drops(own) if isinstance(own, dict) else {},
            )
        )
    return tuple(found)


def _kept_drops(training: Mapping[str, Any]) -> dict[str, float]:
    """Drops at the step whose network was kept."""
    best = integer(training, "best_step")
    kept = [row for row in rows(training, "drops") if integer(row, "step") == best]
    return numbers(kept[-1], "drops") if kept else {}


def _series(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []
