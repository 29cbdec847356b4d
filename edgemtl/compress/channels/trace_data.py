"""What one forward pass tells about a network's channels (see tracer.py)."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field

from edgemtl.compress.channels.ids import ChannelIds, Ints

Origin = tuple[str, int]


@dataclass(frozen=True)
class Split:
    """A field that varies along several axes: only whole slices along one of them can go.

    Attributes:
        module: path of the module whose code did it.
        labels: one axis per axis along which the labels vary.
        free: those of the axes that may shrink.
    """

    module: str
    labels: Ints
    free: tuple[int, ...]


@dataclass(frozen=True)
class Counted:
    """An axis whose size a module may hold as a number (``groups``, ``heads``).

    Attributes:
        module: path of the module.
        labels: one label per element of the axis.
        attribute: name of the number where it is known.
    """

    module: str
    labels: Ints
    attribute: str | None = None


@dataclass
class Trace:
    """What one pass told.

    Attributes:
        atoms: the classes.
        starts: (weight, dimension) -> its atoms.
        produced: dimensions that write channels, in the order of computation.
        consumed: dimensions that are summed over: where a removed channel stops mattering.
        counted: axes whose size may be held as a number.
        tasks: task name -> names of the weights its outputs depend on.
        scaled: dimensions over which a weight is normalised (weight norm): a masked channel takes
            no part in that, so they shrink only where they are masked.
        lengths: normalised dimension of a weight -> that of the lengths it is given, which can be
            masked where the weight itself would be divided by 0.
        macs: weight -> multiply-accumulates for one picture; those of no weight under "".
        products: weight -> those among the latter that grow with the channels it writes (attention
            with its heads).
    """

    atoms: ChannelIds
    starts: dict[Origin, Ints] = dataclass_field(default_factory=dict)
    produced: dict[Origin, None] = dataclass_field(default_factory=dict)
    consumed: dict[Origin, None] = dataclass_field(default_factory=dict)
    counted: list[Counted] = dataclass_field(default_factory=list)
    tasks: dict[str, frozenset[str]] = dataclass_field(default_factory=dict)
    scaled: set[Origin] = dataclass_field(default_factory=set)
    lengths: dict[Origin, Origin] = dataclass_field(default_factory=dict)
    macs: dict[str, float] = dataclass_field(default_factory=dict)
    products: dict[str, float] = dataclass_field(default_factory=dict)

    def origin_of(self, labels: Ints) -> Origin | None:
        """The dimension of a weight that the first of these labels was made for."""
        first = int(labels.reshape(-1)[0])
        for origin, atoms in self.starts.items():
            if atoms[0] <= first <= atoms[-1]:
                return origin
        return None
