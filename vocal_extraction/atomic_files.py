"""Whole files only: what is written here appears under its final name complete, or not at all.

A file is written beside its final place under a temporary name, flushed to the disk and renamed, which POSIX makes
atomic; what a crash leaves, `remove_leftovers` takes away on the next start. Every result goes through `whole_file`.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from vocal_extraction.errors import VocalExtractionError

_ASIDE, _IN_USE = ".partial-", "in-use"
_MOST_STEM_BYTES, _MOST_SUFFIX_BYTES = 120, 20
"""A temporary name keeps this much of the final one, so that it stays within the 255 bytes of a file's name."""

_counter = itertools.count()
_folder_locks: dict[str, threading.Lock] = {}
_being_written: set[str] = set()  # names of the temporary files of this process

_REMEDIES = {
    errno.ENOSPC: "The disk is full. Free some space and run the same command again",
    errno.EDQUOT: "The disk quota is used up. Free some space and run the same command again",
    errno.EROFS: "The folder is read-only. Choose another one",
    errno.EACCES: "Permission was denied. Choose another folder or change its permissions",
    errno.EPERM: "Permission was denied. Choose another folder or change its permissions",
    errno.ENAMETOOLONG: "The name is too long. Choose a shorter one",
    errno.ENOENT: "The folder vanished. Run the same command again",
    errno.EEXIST: "A file stands where a folder is needed. Choose another folder",
    errno.ENOTDIR: "A file stands where a folder is needed. Choose another folder",
}


class StorageError(VocalExtractionError):
    """A file could not be written; the text names it and the remedy."""


def _explain(error: OSError, path: Path) -> StorageError:
    reason = _REMEDIES.get(error.errno or 0, f"{error.strerror or error}. Check the disk and try again")
    return StorageError(f"Cannot write {path}. {reason}.")


def sentence_of(error: VocalExtractionError | OSError) -> str:
    """Return an error's text; for an error of the system that no module has handled, with what to do.

    >>> sentence_of(FileNotFoundError(errno.ENOENT, "No such file or directory", "song.wav"))
    'song.wav: No such file or directory. Look at the path, its permissions and the disk, and run it again.'
    """
    if isinstance(error, VocalExtractionError):
        return str(error)
    what = ", ".join(ascii(name)[1:-1] for name in (error.filename, error.filename2) if isinstance(name, str))
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{what + ': ' if what else ''}{reason}. Look at the path, its permissions and the disk, and run it again."


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving without an error, sync it and rename it to `path`.

    Missing parent folders are made. The temporary path has the same suffix. A `StorageError` says why it failed.
    """
    final = Path(path)
    aside = _name_aside(final)
    _being_written.add(aside.name)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # To rename over a folder fails, but over a device, as /dev/null, it would not.
        if final.exists() and not final.is_file():
            raise StorageError(f"Cannot write {final}. It is no ordinary file. Choose another name.")
        yield aside
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(aside, final)
    except OSError as error:
        if not _concerns(error, aside, final):
            raise
        raise _explain(error, final) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        _being_written.discard(aside.name)


def native_name(name: str, n_bytes: int | None = None) -> str:
    """Return a name as this process's locale spells names of files, cut to `n_bytes` between two characters.

    >>> native_name("Caf\\udcc3\\udca9"), native_name("Caf\\u00e9", 4)
    ('Café', 'Caf')
    """
    data = name.encode(errors="surrogateescape")
    return os.fsdecode(data if n_bytes is None else data[:n_bytes].decode(errors="ignore").encode())


def _name_aside(final: Path) -> Path:
    """Return a temporary path beside `final` that no other process and no other call has."""
    if not final.name or "\0" in str(final):
        raise StorageError(f"Cannot write {str(final)!r}. It names no file. Choose another name.")
    suffix = final.suffix if len(os.fsencode(final.suffix)) <= _MOST_SUFFIX_BYTES else ""
    stem = native_name(final.stem, _MOST_STEM_BYTES)
    return final.with_name(f"{_ASIDE}{os.getpid()}-{next(_counter)}-{stem}{suffix}")


def _concerns(error: OSError, aside: Path, final: Path) -> bool:
    """Whether an error is about the file being written, and not about another one that the caller works with."""
    if not isinstance(error.filename, str | bytes):
        return True
    return Path(os.fsdecode(error.filename)) in (aside, final, *final.parents)


@contextlib.contextmanager
def sole_writer(
    folder: Path, *, doing: str, wait: Callable[[str], None] | None = None, name: str = ".lock"
) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process or thread works there; it ends with this process.

    If another holds it, `wait` is called with a sentence before waiting; without `wait` a `StorageError` is raised. A
    folder that was made for the lock and stayed empty is removed.
    """
    path, was_there = folder / name, folder.exists()
    with contextlib.ExitStack() as stack:
        # The system's lock is one of processes; threads of this one need another.
        own = _folder_locks.setdefault(os.path.realpath(path), threading.Lock())
        is_free = own.acquire(blocking=False)
        if is_free:
            stack.callback(own.release)
        lock = _locked(path, blocking=False) if is_free else None
        if lock is None:
            sentence = f"Another process is {doing} in {folder}."
            if wait is None:
                raise StorageError(f"{sentence} Wait until it has ended, or choose another folder.")
            wait(f"{sentence} Waiting until it has ended ...")
            if not is_free:
                stack.enter_context(own)
            lock = _locked(path, blocking=True)
        if lock is not None:
            stack.enter_context(lock)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                if not was_there:
                    folder.rmdir()


def _locked(path: Path, *, blocking: bool) -> IO[bytes] | None:
    """Open and lock a file that is still there when it is locked; return None if another process has locked it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "ab")  # noqa: SIM115 - closed by the caller, or below
        except OSError as error:
            raise _explain(error, path) from error
        try:
            # Not flock: children that outlive a killed process would hold on to that.
            fcntl.lockf(lock, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
            if path.exists() and path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                return lock
        except (BlockingIOError, PermissionError):
            lock.close()
            return None
        except OSError:
            # Removed by its holder meanwhile; or a network file system without locks.
            if path.exists():
                return lock
        lock.close()


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    with whole_file(path) as aside:
        aside.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Write `text` as UTF-8 to `path`, whole; bytes of a file's name that are not UTF-8 as ``\udcff``, as in JSON."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as indented JSON to `path`, whole; NaN and infinity are refused, since JSON has neither."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def remove_leftovers(folder: str | os.PathLike[str]) -> int:
    """Remove what processes that no longer live left half-written below `folder`; return how many files."""
    n_removed = 0
    # Another process may clean up, or take the folder away, at the same time.
    with contextlib.suppress(FileNotFoundError):
        for aside in Path(folder).rglob(f"{_ASIDE}*"):
            if not _has_writer(aside):
                with contextlib.suppress(OSError):
                    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
                    n_removed += 1
    return n_removed


@contextlib.contextmanager
def private_folder(prefix: str) -> Iterator[Path]:
    """Yield a temporary folder, removed at the end; what killed processes left of this prefix is removed first."""
    for abandoned in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError), open(abandoned / _IN_USE) as lock:  # in use, or another user's
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(abandoned, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder,
        open(Path(folder, _IN_USE), "w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(folder)


def _has_writer(aside: Path) -> bool:
    try:
        process_number = int(aside.name.removeprefix(_ASIDE).split("-")[0])
        if process_number == os.getpid():
            # In a container, every start may have the number of the one that was killed.
            return aside.name in _being_written
        os.kill(process_number, 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's
    try:
        state = Path(f"/proc/{process_number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # not Linux
    return state.rpartition(")")[2].split()[0] != "Z"  # dead, but nobody has asked how it ended


def sha256_of(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
