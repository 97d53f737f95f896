"""Each visitor's folder: his uploads and his results, his alone, and gone after a while.

A visitor is a random token in a cookie that scripts cannot read. The folder is named after the token's hash, so that no
path tells the token. There is no list of who is here: what lies below a visitor's folder is his, everything else is
not, and files that are older than their time are removed::

    root/<visitor>/uploads/<hash of the content>/<name>
    root/<visitor>/working/<result>/...
    root/<visitor>/results/<result>/vocals.wav, ...
"""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vocal_extraction.web_page.limits import Limits

_PREFIX = "vocal-extraction-page-"
_LOCK = "in-use"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class Visitors:
    """The folders of all visitors of one server, below `root`."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root.resolve()
        self._limits = limits

    def folder(self, token: str) -> Path:
        """Return the folder of the visitor with `token`; it need not exist."""
        return self.root / hashlib.sha256(token.encode()).hexdigest()[:32]

    def uploads(self, token: str) -> Path:
        """Return where the visitor's songs lie."""
        return self.folder(token) / "uploads"

    def owns(self, token: str, path: str | os.PathLike[str]) -> bool:
        """Whether `path`, with every link and ``..`` followed, is one of the visitor's own files."""
        try:
            return Path(path).resolve().is_relative_to(self.folder(token))
        except (OSError, ValueError):  # a loop of links, a null byte
            return False

    @contextlib.contextmanager
    def working_folder(self, token: str) -> Iterator[Path]:
        """Yield an empty folder, however long the work takes; it is removed at the end unless `keep` moved it."""
        folder = self.folder(token) / "working" / secrets.token_urlsafe(12)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, token: str, working: Path) -> str:
        """Make a result of a finished working folder; return its name, which cannot be guessed."""
        results = self.folder(token) / "results"
        results.mkdir(exist_ok=True)
        os.utime(working)  # its time begins now
        working.rename(results / working.name)
        return working.name

    def result_file(self, token: str, result: str, name: str) -> Path | None:
        """Return a file of one of the visitor's results; None if there is none of that name."""
        results = self.folder(token) / "results"
        path = (results / result / name).resolve() if "\0" not in result + name else results
        return path if path.is_file() and path.parent.parent == results else None

    def has_room_for(self, n_bytes: int) -> bool:
        """Whether `n_bytes` more may be stored."""
        used = sum(_size_of(path) for path in self.root.rglob("*"))
        return used + n_bytes <= min(self._limits.storage_bytes, used + shutil.disk_usage(self.root).free)

    def remove_expired(self, now_s: float | None = None) -> int:
        """Remove every upload and result that is older than its time; return how many."""
        oldest_s = (time.time() if now_s is None else now_s) - self._limits.lifetime_s
        n_removed = 0
        strays = [path for path in self.root.glob("tmp*") if path.is_file()]  # Gradio's File leaves them
        for path in [*strays, *self.root.glob("*/uploads/*"), *self.root.glob("*/results/*")]:
            if _changed_s(path) < oldest_s:
                n_removed += 1
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for folder in [*self.root.glob("*/*"), *self.root.glob("*")]:
            if folder.is_dir() and _changed_s(folder) < oldest_s:
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()
        return n_removed


def new_token() -> str:
    """Return a token for a new visitor."""
    return secrets.token_urlsafe(32)


def is_token(text: str) -> bool:
    """Whether `text` has the form of a token.

    >>> is_token(new_token()), is_token("../../etc/passwd")
    (True, False)
    """
    return _TOKEN.fullmatch(text) is not None


def _changed_s(path: Path) -> float:
    """Return when `path` was changed last; now, if it just went away."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _size_of(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:  # removed since it was listed
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


@contextlib.contextmanager
def visitors_folder() -> Iterator[Path]:
    """Yield a folder for all visitors' files that nobody else may read; it is removed at the end.

    A server that was killed could not tidy up: what such servers left is removed as well.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    root = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with open(root / _LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers that no longer live: a lock ends with the process that held it."""
    for root in parent.glob(f"{_PREFIX}*"):
        try:
            with open(root / _LOCK) as lock:
                _lock_at_once(lock)
                shutil.rmtree(root, ignore_errors=True)
        except OSError:  # in use, another user's, or just being made
            continue


def _lock_at_once(lock: IO[str]) -> None:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
