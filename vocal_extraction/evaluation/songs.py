"""Where the songs and other people's estimates come from, and how they are read: block by block, checked, as stems.

Three layouts are understood::

    <folder>/<subset>/foreground/<stem>/<song>.wav     what `musdb_preparation` and `demo_songs` write
    <folder>/<subset>/<song>/<stem>.wav                MUSDB18-HQ, or stems of one's own
    <folder>/<song>/<stem>.wav                         stems of one's own

with the stems bass, drums, other and vocals, or vocals and accompaniment; in the latter two also as flac. The mixture
is the sum of the stems, which is what the figures of the benchmark table were computed with: a separately coded
mixture differs from it by the coding noise, and the ideal masks would pay for that.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.settings import ACCOMPANIMENT, STEMS

SOURCES = ("vocals", ACCOMPANIMENT)
"""What is scored, in the order of every array and table of this package."""

_SUFFIXES = (".wav", ".flac")


class EvaluationError(VocalExtractionError):
    """An evaluation cannot be done or continued; the text says what to do."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """Some sources, each the sum of one or more files of the same length, rate and channels."""

    name: str
    """The song's."""
    files: Mapping[str, tuple[Path, ...]]
    """By source."""
    sample_rate: int
    n_channels: int
    n_samples: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read samples from `start` up to `stop` of every source.

        Returns
        -------
        NDArray[np.float32]
            Shape: (n_sources, n_channels, stop - start).

        Raises
        ------
        EvaluationError
            If a file ends early, cannot be read or holds NaN or infinity.
        """
        return np.stack([sum(_read(path, start, stop) for path in paths) for paths in self.files.values()])

    def sha256(self) -> str:
        """Return one hash of all files, in the order of their sources."""
        digest = hashlib.sha256()
        try:
            for source, paths in self.files.items():
                digest.update("\0".join([source, *map(sha256_of, paths)]).encode() + b"\n")
        except OSError as error:
            raise EvaluationError(
                f"{error.filename} cannot be read ({error.strerror}). Prepare or export it again."
            ) from error
        return digest.hexdigest()


def _read(path: Path, start: int, stop: int) -> NDArray[np.float32]:
    try:
        samples, _ = soundfile.read(path, start=start, stop=stop, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}). Prepare or export it again.") from error
    if len(samples) != stop - start:
        raise EvaluationError(f"{path} ends after {start + len(samples)} samples; its header promises more.")
    if not np.isfinite(samples).all():
        raise EvaluationError(f"{path} holds NaN or infinite samples between {start} and {stop}. Export it again.")
    return samples.T


def find_songs(dataset_folder: str | os.PathLike[str], *, subset: str, limit: int | None = None) -> list[Recording]:
    """Find the songs of a dataset, whichever layout it has, sorted by name.

    Parameters
    ----------
    dataset_folder
        See the head of this file.
    subset
        'test', 'valid' or 'train', where the layout has subsets.
    limit
        Take only the first so many.

    Raises
    ------
    EvaluationError
        If there are no songs, or a song lacks a stem or has stems of unequal length, rate or channels.
    """
    folder = Path(dataset_folder)
    if (folder / subset / "foreground").is_dir():
        found = _prepared_songs(folder, subset)
    else:
        parent = folder / subset if (folder / subset).is_dir() else folder
        found = {song.name: _stems_of(song) for song in _song_folders(parent)}
    if not found:
        raise EvaluationError(
            f"No songs of the {subset!r} subset in {folder}. Prepare MUSDB18 (python main.py train does it first), or "
            f"name a folder that holds <song>/vocals.wav and <song>/accompaniment.wav."
        )
    chosen = sorted(found)[: _checked_limit(limit)]
    return [_recording(name, _by_source(name, found[name])) for name in chosen]


def find_estimates(
    estimates_folder: str | os.PathLike[str], songs: Iterable[Recording], *, subset: str
) -> list[Recording]:
    """Find ``<folder>/[<subset>/]<song>/vocals.wav``, and ``accompaniment.wav`` where there is one, for each song.

    Raises
    ------
    EvaluationError
        If songs are missing, or an estimate differs from its song in length, rate or channels.
    """
    folder = Path(estimates_folder)
    parent = folder / subset if (folder / subset).is_dir() else folder
    estimates, missing = [], []
    for song in songs:
        stems = _stems_of(parent / song.name)
        if "vocals" not in stems:
            missing.append(song.name)
            continue
        files = {SOURCES[0]: (stems["vocals"],)}
        if "accompaniment" in stems:
            files[SOURCES[1]] = (stems["accompaniment"],)
        estimate = _recording(song.name, files)
        _compare(estimate, song)
        estimates.append(estimate)
    if missing:
        raise EvaluationError(
            f"{folder} lacks the estimates of {len(missing)} of {len(missing) + len(estimates)} songs, {missing[0]!r} "
            f"first: expected {parent / missing[0] / 'vocals.wav'}. Add them, or score fewer songs with a limit."
        )
    return estimates


def _checked_limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise EvaluationError(f"The limit is a number of songs, 1 or more; got {limit}.")
    return limit


def _prepared_songs(folder: Path, subset: str) -> dict[str, dict[str, Path]]:
    """Return every song of which any stem is there, so that one that lacks a stem is named rather than passed over."""
    paths = [path for stem in STEMS for path in (folder / subset / "foreground" / stem).glob("[!.]*.wav")]
    songs: dict[str, dict[str, Path]] = {}
    for path in paths:
        songs.setdefault(path.stem, {})[path.parent.name] = path
    return songs


def _song_folders(parent: Path) -> list[Path]:
    try:
        return [song for song in parent.iterdir() if "vocals" in _stems_of(song)] if parent.is_dir() else []
    except OSError as error:
        raise EvaluationError(f"The folder {parent} cannot be read ({error.strerror}).") from error


def _stems_of(song_folder: Path) -> dict[str, Path]:
    """Return the files of a song's folder by stem name; a wav comes before a flac."""
    names = (*STEMS, "accompaniment")
    candidates = {name: [song_folder / f"{name}{suffix}" for suffix in _SUFFIXES] for name in names}
    found = {name: [path for path in paths if path.is_file()] for name, paths in candidates.items()}
    return {name: paths[0] for name, paths in found.items() if paths}


def _by_source(name: str, stems: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    if "accompaniment" in stems:
        return {SOURCES[0]: (stems["vocals"],), SOURCES[1]: (stems["accompaniment"],)}
    missing = [stem for stem in STEMS if stem not in stems]
    if missing:
        raise EvaluationError(
            f"{name!r} lacks {', '.join(missing)}. Expected bass, drums, other and vocals, or vocals and accompaniment."
        )
    return {SOURCES[0]: (stems["vocals"],), SOURCES[1]: tuple(stems[stem] for stem in STEMS if stem != "vocals")}


def _recording(name: str, files: Mapping[str, tuple[Path, ...]]) -> Recording:
    """Make a Recording of files whose headers agree."""
    headers = {path: _header(path) for paths in files.values() for path in paths}
    (first, expected), *others = headers.items()
    for path, header in others:
        if header != expected:
            raise EvaluationError(
                f"The stems of {name!r} differ: {first} has {_words(expected)}, {path} has {_words(header)}. "
                f"Export all stems alike."
            )
    if expected["n_samples"] == 0:
        raise EvaluationError(f"{first} holds no samples. Export {name!r} again or remove it.")
    return Recording(name, dict(files), **expected)


def _header(path: Path) -> dict[str, Any]:
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise EvaluationError(f"{path} is no audio file ({error}). Prepare or export it again.") from error
    return {"sample_rate": info.samplerate, "n_channels": info.channels, "n_samples": info.frames}


def _words(header: Mapping[str, Any]) -> str:
    return f"{header['n_samples']} samples of {header['n_channels']} channels at {header['sample_rate']} Hz"


def _compare(estimate: Recording, song: Recording) -> None:
    got, expected = (dataclasses.asdict(x) for x in (estimate, song))
    if any(got[key] != expected[key] for key in ("sample_rate", "n_channels", "n_samples")):
        path = next(iter(estimate.files.values()))[0]
        raise EvaluationError(
            f"{path} has {_words(got)}, but the song has {_words(expected)}. An estimate must match its mixture; "
            f"export it without resampling or trimming."
        )
