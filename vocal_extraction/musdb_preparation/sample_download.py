"""The 7 s sample of MUSDB18, fetched by the `musdb` package from its release page.

`musdb` waits without end for a server that falls silent, and leaves what it has when it is interrupted or the server
breaks off. So it gets a time limit, and a temporary folder, which is renamed when all is there; its zip passes its
own checksums while it is unpacked.
"""

import contextlib
import http.client
import io
import os
import socket
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from vocal_extraction.musdb_preparation.layout import PreparationError
from vocal_extraction.musdb_preparation.sources import LOCAL_FOLDER_ADVICE

SILENCE_LIMIT_S = 60.0
"""A server that sends nothing for so long is given up."""


def download_sample(folder: Path, *, progress: bool = True) -> Path:
    """Download and unpack the sample into `folder`, unless it is there.

    Parameters
    ----------
    folder
        What shall hold ``train`` and ``test``.
    progress
        Whether a progress bar is shown on stderr.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    PreparationError
        If the server cannot be reached or breaks off, the zip is damaged, or the disk is full; the text says how to do
        without it.
    """
    if folder.exists():
        return folder
    import musdb  # it brings a second of imports, and only this needs it

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".partial-{os.getpid()}-") as temporary:
            sample = Path(temporary) / folder.name
            database = musdb.DB(root=str(sample), subsets=[])
            database.url = database.setup["sample-url"]
            with _socket_timeout(), contextlib.redirect_stdout(sys.stderr if progress else io.StringIO()):
                database.download(progress=progress and sys.stderr.isatty())
            os.replace(sample, folder)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise PreparationError(
            f"The sample could not be fetched: {error}. Run the same command again, or do without "
            f"the network. {LOCAL_FOLDER_ADVICE}"
        ) from error
    return folder


@contextlib.contextmanager
def _socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_LIMIT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
