"""Songs and stems at addresses that fsspec reads and writes, as ``s3://bucket/song.flac``.

Paths of this machine, ``file://`` before them or not, need no fsspec. Files are copied whole, and what fails for a
moment (too many requests, a broken connection) is tried three times.
"""

import contextlib
import importlib
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard, TypeVar

from vocal_extraction import atomic_files
from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction.naming import has_song_ending, safe_name, song_name

_PAUSES_S = (1.0, 4.0, None)  # after each try; None is the end
_COLUMNS = ("address", "path", "url", "song", "file")  # of a table, that may have the songs, the best first

Result = TypeVar("Result")


class AddressError(ExtractionError):
    """What is at an address could not be read or written."""

    may_pass = False  # whether it is worth another try


def plain(place: str | Path) -> str | Path:
    """Return a path for ``file://`` and the path, and what else is given as it is."""
    return str(place).removeprefix("file://") if str(place).startswith("file:///") else place


def is_address(place: Any) -> TypeGuard[str]:
    """Return whether something is the address of another machine's file or folder.

    >>> is_address("s3://bucket/a.mp3"), is_address("C://a.mp3"), is_address("a.mp3"), is_address(Path("s3://a"))
    (True, False, False, False)
    """
    return isinstance(place, str) and re.match(r"[a-z][a-z0-9+.-]+://", place) is not None


class _Explained(contextlib.AbstractContextManager["_Explained"]):
    """Turns the errors of fsspec's file systems, which have no common root, into an AddressError."""

    def __init__(self, doing: str, address: str) -> None:
        self.doing, self.address = doing, address

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            return
        text = " ".join(f"{type(error).__name__}: {error}".split())
        pattern, sentence = next(row for row in _SENTENCES if re.search(row[0], text, re.IGNORECASE))
        explained = AddressError(f"Cannot {self.doing} {self.address}. {sentence} [{text[:200]}].")
        explained.may_pass = pattern in _PASSING
        raise explained from error


_THROTTLED = r"SlowDown|reduce your request rate|Throttl|TooManyRequests|ServiceUnavailable|\b(503|429)\b"
_SENTENCES = [  # what an error's name and text match, and what is said then
    (r"^(ImportError|ModuleNotFoundError)", "It needs a library: pip install 'vocal-extraction[cloud]', for gs: gcsfs"),
    (r"^ValueError: Protocol not known", "No such kind of address is known"),
    (r"NoSuchBucket|bucket does not exist", "The bucket is not there: look at its name, or make it first"),
    (r"Credential|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken", "Credentials are missing, wrong or expired: "
     "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"),
    (r"PermissionError|Forbidden|AccessDenied|\b40[13]\b", "These credentials may not do that"),
    (_THROTTLED, "The storage refuses so many requests at once: fewer --jobs, or again later"),
    (r"FileNotFoundError|NoSuchKey|\b404\b", "It is not there, or no longer"),
    (r"Time-?out", "There was no answer in time: look at the network, and run it again"),
    (r"", "Look at the network and the storage, and run it again"),
]  # fmt: skip
_PASSING = {_THROTTLED, r"Time-?out", r""}


def _tried(doing: str, address: str, action: Callable[[Any, str], Result]) -> Result:
    """Call a function with the file system of an address and the path in it, up to three times."""
    for pause_s in _PAUSES_S:
        try:
            with _Explained(doing, address):
                fsspec = importlib.import_module("fsspec")
                return action(*fsspec.url_to_fs(address))
        except AddressError as error:
            if pause_s is None or not error.may_pass:
                raise
            time.sleep(pause_s)
    raise AssertionError


def fetch(address: str, folder: Path) -> Path:
    """Copy the file at an address into a folder, under a safe form of its name; raise AddressError if that fails."""
    name = address.partition("?")[0] if address.startswith("http") else address
    name = name.rpartition("/")[2]
    target = folder / ((safe_name(song_name(name)) or "song") + Path(name).suffix[:10])

    def get(system: Any, path: str) -> Path:
        callback = importlib.import_module("fsspec.callbacks").Callback()
        system.get_file(path, str(target), callback=callback)
        if callback.size is not None and target.stat().st_size != callback.size:
            raise ConnectionError(f"{target.stat().st_size} bytes of {callback.size} came")
        return target

    return _tried("read", address, get)


def store(path: Path, address: str) -> None:
    _tried("write", address, lambda system, there: system.put_file(str(path), there))


def read_text(place: str | Path) -> str:
    """Return the text at an address or a path, "" where nothing is, or raise `AddressError`."""

    def read(system: Any, path: str) -> str:
        return str(system.cat_file(path).decode(errors="replace")) if system.exists(path) else ""

    if is_address(place):
        return _tried("read", place, read)
    return Path(place).read_text(encoding="utf-8", errors="replace") if Path(place).exists() else ""


def write_text(place: str | Path, text: str) -> None:
    """Write a text to an address or a path; an empty one takes away what is there. Raises `AddressError`."""

    def write(system: Any, path: str) -> None:
        if text:
            system.pipe_file(path, text.encode(errors="backslashreplace"))
        elif system.exists(path):
            system.rm_file(path)

    if is_address(place):
        _tried("write", place, write)
    elif text:
        atomic_files.write_text(place, text)
    else:
        Path(place).unlink(missing_ok=True)


def files_below(address: str, pattern: str = "**") -> list[str]:
    """List the files below an address, or a path, whose paths match, or raise `AddressError`."""
    if not is_address(address):
        return [str(path) for path in Path(address).glob(pattern)]

    def find(system: Any, path: str) -> list[str]:
        system.invalidate_cache()
        found = system.find(path) if pattern == "**" else system.glob(f"{path.rstrip('/')}/{pattern}")
        return [str(system.unstrip_protocol(each)) for each in found]

    return _tried("list", address, find)


def songs_at(address: str) -> Iterator[str]:
    """Yield the address itself if it is a song's or http, else the songs below it; AddressError if there are none."""
    if has_song_ending(address) or address.startswith("http"):
        yield address
        return
    songs = [each for each in files_below(address) if has_song_ending(each)]
    if not songs:
        raise AddressError(f"{address} holds no audio files. Name a song, or another folder.")
    yield from songs


def songs_listed(place: str | Path, folder: Path) -> Iterator[str]:
    """Yield the songs of a list: a text with one a line, a table in Parquet, or '-' for lines of standard input."""
    path = fetch(place, folder) if is_address(place) else Path(place)
    with contextlib.ExitStack() as stack:
        try:
            if path.suffix == ".parquet":
                lines: Iterable[str] = _rows(path)
            else:
                lines = sys.stdin if str(place) == "-" else stack.enter_context(open(path, errors="surrogateescape"))
        except OSError as error:
            raise ExtractionError(f"The list {place} cannot be read ({error.strerror}). Look at its path.") from error
        for line in lines:
            if song := str(plain(line.strip("\r\n"))):
                yield song if is_address(song) else os.path.abspath(song)  # noqa: PTH100 - without a look at the disk


def _rows(path: Path) -> Iterable[str]:
    try:
        table = importlib.import_module("pyarrow.parquet").ParquetFile(path)
    except ModuleNotFoundError as error:
        raise ExtractionError(
            f"{path} is a table in Parquet, which needs pyarrow: pip install pyarrow. A text, a song a line, does not."
        ) from error
    except ValueError as error:  # pyarrow's own are such
        raise ExtractionError(f"{path} is no table in Parquet ({error}). Write it again.") from error
    names = table.schema_arrow.names
    column = next((name for name in _COLUMNS if name in names), names[0] if len(names) == 1 else None)
    if column is None:
        raise ExtractionError(f"{path} has no column {', '.join(_COLUMNS)}; it has {', '.join(names)}.")
    batches = (batch.column(0).to_pylist() for batch in table.iter_batches(columns=[column]))
    return (str(song) for song in itertools.chain.from_iterable(batches) if song)
