"""Tracks: songs with their stems, as training mixes them and evaluation scores them.

`track_layouts` finds the songs. Where a folder has no subsets, one in eight is for validation and the others are for
training; for testing, all are. Stems that are not wav or flac, differ in length or have another sample rate than is
asked for are converted once, below ``dataset/converted``.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.audio_files.stem_conversion import are_converted, convert_stems
from vocal_extraction.musdb_preparation import SUBSETS, has_begun, prepare_musdb
from vocal_extraction.progress import counted
from vocal_extraction.settings import ACCOMPANIMENT, DATASET_FOLDER
from vocal_extraction.track_layouts import Song, TrackError, cache_of, layout_of, lone_files, visible

_VALIDATION_SHARE = 8


@dataclasses.dataclass(frozen=True)
class Track:
    """A song and its sources, each the sum of one or more files of the same length and rate."""

    name: str
    sources: Mapping[str, tuple[Path, ...]]
    sample_rate: int
    n_channels: int
    n_samples: int
    weight: float = 1.0  # how often the song is drawn for training, in relation to the others

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sample_rate

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Read (n_sources, n_channels, stop - start) in the order of `sources`; mono goes into all channels.

        Raises TrackError if a file ends early, cannot be read or holds NaN or infinity.
        """
        stop = self.n_samples if stop is None else stop
        audio = np.zeros((len(self.sources), self.n_channels, stop - start), dtype=np.float32)
        for source, files in zip(audio, self.sources.values(), strict=True):
            for path in files:
                source += _read(path, start, stop)
        return audio

    def sha256(self) -> str:
        """Return one hash of all files, in the order of their sources."""
        digest = hashlib.sha256()
        try:
            for source, paths in self.sources.items():
                digest.update("\0".join([source, *map(sha256_of, paths)]).encode(errors="surrogateescape") + b"\n")
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
    source: str | None = None  # what its files are where they are no songs with stems, as 'vocals'
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
        if "://" in name:
            raise TrackError(f"{name} is an address, but songs with stems are read from folders: mount or copy them.")
        if not Path(name).exists() and "=" in name:
            name, _, number = name.rpartition("=")
            try:
                weight = float(number)
            except ValueError:
                weight = 0.0
            if not 0 < weight < float("inf"):
                raise TrackError(f"{number!r} in {str(text)!r} is no weight; expected more than 0, as in {name}=2.")
        if not Path(name).exists() and ":" in name:
            name, _, source = name.rpartition(":")
        return cls(Path(name).expanduser(), source or None, weight)


def find_tracks(
    folders: str | Path | TrackFolder | Sequence[str | Path | TrackFolder],
    *,
    subset: str,
    sample_rate: int | None = None,
    limit: int | None = None,
    progress: bool = False,
) -> list[Track]:
    """Find the tracks of a subset ('train', 'valid' or 'test') in one or more folders, in any of the `LAYOUTS`.

    They come folder by folder, sorted by their names, of each the first `limit`. All shall have `sample_rate`; None
    leaves each song at its own. A TrackError says that there are none, or a stem cannot be read.
    """
    check_subset(subset)
    if limit is not None and limit < 1:
        raise TrackError(f"The limit is a number of songs, 1 or more; got {limit}.")
    given = [folders] if isinstance(folders, str | Path | TrackFolder) else folders
    tracks, found, parsed = list[Track](), set[str](), [TrackFolder.parse(folder) for folder in given]
    for folder in parsed:
        there = _songs_in(folder)
        found |= {own for own, _, _ in there if own is not None}
        songs = _of_subset(there, subset)[:limit]
        place = cache_of(folder.path) / str(sample_rate or "own rate") / subset / "foreground"
        tracks += _tracks_of(songs, place, folder.weight, sample_rate=sample_rate, progress=progress)
    if not tracks:
        names = ", ".join(str(folder.path) for folder in parsed)
        for path in (folder.path for folder in parsed):
            if path.name in SUBSETS and layout_of(path.parent) is not None:
                raise TrackError(f"{path} is one subset of a data set. Name the data set itself: {path.parent}")
        if found:
            raise TrackError(
                f"No songs of the {subset!r} subset in {names}, only of {', '.join(sorted(found))}. Put some into a "
                f"folder {subset} beside {min(found)}, in the same layout."
            )
        raise TrackError(
            f"No songs of the {subset!r} subset in {names}. Prepare MUSDB18 (vocal-extraction prepare), or name a "
            "folder that holds <song>/vocals.wav and <song>/accompaniment.wav."
        )
    return tracks


def check_subset(subset: str) -> None:
    """Raise a TrackError that names the subsets, unless it is one."""
    if subset not in SUBSETS:
        raise TrackError(f"There is no subset {subset!r}; there are {', '.join(SUBSETS)}.")


def prepare_if_needed(
    folder: str | os.PathLike[str],
    musdb_path: str | os.PathLike[str] | None = None,
    *,
    subset: str | None = None,
    limit: int | None = None,
    progress: bool = False,
) -> None:
    """Prepare MUSDB18 in a data set folder with these arguments of `prepare_musdb`.

    A folder that has other songs stays as it is unless `musdb_path` is given; one of other files is a TrackError.
    """
    folder = Path(folder)
    if musdb_path is None and not (folder / "sources.json").exists():
        if folder.is_dir() and layout_of(folder) is not None:
            return
        if folder != DATASET_FOLDER and any(visible(folder)) and not has_begun(folder):
            raise TrackError(
                f"No songs in {folder}. Name an empty folder for MUSDB18, or one that holds <song>/vocals.wav and "
                "<song>/accompaniment.wav."
            )
    prepare_musdb(musdb_path, folder, subset=subset, limit=limit, progress=progress)


def _songs_in(folder: TrackFolder) -> list[Song]:
    if not folder.path.is_dir():
        raise TrackError(f"There is no folder {folder.path}. Name one that holds songs.")
    try:
        if folder.source is not None:
            return list(lone_files(folder.path, folder.source))
        layout = layout_of(folder.path)
        return [] if layout is None else sorted(layout.songs(folder.path), key=lambda song: song[1])
    except OSError as error:
        raise TrackError(f"The folder {folder.path} cannot be read ({error.strerror}).") from error


def _of_subset(songs: list[Song], subset: str) -> list[Song]:
    """Return the songs of a subset; those without one are split by a hash of their group, but are all for testing."""
    groups = _groups([name for own, name, _ in songs if own is None])
    hashed = sorted(
        (hashlib.sha256(group.encode(errors="surrogateescape")).digest()[0], group) for group in set(groups.values())
    )
    valid = {group for number, group in hashed if number % _VALIDATION_SHARE == 0}
    if len(hashed) > 1 and not valid:
        valid = {hashed[0][1]}
    if len(hashed) == len(valid) > 0:
        valid.remove(hashed[-1][1])

    with_tests = any(own == "test" for own, _, _ in songs)

    def belongs(own: str | None, name: str) -> bool:
        if own is not None or (subset == "test" and with_tests):
            return own == subset
        return subset == "test" or (groups[name] in valid) == (subset == "valid")

    return [song for song in songs if belongs(*song[:2])]


def _groups(names: list[str]) -> dict[str, str]:
    """Return what is split as one: songs of one sub-folder, artist or singer where there are enough, else each song.

    That is the name up to its first " - " (which joins the names of sub-folders, too) or underscore.
    """
    groups = {name: re.split(" - |_", name)[0] for name in names}
    return groups if len(set(groups.values())) >= _VALIDATION_SHARE else dict(zip(names, names, strict=True))


def _tracks_of(
    songs: list[Song], place: Path, weight: float, *, sample_rate: int | None, progress: bool
) -> Iterator[Track]:
    """Turn songs into tracks, after those that have to be were converted, several at a time."""
    plain = [_plain_track(name, files, sample_rate) for _, name, files in songs]
    wavs = [{source: place / source / f"{name}.wav" for source in files} for _, name, files in songs]
    pending = [
        (list(files.values()), list(to.values()))
        for (_, _, files), to, track in zip(songs, wavs, plain, strict=True)
        if track is None and not are_converted(files.values(), to.values())
    ]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(lambda each: convert_stems(*each, sample_rate=sample_rate), pending)
        collections.deque(counted(jobs, len(pending), "converting", show=progress), maxlen=0)
    for (_, name, _), to, track in zip(songs, wavs, plain, strict=True):
        track = track or _plain_track(name, to, sample_rate)
        if track is None:
            raise TrackError(f"The stems of {name!r} do not fit together. Export them with one or two channels each.")
        yield dataclasses.replace(track, weight=weight)


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
