"""The 7 s sample of MUSDB18, from the release page of the `musdb` package.

A zip is distrusted: it must be as long as the server says, pass its own check sums, hold nothing that would be written
outside its folder, and unpack to no more than `LIMIT_BYTES`. The zip and every file in it appear whole; interrupted
anywhere, the next call goes on from the last whole file, and when all is unpacked the zip is removed.
"""

import http.client
import shutil
import stat
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.musdb_preparation.layout import PreparationError
from vocal_extraction.musdb_preparation.sources import LOCAL_FOLDER_ADVICE

SAMPLE_URL = "https://github.com/sigsep/sigsep-mus-db/releases/download/v0.4.0/MUSDB18-7-STEMS.zip"
"""Where musdb 0.4.3 finds it."""

LIMIT_BYTES = 1 << 30
"""Neither the zip nor what is in it may be larger; the sample has about 160 MB."""

SILENCE_LIMIT_S = 60.0
"""A server that sends nothing for so long is given up."""

_BLOCK_BYTES = 1 << 16


def download_sample(
    folder: Path, *, url: str = SAMPLE_URL, progress: bool = True, silence_limit_s: float = SILENCE_LIMIT_S
) -> Path:
    """Download and unpack the sample into `folder`, unless it is there.

    Parameters
    ----------
    folder
        What shall hold ``train`` and ``test``.
    url
        An http or https address of a zip.
    progress
        Whether a progress bar is shown on stderr.
    silence_limit_s
        Seconds without a byte after which the server is given up.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    PreparationError
        If the server cannot be reached or breaks off, or the zip is damaged or not to be trusted; the text says how to
        do without it.
    StorageError
        If the disk is full or cannot be written.
    """
    archive = folder.with_name(f"{folder.name}.zip")
    if folder.exists() and not archive.exists():
        return folder
    if not archive.exists():
        with whole_file(archive) as aside:
            with open(aside, "wb") as file:
                for block in _received(url, progress=progress, silence_limit_s=silence_limit_s):
                    file.write(block)
            _trusted_members(aside, folder, url)
    for name, target in _trusted_members(archive, folder, str(archive)).items():
        with zipfile.ZipFile(archive) as opened:
            n_bytes = opened.getinfo(name).file_size
            if target.exists() and target.stat().st_size == n_bytes:
                continue
            with whole_file(target) as aside, open(aside, "wb") as file, opened.open(name) as member:
                shutil.copyfileobj(member, file)
    archive.unlink(missing_ok=True)
    return folder


def _received(url: str, *, progress: bool, silence_limit_s: float) -> Iterator[bytes]:
    """Yield what the server sends, all of it."""
    if not url.startswith(("http://", "https://")):
        raise PreparationError(f"The sample is fetched from an http or https address, not from {url}.")
    request = urllib.request.Request(url, headers={"User-Agent": "vocal-extraction"})  # noqa: S310 (checked above)
    n_received = 0
    try:
        with urllib.request.urlopen(request, timeout=silence_limit_s) as response:  # noqa: S310
            announced = response.headers.get("Content-Length")
            n_bytes = int(announced) if announced else None
            with tqdm(desc="downloading", total=n_bytes, unit="B", unit_scale=True, disable=not progress) as bar:
                while n_received <= LIMIT_BYTES and (block := response.read(_BLOCK_BYTES)):
                    n_received += len(block)
                    bar.update(len(block))
                    yield block
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise PreparationError(f"The sample could not be fetched from {url}: {error}. {_WAYS_OUT}") from error
    if n_received > LIMIT_BYTES or n_bytes not in (None, n_received):
        raise PreparationError(f"{url} sent {n_received} bytes and had announced {announced}. {_WAYS_OUT}")


_WAYS_OUT = f"Run the same command again, or do without the network. {LOCAL_FOLDER_ADVICE}"


def _trusted_members(archive: Path, folder: Path, origin: str) -> dict[str, Path]:
    """Return where each file of the zip goes, below `folder`, when nothing about the zip is suspicious."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            n_bytes = sum(member.file_size for member in members)
            strays = [member.filename for member in members if _leaves_its_folder(member)]
            damaged = opened.testzip() if n_bytes <= LIMIT_BYTES and not strays else None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise PreparationError(f"{origin} is not a complete zip: {error}. {_WAYS_OUT}") from error
    if n_bytes > LIMIT_BYTES:
        raise PreparationError(f"{origin} would unpack to {n_bytes} bytes, more than {LIMIT_BYTES}. {_WAYS_OUT}")
    if strays:
        raise PreparationError(f"{origin} would write outside its folder: {strays[0]!r}. {_WAYS_OUT}")
    if damaged:
        raise PreparationError(f"{origin} is damaged in {damaged!r}. {_WAYS_OUT}")
    return {member.filename: folder / member.filename for member in members}


def _leaves_its_folder(member: zipfile.ZipInfo) -> bool:
    """Tell whether a member is a link, or has a path that leads elsewhere on any system."""
    path = PurePosixPath(member.filename)
    leads_away = path.is_absolute() or ".." in path.parts or "\\" in member.filename
    on_a_drive = PureWindowsPath(member.filename).drive != ""
    return leads_away or on_a_drive or stat.S_ISLNK(member.external_attr >> 16)
