"""Which files are songs, and where their stems go.

Two songs of one name get two places: the second is numbered. A path belongs to the song that the manifest names, or
that asked for it first in this batch, so that a song finds its own stems again in the next run.
"""

import contextlib
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from vocal_extraction.atomic_files import native_name
from vocal_extraction.audio_files.probing import examine
from vocal_extraction.errors import ExtractionError
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.settings import ExtractionSettings

STANDARD_INPUT = "-"
ALL_STEMS = "stems"  # what a file is listed as that holds all stems; it has its song's name

_SONG_ENDINGS = {  # of what is taken from a folder, and cut from a song's name
    "wav", "wave", "w64", "rf64", "aif", "aiff", "aifc", "au", "snd", "caf", "flac", "ape", "wv", "tta", "dsf", "dff",
    "mp3", "mp2", "mpa", "ogg", "oga", "opus", "spx", "m4a", "m4b", "m4r", "aac", "adts", "ac3", "wma", "amr", "mpc",
    "mka", "mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "3gp", "asf", "wmv", "ts", "m2ts", "mts", "vob", "mpg",
    "mpeg", "ogv", "eac3", "dts", "thd", "mlp", "voc",
}  # fmt: skip
_LONGEST_NAME_BYTES, _LONGEST_TAG_BYTES = 200, 72  # names end at 255 bytes, and hold other fields
_TAG_FIELDS = {"artist", "title", "album", "track"}


def path_key(path: str | Path) -> str:
    """Return a path in a form in which letter case and the ways to write an accent make no difference."""
    return unicodedata.normalize("NFC", _real(path)).casefold()


def _real(path: str | Path) -> str:
    """Return a real path, spelt the same in every locale."""
    real = os.path.realpath(native_name(os.fspath(path)))
    return os.fsencode(real).decode(errors="surrogateescape")


def identity(song: str | Path) -> str:
    """Return the identity of a song: its real path, or '-'; an ExtractionError says that no file can have that name."""
    try:
        return STANDARD_INPUT if str(song) == STANDARD_INPUT else _real(song)
    except ValueError as error:  # a zero byte, or half a surrogate pair
        raise ExtractionError(f"{str(song)!a} can be the name of no file ({error}).") from error
    except TypeError as error:
        kind = type(song).__name__
        raise ExtractionError(f"The song is a {kind}, expected the path of a file. Arrays are for separate.") from error


def find_songs(
    inputs: str | Path | Iterable[str | Path], *, output_folder: Path, owned: Collection[str] = ()
) -> dict[str | Path, Path]:
    """Return the songs that files, folders and '-' stand for, each with its place below the folder that was given.

    Folders are searched to the bottom, linked ones too, in alphabetical order. Hidden files are left out, and so that a
    second run does not take stems for songs, the output folder and what is `owned` (by `path_key`) by earlier runs.
    A file that is named is taken for a song; a missing one fails later, by name.
    """
    found: dict[str, tuple[str | Path, Path]] = {}
    for given in [inputs] if isinstance(inputs, str | Path) else inputs:
        own, path = identity(given), Path(given)
        # Unlike Path's own, this takes a name that is too long for the disk as that of no folder.
        if own == STANDARD_INPUT or not os.path.isdir(path):  # noqa: PTH112
            found.setdefault(own, (own if own == STANDARD_INPUT else path, Path()))
            continue
        songs = _songs_below(path, os.path.realpath(output_folder), owned)
        if not songs:
            raise ExtractionError(f"{path} holds no audio files. Name a file, or another folder.")
        for song in songs:
            found.setdefault(identity(song), (song, song.parent.relative_to(path)))
    return dict(found.values())


def _songs_below(folder: Path, output_folder: str, owned: Collection[str]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise ExtractionError(f"The folder {error.filename} cannot be read ({error.strerror}). Change its permissions.")

    real = os.path.realpath(folder)
    seen = {output_folder, real, *map(str, Path(real).parents)}  # links may lead in circles
    songs: list[Path] = []
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        paths = {os.path.realpath(Path(parent, name)): name for name in sorted(folders, reverse=True) if name[0] != "."}
        folders[:] = sorted(name for path, name in paths.items() if path not in seen)
        seen |= paths.keys()
        visible = [Path(parent, name) for name in sorted(files) if name[0] != "."]
        songs += [path for path in visible if path_key(path) not in owned and _is_song(path)]
    return songs


def has_song_ending(name: str) -> bool | None:
    """Return whether a name ends as songs do; None if it has no ending, as ``Vol. 1``."""
    ending = re.search(r"\.(?=\w*[A-Za-z])(\w+)$", name)
    return None if ending is None else ending[1].lower() in _SONG_ENDINGS


def _is_song(path: Path) -> bool:
    """Return whether a file is a song by its ending, or if it has none, by what it holds."""
    if (by_ending := has_song_ending(path.name)) is not None:
        return by_ending
    with contextlib.suppress(ExtractionError):
        examine(path)
        return True
    return False


def song_name(song: str | Path) -> str:
    """Return the name under which a song's stems are filed: that of its file, of a length that leaves room.

    >>> song_name("music/A song.flac"), song_name("Vol. 1"), song_name("-"), song_name("...mp3")
    ('A song', 'Vol. 1', 'stdin', '_')
    """
    if str(song) == STANDARD_INPUT:
        return "stdin"
    name = Path(song).name
    stem, _, ending = name.rpartition(".")
    name = stem if ending.lower() in _SONG_ENDINGS else name
    name = native_name(name, _LONGEST_NAME_BYTES).rstrip()
    return name if name.strip(".") else "_"


def choose_paths(
    song: str | Path,
    stems: Sequence[str],
    output_folder: Path,
    settings: ExtractionSettings,
    model_name: str = "",
    *,
    owners: Mapping[str, str],
    inputs: Collection[str],
) -> dict[str, Path]:
    """Choose where each stem of a song goes: the first paths by its name that are no other song's.

    By `path_key`, `owners` has the identity of the song that owns a path, and `inputs` all songs of the batch, none of
    which may be replaced; with the others the template is filled.
    """
    own, name, number = identity(song), song_name(song), 1
    fields = {"folder": str(output_folder), "ext": FORMATS[settings.format].extension, "song": name}
    fields |= {"model": safe_name(model_name) or "_"}
    if settings.template_fields & _TAG_FIELDS:
        fields |= _tags_of(song, name)
    below = Path() if "folder" in settings.template_fields else output_folder
    numbered = "song" if "song" in settings.template_fields else "title"
    while True:
        now = fields if number == 1 else fields | {numbered: f"{fields[numbered]} ({number})"}
        names = {one: safe_name(one) for one in stems}
        names = {ALL_STEMS: now["song"]} if FORMATS[settings.format].holds_all else names
        paths = {one: below / settings.output_template.format(**now, stem=name or "_") for one, name in names.items()}
        if all(owners.get(path_key(path), own) == own for path in paths.values()):
            break
        number += 1
    for path in paths.values():
        if path_key(path) in inputs:
            raise ExtractionError(f"{path} is a song of this batch and would be replaced. Choose another folder: -o.")
    if len({path_key(path) for path in paths.values()}) < len(paths):
        raise ExtractionError(f"{' and '.join(paths)} would go to one place, {path}.")
    return paths


def _tags_of(song: str | Path, name: str) -> dict[str, str]:
    """Return the fields that a song's tags fill; where it has none, or cannot be read, what stands for them."""
    tags: dict[str, str] = {}
    if str(song) != STANDARD_INPUT:
        with contextlib.suppress(ExtractionError):
            tags = {tag.lower(): value for tag, value in examine(Path(song)).tags.items()}
    return {
        "title": safe_name(tags.get("title", "")) or name,
        "artist": safe_name(tags.get("artist", "")) or safe_name(tags.get("album_artist", "")) or "Unknown artist",
        "album": safe_name(tags.get("album", "")) or "Unknown album",
        "track": safe_name(tags.get("track", "").partition("/")[0]).zfill(2),
    }


def safe_name(text: str) -> str:
    """Return a tag, or a name from a checkpoint, as a part of a path that means nothing else on any system.

    >>> safe_name("AC/DC: ..."), safe_name("../.."), safe_name(" . ")
    ('AC_DC_', '_', '')
    """
    text = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", text)
    return native_name(text, _LONGEST_TAG_BYTES).strip(" .")
