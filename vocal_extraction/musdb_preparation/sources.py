"""Where MUSDB18 comes from: a folder in either of its forms, or the 7 s sample from its release page.

Coded: ``train/<song>.stem.mp4``. As in MUSDB18-HQ: ``train/<song>/{mixture,drums,bass,other,vocals}.wav``. Of a song in
both forms the wavs are taken, which were not coded with losses.
"""

import contextlib
import dataclasses
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

from vocal_extraction.musdb_preparation.layout import STREAMS, SUBSETS, PreparationError

LOCAL_FOLDER_ADVICE = (
    "Set the environment variable MUSDB_PATH to the folder that holds MUSDB18's train and test folders, with songs as "
    "<song>.stem.mp4 or, as in MUSDB18-HQ, <song>/vocals.wav and so on (https://sigsep.github.io/datasets/musdb.html)."
)
SILENCE_LIMIT_S = 60.0  # a download ends when the server sends nothing for so long
_STEM_SUFFIX = ".stem.mp4"


@dataclasses.dataclass(frozen=True)
class Song:
    name: str
    subset: str
    files: tuple[Path, ...]  # one stem file, or five wavs in the order of `STREAMS`

    @property
    def is_coded(self) -> bool:
        return len(self.files) == 1

    @property
    def place(self) -> Path:
        """Its stem file, or the folder of its wavs."""
        return self.files[0] if self.is_coded else self.files[0].parent

    @property
    def key(self) -> str:
        """Its name in the record of what is prepared."""
        return f"{self.subset}/{self.name}"

    @property
    def n_bytes(self) -> int:
        try:
            return sum(file.stat().st_size for file in self.files)
        except OSError as error:
            raise PreparationError(f"Cannot read {error.filename}: {error.strerror}. Was it moved?") from error


def find_songs(source: Path) -> list[Song]:
    """Return songs below `source`, by subset and name; raise PreparationError if there are none, or one lacks a wav.

    Songs of the train folder are valid if the `musdb` package validates on them; those in a folder valid are, too.
    """
    if not source.is_dir():
        what = "is a file, not a folder" if source.exists() else "does not exist"
        raise PreparationError(f"{source} {what}. {LOCAL_FOLDER_ADVICE}")
    names, songs = validation_names(), {}
    for part in SUBSETS:
        # Wavs come after stem files of the same name and take their place.
        for name, files in sorted(_songs_in(source / part), key=lambda song: (song[0], len(song[1]))):
            subset = "valid" if part == "train" and name in names else part
            songs[subset, name] = Song(name, subset, files)
    if not songs:
        raise PreparationError(f"{source} holds no songs in train or test. {LOCAL_FOLDER_ADVICE}")
    return list(songs.values())


def validation_names() -> set[str]:
    """Return the names of MUSDB18's training songs that the `musdb` package validates on."""
    import musdb  # a second of imports

    return set(musdb.DB(root=os.curdir, subsets=[]).setup["validation_tracks"])


def _songs_in(folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    for entry in sorted(folder.glob("[!.]*")):
        if entry.name.endswith(_STEM_SUFFIX):
            yield entry.name.removesuffix(_STEM_SUFFIX), (entry,)
        elif entry.is_dir():
            files = tuple(entry / f"{stream}.wav" for stream in STREAMS)
            if missing := [file.name for file in files if not file.is_file()]:
                raise PreparationError(f"The song {entry} lacks {', '.join(missing)}. Add it, or take the song away.")
            yield entry.name, files


def download_sample(folder: Path, *, progress: bool = True) -> Path:
    """Download and unpack the 7 s sample into `folder`, unless it is there, and return the folder.

    `musdb` has no time limit for a server that sends nothing, and leaves half of the files when it is interrupted.
    """
    if folder.exists():
        return folder
    import musdb  # a second of imports

    was_there = folder.parent.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".partial-{os.getpid()}-") as temporary:
            sample = Path(temporary) / folder.name
            database = musdb.DB(root=str(sample), subsets=[])
            database.url = database.setup["sample-url"]
            with contextlib.redirect_stdout(sys.stderr if progress else io.StringIO()), contextlib.ExitStack() as stack:
                stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
                socket.setdefaulttimeout(SILENCE_LIMIT_S)
                database.download(progress=progress and sys.stderr.isatty())
            os.replace(sample, folder)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise PreparationError(
            f"The sample could not be fetched: {error}. Run the same command again, or do without "
            f"the network. {LOCAL_FOLDER_ADVICE}"
        ) from error
    finally:
        if not was_there:
            with contextlib.suppress(OSError):  # that it is not empty
                folder.parent.rmdir()
    return folder
