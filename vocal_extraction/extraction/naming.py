"""Which files are songs, and where their stems go.

Two songs of one name get two places: the second is numbered. A path belongs to the song that the manifest names, or
that asked for it first in this batch, so that a song finds its own stems again in the next run.
"""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from vocal_extraction.errors import ExtractionError
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.settings import ExtractionSettings

STANDARD_INPUT = "-"

_SONG_ENDINGS = {
    "wav", "wave", "w64", "rf64", "aif", "aiff", "aifc", "au", "snd", "caf", "flac", "ape", "wv", "tta", "dsf", "dff",
    "mp3", "mp2", "mpa", "ogg", "oga", "opus", "spx", "m4a", "m4b", "aac", "adts", "ac3", "wma", "amr", "mpc", "mka",
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "3gp", "asf", "ts", "mpg", "mpeg", "ogv",
}  # fmt: skip
"""What is taken from a folder; a file that is named by itself may have any ending."""
_LONGEST_NAME_BYTES = 200
"""Room is left for a number and an ending, since names end at 255 bytes."""


def path_key(path: str | Path) -> str:
    """Return a path in a form in which letter case and the ways to write an accent make no difference."""
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


def identity(song: str | Path) -> str:
    """Return the identity of a song: its real path, or '-'.

    Raises
    ------
    ExtractionError
        If no file can have that name.
    """
    try:
        return STANDARD_INPUT if str(song) == STANDARD_INPUT else os.path.realpath(song)
    except ValueError as error:  # a zero byte, or half a surrogate pair
        raise ExtractionError(f"{str(song)!a} can be the name of no file ({error}).") from error


def find_songs(inputs: Iterable[str | Path], *, output_folder: Path, owned: Collection[str] = ()) -> list[str | Path]:
    """List the songs that files and folders stand for, each once; what is missing stays in the list, to fail by name.

    Folders are searched to the bottom, in alphabetical order. Hidden files are left out, and so that a second run does
    not take stems for songs, an output folder below and the stems of earlier runs, too.

    Parameters
    ----------
    inputs
        Files, folders, or '-' for standard input. A file that is named is a song, whatever it is.
    output_folder
        Where stems go.
    owned
        Stems of earlier runs, by `path_key`.

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
        visible = [Path(parent, name) for name in sorted(files) if name[0] != "."]
        songs += [path for path in visible if path.name.rpartition(".")[2].lower() in _SONG_ENDINGS]
    return [song for song in songs if path_key(song) not in owned]


def song_name(song: str | Path) -> str:
    """Return the name under which a song's stems are filed: that of its file, of a length that leaves room.

    >>> song_name("music/A song.flac"), song_name("-"), song_name("...mp3")
    ('A song', 'stdin', '_')
    """
    if str(song) == STANDARD_INPUT:
        return "stdin"
    name = os.fsencode(Path(song).stem)[:_LONGEST_NAME_BYTES].decode(errors="ignore").rstrip()
    return name if name.strip(".") else "_"


def choose_paths(
    song: str | Path,
    stems: Sequence[str],
    *,
    output_folder: Path,
    settings: ExtractionSettings,
    owners: Mapping[str, str],
    inputs: Collection[str],
) -> dict[str, Path]:
    """Choose where the stems of a song go: the first paths by its name that are no other song's.

    Parameters
    ----------
    song
        Its path, or '-'.
    stems
        Their names.
    output_folder, settings
        What the template is filled with.
    owners
        Identity of the song that owns a path, by `path_key`.
    inputs
        All songs of the batch, by `path_key`; none of them may be replaced.

    Returns
    -------
    dict
        The path of each stem.

    Raises
    ------
    ExtractionError
        If a stem would replace a song of the batch or another stem.
    """
    own, name, number = identity(song), song_name(song), 1
    while True:
        numbered = name if number == 1 else f"{name} ({number})"
        paths = {stem: _fill_template(numbered, stem, output_folder, settings) for stem in stems}
        if all(owners.get(path_key(path), own) == own for path in paths.values()):
            break
        number += 1
    for path in paths.values():
        if path_key(path) in inputs:
            raise ExtractionError(f"{path} is a song of this batch and would be replaced. Choose another folder: -o.")
    if len({path_key(path) for path in paths.values()}) < len(paths):
        raise ExtractionError(f"{' and '.join(paths)} would go to one place, {path}.")
    return paths


def _fill_template(name: str, stem: str, output_folder: Path, settings: ExtractionSettings) -> Path:
    # A stem is named by the checkpoint, and must not lead out of the folder.
    stem = re.sub(r"[/\\\0]|^\.", "_", stem)
    extension = FORMATS[settings.format].extension
    return Path(settings.output_template.format(folder=output_folder, song=name, stem=stem, ext=extension))
