"""The latency of any widths: the sum of what the layers take, held against whole networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.cost import Keep
from edgemtl.compress.latency.curves import Curve, fitted, terms
from edgemtl.compress.latency.profiles import CutTimes, Profile
from edgemtl.errors import InputRefused

#: a layer's own factor counts as if so many more samples had agreed with the curve of its kind
PRIOR = 2.0
#: the dense network, which every turn times, counts as so many cuts when the whole is fitted
DENSE_COUNTS = 3
#: another block than the processor's is taken where it predicts so much better
CLEARLY = 1.2

#: share of the dense latency that is always left, however narrow the layers
LEAST = 0.005
#: the correction at the dense network goes with this power of what is left, and is no larger than
#: this share: below 1 / FADING a narrower layer still never costs more
FADING, MOST_GAP = 3, 0.25

#: (cuts or turns,) of ms, or (samples,) of widths
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class LayerTable:
    """Predicts from curves per layer.

    Attributes:
        target: name of the target.
        dense_ms: latency of the dense network.
        network: hash of its weights.
        threads: of the runtime.
        precision: of the graphs.
        noise: half the width of the interval that the dense network's own latency stayed in from
            turn to turn, as a share.
        error: median over the measured cuts of predicted against measured latency, as a share,
            each predicted without it; None where too few were measured to tell.
        cuts: how many were measured.
        block: channels that the runtime computes at once.
        groups: group -> full width.
        factors: (layers, terms) ms.
        inputs, outputs: (layers, 1 + groups) channels as functions of the widths.
        rest_ms: of everything that depends on no width.
        scale, offset: latency of the whole = scale x sum of the layers + offset ms.
    """

    target: str
    dense_ms: float
    network: str
    threads: int
    precision: str
    noise: float
    error: float | None
    cuts: int
    block: int
    groups: Mapping[str, int]
    factors: Numbers
    inputs: Numbers
    outputs: Numbers
    rest_ms: float
    scale: float
    offset: float

    def predict(self, keep: Keep) -> float:
        """Latency in ms with these masks."""
        return self.predict_widths({name: int(mask.sum()) for name, mask in keep.items()})

    def predict_widths(self, widths: Mapping[str, int]) -> float:
        """Latency in ms with these widths; a group that is not named is whole."""
        return float(self.predict_many(widths)[0])

    def predict_many(self, widths: Mapping[str, int | NDArray[np.int64]]) -> Numbers:
        """Latency in ms of several networks at once, (networks,).

        A narrower group never costs more, and the dense network costs what was measured.

        Args:
            widths: group -> its width, or one for each network; a group that is not named is whole.
        """
        whole = self.scale * self.layers_ms(widths) + self.offset
        dense = self.scale * float(self.layers_ms({})[0]) + self.offset
        # What the sum of the layers is off by for the dense network fades with the layers.
        gap = min(max(self.dense_ms - dense, -MOST_GAP * dense), MOST_GAP * dense)
        whole = whole + gap * (np.maximum(whole, 0.0) / dense) ** FADING
        return np.maximum(whole, LEAST * self.dense_ms)

    def layers_ms(self, widths: Mapping[str, int | NDArray[np.int64]]) -> Numbers:
        """What the profiler's times of all layers add up to, (networks,) ms."""
        columns = [np.atleast_1d(widths.get(name, full)) for name, full in self.groups.items()]
        count = max((len(column) for column in columns), default=1)
        argument = np.ones((count, 1 + len(columns)))
        for place, column in enumerate(columns):
            argument[:, 1 + place] = column
        found = terms(argument @ self.inputs.T, argument @ self.outputs.T, self.block)
        total: Numbers = np.einsum("nlt,lt->n", found, self.factors) + self.rest_ms
        return total

    def at(self, dense_ms: float) -> LayerTable:
        """The same table on a machine that is faster or slower by now."""
        factor = dense_ms / self.dense_ms
        return replace(
            self, dense_ms=dense_ms, scale=self.scale * factor, offset=self.offset * factor
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "kind": "layers",
            "target": self.target,
            "dense_ms": self.dense_ms,
            "network": self.network,
            "threads": self.threads,
            "precision": self.precision,
            "noise": self.noise,
            "error": self.error,
            "cuts": self.cuts,
            "block": self.block,
            "groups": dict(self.groups),
            "layers": [
                [[float(value) for value in factors], _sparse(inputs), _sparse(outputs)]
                for factors, inputs, outputs in zip(
                    self.factors, self.inputs, self.outputs, strict=True
                )
            ],
            "rest_ms": self.rest_ms,
            "scale": self.scale,
            "offset": self.offset,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LayerTable:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            groups = {str(name): int(width) for name, width in data["groups"].items()}
            rows = data["layers"]
            return LayerTable(
                str(data["target"]),
                float(data["dense_ms"]),
                str(data["network"]),
                int(data["threads"]),
                str(data["precision"]),
                float(data["noise"]),
                None if data["error"] is None else float(data["error"]),
                int(data["cuts"]),
                int(data["block"]),
                groups,
                np.array([row[0] for row in rows], np.float64),
                np.array([_dense(row[1], len(groups) + 1) for row in rows]),
                np.array([_dense(row[2], len(groups) + 1) for row in rows]),
                float(data["rest_ms"]),
                float(data["scale"]),
                float(data["offset"]),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputRefused(f"a table of layers is not readable: {error!r}") from error


def _sparse(size: Numbers) -> dict[str, float]:
    return {str(index): float(value) for index, value in enumerate(size) if value}


def _dense(rates: Mapping[str, float], length: int) -> Numbers:
    size = np.zeros(length)
    for index, value in rates.items():
        size[int(index)] = value
    return size


@dataclass(frozen=True)
class Samples:
    """Times of one kind of layer: channels read and written and ms, (samples,) each."""

    inputs: Numbers
    outputs: Numbers
    ms: Numbers


def samples_of(profile: Profile, cuts: Sequence[CutTimes]) -> dict[str, dict[str, Samples]]:
    """Key -> layer -> its samples, the dense network's first.

    A layer's time in a cut is what it is relative to the same layer of the dense network in the
    same turns, so that a slower minute, which slows what waits for memory more than what computes,
    does not enter.
    """
    dense = profile.dense
    full = np.array([1.0, *profile.groups.values()])
    arguments = [full]
    for cut in cuts:
        widths = (cut.widths.get(name, width) for name, width in profile.groups.items())
        arguments.append(np.array([1.0, *widths]))
    found: dict[str, dict[str, Samples]] = {}
    for layer in profile.layers:
        base = dense.get(layer.name)
        if base is None:
            continue
        ms = [base]
        for cut in cuts:
            now, then = cut.layers[layer.name]
            ms.append(base * now / max(then, 1e-9))
        stacked = np.array(arguments)
        found.setdefault(layer.key, {})[layer.name] = Samples(
            stacked @ layer.inputs, stacked @ layer.outputs, np.array(ms)
        )
    return found


def curves_of(samples: Mapping[str, Mapping[str, Samples]], block: int) -> dict[str, Curve]:
    """Key -> the curve through all layers of that kind."""
    return {
        key: fitted(
            np.concatenate([one.inputs for one in layers.values()]),
            np.concatenate([one.outputs for one in layers.values()]),
            np.concatenate([one.ms for one in layers.values()]),
            block,
        )
        for key, layers in samples.items()
    }


def fit_table(
    profile: Profile,
    block: int,
    target: str,
    elsewhere: Mapping[str, Mapping[str, Samples]] | None = None,
) -> LayerTable:
    """The table of a network from its profile.

    Args:
        profile: with at least one cut.
        block: channels that a register of the processor holds. A runtime may compute half or a
            quarter as many at once; that block is taken with which cuts are predicted best.
        target: name of the target, for the record.
        elsewhere: samples of other networks, whose curves are then used; the profile only says how
            much faster or slower each layer is here.
    """
    found = []
    for size in dict.fromkeys(max(block // part, 1) for part in (1, 2, 4)):
        table = _fit(profile, profile.cuts, size, target, elsewhere)
        off = _unseen(profile, size, target, elsewhere)
        error = float(np.median(off)) if off else None
        # The mean tells blocks apart that the median of few cuts does not.
        found.append((float(np.mean(off)) if off else 0.0, replace(table, error=error)))
    best = min(found, key=lambda one: one[0])
    return found[0][1] if found[0][0] <= CLEARLY * best[0] else best[1]


def _unseen(
    profile: Profile,
    block: int,
    target: str,
    elsewhere: Mapping[str, Mapping[str, Samples]] | None,
) -> list[float]:
    """How far each cut is predicted off, as a share, by a table of one half of the others."""
    off = []
    for part in range(2) if len(profile.cuts) > 3 else ():
        kept = [cut for index, cut in enumerate(profile.cuts) if index % 2 != part]
        half = _fit(profile, kept, block, target, elsewhere)
        for cut in profile.cuts[part::2]:
            off.append(abs(half.predict_widths(cut.widths) / half.dense_ms / cut.ratio - 1))
    return off


def _fit(
    profile: Profile,
    cuts: Sequence[CutTimes],
    block: int,
    target: str,
    elsewhere: Mapping[str, Mapping[str, Samples]] | None,
) -> LayerTable:
    samples = samples_of(profile, cuts)
    curves = curves_of(elsewhere or samples, block)
    layers = {layer.name: layer for layer in profile.layers}
    factors, inputs, outputs = [], [], []
    for key, named in samples.items():
        if key not in curves:
            curves |= curves_of({key: named}, block)
        for name, one in named.items():
            own = _own_factor(curves[key].at(one.inputs, one.outputs, block), one.ms)
            factors.append(np.array(curves[key].factors) * own)
            inputs.append(layers[name].inputs)
            outputs.append(layers[name].outputs)
    turns = np.array([cut.whole[1] for cut in profile.cuts])
    dense_ms = float(np.median(turns))
    spread = 1.4826 * float(np.median(np.abs(turns / dense_ms - 1)))
    rest = np.array([cut.rest for cut in profile.cuts])
    table = LayerTable(
        target=target,
        dense_ms=dense_ms,
        network=profile.network,
        threads=profile.setting.threads,
        precision=profile.setting.precision.partition("/")[0],
        noise=1.96 * spread,
        error=None,
        cuts=len(profile.cuts),
        block=block,
        groups=profile.groups,
        factors=np.array(factors),
        inputs=np.array(inputs),
        outputs=np.array(outputs),
        rest_ms=float(np.median(rest)),
        scale=1.0,
        offset=0.0,
    )
    scale, offset = _whole(table, cuts, dense_ms)
    return replace(table, scale=scale, offset=offset)


def _own_factor(predicted: Numbers, ms: Numbers) -> float:
    """How much slower a layer is than its kind; nearer to 1 the fewer samples say so."""
    ratio = np.log(np.maximum(ms, 1e-9) / np.maximum(predicted, 1e-9))
    return float(np.exp(np.median(ratio) * len(ms) / (len(ms) + PRIOR)))


def _whole(table: LayerTable, cuts: Sequence[CutTimes], dense_ms: float) -> tuple[float, float]:
    """Scale and offset from the sum of the layers to the latency of the whole.

    The profiler itself takes time at each layer, and what lies between layers takes some that it
    does not see. Deviations count relative to the latency.
    """
    sums = [float(table.layers_ms({})[0])] * DENSE_COUNTS
    wanted = [dense_ms] * DENSE_COUNTS
    for cut in cuts:
        sums.append(float(table.layers_ms(cut.widths)[0]))
        wanted.append(cut.ratio * dense_ms)
    x, y = np.array(sums), np.array(wanted)
    columns = np.stack([x, np.ones_like(x)], axis=1) / y[:, None]
    (scale, offset), *_ = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)
    if scale <= 0.5 or scale >= 2 or len(cuts) < 2:
        return float(np.median(y / x)), 0.0
    return float(scale), float(offset)
