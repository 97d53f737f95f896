"""The files of a model: one alone, those of a folder, or those in an archive, which is never unpacked to the disk."""

import contextlib
import functools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vocal_extraction.checkpointing import CheckpointError
from vocal_extraction.checkpointing.archive import LARGEST_BYTES, reason_of

Files = dict[str, Callable[[], Any]]  # what opens each file for reading, by its name with slashes

_DAMAGED = (  # what archives raise that are broken, encrypted, or compressed in some other way
    *(OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, RuntimeError),
    *(ValueError, IndexError),  # for names of files that are no UTF-8, or empty
)


def read(files: Files, name: str, n_bytes: int = LARGEST_BYTES + 1) -> bytes:
    """Return the first bytes of a file, or all; raise CheckpointError if it is too large, or damaged."""
    try:
        with files[name]() as file:
            contents: bytes = file.read(n_bytes)
    except _DAMAGED as error:
        raise CheckpointError(f"{name} cannot be read ({reason_of(error)})") from error
    if len(contents) > LARGEST_BYTES:
        raise CheckpointError(f"{name} has more than {LARGEST_BYTES} bytes")
    return contents


@contextlib.contextmanager
def files_at(path: Path) -> Iterator[Files]:
    """Yield the files of a folder, a zip (as wheels are), a tar, or the file itself, none of which lies outside."""
    with contextlib.ExitStack() as stack:
        try:
            files = _files_of(path, stack)
        except _DAMAGED as error:
            raise CheckpointError(f"it cannot be read ({reason_of(error)})") from error
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in name.split("/"):
                raise CheckpointError(f"it was refused: it names a file outside of itself, {name!a}")
        yield dict(sorted(files.items()))


def _files_of(path: Path, stack: contextlib.ExitStack) -> Files:
    if path.is_dir():
        found = [each for each in path.rglob("*") if each.is_file()]
        return {str(each.relative_to(path)): functools.partial(each.open, "rb") for each in found}
    if not path.is_file():
        raise CheckpointError("there is no such file or folder")
    if zipfile.is_zipfile(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        names = [each.filename for each in archive.infolist() if not each.is_dir()]
        if not any(name.endswith("/data.pkl") for name in names):  # which is a file of torch's by itself
            return {name: functools.partial(archive.open, name) for name in names}
    elif tarfile.is_tarfile(path):
        tar = stack.enter_context(tarfile.TarFile.open(path))
        return {each.name: functools.partial(tar.extractfile, each) for each in tar.getmembers() if each.isfile()}
    return {path.name: functools.partial(path.open, "rb")}
