"""Files from their makers' addresses: resumed where they broke off, and checked before anything reads them."""

import contextlib
import errno
import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.checkpointing.archive import LARGEST_BYTES
from vocal_extraction.errors import VocalExtractionError

_TIMEOUT_S = 30.0
_BLOCK_BYTES = 2**18
_ALL_HERE = 416  # HTTP status: the range asked for begins at the file's end


class LibraryError(VocalExtractionError):
    """A model cannot be fetched, imported or removed; the text says why and what to do."""


class LicenceError(LibraryError):
    """A licence was not accepted yet."""


def size_of(url: str) -> int:
    """Return the bytes of a file, 0 where the server does not say."""
    with _answer(url, method="HEAD") as answer:
        return int(answer.headers.get("Content-Length") or 0)


def download(url: str, path: Path, sha256: str) -> None:
    """Download to `path`, from where an earlier attempt ended, and check the SHA-256 or what is known of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n_here = path.stat().st_size if path.exists() else 0
    with _answer(url, headers={"Range": f"bytes={n_here}-"} if n_here else {}) as answer:
        if answer.status != _ALL_HERE:
            _receive(answer, path, n_here if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0)
    found = sha256_of(path)
    if not found.startswith(sha256):
        path.unlink()
        raise LibraryError(
            f"{url} is not the file that was published: its SHA-256 is {found}, expected {sha256}. It was deleted; "
            "try again later, or look at its makers' page."
        )


@contextlib.contextmanager
def _answer(url: str, **more: Any) -> Iterator[Any]:
    """Yield a server's answer; a LibraryError says that there is none, or that it broke off."""
    try:
        request = urllib.request.Request(url, **more)  # noqa: S310 - addresses of `known`
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            yield answer
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == _ALL_HERE:
            yield error
            return
        if isinstance(error, OSError) and (error.errno == errno.ENOSPC or type(error) is PermissionError):
            raise  # of this machine's disk
        raise LibraryError(
            f"{url} cannot be reached ({error}). Look at the connection and run it again, which goes on from here; or "
            "download the model by other means and run: models import PATH."
        ) from error


def _receive(answer: Any, path: Path, n_before: int) -> None:
    """Write what comes behind the first `n_before` bytes of a file."""
    n_total = n_before + int(answer.headers.get("Content-Length") or 0)
    if n_total > LARGEST_BYTES:
        raise LibraryError(f"{answer.url} has {n_total} bytes, at most {LARGEST_BYTES} are taken.")
    bar = tqdm(None, path.name, n_total or None, initial=n_before, unit="B", unit_scale=True, file=sys.stderr)
    with bar, open(path, "r+b" if n_before else "wb") as file:
        n_here = file.seek(n_before)
        while n_here <= LARGEST_BYTES and (block := answer.read(_BLOCK_BYTES)):
            n_here += file.write(block)
            bar.update(len(block))
    if n_here < n_total:
        raise LibraryError(f"{answer.url} broke off at {n_here} of {n_total} bytes. Run it again: it goes on.")
