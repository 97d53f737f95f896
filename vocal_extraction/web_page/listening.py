"""Stems made ready for a browser's players: 16-bit samples that can be fetched by position, and a spectrogram each."""

import dataclasses
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, input_arguments
from vocal_extraction.audio_files.native_stems import native_order
from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction import ALL_STEMS
from vocal_extraction.reports.pictures import HIGHEST_HZ, LOWEST_HZ, peak_magnitude, spectrogram_png
from vocal_extraction.web_page.uploads import Upload

Streams = Mapping[str, tuple[Path, int]]  # by stem: a file, and which of its audio streams it is
_HIGHEST_RATE, _LOWEST_RATE = 48_000, 8_000
_OVERVIEW_RATE, _OVERVIEW_POINTS = 11_025, 800
_SHORTEST_WITH_TEMPO_S = 10.0
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
"""How well each semitone above the tonic fits a key: Krumhansl and Kessler (1982)."""
_TONICS = ("C", "D♭", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")


@dataclasses.dataclass(frozen=True)
class Track:
    """What the players play: ``NAME.pcm`` (16-bit little-endian stereo) and ``NAME.png`` for each stem in a folder."""

    folder: Path
    stems: tuple[str, ...]
    sample_rate: int
    n_samples: int
    start_s: float = 0.0  # where in the song it begins

    def as_json(self) -> dict[str, Any]:
        """Return what the page needs, with the name of the folder below the job's address."""
        lowest_hz, highest_hz = LOWEST_HZ, min(HIGHEST_HZ, self.sample_rate / 2)
        return dataclasses.asdict(self) | {"folder": self.folder.name, "lowest_hz": lowest_hz, "highest_hz": highest_hz}


def streams_of(files: Mapping[str, Path], names: Collection[str]) -> Streams:
    """Return the stems called `names` in the files of an extraction: one in each, or all in one behind the mixture."""
    if ALL_STEMS not in files:
        return {name: (path, 0) for name, path in files.items()}
    return {name: (files[ALL_STEMS], i) for i, name in enumerate(native_order(names), 1)}


def prepare_listening(folder: Path, stems: Streams, upload: Upload, *, start_s: float = 0.0) -> Track:
    """Write samples and spectrograms of `stems` (in any format that ffmpeg reads) into `folder`.

    The spectrograms share one scale: what is louder is brighter. The sample rate is kept where browsers play it.
    """
    rate = min(max(upload.sample_rate, _LOWEST_RATE), _HIGHEST_RATE)
    folder.mkdir(parents=True, exist_ok=True)
    # ffmpeg by itself takes 3 dB off a single channel that it spreads over two.
    stereo = "pan=stereo|c0=c0|c1=c0" if upload.n_channels == 1 else "aformat=channel_layouts=stereo"
    for name, stream in stems.items():
        with open(folder / f"{name}.pcm", "wb") as file:
            file.writelines(_decoded(*stream, ["-af", stereo, "-ar", str(rate)]))
    n_samples = min((folder / f"{name}.pcm").stat().st_size // 4 for name in stems)
    if n_samples == 0:  # a resampler gives nothing for a few samples of a very low rate
        raise ExtractionError(f"There is too little to be played: the sample rate is {upload.sample_rate} Hz.")
    samples = {name: np.memmap(folder / f"{name}.pcm", "<i2", "r").reshape(-1, 2).T for name in stems}
    full_scale = max(peak_magnitude(stem, rate) for stem in samples.values())
    for name, stem in samples.items():
        (folder / f"{name}.png").write_bytes(spectrogram_png(stem, rate, full_scale=full_scale))
    return Track(folder, tuple(stems), rate, n_samples, start_s)


@dataclasses.dataclass(frozen=True)
class Overview:
    """A song in one channel at a low rate."""

    samples: NDArray[np.int16]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / _OVERVIEW_RATE

    @property
    def peaks(self) -> list[int]:
        """Peaks of the waveform in equal parts of the song, 0 to 100."""
        samples = np.abs(self.samples.astype(np.int32))
        edges = np.linspace(0, len(samples), min(_OVERVIEW_POINTS, max(1, len(samples))), endpoint=False).astype(int)
        peaks = np.maximum.reduceat(samples, edges) if len(samples) else samples
        return (100 * peaks // max(1, int(peaks.max(initial=1)))).tolist()

    def tempo_and_key(self) -> tuple[float | None, str | None]:
        """Return beats per minute and the key, as 'A minor', by librosa; None without it, or of a few seconds."""
        if importlib.util.find_spec("librosa") is None or self.duration_s < _SHORTEST_WITH_TEMPO_S:
            return None, None
        import librosa

        samples = self.samples.astype(np.float32) / 2**15
        tempo = float(np.atleast_1d(librosa.beat.beat_track(y=samples, sr=_OVERVIEW_RATE)[0])[0])
        chroma = librosa.feature.chroma_stft(y=samples, sr=_OVERVIEW_RATE, n_fft=4096, hop_length=2048).mean(axis=1)
        if not chroma.any():
            return None, None
        fits = {
            f"{tonic} {mode}": np.corrcoef(np.roll(profile, semitone), chroma)[0, 1]
            for semitone, tonic in enumerate(_TONICS)
            for mode, profile in (("major", _MAJOR), ("minor", _MINOR))
        }
        return round(tempo, 1) or None, max(fits, key=lambda key: fits[key])


def overview(song: Path, *, longest_s: float) -> Overview:
    bounds = ["-ac", "1", "-ar", str(_OVERVIEW_RATE), "-t", f"{longest_s:.3f}"]
    return Overview(np.frombuffer(b"".join(_decoded(song, 0, bounds)), "<i2"))


def mix(stems: Streams, gains: Mapping[str, float], path: Path) -> None:
    """Write the sum of stems, each times its gain, as a wav."""
    inputs = [part for file, _ in stems.values() for part in input_arguments(file)]
    scaled = [f"[{i}:a:{n}]volume={gains[name]:.4f}[s{i}]" for i, (name, (_, n)) in enumerate(stems.items())]
    graph = ";".join([*scaled, f"{''.join(f'[s{i}]' for i in range(len(stems)))}amix=inputs={len(stems)}:normalize=0"])
    with Ffmpeg([*inputs, "-filter_complex", graph, "-f", "wav", "-y", f"file:{path}"]) as ffmpeg:
        ffmpeg.close()


def _decoded(path: Path, stream: int, arguments: list[str]) -> Iterator[bytes]:
    """Yield 16-bit samples of an audio stream of `path`."""
    command = [*input_arguments(path), "-map", f"0:a:{stream}", *arguments, "-f", "s16le", "pipe:1"]
    with Ffmpeg(command, reads=True) as ffmpeg:
        yield from iter(ffmpeg.read, b"")
        ffmpeg.close()
