"""What a pickle would make, found out without making anything.

A pickle is a program for a small machine with a stack. `survey` follows it opcode by opcode, in the subset that
``torch.save`` writes, and keeps for each value only what it would be. What is not on the lists below is refused. So are
the memory bombs that torch allows: tensors beyond the elements in the file or over elements that are taken twice, and
calls such as ``bytearray(10**12)``.

Source: the opcodes as Python's module pickletools documents them.
"""

import dataclasses
import pickletools
from collections.abc import Iterator
from typing import Any

from vocal_extraction.checkpointing.archive import PICKLE
from vocal_extraction.compatibility import NUMPY_SCALARS, STFT_PARAMS, TRANSFORMS, TRANSFORMS_MODULE

NUMPY_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}
"""NumPy's codes of the scalars that metadata may hold, and how `struct` spells them."""

_ELEMENT_BYTES = {
    "torch.DoubleStorage": 8,
    "torch.LongStorage": 8,
    "torch.FloatStorage": 4,
    "torch.IntStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
}
_FUNCTIONS = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "_codecs.encode", "numpy.dtype")
_CLASSES = (STFT_PARAMS, *(f"{TRANSFORMS_MODULE}.{name}" for name in TRANSFORMS))
_NAMES = {*_FUNCTIONS, *NUMPY_SCALARS, *_CLASSES, *_ELEMENT_BYTES}
"""All that a pickle may refer to."""

_MOST_AXES = 8
_DEEPEST = 64
"""How many dictionaries, lists and tuples may be open at once."""


class RefusedError(Exception):
    """A pickle asks for something that no checkpoint needs."""


class DamagedError(Exception):
    """A pickle is cut short or altered, or its tensors are not what the file holds."""


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that the pickle refers to."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Where the elements of tensors lie."""

    key: str
    kind: str
    n_elements: int


@dataclasses.dataclass(frozen=True)
class _Made:
    """What a container or an allowed call would be."""

    kind: str


_DICTIONARY = _Made("dictionary")
_CONSTANTS: dict[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_DICT": _DICTIONARY,
    "EMPTY_LIST": _Made("list"),
}
_LITERALS = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def survey(records: dict[str, bytes]) -> None:
    """Check the pickle of an archive's records.

    Raises
    ------
    RefusedError
        If it would make anything but weights and plain values.
    DamagedError
        If it is damaged, or its tensors are not what the file holds.
    """
    machine = _Machine(records)
    for opcode, argument in _opcodes(records[PICKLE]):
        machine.step(opcode, argument)


def _opcodes(pickled: bytes) -> Iterator[tuple[str, Any]]:
    try:
        yield from ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled))
    except ValueError as error:
        raise DamagedError(str(error)) from error


class _Machine:
    """A pickle's machine that keeps of each value only what it would be."""

    def __init__(self, records: dict[str, bytes]) -> None:
        self.records = records
        self.stack: list[Any] = []
        self.stacks_below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}
        self.n_elements_taken: dict[str, int] = {}

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self._top()
        elif opcode in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise DamagedError(f"its pickle takes value {argument} before it is there")
            stack.append(self.memo[argument])
        elif opcode == "GLOBAL":
            stack.append(_known(argument.replace(" ", ".")))
        elif opcode == "MARK":
            self.stacks_below.append(stack)
            self.stack = []
            if len(self.stacks_below) > _DEEPEST:
                raise DamagedError("its contents are nested too deep")
        elif opcode in ("TUPLE", "APPENDS", "SETITEMS"):
            if not self.stacks_below:
                raise DamagedError("its pickle ends a container that it does not begin")
            self.stack = self.stacks_below.pop()
            if opcode == "TUPLE":
                self.stack.append(tuple(stack))
            elif opcode == "APPENDS":
                self._top()
            else:
                self._set_items(stack)
        elif opcode in _TUPLE_LENGTHS:
            stack.append(self._popped(_TUPLE_LENGTHS[opcode]))
        elif opcode == "APPEND":
            self._popped(1)
            self._top()
        elif opcode == "SETITEM":
            self._set_items(list(self._popped(2)))
        elif opcode == "REDUCE":
            stack.append(self._called(*self._popped(2)))
        elif opcode == "NEWOBJ":
            stack.append(_instance(*self._popped(2)))
        elif opcode == "BUILD":
            self._build(*self._popped(1))
        elif opcode == "BINPERSID":
            stack.append(self._stored(*self._popped(1)))
        elif opcode == "STOP":
            self._top()
        elif opcode != "PROTO":
            raise RefusedError(f"it uses the opcode {opcode}")

    def _top(self) -> Any:
        if not self.stack:
            raise DamagedError("its pickle takes more than was put in")
        return self.stack[-1]

    def _popped(self, n: int) -> tuple[Any, ...]:
        if len(self.stack) < n:
            raise DamagedError("its pickle takes more than was put in")
        items = tuple(self.stack[-n:])
        del self.stack[-n:]
        return items

    def _set_items(self, items: list[Any]) -> None:
        self._top()
        if len(items) % 2 or not all(map(_is_key, items[::2])):
            raise DamagedError("a dictionary in it has keys that are none")

    def _build(self, state: Any) -> None:
        match self._top(), state:
            case _Made("OrderedDict" | "transform"), _Made("dictionary"):
                return
            case _Made("NumPy type"), (_, "<" | ">" | "|", *_):
                return
        raise RefusedError("it sets the state of something that has none")

    def _called(self, function: Any, arguments: Any) -> _Made:
        """Say what a call would make, if it is one of those that a checkpoint needs, with arguments that fit."""
        name = function.name if isinstance(function, _Global) else ""
        match name, arguments:
            case "collections.OrderedDict", ():
                return _Made("OrderedDict")
            case "torch._utils._rebuild_tensor_v2", (_Storage() as storage, offset, tuple(size), tuple(stride), _, _):
                self._check_tensor(storage, offset, size, stride)
                return _Made("tensor")
            case "_codecs.encode", (str(text), "latin1") if max(text, default="") < "\u0100":
                return _Made("bytes")
            case "numpy.dtype", (str(code), _, _) if code in NUMPY_FORMATS:
                return _Made("NumPy type")
            case _, (_Made("NumPy type"), _Made("bytes")) if name in NUMPY_SCALARS:
                return _Made("number")
        raise RefusedError(f"it calls {name!a} with other arguments" if name else "it calls what is no function")

    def _stored(self, identity: Any) -> _Storage:
        """Return the storage that a persistent identity names; its record must have just that many bytes."""
        match identity:
            case ("storage", _Global(kind), str(key), str(), int(n_elements)) if kind in _ELEMENT_BYTES:
                storage = _Storage(key, kind, n_elements)
            case _:
                raise RefusedError("it refers to something outside that is no storage")
        if self.storages.setdefault(key, storage) != storage:
            raise DamagedError("it takes the same elements for two kinds")
        if len(self.records.get(f"data/{key}", b"")) != n_elements * _ELEMENT_BYTES[kind]:
            raise DamagedError(f"its elements {key[:80]!a} are not all there")
        return storage

    def _check_tensor(self, storage: _Storage, offset: Any, size: tuple[Any, ...], stride: tuple[Any, ...]) -> None:
        """Refuse a tensor beyond its storage, and tensors that have more elements than it (as by strides of 0)."""
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > _MOST_AXES or any(type(n) is not int or n < 0 for n in numbers):
            raise DamagedError("one of its tensors has no shape")
        n_elements, last = 1, offset
        for n, step in zip(size, stride, strict=True):
            n_elements, last = n_elements * n, last + (n - 1) * step
        n_taken = self.n_elements_taken[storage.key] = self.n_elements_taken.get(storage.key, 0) + n_elements
        if n_elements and last >= storage.n_elements:
            raise DamagedError("one of its tensors is larger than its elements")
        if n_taken > storage.n_elements:
            raise DamagedError(f"its tensors take {n_taken} elements of {storage.n_elements}")


def _is_key(value: Any) -> bool:
    if isinstance(value, tuple):
        return not any(isinstance(part, tuple) for part in value) and all(map(_is_key, value))
    return value is None or isinstance(value, str | int | float)


def _known(name: str) -> _Global:
    """Refuse a name that no checkpoint needs."""
    if name not in _NAMES:
        raise RefusedError(f"it refers to {name[:80]!a}")
    return _Global(name)


def _instance(cls: Any, arguments: Any) -> _Made:
    """Say what an instance made without its constructor would be, if it is one that a checkpoint needs."""
    match cls, arguments:
        case _Global(name), tuple() if name == STFT_PARAMS and len(arguments) <= 3:
            return _Made("STFTParams")
        case _Global(name), () if name in _CLASSES:
            return _Made("transform")
    raise RefusedError("it makes an instance of what is no class of nussl's")
