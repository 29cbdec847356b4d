"""Watch one forward pass: which weights outputs depend on, and where Python reads values.

A traced graph holds the operators that ran for one picture. What Python decides by values
(``.item()``, ``.tolist()``, ``if tensor:``) is decided for good then, and the graph shows nothing
of it. So the pass is watched twice over: at the level of torch's operators, where values can be
followed from the picture on, and at the level of torch's functions, where they leave for Python.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from edgemtl.models.nested import tensors_of
from edgemtl.models.user_code import Place, here, module_paths, told_as_its_own

#: bits of what a storage's content was computed from; the weights follow
_IMAGE, _SIZED_BY_VALUES = 1, 2
_FIRST_WEIGHT = 2

#: results take the shape of their inputs, not their values
_SHAPES_ONLY = frozenset(
    (
        *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
        *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
    )
)
#: results have a size that depends on values
_SIZING = frozenset(("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"))
#: operators whose result is a Python number
_READING = frozenset(("_local_scalar_dense", "equal"))
#: methods that hand values to Python without an operator
_LEAVING = frozenset(("tolist", "numpy", "__array__"))
#: methods that tell a size
_MEASURING = frozenset(("size", "numel", "__len__", "__iter__", "nelement"))


@dataclass(frozen=True)
class Read:
    """A value of the picture that Python looked at.

    Attributes:
        place: the line that did.
        by: what it did it with.
    """

    place: Place
    by: str

    @property
    def asserts(self) -> bool:
        """Whether the line only checks that something holds."""
        return self.place.code.startswith("assert ")


@dataclass(frozen=True)
class Choice:
    """A module that picks some of several by their scores (top-k, the largest).

    Attributes:
        module: its path.
        picked: how many.
        of: out of how many.
    """

    module: str
    picked: int
    of: int


@dataclass
class Seen:
    """What one pass did.

    Attributes:
        operators: names of all operators, in order.
        reads: values of the picture that Python looked at, each line once.
        sized: (file, line) -> shapes whose size may depend on values, where the line asked for it.
        used: names of the parameters that an output depends on.
        touched: names of the parameters that any operator read.
        called: paths of the modules that were called.
        choices: picks among several, each once.
        place: of operator number ``locate``, where one was asked for.
    """

    operators: list[str]
    reads: dict[tuple[str, int], Read]
    sized: dict[tuple[str, int], list[tuple[int, ...]]]
    used: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    called: frozenset[str] = frozenset()
    choices: tuple[Choice, ...] = ()
    place: Place | None = None


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the picture and the weights through operators, by storage: views share theirs."""

    def __init__(self, network: nn.Module, locate: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paths = module_paths(network)
        self.seen = Seen([], {}, {})
        self.choices: dict[Choice, None] = {}
        self.named = dict(network.named_parameters())
        self.needs: dict[int, int] = {}
        self.touched = 0
        self._locate = locate
        #: while one is held, the number of its storage is given to no other
        self._held: dict[int, StorageWeakRef] = {}
        for index, tensor in enumerate(self.named.values()):
            self.needs[_storage(tensor)] = self.needs.get(_storage(tensor), 0) | (
                1 << _FIRST_WEIGHT + index
            )

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would otherwise load its compiler, seconds of imports, to switch it off here."""
        return False

    def image(self, images: Tensor) -> None:
        """This tensor is the picture."""
        self._write(images, _IMAGE)

    def of(self, tensor: Tensor) -> int:
        """What a tensor was computed from."""
        return self.needs.get(_storage(tensor), 0)

    def note(self, by: str) -> None:
        """Python reads a value of the picture."""
        place = here(self.paths)
        self.seen.reads.setdefault((place.file, place.line), Read(place, by))

    def names(self, needs: int) -> frozenset[str]:
        """Parameters among these bits."""
        bits = needs >> _FIRST_WEIGHT
        return frozenset(name for index, name in enumerate(self.named) if bits >> index & 1)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and note where its result comes from."""
        named = dict(kwargs or {})
        name = str(func._schema.name).rpartition("::")[2]
        inputs = tensors_of([*args, *named.values()])
        needs = 0
        places = {_storage(tensor) for tensor in inputs}
        for place in places:
            needs |= self.needs.get(place, 0)
        self.touched |= needs
        if self._locate == len(self.seen.operators):
            self.seen.place = here(self.paths)
        self.seen.operators.append(name)
        if name in _READING and needs & _IMAGE:
            self.note("if, int() or item()" if name == "_local_scalar_dense" else "equal()")
        result = func(*args, **named)
        if name in _SHAPES_ONLY:
            needs &= _SIZED_BY_VALUES
        elif needs & _IMAGE and (name in _SIZING or _indexes_by_mask(name, inputs[1:])):
            needs |= _SIZED_BY_VALUES
        if needs & _IMAGE:
            self._note_choice(name, args, named, inputs)
        for tensor in tensors_of([result]):
            place = _storage(tensor)
            self._write(tensor, needs | (self.needs.get(place, 0) if place in places else 0))
        return result

    def _write(self, tensor: Tensor, needs: int) -> None:
        place = _storage(tensor)
        self.needs[place] = needs
        if place not in self._held:
            reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
            self._held[place] = reference

    def _note_choice(self, name: str, args: Any, named: Any, inputs: Sequence[Tensor]) -> None:
        if name not in ("topk", "argmax") or not inputs or inputs[0].dim() == 0:
            return
        if name == "topk":
            dim = args[2] if len(args) > 2 else named.get("dim", -1)
            picked = int(args[1] if len(args) > 1 else named["k"])
        else:
            dim = args[1] if len(args) > 1 else named.get("dim")
            picked = 1
        if dim is not None:
            choice = Choice(here(self.paths).module, picked, int(inputs[0].shape[dim]))
            self.choices.setdefault(choice)


class _Functions(TorchFunctionMode):
    """Sees what leaves for Python without an operator."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function of torch's and note what it tells Python."""
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = "size" if func is Tensor.shape.__get__ else ""  # type: ignore[attr-defined]
        if name in _LEAVING or name in _MEASURING:
            needs = self._operators.of(args[0]) if args and isinstance(args[0], Tensor) else 0
            if name in _LEAVING and needs & _IMAGE:
                self._operators.note(f"{name}()")
            elif name in _MEASURING and needs & _SIZED_BY_VALUES:
                place = here(self._operators.paths)
                sized = self._operators.seen.sized.setdefault((place.file, place.line), [])
                sized.append(tuple(args[0].shape))
        return func(*args, **dict(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _indexes_by_mask(name: str, indices: Sequence[Tensor]) -> bool:
    return name == "index" and any(t.dtype in (torch.bool, torch.uint8) for t in indices)


@contextmanager
def _as_while_exporting() -> Iterator[None]:
    """Let code that asks whether it is traced or exported take the way that it takes then."""
    own = threading.get_ident()
    places = ((torch.jit, "is_tracing"), (torch.onnx, "is_in_onnx_export"))
    before = [getattr(module, name) for module, name in places]
    with ExitStack() as stack:
        for (module, name), original in zip(places, before, strict=True):
            stack.callback(setattr, module, name, original)
            answer = lambda original=original: threading.get_ident() == own or original()  # noqa: E731
            setattr(module, name, answer)
        yield


@contextmanager
def _calls(network: nn.Module, called: set[str]) -> Iterator[None]:
    """Collect the paths of the modules that are called."""
    with ExitStack() as stack:
        for path, module in network.named_modules():
            handle = module.register_forward_pre_hook(lambda *_, path=path: called.add(path))
            stack.callback(handle.remove)
        yield


def watch(
    network: nn.Module,
    images: Tensor,
    tasks: Sequence[str] | None,
    locate: int | None = None,
) -> Seen:
    """Run the network once, as it stands, without gradients; in eval mode as if it was exported.

    Args:
        network: a ``MultiTaskNetwork``.
        images: (B, 3, H, W) float32.
        tasks: names of the tasks to compute.
        locate: number of an operator whose place is wanted.

    Raises:
        InputRefused: its forward raises; told with its own message and place.
    """
    operators = _Operators(network, locate)
    called: set[str] = set()
    images = images.clone()
    operators.image(images)
    with (
        told_as_its_own(network),
        nullcontext() if network.training else _as_while_exporting(),
        _calls(network, called),
        torch.no_grad(),
        _Functions(operators),
        operators,
    ):
        answers = network(images, tasks)
    seen = operators.seen
    values = answers.values() if isinstance(answers, Mapping) else ()
    needs = 0
    for tensor in tensors_of(list(values)):
        needs |= operators.of(tensor)
    seen.used, seen.touched = operators.names(needs), operators.names(operators.touched)
    seen.called = frozenset(called)
    seen.choices = tuple(operators.choices)
    return seen
