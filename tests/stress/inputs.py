"""Targets, and what the fuzzers draw for them: bytes, JSON and wav files that are nearly right.

A target is a place where the program takes input. It may refuse an input with an error of this project's that has a
text. Anything else that is raised is a bug, and so is a result that is not what it should be.
"""

import contextlib
import copy
import dataclasses
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from vocal_extraction.errors import VocalExtractionError

_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
_FAR_NUMBERS = (-1, 0, 1, 2**31, 2**63, 2**64, 10**400, -(10**400))
_NASTY_TEXTS = (
    *("", " ", "\0", "a\0b", "\ud800", "\udcff", "\u202e", "a\nb", "\r", "..", "../x", "/", "~", "~nobody-at-all/x"),
    *("-", "--", "-rf", "'", '"', "\\", "$HOME", "`x`", "%s", "{", "{}", "{song}", "nan", "inf", "1e309", "x" * 300),
)
_NASTY_JSON = (
    *(b"", b"[" * 100_000, b'{"a":' * 20_000, b"9" * 5_000, b"1e999999", b"NaN", b'"\\ud800"', b"\xff\xfe"),
    *(b"\xef\xbb\xbf{}", b"{" * 3, b"null", b'{"a": 1, "a": 2}'),
)

nasty_json = st.sampled_from(_NASTY_JSON)
"""What is JSON, or nearly, and hard to take."""

texts = st.one_of(st.sampled_from(_NASTY_TEXTS), st.text(max_size=20), st.text(st.characters(), max_size=8))
"""Texts, half surrogates and all."""

scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(_FAR_NUMBERS), st.integers(), st.floats(), texts)

json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
"""Anything that JSON, or Python's reading of it, can hold."""


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return `whole` with a few bytes changed, numbers set to their limits, parts cut out, doubled or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.integers(0, 6))
        if kind == 0:
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == 1:
            data[at : at + 4] = struct.pack("<I", draw(st.sampled_from(_EDGES)))
        elif kind == 2:
            data[at : at + 2] = struct.pack("<H", draw(st.sampled_from(_EDGES)) & 0xFFFF)
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + draw(st.integers(1, 16))]
        elif kind == 5:
            data[at:at] = data[at : at + draw(st.integers(1, 16))]
        else:
            data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Return a JSON document of which a few values were replaced, removed or added."""
    result = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = result
        key: Any = 0
        while isinstance(holder[key], dict | list) and len(holder[key]) and draw(st.integers(0, 4)):
            holder = holder[key]
            keys = sorted(holder, key=str) if isinstance(holder, dict) else list(range(len(holder)))
            key = draw(st.sampled_from(keys))
        kind = draw(st.integers(0, 3))
        if kind == 0 and holder is not result:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw(texts)] = draw(json_values)
        else:
            holder[key] = draw(json_values)
        if not result:
            break
    return result[0]


def json_bytes(document: Any) -> st.SearchStrategy[bytes]:
    """Return a strategy for files that should hold a document like this one."""
    whole = json.dumps(document).encode()
    return st.one_of(
        changed(document).map(lambda value: json.dumps(value).encode()),
        mutated(whole),
        st.binary(max_size=60),
        nasty_json,
    )


@dataclasses.dataclass(frozen=True)
class Target:
    """A place where the program takes input."""

    name: str
    inputs: Callable[[], "st.SearchStrategy[Any]"]
    """Makes the strategy that draws inputs."""
    take: Callable[[Any, Path], None]
    """Feeds it one input; the path is an empty folder."""
    n_inputs: int
    """Of a full run."""
    n_guided: int = 0
    """Inputs of a full run that coverage guides; none where most of the time is spent in libraries."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Let errors of this project pass, if they say anything."""
    try:
        yield
    except VocalExtractionError as error:
        if not str(error).strip():
            raise AssertionError("an error without a text") from error


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty working folder, in memory where possible, two levels below the temporary one."""
    shared = Path("/dev/shm")  # noqa: S108 - a parent for a temporary folder, if it is there
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None) as folder:
        inner = Path(folder) / "a" / "b"
        inner.mkdir(parents=True)
        before = Path.cwd()
        os.chdir(inner)
        try:
            yield inner
        finally:
            os.chdir(before)


def _chunk(name: bytes, content: bytes, n_bytes: int | None = None) -> bytes:
    return name + struct.pack("<I", len(content) if n_bytes is None else n_bytes) + content


@st.composite
def wav_files(draw: st.DrawFn) -> bytes:
    """Return a wav whose header may claim anything: any length, channel count, rate, coding or order of its parts."""
    number = st.one_of(st.sampled_from(_EDGES), st.integers(0, 2**32 - 1))
    n_channels = draw(st.one_of(st.integers(0, 8), number)) & 0xFFFF
    rate = draw(st.one_of(st.sampled_from((8_000, 44_100, 48_000)), number))
    bits = draw(st.one_of(st.sampled_from((8, 16, 24, 32, 64)), number)) & 0xFFFF
    align = draw(st.one_of(st.just(n_channels * bits // 8), number)) & 0xFFFF
    coding = draw(st.one_of(st.sampled_from((1, 3, 2, 6, 7, 0x11, 0xFFFE)), number)) & 0xFFFF
    form = struct.pack("<HHIIHH", coding, n_channels, rate, rate * align & 0xFFFF_FFFF, align, bits)
    form += draw(st.sampled_from((b"", b"\0\0", b"\x16\0" + bytes(22), b"\xff" * 24)))
    samples = draw(st.binary(max_size=64))
    length = draw(st.one_of(st.none(), number))
    parts = [_chunk(b"fmt ", form), _chunk(b"data", samples, length)]
    if draw(st.booleans()):
        name = draw(st.sampled_from((b"LIST", b"fact", b"PEAK", b"cue ", b"smpl", b"inst", b"bext", b"RIFF", b"id3 ")))
        parts.insert(
            draw(st.integers(0, 2)), _chunk(name, draw(st.binary(max_size=40)), draw(st.one_of(st.none(), number)))
        )
    if not draw(st.integers(0, 9)):
        parts = draw(st.permutations(parts))
    body = b"WAVE" + b"".join(parts)
    head = draw(st.sampled_from((b"RIFF", b"RIFX", b"RF64", b"riff")))
    whole = _chunk(head, body, draw(st.one_of(st.none(), number)))
    return draw(st.one_of(st.just(whole), mutated(whole)))
