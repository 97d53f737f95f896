"""The folder layouts in which songs with stems are found, one row of `LAYOUTS` each, the most particular first::

    <folder>/<subset>/foreground/<stem>/<song>.wav    prepared stems, as `musdb_preparation` and `demo_songs` write them
    <folder>/<subset>/<song>.stem.mp4                 MUSDB18
    <folder>/<subset>/<song>/<stem>.*                 MUSDB18-HQ, or songs of one's own that are split already
    <folder>/.../*                                    a folder named vocals_only or instrumentals: one source alone
    <folder>/.../<song>/<stem>.*                      songs of one's own, at any depth, in any format that ffmpeg reads

Subsets are train, valid and test. A song is a folder with a file named vocals, accompaniment, bass, drums or other.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.musdb_preparation import SUBSETS, prepare_musdb, validation_names
from vocal_extraction.settings import DATASET_FOLDER

_LONE_SOURCES = {"vocals_only": "vocals", "instrumentals": "accompaniment"}
_STEM_NAMES = frozenset(("vocals", "accompaniment", "bass", "drums", "other"))
"""A folder with a file of one of these names is a song; its other files are stems too."""
ENDINGS = ("wav", "flac", "aif", "aiff", "caf", "m4a", "mp3", "mp4", "oga", "ogg", "opus", "w64", "wma", "wv")
"""Audio files by the ending of their names; of two files of one stem, the one whose ending comes first is taken."""

Song = tuple[str | None, str, dict[str, Path]]  # subset or None, name, files by source


class TrackError(VocalExtractionError):
    """Songs are missing or cannot be read; the text says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Whether a folder has this layout, and its songs, in any order."""

    recognizes: Callable[[Path], bool]
    songs: Callable[[Path], Iterable[Song]]


def layout_of(folder: Path) -> Layout | None:
    """Return the first layout that recognizes a folder; those that were added last are asked first."""
    return next((layout for layout in reversed(LAYOUTS.values()) if layout.recognizes(folder)), None)


def cache_of(folder: Path) -> Path:
    """Return where the converted songs of a folder lie."""
    resolved = folder.resolve()
    return DATASET_FOLDER / "converted" / f"{resolved.name}-{hashlib.sha256(bytes(resolved)).hexdigest()[:8]}"


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _has_subsets(pattern: str) -> Callable[[Path], bool]:
    return lambda folder: any(any((folder / subset).glob(pattern)) for subset in SUBSETS)


def _prepared(folder: Path) -> Iterator[Song]:
    for subset in SUBSETS:
        stems = [path for path in visible(folder / subset / "foreground") if path.is_dir()]
        songs: dict[str, dict[str, Path]] = {}
        for stem in stems:
            for path in visible(stem):
                if path.suffix == ".wav":
                    songs.setdefault(path.stem, {})[stem.name] = path
        for name, files in songs.items():
            if missing := [stem.name for stem in stems if stem.name not in files]:
                raise TrackError(
                    f"{name!r} in {folder / subset} lacks {', '.join(missing)}. Prepare or export it again."
                )
            yield subset, name, files


def _musdb(folder: Path) -> Iterator[Song]:
    prepare_musdb(folder, cache_of(folder))
    return _prepared(cache_of(folder))


def _split_songs(folder: Path) -> Iterator[Song]:
    """Find songs below folders of subsets; without a folder valid, musdb's validation songs are taken."""
    found = [(subset, name, files) for subset in SUBSETS for _, name, files in _songs_below(folder / subset)]
    names = set() if any(subset == "valid" for subset, _, _ in found) else validation_names()
    is_split = not names or any(name in names for _, name, _ in found)
    for subset, name, files in found:
        own = "valid" if name in names else subset
        yield own if is_split or subset != "train" else None, name, files


def _songs_below(folder: Path) -> Iterator[Song]:
    """Find folders with a file named like a stem; a song's name has the folders on the way to it."""
    for parent in _folders_below(folder):
        files = _audio_files(parent)
        if _STEM_NAMES.isdisjoint(files):
            continue
        stems = {name: path for name, path in files.items() if name not in ("mixture", "mix")}
        if set(stems) == {"vocals"} and len(files) > 1:
            raise TrackError(f"{parent} holds the mixture and the vocals. Export the accompaniment, too.")
        yield None, " - ".join(parent.relative_to(folder).parts) or folder.name, stems


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield a folder and all below it; links are followed, but for those that lead back up."""
    yield folder
    for path in visible(folder):
        if path.is_dir() and not (path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())):
            yield from _folders_below(path)


def _audio_files(folder: Path) -> dict[str, Path]:
    found, files = dict[str, Path](), visible(folder)
    for ending in ENDINGS:
        for path in files:
            if path.suffix.lower() == f".{ending}":
                found.setdefault(path.stem.lower(), path)
    return dict(sorted(found.items()))


def lone_files(folder: Path, source: str) -> Iterator[Song]:
    for parent in _folders_below(folder):
        for path in _audio_files(parent).values():
            yield None, " - ".join(path.relative_to(folder).with_suffix("").parts), {source: path}


LAYOUTS: dict[str, Layout] = {  # by name, the most general first: the last that recognizes a folder is taken
    "songs": Layout(lambda folder: any(_songs_below(folder)), _songs_below),
    "lone source": Layout(
        lambda folder: folder.name in _LONE_SOURCES, lambda folder: lone_files(folder, _LONE_SOURCES[folder.name])
    ),
    "split songs": Layout(lambda folder: any(any(_songs_below(folder / subset)) for subset in SUBSETS), _split_songs),
    "MUSDB18": Layout(_has_subsets("*.stem.mp4"), _musdb),
    "prepared": Layout(_has_subsets("foreground"), _prepared),
}
