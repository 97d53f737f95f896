"""What a pickle would make torch do, found out without making anything: step 2 in docs/checkpoints.md.

`torch.load` with ``weights_only`` runs no foreign code, but a few hundred bytes can ask it for gigabytes. So the pickle
is followed opcode by opcode (see Python's module pickletools), in the subset that ``torch.save`` writes.
"""

import dataclasses
import pickletools
from collections import OrderedDict
from typing import Any

from vocal_extraction.checkpointing.archive import PICKLE
from vocal_extraction.checkpointing.metadata import STFTParams
from vocal_extraction.compatibility import NUMPY_SCALARS, PLAIN_CLASSES, STFT_PARAMS

_ELEMENT_BYTES = {
    **dict.fromkeys(("torch.DoubleStorage", "torch.LongStorage"), 8),
    **dict.fromkeys(("torch.FloatStorage", "torch.IntStorage"), 4),
    **dict.fromkeys(("torch.HalfStorage", "torch.BFloat16Storage", "torch.ShortStorage"), 2),
    **dict.fromkeys(("torch.CharStorage", "torch.ByteStorage", "torch.BoolStorage"), 1),
}
_FUNCTIONS = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "_codecs.encode", "numpy.dtype")
_NAMES = {*_FUNCTIONS, *NUMPY_SCALARS, *PLAIN_CLASSES, *_ELEMENT_BYTES}  # all that a pickle may refer to
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MOST_AXES = 8
_MOST_ATTRIBUTES = 16  # of a transform, or of an OrderedDict of weights; each object gets a copy of its own
_DEEPEST = 64  # how many dictionaries, lists and tuples may be open at once


class RefusedError(Exception):
    """A pickle asks for something that no checkpoint needs."""


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:  # where the elements of tensors lie
    key: str
    kind: str
    n_elements: int


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """Stands for what an opcode would make."""

    kind: str


def survey(records: dict[str, bytes], *, pickle: bytes | None = None) -> tuple[int, Any]:
    """Check the pickle of an archive's records; or another, whose elements lie elsewhere.

    Returns the bytes of all elements that it refers to, and its contents, with a `Made` for each tensor and each other
    object that is no plain value. Raises RefusedError if it would make anything else, ValueError if it is damaged.
    """
    machine = _Machine(None if pickle else records)
    for opcode, argument, _ in pickletools.genops(pickle or records[PICKLE]):
        machine.step(opcode.name, argument)
    n_bytes = sum(each.n_elements * _ELEMENT_BYTES[each.kind] for each in machine.storages.values())
    return n_bytes, machine.stack[-1]


class _Machine:
    """A pickle machine that makes dictionaries, lists and tuples, and stand-ins for all other objects."""

    def __init__(self, records: dict[str, bytes] | None) -> None:
        self.records = records
        self.stack: list[Any] = []
        self.stacks_below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}
        self.n_elements_taken: dict[str, int] = {}
        self.times_taken: dict[tuple[Any, ...], int] = {}

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[opcode])
            case "EMPTY_DICT" | "EMPTY_LIST":
                stack.append({} if opcode == "EMPTY_DICT" else [])
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                if (name := argument.replace(" ", ".")) not in _NAMES:
                    raise RefusedError(f"it refers to {name[:80]!a}")
                stack.append(_Global(name))
            case "MARK":
                self.stacks_below.append(stack)
                self.stack = []
                if len(self.stacks_below) > _DEEPEST:
                    raise ValueError("its contents are nested too deep")
            case "TUPLE" | "APPENDS" | "SETITEMS":
                self.stack = self.stacks_below.pop()
                if opcode == "TUPLE":
                    self.stack.append(tuple(stack))
                elif opcode == "SETITEMS":
                    self._set_items(stack)
                elif isinstance(self.stack[-1], list):
                    self.stack[-1].extend(stack)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(self._popped(int(opcode[-1])))
            case "APPEND":
                self.stack[-2].append(self._popped(1)[0])
            case "SETITEM":
                self._set_items(self._popped(2))
            case "REDUCE":
                stack.append(self._called(*self._popped(2)))
            case "NEWOBJ":
                stack.append(_instance(*self._popped(2)))
            case "BUILD":
                self._build(*self._popped(1))
            case "BINPERSID":
                stack.append(self._stored(*self._popped(1)))
            case "PROTO" | "STOP":
                pass
            case _:
                raise RefusedError(f"it uses the opcode {opcode}")

    def _popped(self, n: int) -> tuple[Any, ...]:
        if len(self.stack) < n:
            raise ValueError("its pickle takes more than was put in")
        items = tuple(self.stack[-n:])
        del self.stack[-n:]
        return items

    def _set_items(self, items: list[Any] | tuple[Any, ...]) -> None:
        if not all(map(_is_key, items[::2])):
            raise ValueError("a dictionary in it has keys that are none")
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _build(self, state: Any) -> None:
        match self.stack[-1], state:
            case OrderedDict() | Made("transform"), dict(attributes) if len(attributes) <= _MOST_ATTRIBUTES:
                return
            case Made("NumPy type"), tuple():
                return
        raise RefusedError("it sets the state of something that has none")

    def _called(self, function: Any, arguments: Any) -> Any:
        """Return what a call would make, if a checkpoint needs it and its arguments fit."""
        name = function.name if isinstance(function, _Global) else "what is no function"
        match name, arguments:
            case "collections.OrderedDict", ():
                return OrderedDict()
            case "torch._utils._rebuild_tensor_v2", (_Storage() as storage, offset, tuple(size), tuple(stride), _, _):
                self._check_tensor(storage, offset, size, stride)
                return Made("tensor")
            case "_codecs.encode", (str(text), "latin1") if max(text, default="") < "\u0100":
                return Made("bytes")
            case "numpy.dtype", (str(), _, _):
                return Made("NumPy type")
            case _, (Made("NumPy type"), Made("bytes")) if name in NUMPY_SCALARS:
                return Made("number")
        raise RefusedError(f"it calls {name!a} with other arguments")

    def _stored(self, identity: Any) -> _Storage:
        """Return the storage that a persistent identity names; its record must have just that many bytes."""
        match identity:
            case ("storage", _Global(kind), str(key), str(), int(n_elements), *view) if (
                kind in _ELEMENT_BYTES and n_elements >= 0 and view in ([], [None])
            ):
                storage = _Storage(key, kind, n_elements)
            case _:
                raise RefusedError("it refers to something outside that is no storage")
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("it takes the same elements for two kinds")
        n_bytes = n_elements * _ELEMENT_BYTES[kind]
        if self.records is not None and len(self.records.get(f"data/{key}", b"")) != n_bytes:
            raise ValueError(f"its elements {key[:80]!a} are not all there")
        return storage

    def _check_tensor(self, storage: _Storage, offset: Any, size: tuple[Any, ...], stride: tuple[Any, ...]) -> None:
        """Refuse a tensor beyond its storage, and tensors that have more elements than it (as by strides of 0)."""
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > _MOST_AXES or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError("one of its tensors has no shape")
        n_elements, last = 1, offset
        for n, step in zip(size, stride, strict=True):
            n_elements, last = n_elements * n, last + (n - 1) * step
        whole = (storage.key, offset, size, stride)
        self.times_taken[whole] = self.times_taken.get(whole, 0) + 1
        # nussl's ConvolutionalStack2D has its last layer under two names. More would be a network larger than its file.
        n_more = 0 if self.times_taken[whole] == 2 else n_elements
        n_taken = self.n_elements_taken[storage.key] = self.n_elements_taken.get(storage.key, 0) + n_more
        if n_elements and last >= storage.n_elements:
            raise ValueError("one of its tensors is larger than its elements")
        if n_taken > storage.n_elements:
            raise ValueError(f"its tensors take {n_taken} elements of {storage.n_elements}")


def _is_key(value: Any) -> bool:
    """Whether it can be hashed safely: Python crashes on tuples that are nested too deep."""
    if isinstance(value, tuple):
        return not any(isinstance(part, tuple) for part in value) and all(map(_is_key, value))
    return value is None or isinstance(value, str | int | float)


def _instance(cls: Any, arguments: Any) -> STFTParams | Made:
    match cls, arguments:
        case _Global(name), tuple() if name in PLAIN_CLASSES and len(arguments) <= 3:
            return STFTParams(*arguments) if name == STFT_PARAMS else Made("transform")
    raise RefusedError("it makes an instance of what is no class of nussl's")
