"""Whole files only: what is written here appears under its final name complete, or not at all.

A file is written beside its final place under a temporary name, flushed to the disk and renamed, which POSIX makes
atomic; a crash leaves at most a temporary file, which `remove_leftovers` takes away on the next start. Every
module that writes a result goes through `whole_file`.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from settings import VocalExtractionError

_ASIDE = ".partial-"


class StorageError(VocalExtractionError):
    """A file could not be written or read; the text names it and the remedy."""


def _explain(error: OSError, path: Path) -> StorageError:
    remedies = {
        errno.ENOSPC: "The disk is full. Free some space and run the same command again",
        errno.EDQUOT: "The disk quota is used up. Free some space and run the same command again",
        errno.EROFS: "The folder is read-only. Choose another one",
        errno.EACCES: "Permission was denied. Choose another folder or change its permissions",
        errno.EPERM: "Permission was denied. Choose another folder or change its permissions",
        errno.ENAMETOOLONG: "The name is too long. Choose a shorter one",
        errno.ENOENT: "The folder vanished. Run the same command again",
    }
    reason = remedies.get(error.errno or 0, f"{error.strerror or error}. Check the disk and try again")
    return StorageError(f"Cannot write {path}. {reason}.")


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving without an error, sync it and rename it to `path`.

    Parameters
    ----------
    path
        Where the file shall stand. Missing parent folders are made.

    Yields
    ------
    Path
        A path with the same suffix in the same folder, to be written by the caller.

    Raises
    ------
    StorageError
        If the folder cannot be made, the disk is full or the rename fails; nothing stands under `path` then that did
        not stand there before.
    """
    final = Path(path)
    # The process number keeps two writers apart; a long stem is cut so that the name stays within 255 bytes.
    stem = final.stem.encode()[:120].decode(errors="ignore")
    aside = final.with_name(f"{_ASIDE}{os.getpid()}-{stem}{final.suffix}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(aside, final)
    except OSError as error:
        raise _explain(error, final) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole."""
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as indented JSON to `path`, whole; NaN and infinity are refused, since JSON has neither."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def remove_leftovers(folder: str | os.PathLike[str]) -> int:
    """Remove what processes that no longer live left half-written below `folder`; return how many files."""
    n_removed = 0
    for aside in Path(folder).rglob(f"{_ASIDE}*"):
        if not _is_alive(aside.name.removeprefix(_ASIDE).split("-")[0]):
            with contextlib.suppress(OSError):
                aside.unlink()
                n_removed += 1
    return n_removed


def _is_alive(process_number: str) -> bool:
    if not process_number.isdigit():
        return False
    try:
        os.kill(int(process_number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the file at `path` in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
