"""From a checkpoint's file to plain values, without running code: steps 1 to 4 in docs/checkpoints.md."""

import contextlib
import io
import pickle
import pickletools
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vocal_extraction.checkpointing.archive import PICKLE, CheckpointError, contents_of, packed, reason_of, records_of
from vocal_extraction.checkpointing.metadata import CheckpointMetadata, STFTParams
from vocal_extraction.checkpointing.shipped import member_paths
from vocal_extraction.checkpointing.survey import Made, RefusedError, survey
from vocal_extraction.compatibility import NUMPY_FORMATS, NUMPY_SCALARS, STFT_PARAMS, TRANSFORMS, TRANSFORMS_MODULE

OLD_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # how torch's format before 1.6 begins: a number, pickled
_OLD_PICKLES = 5
_MOST_VALUES = 2**20  # values and characters that a checkpoint may hold beside its weights
_DEEPEST = 32  # how deep its dictionaries and lists may be nested
_DAMAGED = (*(ValueError, LookupError, RuntimeError, TypeError, AttributeError, EOFError, AssertionError), struct.error)
"""What the survey and torch raise of a pickle whose values do not fit together."""

_loading = threading.Lock()  # torch keeps one list of allowed classes for all threads


class _NumpyType:
    """Stands in for ``numpy.dtype`` in what a NumPy scalar was pickled as."""

    def __init__(self, code: str, _align: bool, _copy: bool) -> None:
        self.format, self.order = NUMPY_FORMATS[code], "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: _NumpyType, data: bytes) -> float:
    """Return a NumPy scalar as the Python number that it stands for."""
    return struct.unpack(kind.order + kind.format, data)[0]


_STAND_INS: list[Any] = [
    (_NumpyType, "numpy.dtype"),
    *((_number, name) for name in NUMPY_SCALARS),
    (STFTParams, STFT_PARAMS),
    # Classes that only hold what nussl's transforms of these names held.
    *((type(name, (), {"__module__": __name__}), f"{TRANSFORMS_MODULE}.{name}") for name in TRANSFORMS),
]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's dictionary without running any code that it may hold, and without nussl.

    It has ``state_dict``, ``metadata`` and, in all but the oldest files, ``config``; NumPy's numbers are Python's.
    Raises CheckpointError if the file is missing, damaged, or holds anything but weights and plain values.
    """
    return parse_checkpoint(contents_of(path), name=str(path))


def parse_checkpoint(contents: bytes, *, name: str) -> dict[str, Any]:
    """Do what `read_checkpoint` does, on the contents of a file, called `name` in messages."""
    from torch import Tensor

    match parse_torch_file(contents, name=name):
        case {"state_dict": dict(state), "metadata": dict()} as loaded if all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        ):
            return loaded
    raise CheckpointError(f"{name} is no checkpoint of nussl's: it lacks 'state_dict' or 'metadata'.")


def read_metadata(path: str | Path) -> CheckpointMetadata:
    """Read the metadata of a checkpoint, or of a list's first, without torch and without weights.

    Names of the sources, and numbers of NumPy's, may be missing from what nussl wrote.
    """
    path = member_paths(Path(path))[0]
    pickled = records_of(path, name=str(path), only=PICKLE)[PICKLE]
    with _refused(str(path)):
        _, found = survey({}, pickle=pickled)
        found = _plain(found, Made)
    if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict):
        raise CheckpointError(f"{path} is no checkpoint of nussl's: it lacks 'metadata'.")
    return CheckpointMetadata.parse(found["metadata"])


def parse_torch_file(contents: bytes, *, name: str) -> Any:
    """Return what ``torch.save`` wrote, in its format of today or that of before 1.6; errors as `read_checkpoint`'s."""
    import torch

    is_old = contents.startswith(OLD_MAGIC)
    records = {} if is_old else records_of(contents, name=name)
    with _refused(name):
        if not is_old:
            survey(records)
        file = _surveyed_old_file(contents) if is_old else packed(records)
        with _loading, _allowed_classes():
            return _plain(torch.load(file, map_location="cpu", weights_only=True), torch.Tensor)


@contextlib.contextmanager
def _refused(name: str) -> Iterator[None]:
    """Say in a CheckpointError what is wrong with the file of that name."""
    try:
        yield
    except (RefusedError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{name} was refused: it holds more than weights and plain values ({reason_of(error)})."
        ) from error
    except _DAMAGED as error:
        raise CheckpointError(f"{name} is damaged ({reason_of(error)}). Train or download it again.") from error


def _surveyed_old_file(contents: bytes) -> io.BytesIO:
    """Check five pickles (the fourth is the object, the last lists its storages), and that all elements follow them."""
    file, n_bytes = io.BytesIO(contents), 0
    for number in range(_OLD_PICKLES):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        n_found, _ = survey({}, pickle=contents[start : file.tell()])
        n_bytes += n_found if number == _OLD_PICKLES - 2 else 0
    # Each storage begins with its number of elements.
    n_left = len(contents) - file.tell() - n_bytes
    if n_left < 0 or n_left % 8:
        raise ValueError("its elements are not all there")
    file.seek(0)
    return file


@contextlib.contextmanager
def _allowed_classes() -> Iterator[None]:
    """Let `torch.load` make stand-ins for NumPy's scalars and nussl's plain classes, and no other class."""
    import torch

    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _plain(content: Any, weights: type) -> Any:
    """Copy what was loaded, within bounds: plain values and `weights`, no cycles, no text that cannot be written."""
    n_left = _MOST_VALUES

    def copied(value: Any, depth: int) -> Any:
        nonlocal n_left
        n_left -= 1 + (len(value) if isinstance(value, str) else 0)
        if n_left < 0 or depth > _DEEPEST:
            raise ValueError("its metadata is too large or too deep")
        if isinstance(value, dict):
            # dict.items, since an OrderedDict may have attributes that hide its methods.
            return {copied(key, depth + 1): copied(item, depth + 1) for key, item in dict.items(value)}
        if isinstance(value, list | tuple):
            items = [copied(item, depth + 1) for item in value]
            return STFTParams(*items) if isinstance(value, STFTParams) else type(value)(items)
        if type(value).__name__ in TRANSFORMS:
            transform = object.__new__(type(value))
            vars(transform).update(copied(vars(value), depth + 1))
            return transform
        if isinstance(value, str):
            value.encode()  # half a surrogate pair would fail later, in a report
        elif not isinstance(value, bool | int | float | weights | None):
            raise RefusedError(f"a {type(value).__name__}")
        return value

    return copied(content, 0)
