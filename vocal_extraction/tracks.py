"""Tracks: songs with their stems, and the folder layouts in which they are found, one row of `LAYOUTS` each.

Layouts from the most particular to the most general::

    <folder>/<subset>/foreground/<stem>/<song>.wav    prepared stems, as `musdb_preparation` and `demo_songs` write them
    <folder>/<subset>/<song>.stem.mp4                 MUSDB18
    <folder>/<subset>/<song>/<stem>.wav               MUSDB18-HQ, or songs of one's own that are split already
    <folder>/.../<song>/<stem>.*                      songs of one's own, at any depth, in any format that ffmpeg reads
    <folder>/.../*                                    one source alone: a folder named vocals_only or instrumentals,
                                                      or any folder with the source's name, as PATH:vocals

Subsets are train, valid and test. Where a folder has none, one song in eight, chosen by a hash of its name, is for
validation and the others for training; for testing, all are. Stems that are not wav or flac, differ in length or have
another sample rate than is asked for are converted once, into the prepared layout below ``dataset/converted``.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.audio_files.stem_conversion import convert_stems
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.musdb_preparation import SUBSETS, prepare_musdb
from vocal_extraction.settings import ACCOMPANIMENT, DATASET_FOLDER

_LONE_SOURCES = {"vocals_only": "vocals", "instrumentals": "accompaniment"}
_STEM_NAMES = frozenset(("vocals", "accompaniment", "bass", "drums", "other"))
"""A folder that holds a file of one of these names is a song; its other files are stems too, whatever their names."""
_MIXTURES = frozenset(("mixture", "mix"))
_ENDINGS = ("wav", "flac", "aif", "aiff", "m4a", "mp3", "mp4", "oga", "ogg", "opus", "wma", "wv")
"""Audio files by the ending of their names; of two files of one stem, the one whose ending comes first is taken."""
_VALIDATION_SHARE = 8

Song = tuple[str | None, str, dict[str, Path]]
"""A song as a layout finds it: (subset, name, {source: file}); the subset is None where the layout has none."""


class TrackError(VocalExtractionError):
    """Songs are missing or cannot be read; the text says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Track:
    """A song and its sources, each the sum of one or more files of the same length and rate."""

    name: str
    sources: Mapping[str, tuple[Path, ...]]
    sample_rate: int
    n_channels: int
    n_samples: int
    weight: float = 1.0
    """How often the song is drawn for training, in relation to the others."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Read samples from `start` up to `stop` of every source; a mono file goes into all channels.

        Returns
        -------
        ndarray
            Shape: (n_sources, n_channels, stop - start), sources in the order of `sources`.

        Raises
        ------
        TrackError
            If a file ends early, cannot be read or holds NaN or infinity.
        """
        stop = self.n_samples if stop is None else stop
        audio = np.zeros((len(self.sources), self.n_channels, stop - start), dtype=np.float32)
        for source, files in zip(audio, self.sources.values(), strict=True):
            for path in files:
                source += _read(path, start, stop)
        return audio

    def select(self, names: Iterable[str]) -> "Track":
        """Return the track with these sources alone, added up from others where need be; it may lack some of them."""
        parts = {name: stems_of(name, self.sources) for name in names}
        picked = {
            name: tuple(path for stem in stems for path in self.sources[stem]) for name, stems in parts.items() if stems
        }
        return dataclasses.replace(self, sources=picked)

    def sha256(self) -> str:
        """Return one hash of all files, in the order of their sources."""
        digest = hashlib.sha256()
        try:
            for source, paths in self.sources.items():
                digest.update("\0".join([source, *map(sha256_of, paths)]).encode() + b"\n")
        except OSError as error:
            raise TrackError(f"{error.filename} cannot be read ({error.strerror}). Export it again.") from error
        return digest.hexdigest()


def _read(path: Path, start: int, stop: int) -> NDArray[np.float32]:
    try:
        samples, _ = soundfile.read(path, start=start, stop=stop, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise TrackError(f"{path} cannot be read ({error}). Prepare or export it again.") from error
    if len(samples) != stop - start:
        raise TrackError(f"{path} ends after {start + len(samples)} samples; its header promises more.")
    if not np.isfinite(samples).all():
        raise TrackError(f"{path} holds NaN or infinite samples between {start} and {stop}. Export it again.")
    return samples.T


def stems_of(source: str, stems: Iterable[str]) -> tuple[str, ...]:
    """Return which of the `stems` of a song add up to `source`; none if they do not.

    The accompaniment is all but the vocals, however finely it is divided.

    >>> stems_of("bass+drums+other", ["bass", "drums", "other", "vocals"]), stems_of("bass", ["accompaniment"])
    (('bass', 'drums', 'other'), ())
    """
    there = tuple(stems)
    if source in there:
        return (source,)
    if source in ("accompaniment", ACCOMPANIMENT):
        if whole := [name for name in ("accompaniment", ACCOMPANIMENT) if name in there]:
            return (whole[0],)
        return tuple(stem for stem in there if stem != "vocals") if "vocals" in there else ()
    parts = tuple(source.split("+"))
    return parts if set(parts) <= set(there) else ()


@dataclasses.dataclass(frozen=True)
class TrackFolder:
    """A folder of songs, as ``--tracks PATH[:SOURCE][=WEIGHT]`` names it."""

    path: Path
    source: str | None = None
    """What its files are where they are no songs with stems: 'vocals', 'accompaniment' or any other."""
    weight: float = 1.0

    @classmethod
    def parse(cls, text: "str | Path | TrackFolder") -> "TrackFolder":
        """Read what was typed.

        >>> TrackFolder.parse("voices:vocals=0.5")
        TrackFolder(path=PosixPath('voices'), source='vocals', weight=0.5)
        """
        if isinstance(text, TrackFolder):
            return text
        name, weight, source = str(text), 1.0, None
        if not Path(name).exists() and "=" in name:
            name, _, number = name.rpartition("=")
            try:
                weight = float(number)
            except ValueError:
                weight = 0.0
            if not 0 < weight < float("inf"):
                raise TrackError(
                    f"{number!r} in {str(text)!r} is no weight; expected a number above 0, as in {name}=2."
                )
        if not Path(name).exists() and ":" in name:
            name, _, source = name.rpartition(":")
        return cls(Path(name).expanduser(), source or None, weight)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which songs lie in a folder."""

    recognises: Callable[[Path], bool]
    """Whether a folder has this layout."""
    songs: Callable[[Path], Iterable[Song]]
    """The songs of such a folder, in any order."""


def layout_of(folder: Path) -> Layout | None:
    """Return the first layout that recognises a folder; those that were added last are asked first."""
    return next((layout for layout in reversed(LAYOUTS.values()) if layout.recognises(folder)), None)


def find_tracks(
    folders: str | Path | TrackFolder | Sequence[str | Path | TrackFolder],
    *,
    subset: str,
    sample_rate: int | None = None,
    limit: int | None = None,
    progress: bool = False,
) -> list[Track]:
    """Find the tracks of a subset in one or more folders.

    Parameters
    ----------
    folders
        Folders in any of the layouts of `LAYOUTS`.
    subset
        'train', 'valid' or 'test'.
    sample_rate
        Samples per second that all tracks shall have; None leaves each song at its own.
    limit
        Only the first so many songs of each folder.
    progress
        Whether to show on stderr how far a conversion has come.

    Returns
    -------
    list of Track
        Folder by folder, sorted by the songs' names.

    Raises
    ------
    TrackError
        If a folder has no known layout, or holds no songs of the subset, or a stem cannot be read.
    """
    if subset not in SUBSETS:
        raise TrackError(f"There is no subset {subset!r}; there are {', '.join(SUBSETS)}.")
    if limit is not None and limit < 1:
        raise TrackError(f"The limit is a number of songs, 1 or more; got {limit}.")
    given = [folders] if isinstance(folders, str | Path | TrackFolder) else folders
    tracks: list[Track] = []
    for folder in map(TrackFolder.parse, given):
        songs = _of_subset(_songs_in(folder), subset)[:limit]
        place = _cache_of(folder.path) / subset / "foreground"
        tracks += _tracks_of(songs, place, folder.weight, sample_rate=sample_rate, progress=progress)
    if not tracks:
        names = ", ".join(str(TrackFolder.parse(folder).path) for folder in given)
        raise TrackError(
            f"No songs of the {subset!r} subset in {names}. Prepare MUSDB18 (vocal-extraction prepare), or name a "
            "folder that holds <song>/vocals.wav and <song>/accompaniment.wav."
        )
    return tracks


def _songs_in(folder: TrackFolder) -> list[Song]:
    if not folder.path.is_dir():
        raise TrackError(f"There is no folder {folder.path}. Name one that holds songs.")
    try:
        if folder.source is not None:
            return list(_lone_files(folder.path, folder.source))
        layout = layout_of(folder.path)
        return [] if layout is None else sorted(layout.songs(folder.path), key=lambda song: song[1])
    except OSError as error:
        raise TrackError(f"The folder {folder.path} cannot be read ({error.strerror}).") from error


def _of_subset(songs: list[Song], subset: str) -> list[Song]:
    """Return the songs of a subset; those without one are split by a hash of their names."""
    unsplit = sorted((hashlib.sha256(name.encode()).digest()[0], name) for own, name, _ in songs if own is None)
    valid = {name for first, name in unsplit if first % _VALIDATION_SHARE == 0}
    if not valid and len(unsplit) > 1:
        valid = {unsplit[0][1]}
    if len(valid) == len(unsplit) > 0:
        valid.discard(unsplit[-1][1])

    def belongs(own: str | None, name: str) -> bool:
        return own == subset if own else subset == "test" or (name in valid) == (subset == "valid")

    return [song for song in songs if belongs(*song[:2])]


def _tracks_of(
    songs: list[Song], place: Path, weight: float, *, sample_rate: int | None, progress: bool
) -> Iterator[Track]:
    """Turn songs into tracks, after those that have to be were converted, several at a time."""
    plain = [_plain_track(name, files, sample_rate) for _, name, files in songs]
    pending = [song for song, track in zip(songs, plain, strict=True) if track is None]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(lambda song: _converted(song[1], song[2], place, sample_rate), pending)
        converted = iter(list(tqdm(jobs, "converting songs", len(pending), disable=not (progress and pending))))
    for track in plain:
        yield dataclasses.replace(track or next(converted), weight=weight)


def _plain_track(name: str, files: Mapping[str, Path], sample_rate: int | None) -> Track | None:
    """Return the track if its files can be read as they are."""
    if not all(path.suffix.lower() in (".wav", ".flac") for path in files.values()):
        return None
    try:
        headers = [soundfile.info(path) for path in files.values()]
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise TrackError(f"A stem of {name!r} is no audio file ({error}). Prepare or export it again.") from error
    channels = {header.channels for header in headers}
    if len({(header.frames, header.samplerate) for header in headers}) > 1 or len(channels | {1}) > 2:
        return None
    first = headers[0]
    if not first.frames:
        raise TrackError(f"{next(iter(files.values()))} holds no samples. Export {name!r} again or remove it.")
    if sample_rate not in (None, first.samplerate):
        return None
    sources = {source: (path,) for source, path in files.items()}
    return Track(name, sources, first.samplerate, max(channels), first.frames)


def _converted(name: str, files: Mapping[str, Path], place: Path, sample_rate: int | None) -> Track:
    """Return the track of stems that were decoded to wavs of one rate and length below `place`, now or before."""
    wavs = {source: place / source / f"{name}.wav" for source in files}
    convert_stems(list(files.values()), list(wavs.values()), sample_rate=sample_rate)
    if track := _plain_track(name, wavs, sample_rate):
        return track
    raise TrackError(f"The stems of {name!r} do not fit together. Export them with one or two channels each.")


def _cache_of(folder: Path) -> Path:
    """Return where the converted songs of a folder lie."""
    resolved = folder.resolve()
    return DATASET_FOLDER / "converted" / f"{resolved.name}-{hashlib.sha256(bytes(resolved)).hexdigest()[:8]}"


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _has_subsets(pattern: str) -> Callable[[Path], bool]:
    return lambda folder: any(any((folder / subset).glob(pattern)) for subset in SUBSETS)


def _prepared(folder: Path) -> Iterator[Song]:
    """Find prepared stems; a song that lacks one of the stems that have a folder is named rather than passed over."""
    for subset in SUBSETS:
        stems = [path for path in _visible(folder / subset / "foreground") if path.is_dir()]
        songs: dict[str, dict[str, Path]] = {}
        for stem in stems:
            for path in _visible(stem):
                if path.suffix == ".wav":
                    songs.setdefault(path.stem, {})[stem.name] = path
        for name, files in songs.items():
            if missing := [stem.name for stem in stems if stem.name not in files]:
                raise TrackError(
                    f"{name!r} in {folder / subset} lacks {', '.join(missing)}. Prepare or export it again."
                )
            yield subset, name, files


def _musdb(folder: Path) -> Iterator[Song]:
    prepare_musdb(folder, _cache_of(folder))
    return _prepared(_cache_of(folder))


def _split_songs(folder: Path) -> Iterator[Song]:
    """Find songs below folders of subsets; without a folder valid, those that `musdb` validates on are it."""
    found = [(subset, name, files) for subset in SUBSETS for _, name, files in _songs_below(folder / subset)]
    if any(subset == "valid" for subset, _, _ in found):
        yield from found
        return
    import musdb  # a second of imports

    names = set(musdb.DB(root=str(folder), subsets=[]).setup["validation_tracks"])
    is_musdb = any(name in names for _, name, _ in found)
    for subset, name, files in found:
        own = "valid" if name in names else subset
        yield own if is_musdb or subset != "train" else None, name, files


def _songs_below(folder: Path) -> Iterator[Song]:
    """Find folders with a file that is named as a stem is; a song's name tells the folders on the way to it."""
    for parent, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        files = _audio_files(Path(parent))
        if _STEM_NAMES.isdisjoint(files):
            continue
        stems = {name: path for name, path in files.items() if name not in _MIXTURES}
        if set(stems) == {"vocals"} and len(files) > 1:
            raise TrackError(f"{parent} holds the mixture and the vocals. Export the accompaniment, too.")
        yield None, " - ".join(Path(parent).relative_to(folder).parts) or folder.name, stems


def _audio_files(folder: Path) -> dict[str, Path]:
    """Return the audio files of a folder by their names in lower case."""
    endings = {path: path.suffix[1:].lower() for path in _visible(folder)}
    audio = sorted(
        (path for path in endings if endings[path] in _ENDINGS), key=lambda path: _ENDINGS.index(endings[path])
    )
    return dict(sorted((path.stem.lower(), path) for path in reversed(audio)))


def _lone_files(folder: Path, source: str) -> Iterator[Song]:
    for parent, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for path in _audio_files(Path(parent)).values():
            yield None, " - ".join(path.relative_to(folder).with_suffix("").parts), {source: path}


LAYOUTS: dict[str, Layout] = {
    "songs": Layout(lambda folder: any(_songs_below(folder)), _songs_below),
    "lone source": Layout(
        lambda folder: folder.name in _LONE_SOURCES, lambda folder: _lone_files(folder, _LONE_SOURCES[folder.name])
    ),
    "split songs": Layout(lambda folder: any(any(_songs_below(folder / subset)) for subset in SUBSETS), _split_songs),
    "MUSDB18": Layout(_has_subsets("*.stem.mp4"), _musdb),
    "prepared": Layout(_has_subsets("foreground"), _prepared),
}
"""Layouts by name, the most general first: of those that recognise a folder, the last is taken."""
