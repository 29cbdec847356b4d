"""Profiles of cuts of a network as files: what a killed run goes on with, and others reuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.compress.latency.layers import Layer
from edgemtl.errors import InputRefused
from edgemtl.files import write_json

#: of the files; others are left alone
VERSION = 1


@dataclass(frozen=True)
class Setting:
    """Where a layer takes the time it takes.

    Attributes:
        backend, version: of the runtime.
        precision: float32, int8, ... of the graph, and what the runtime was told of it.
        threads: of the runtime.
        processor: its name.
        options: the target's, in JSON.
    """

    backend: str
    version: str
    precision: str
    threads: int
    processor: str
    options: str = "{}"

    @property
    def key(self) -> str:
        """Short name that differs wherever anything does."""
        told = json.dumps([VERSION, *vars(self).values()])
        return f"{self.backend}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class CutTimes:
    """One cut, timed in turns with the dense network.

    Attributes:
        widths: group -> width.
        layers: layer -> (ms in the cut, ms in the dense network).
        rest: the same of everything that is no layer of the graph.
        whole: the same of whole inferences, the profiler off.
    """

    widths: Mapping[str, int]
    layers: Mapping[str, tuple[float, float]]
    rest: tuple[float, float]
    whole: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Latency relative to the dense network's."""
        return self.whole[0] / self.whole[1]


@dataclass(frozen=True)
class Profile:
    """All that was measured of one network in one setting.

    Attributes:
        setting: where.
        network: hash of its weights.
        multiple: the widths of its cuts are multiples of it.
        groups: group -> full width.
        layers: of the dense network.
        cuts: as far as they were measured.
    """

    setting: Setting
    network: str
    multiple: int
    groups: Mapping[str, int]
    layers: tuple[Layer, ...]
    cuts: tuple[CutTimes, ...] = ()

    @property
    def dense(self) -> dict[str, float]:
        """ms of every layer in the dense network, the median over all turns."""
        return {
            layer.name: float(np.median([cut.layers[layer.name][1] for cut in self.cuts]))
            for layer in self.layers
            if self.cuts and all(layer.name in cut.layers for cut in self.cuts)
        }

    def plus(self, cut: CutTimes) -> Profile:
        """With one cut more."""
        return replace(self, cuts=(*self.cuts, cut))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; sizes as {group: rate}, "" for the constant."""
        names = ("", *self.groups)

        def rates(size: Any) -> dict[str, float]:
            return {name: float(r) for name, r in zip(names, size, strict=True) if r}

        return {
            "schema_version": VERSION,
            "setting": vars(self.setting),
            "network": self.network,
            "multiple": self.multiple,
            "groups": dict(self.groups),
            "layers": [[x.name, x.key, rates(x.inputs), rates(x.outputs)] for x in self.layers],
            "cuts": [
                {
                    "widths": dict(cut.widths),
                    "layers": {name: list(pair) for name, pair in cut.layers.items()},
                    "rest": list(cut.rest),
                    "whole": list(cut.whole),
                }
                for cut in self.cuts
            ],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Profile:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type, or of another version.
        """
        try:
            if data["schema_version"] != VERSION:
                raise ValueError(f"version {data['schema_version']}")
            groups = {str(name): int(width) for name, width in data["groups"].items()}
            names = ("", *groups)

            def size(rates: Mapping[str, float]) -> Any:
                return np.array([float(rates.get(name, 0.0)) for name in names])

            return Profile(
                Setting(**data["setting"]),
                str(data["network"]),
                int(data["multiple"]),
                groups,
                tuple(Layer(str(n), str(k), size(i), size(o)) for n, k, i, o in data["layers"]),
                tuple(
                    CutTimes(
                        {str(name): int(width) for name, width in cut["widths"].items()},
                        {str(name): _pair(pair) for name, pair in cut["layers"].items()},
                        _pair(cut["rest"]),
                        _pair(cut["whole"]),
                    )
                    for cut in data["cuts"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"a profile of layers is not readable: {error!r}") from error


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = values
    return float(first), float(second)


class ProfileStore:
    """The profiles that were ever taken in one setting.

    A file that cannot be read is measured again, never an error: this is a cache.

    Args:
        folder: of all settings; None keeps nothing.
        setting: whose profiles are read and written.
    """

    def __init__(self, folder: Path | None, setting: Setting) -> None:
        self.setting = setting
        self._folder = None if folder is None else folder / setting.key

    def of(self, network: str, multiple: int) -> Profile | None:
        """What there is of one network."""
        path = self._path(network, multiple)
        return None if path is None else self._read(path)

    def others(self, network: str, multiple: int) -> list[Profile]:
        """What there is of all others."""
        if self._folder is None:
            return []
        own = self._path(network, multiple)
        paths = sorted(self._folder.glob("*.json"))
        return [found for path in paths if path != own and (found := self._read(path))]

    def write(self, profile: Profile) -> None:
        """Keep it, whole or not at all.

        Raises:
            StageFailed: the place cannot be written.
        """
        path = self._path(profile.network, profile.multiple)
        if path is not None:
            write_json(path, profile.to_dict())

    def _path(self, network: str, multiple: int) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{network[:16]}-by-{multiple}.json"

    def _read(self, path: Path) -> Profile | None:
        try:
            found = Profile.from_dict(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, InputRefused):
            return None
        return found if found.setting == self.setting else None
