"""Stems made ready for a browser's players: 16-bit samples that can be fetched by position, and a spectrogram each."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError, input_arguments
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.reports.pictures import HIGHEST_HZ, LOWEST_HZ, peak_magnitude, spectrogram_png

_HIGHEST_RATE, _LOWEST_RATE = 48_000, 8_000
_WAVEFORM_RATE, _WAVEFORM_POINTS = 8_000, 800


class ListeningError(VocalExtractionError):
    """A result could not be prepared for the players."""


@dataclasses.dataclass(frozen=True)
class Track:
    """What the players play: ``NAME.pcm`` (16-bit little-endian stereo) and ``NAME.png`` for each stem in a folder."""

    folder: Path
    stems: tuple[str, ...]
    sample_rate: int
    n_samples: int
    start_s: float = 0.0
    """Where in the song it begins."""

    def as_json(self) -> dict[str, Any]:
        """Return what the page needs, with the name of the folder below the job's address."""
        lowest_hz, highest_hz = LOWEST_HZ, min(HIGHEST_HZ, self.sample_rate / 2)
        return dataclasses.asdict(self) | {"folder": self.folder.name, "lowest_hz": lowest_hz, "highest_hz": highest_hz}


def prepare_listening(
    folder: Path, stems: Mapping[str, Path], *, sample_rate: int, n_channels: int, start_s: float = 0.0
) -> Track:
    """Write samples and spectrograms of `stems` (in any format that ffmpeg reads) into `folder`.

    The spectrograms share one scale: what is louder is brighter. The sample rate is kept where browsers play it.

    Raises
    ------
    ListeningError
        If ffmpeg cannot read the stems, or there is nothing in them.
    """
    rate = min(max(sample_rate, _LOWEST_RATE), _HIGHEST_RATE)
    folder.mkdir(parents=True, exist_ok=True)
    # ffmpeg by itself takes 3 dB off a single channel that it spreads over two.
    stereo = "pan=stereo|c0=c0|c1=c0" if n_channels == 1 else "aformat=channel_layouts=stereo"
    for name, path in stems.items():
        _decode(path, ["-af", stereo, "-ar", str(rate)], folder / f"{name}.pcm")
    n_samples = min((folder / f"{name}.pcm").stat().st_size // 4 for name in stems)
    if n_samples == 0:
        raise ListeningError("The result cannot be played: it is shorter than one sample of what browsers play.")
    samples = {name: np.memmap(folder / f"{name}.pcm", "<i2", "r").reshape(-1, 2).T for name in stems}
    full_scale = max(peak_magnitude(stem, rate) for stem in samples.values())
    for name, stem in samples.items():
        (folder / f"{name}.png").write_bytes(spectrogram_png(stem, rate, full_scale=full_scale))
    return Track(folder, tuple(stems), rate, n_samples, start_s)


def waveform(song: Path, folder: Path, *, longest_s: float) -> tuple[list[int], float]:
    """Return the peaks of a song's waveform, 0 to 100, for an overview, and its length in seconds."""
    path = folder / "waveform.pcm"
    _decode(song, ["-ac", "1", "-ar", str(_WAVEFORM_RATE), "-t", f"{longest_s:.3f}"], path)
    samples = np.abs(np.fromfile(path, "<i2").astype(np.int32))
    path.unlink()
    edges = np.linspace(0, len(samples), min(_WAVEFORM_POINTS, max(1, len(samples))), endpoint=False).astype(int)
    peaks = np.maximum.reduceat(samples, edges) if len(samples) else samples
    return (100 * peaks // max(1, int(peaks.max(initial=1)))).tolist(), len(samples) / _WAVEFORM_RATE


def _decode(path: Path, arguments: list[str], target: Path) -> None:
    """Write 16-bit samples of the first audio stream of `path` to `target`."""
    command = [*input_arguments(path), "-map", "0:a:0", *arguments, "-f", "s16le", "pipe:1"]
    try:
        with open(target, "wb") as file, Ffmpeg(command, reads=True) as ffmpeg:
            while block := ffmpeg.read():
                file.write(block)
            ffmpeg.close()
    except ProgramError as error:
        raise ListeningError(f"The song cannot be played: {error}") from error
