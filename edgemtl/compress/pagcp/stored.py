"""The search as tensors and plain data, from which it goes on after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgemtl.compress.pagcp.budgets import Tolerances
from edgemtl.compress.pagcp.position import Position
from edgemtl.compress.pagcp.safety import Point
from edgemtl.compress.pagcp.search import Search
from edgemtl.compress.replay.graph import State
from edgemtl.compress.results import GroupStep, Refusal
from edgemtl.compress.search_cost import SearchCost


def to_state(search: Search) -> dict[str, Any]:
    """What :func:`load_state` goes on from."""
    position = search.position
    tolerances = position.tolerances
    return {
        "keep": dict(search.keep),
        "statistics": _statistics(search.oracle.committed),
        "current": torch.from_numpy(search.oracle.current.copy()),
        "reference": torch.from_numpy(search.oracle.reference.copy()),
        "spent": search.oracle.spent.to_dict(),
        "scores": {name: torch.from_numpy(value) for name, value in search.scores.items()},
        "steps": [step.to_dict() for step in search.steps],
        "sweep": position.sweep,
        "order": list(position.order),
        "budget": dict(position.budget),
        "distance": position.distance,
        "commits": position.commits,
        "scales": list(position.scales),
        "tolerances": None
        if tolerances is None
        else [torch.from_numpy(v.copy()) for v in (tolerances.first, tolerances.ratio)]
        + [torch.from_numpy(tolerances.now.copy())],
        "points": [_point_to(point) for point in search.points],
        "refused": [refusal.to_dict() for refusal in search.refused],
    }


def load_state(search: Search, state: Mapping[str, Any]) -> None:
    """Go on from :func:`to_state`; the oracle's dense losses must be measured."""
    search.keep = dict(state["keep"])
    search.oracle.restore(
        _state(search.keep, state["statistics"]),
        state["current"].numpy(),
        state["reference"].numpy(),
        SearchCost.from_dict(state["spent"]),
    )
    search.scores = {name: value.numpy() for name, value in state["scores"].items()}
    search.steps = [GroupStep.from_dict(step) for step in state["steps"]]
    stored = state["tolerances"]
    tolerances = None
    if stored is not None:
        first, ratio, now = (value.numpy().copy() for value in stored)
        tolerances = Tolerances(search.tasks, first, ratio, now)
    search.position = Position(
        sweep=int(state["sweep"]),
        order=list(state["order"]),
        tolerances=tolerances,
        budget=dict(state["budget"]),
        distance=float(state["distance"]),
        commits=int(state["commits"]),
        scales=[float(v) for v in state["scales"]],
    )
    # States of searches that began before there were these two have neither.
    search.points = [_point_from(point) for point in state.get("points", [])]
    search.refused = [Refusal.from_dict(refusal) for refusal in state.get("refused", [])]


def _statistics(state: State) -> dict[str, list[Tensor]]:
    return {str(index): list(value) for index, value in state.statistics.items()}


def _state(keep: Mapping[str, Tensor], statistics: Mapping[str, list[Tensor]]) -> State:
    return State(
        {name: mask.float() for name, mask in keep.items() if not bool(mask.all())},
        {int(index): (value[0], value[1]) for index, value in statistics.items()},
    )


def _point_to(point: Point) -> dict[str, Any]:
    return {
        "group": point.group,
        "width": point.width,
        "keep": dict(point.keep),
        "statistics": _statistics(point.state),
        "current": torch.from_numpy(point.current.copy()),
        "reference": torch.from_numpy(point.reference.copy()),
        "tolerance": torch.from_numpy(point.tolerance.copy()),
        "commits": point.commits,
        "steps": point.steps,
        "order": list(point.order),
    }


def _point_from(data: Mapping[str, Any]) -> Point:
    return Point(
        str(data["group"]),
        int(data["width"]),
        dict(data["keep"]),
        _state(data["keep"], data["statistics"]),
        data["current"].numpy(),
        data["reference"].numpy(),
        data["tolerance"].numpy(),
        int(data["commits"]),
        int(data["steps"]),
        tuple(data["order"]),
    )
