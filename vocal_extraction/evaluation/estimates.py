"""Any other separator's estimates, ``<folder>/[<subset>/]<song>/<source>.wav`` or other audio, checked and read.

Names are compared without case. What is neither wav nor flac is converted once, below ``dataset/converted``.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.audio_files.stem_conversion import convert_stems
from vocal_extraction.evaluation.metrics import Audio, EvaluationError
from vocal_extraction.evaluation.systems import VOCALS, Excerpt, Sources
from vocal_extraction.track_layouts import ENDINGS, cache_of, visible
from vocal_extraction.tracks import Track

TOLERANCE_S = 0.05  # separators that work in frames give some samples more or less, which are cut or padded
_ACCOMPANIMENT = "accompaniment"


@dataclasses.dataclass(frozen=True)
class SongEstimates:
    """The estimates of one song, read when it is called with an excerpt."""

    files: Mapping[str, tuple[Path, int]]  # by source: the file and its length in samples
    notes: tuple[str, ...]  # which of them had to be cut or padded

    def __call__(self, excerpt: Excerpt) -> Audio:
        n_samples = excerpt.stop - excerpt.start
        files = [self.files[name] for name in excerpt.sources.names if name in self.files]
        estimates = np.stack([self._read(path, length, excerpt.start, n_samples) for path, length in files])
        return excerpt.with_residual(estimates) if len(files) < len(excerpt.sources.names) else estimates

    def _read(self, path: Path, length: int, start: int, n_samples: int) -> Audio:
        try:
            stop = min(start + n_samples, length)
            samples, _ = soundfile.read(path, start=min(start, stop), stop=stop, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise EvaluationError(f"{path} cannot be read ({error}). Export it again.") from error
        if not np.isfinite(samples).all():
            raise EvaluationError(f"{path} holds NaN or infinite samples between {start} and {stop}. Export it again.")
        return np.pad(samples.T, ((0, 0), (0, n_samples - len(samples))))

    def sha256(self) -> str:
        text = "".join("\0".join([name, sha256_of(path)]) + "\n" for name, (path, _) in self.files.items())
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def find_estimates(folder: Path, tracks: Sequence[Track], *, subset: str) -> tuple[Sources, list[SongEstimates]]:
    """Find the estimates of songs, and which sources all of them have; they must match their songs."""
    parent = folder / subset if (folder / subset).is_dir() else folder
    known = dict.fromkeys([VOCALS, _ACCOMPANIMENT, *(name for track in tracks for name in track.sources)])
    found = [_files_of(parent / track.name, known) for track in tracks]
    missing = [track.name for track, files in zip(tracks, found, strict=True) if not files.keys() - {_ACCOMPANIMENT}]
    if missing:
        raise EvaluationError(
            f"{folder} lacks the estimates of {len(missing)} of {len(tracks)} songs, {missing[0]!r} first: expected "
            f"{parent / missing[0] / 'vocals.wav'}. Add them, or score fewer songs with a limit."
        )
    common = [name for name in known if all(name in files for files in found)]
    sources = Sources.shared([name for name in common if name != _ACCOMPANIMENT], tracks)
    wanted = {name: name for name in sources.names} | ({sources.residual: _ACCOMPANIMENT} if sources.residual else {})
    chosen = [{name: files[stem] for name, stem in wanted.items() if stem in files} for files in found]
    return sources, [_checked(files, track) for files, track in zip(chosen, tracks, strict=True)]


def _files_of(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the files of a song's folder by source."""
    known, files = {name.lower(): name for name in names}, dict[str, Path]()
    for path in visible(folder):
        name = known.get(path.stem.lower())
        if name is not None and path.suffix[1:].lower() in ENDINGS and path.is_file():
            if name in files:
                raise EvaluationError(f"{files[name]} and {path.name} are both estimates of {name}. Keep one of them.")
            files[name] = path
    return files


def _checked(files: Mapping[str, Path], track: Track) -> SongEstimates:
    lengths, notes = {}, []
    for name, path in files.items():
        decoded = path
        try:
            if path.suffix.lower() not in (".wav", ".flac"):
                decoded = cache_of(path.parent) / f"{path.name}.wav"
                convert_stems([path], [decoded])
            info = soundfile.info(decoded)
        except (soundfile.LibsndfileError, OSError) as error:
            raise EvaluationError(f"{path} is no audio file ({error}). Export it again.") from error
        more_ms = 1000 * (info.frames - track.n_samples) / track.sample_rate
        alike = (info.samplerate, info.channels) == (track.sample_rate, track.n_channels)
        if not alike or abs(more_ms) > 1000 * TOLERANCE_S:
            raise EvaluationError(
                f"{path} has {_words(info.frames, info.channels, info.samplerate)}, but the song has "
                f"{_words(track.n_samples, track.n_channels, track.sample_rate)}. An estimate must match its mixture; "
                "export it without resampling or trimming."
            )
        if more_ms:
            how = "longer than the song and was cut", "shorter than the song and was padded with zeros"
            n_more = abs(info.frames - track.n_samples)
            notes.append(f"{path.name} is {n_more} samples ({abs(more_ms):.3g} ms) {how[more_ms < 0]}")
        lengths[name] = (decoded, info.frames)
    return SongEstimates(lengths, tuple(notes))


def _words(n_samples: int, n_channels: int, sample_rate: int) -> str:
    return f"{n_samples} samples of {n_channels} channels at {sample_rate} Hz"
