"""Which files are songs, and where their stems go.

Two songs of one name get two places: the second is numbered. A place belongs to the song that the manifest names, or
that asked for it first in this batch, so that a song finds its own place again in the next run.
"""

import dataclasses
import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from vocal_extraction.errors import ExtractionError
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.settings import ExtractionSettings

STEM_NAMES = ("vocals", "accompaniment")

_SONG_ENDINGS = frozenset(
    (
        *(
            "wav",
            "wave",
            "w64",
            "rf64",
            "aif",
            "aiff",
            "aifc",
            "au",
            "snd",
            "caf",
            "flac",
            "ape",
            "wv",
            "tta",
            "dsf",
            "dff",
        ),
        *(
            "mp3",
            "mp2",
            "mpa",
            "ogg",
            "oga",
            "opus",
            "spx",
            "m4a",
            "m4b",
            "aac",
            "adts",
            "ac3",
            "wma",
            "amr",
            "mpc",
            "mka",
        ),
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "3gp", "asf", "ts", "mpg", "mpeg", "ogv"),
    )
)
"""What is taken from a folder; a file that is named by itself may have any ending."""
_LONGEST_NAME_BYTES = 200
"""Room is left for a number and an ending, since names end at 255 bytes."""
STANDARD_INPUT = "-"


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the two stems of a song go."""

    vocals: Path
    accompaniment: Path

    def as_keys(self) -> tuple[str, str]:
        """Return both as names that compare equal where any file system might take them for one."""
        return place_key(self.vocals), place_key(self.accompaniment)


def place_key(path: Path) -> str:
    """Return a path in a form in which letter case and the ways to write an accent make no difference."""
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


def find_songs(inputs: Iterable[str | Path], *, output_folder: Path, owned: Collection[str] = ()) -> list[str | Path]:
    """List the songs that files and folders stand for, each once; what is missing stays in the list, to fail by name.

    Folders are searched to the bottom, in alphabetical order; hidden files are left out, and so that a second run does
    not take stems for songs, what lies in an output folder below, and the stems of earlier runs wherever they lie.

    Parameters
    ----------
    inputs
        Files, folders, or '-' for standard input. A file that is named is a song, whatever it is.
    output_folder
        Where stems go.
    owned
        Stems of earlier runs, by `place_key`.

    Raises
    ------
    ExtractionError
        If a folder holds no song.
    """
    found: dict[str, str | Path] = {}
    for given in inputs:
        if str(given) == STANDARD_INPUT:
            found[STANDARD_INPUT] = STANDARD_INPUT
            continue
        path = Path(given)
        # Unlike Path's own, this takes a name that is too long for the disk as that of no folder.
        is_folder = os.path.isdir(path)  # noqa: PTH112
        songs = _songs_below(path, os.path.realpath(output_folder), owned) if is_folder else [path]
        if not songs:
            raise ExtractionError(f"{path} holds no audio files. Name a file, or another folder.")
        for song in songs:
            found.setdefault(identity(song), song)
    return list(found.values())


def _songs_below(folder: Path, output_folder: str, owned: Collection[str]) -> list[Path]:
    songs: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and os.path.realpath(Path(parent, name)) != output_folder
        )
        endings = ((name, name.rpartition(".")[2].lower()) for name in sorted(files) if name[0] != ".")
        songs += [Path(parent, name) for name, ending in endings if ending in _SONG_ENDINGS]
    return [song for song in songs if place_key(song) not in owned]


def song_name(song: str | Path) -> str:
    """Return the name under which a song's stems are filed: that of its file, of a length that leaves room.

    >>> song_name("music/A song.flac"), song_name("-"), song_name("...mp3")
    ('A song', 'stdin', '_')
    """
    if str(song) == STANDARD_INPUT:
        return "stdin"
    name = os.fsencode(Path(song).stem)[:_LONGEST_NAME_BYTES].decode(errors="ignore").rstrip()
    return name if name.strip(".") else "_"


def choose_places(
    song: str | Path,
    *,
    output_folder: Path,
    settings: ExtractionSettings,
    owners: Mapping[str, str],
    inputs: Mapping[str, str | Path],
) -> Places:
    """Choose where the stems of a song go: the first place by its name that is no other song's.

    Parameters
    ----------
    song
        Its path, or '-'.
    output_folder, settings
        What the template is filled with.
    owners
        Identity of the song that owns a place, by `place_key`.
    inputs
        All songs of the batch, by `place_key`; none of them may be replaced.

    Raises
    ------
    ExtractionError
        If a stem would replace a song of the batch.
    """
    own = identity(song)
    number = 1
    while True:
        places = _places(song_name(song) + (f" ({number})" if number > 1 else ""), output_folder, settings)
        if all(owners.get(key, own) == own for key in places.as_keys()):
            break
        number += 1
    for key, place in zip(places.as_keys(), dataclasses.astuple(places), strict=True):
        if key in inputs:
            raise ExtractionError(f"{place} is a song of this batch and would be replaced. Choose another folder: -o.")
    if places.vocals == places.accompaniment:
        raise ExtractionError(f"Vocals and accompaniment would both go to {places.vocals}.")
    return places


def identity(song: str | Path) -> str:
    """Return what tells one song from another: its real path, or '-'.

    Raises
    ------
    ExtractionError
        If it is no path at all.
    """
    try:
        return STANDARD_INPUT if str(song) == STANDARD_INPUT else os.path.realpath(song)
    except ValueError as error:  # a zero byte, or half a surrogate pair
        raise ExtractionError(f"{str(song)!a} can be the name of no file ({error}).") from error


def _places(name: str, output_folder: Path, settings: ExtractionSettings) -> Places:
    extension = FORMATS[settings.format].extension
    return Places(
        *(
            Path(settings.output_template.format(folder=output_folder, song=name, stem=stem, ext=extension))
            for stem in STEM_NAMES
        )
    )
