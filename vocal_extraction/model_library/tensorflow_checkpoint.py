"""Arrays from a checkpoint of TensorFlow, without TensorFlow: an index of where they lie, and one file of all of them.

The index is a table as LevelDB writes it: blocks of sorted entries, each of which repeats only so much of its key as
differs from the one before, a block that says where these are, and a footer. Its entries are protocol buffers. Source:
LevelDB's doc/table_format.md, TensorFlow's tensor_bundle.proto. Every block and every array carries a checksum.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from vocal_extraction.checkpointing import CheckpointError

TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the last bytes of an index
_FOOTER_BYTES = 48
_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 3: np.dtype("<i4"), 9: np.dtype("<i8")}
"""By their number in TensorFlow's types.proto."""


def read_arrays(index: bytes, data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays by name; a CheckpointError says that the index or an array is damaged, or of another kind."""
    try:
        (_, _, *handle), _ = _varints(index[-_FOOTER_BYTES:], 0, 4)
        entries = [each for _, block in _entries(index, *handle) for each in _entries(index, *_varints(block, 0, 2)[0])]
        return {key.decode(): _array(dict(_fields(entry)), data) for key, entry in entries if key}
    except (LookupError, TypeError, ValueError, struct.error, DecodeError) as error:  # TypeError: fields of other kinds
        raise CheckpointError(f"its index is damaged ({error})") from error


def _entries(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block, behind which stand its kind and its checksum."""
    block, end = table[offset : offset + size], offset + size
    kind, checksum = struct.unpack("<BI", table[end : end + 5])
    if kind != 0:
        raise ValueError("it is compressed")
    _check(table[offset : end + 1], checksum, "a block")
    (n_restarts,) = struct.unpack("<I", block[-4:])
    key, position = b"", 0
    while position < size - 4 * (n_restarts + 1):
        (n_shared, n_own, n_value), position = _varints(block, position, 3)
        key = key[:n_shared] + block[position : position + n_own]
        position += n_own + n_value
        yield key, block[position - n_value : position]


def _varints(data: bytes, position: int, n: int) -> tuple[list[int], int]:
    """Read numbers of seven bits a byte; return where they end, too."""
    values, shift = [0], 0
    while len(values) <= n:
        byte = data[position]
        values[-1] |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            values, shift = [*values, 0], 0
        elif shift > 63:
            raise ValueError("it has a number without an end")
    return values[:n], position


def _fields(message: bytes) -> list[tuple[int, Any]]:
    return [(field.field_number, field.data) for field in UnknownFieldSet(Empty.FromString(message))]


def _array(entry: dict[int, Any], data: bytes) -> NDArray[Any]:
    """Return the array that an entry describes: 1 type, 2 shape, 3 file, 4 offset, 5 bytes, 6 checksum."""
    kind, shard, offset, size, checksum = (entry.get(number, 0) for number in (1, 3, 4, 5, 6))
    shape = tuple(dict(_fields(each)).get(1, 0) for number, each in _fields(entry.get(2, b"")) if number == 2)
    if kind not in _TYPES or shard != 0:
        raise ValueError(f"an array is of type {kind}, or in another file")
    if size != math.prod(shape) * _TYPES[kind].itemsize or offset + size > len(data):
        raise ValueError("an array lies beyond the file's end")
    contents = data[offset : offset + size]
    _check(contents, checksum, "an array")
    return np.frombuffer(contents, _TYPES[kind]).reshape(shape).copy()


def _check(contents: bytes, checksum: int, what: str) -> None:
    """Compare with a checksum as LevelDB stores it: rotated, and a number added."""
    value = google_crc32c.value(contents)
    if ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF != checksum:
        raise ValueError(f"the checksum of {what} differs")
