"""Which songs a folder of MUSDB18 holds, and in which of its two forms.

Coded: ``train/<song>.stem.mp4``. As in MUSDB18-HQ: ``train/<song>/{mixture,drums,bass,other,vocals}.wav``. Both may
stand side by side; a song that is there in both forms is taken from its wavs, which were not coded with losses.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from vocal_extraction.musdb_preparation.layout import STREAMS, SUBSETS, PreparationError

LOCAL_FOLDER_ADVICE = (
    "Set the environment variable MUSDB_PATH to the folder that holds MUSDB18's train and test folders, with songs as "
    "<song>.stem.mp4 or, as in MUSDB18-HQ, <song>/vocals.wav and so on (https://sigsep.github.io/datasets/musdb.html)."
)

_STEM_SUFFIX = ".stem.mp4"


@dataclasses.dataclass(frozen=True)
class Song:
    """A song as it was found."""

    name: str
    subset: str
    files: tuple[Path, ...]
    """One stem file, or five wavs in the order of `STREAMS`."""

    @property
    def is_coded(self) -> bool:
        """Whether the song is one stem file."""
        return len(self.files) == 1

    @property
    def key(self) -> str:
        """Its name in the record of what is prepared."""
        return f"{self.subset}/{self.name}"

    @property
    def n_bytes(self) -> int:
        """Size of the files together."""
        try:
            return sum(file.stat().st_size for file in self.files)
        except OSError as error:
            raise PreparationError(f"Cannot read {error.filename}: {error.strerror}. Was it moved?") from error


def find_songs(source: Path) -> list[Song]:
    """Return the songs below `source`, by subset and name.

    The subset of a song of the train folder is valid if it is on the list of the `musdb` package, or if there is a
    folder named valid beside train and the song lies there.

    Raises
    ------
    PreparationError
        If there is no such folder, no song in it, or a song of which wavs are missing.
    """
    if not source.is_dir():
        what = "is a file, not a folder" if source.exists() else "does not exist"
        raise PreparationError(f"{source} {what}. {LOCAL_FOLDER_ADVICE}")
    validation_names = _validation_names(source)
    songs = {}
    for part in SUBSETS:
        # Wavs come after stem files of the same name and take their place.
        for name, files in sorted(_songs_in(source / part), key=lambda song: (song[0], len(song[1]))):
            subset = "valid" if part == "train" and name in validation_names else part
            songs[subset, name] = Song(name, subset, files)
    if not songs:
        raise PreparationError(f"{source} holds no songs in train or test. {LOCAL_FOLDER_ADVICE}")
    return list(songs.values())


def _validation_names(source: Path) -> set[str]:
    import musdb  # it brings a second of imports, and only this needs it

    return set(musdb.DB(root=str(source), subsets=[]).setup["validation_tracks"])


def _songs_in(folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Yield names and files of the songs in `folder`; hidden entries are none of ours."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise PreparationError(f"Cannot read the folder {folder}: {error.strerror}. {LOCAL_FOLDER_ADVICE}") from error
    for entry in entries:
        if entry.name.endswith(_STEM_SUFFIX):
            yield _checked_name(entry, entry.name.removesuffix(_STEM_SUFFIX)), (entry,)
        elif entry.is_dir():
            files = tuple(entry / f"{stream}.wav" for stream in STREAMS)
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise PreparationError(f"The song {entry} lacks {', '.join(missing)}. Add it, or take the song away.")
            yield _checked_name(entry, entry.name), files


def _checked_name(entry: Path, name: str) -> str:
    """Return `name` if it can be written into a JSON file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PreparationError(f"The name of {str(entry)!r} is not UTF-8. Rename it.") from None
    return name
