"""A result made ready to be heard and seen in a browser: one stream for the players, one picture for each.

The stream is ``listen.pcm``: 16-bit samples, little-endian, four to a frame (vocals left and right, accompaniment left
and right). Any piece of it can be fetched by its position in bytes, and both stems of a piece come together.
"""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError, input_arguments
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.reports.pictures import peak_magnitude, spectrogram_png

STREAM = "listen.pcm"

_CHANNELS = 4
_HIGHEST_RATE = 48_000
_LOWEST_RATE = 8_000
_BLOCK = 2**20


class ListeningError(VocalExtractionError):
    """A result could not be prepared for the players."""


@dataclasses.dataclass(frozen=True)
class Listening:
    """How the stream is to be read."""

    sample_rate: int
    n_frames: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_frames / self.sample_rate


def prepare_listening(
    folder: Path, vocals: Path, accompaniment: Path, *, sample_rate: int, n_channels: int
) -> Listening:
    """Write the stream and the pictures of two stems into `folder`.

    Parameters
    ----------
    folder
        Where ``listen.pcm``, ``mixture.png``, ``vocals.png`` and ``accompaniment.png`` shall stand.
    vocals, accompaniment
        The stems' files, in any format that ffmpeg reads.
    sample_rate
        Theirs, in Hz. The stream keeps it if browsers play it.
    n_channels
        Theirs. The stream has two for each stem.

    Raises
    ------
    ListeningError
        If ffmpeg cannot read the stems, or there is nothing in them.
    StorageError
        If the disk is full.
    """
    rate = min(max(sample_rate, _LOWEST_RATE), _HIGHEST_RATE)
    # ffmpeg by itself takes 3 dB off a single channel that it spreads over two.
    stereo = "pan=stereo|c0=c0|c1=c0" if n_channels == 1 else "aformat=channel_layouts=stereo"
    _write_stream(folder / STREAM, vocals, accompaniment, stereo, rate)
    if (folder / STREAM).stat().st_size == 0:
        raise ListeningError("The result cannot be played: it is shorter than one sample of what browsers play.")
    frames = np.memmap(folder / STREAM, "<i2", "r").reshape(-1, _CHANNELS)
    _draw_pictures(folder, frames, rate)
    return Listening(rate, len(frames))


def _write_stream(stream: Path, vocals: Path, accompaniment: Path, stereo: str, sample_rate: int) -> None:
    # Layouts that are alike are laid one after the other, and the result is called 4.0.
    merged = f"[0:a:0]{stereo}[v];[1:a:0]{stereo}[a];[v][a]amerge=inputs=2[m]"
    inputs = [part for path in (vocals, accompaniment) for part in input_arguments(path)]
    output = ["-filter_complex", merged, "-map", "[m]", "-ar", str(sample_rate), "-f", "s16le", "pipe:1"]
    try:
        with whole_file(stream) as aside, open(aside, "wb") as file, Ffmpeg([*inputs, *output], reads=True) as ffmpeg:
            while block := ffmpeg.read():
                file.write(block)
            ffmpeg.close()
    except ProgramError as error:
        raise ListeningError(f"The result cannot be played: {error}") from error


def _draw_pictures(folder: Path, frames: NDArray[np.int16], sample_rate: int) -> None:
    """Draw all three on the mixture's scale, so that what is louder is brighter."""
    full_scale = peak_magnitude(_mono(frames, slice(0, 4)), sample_rate)
    for stem, channels in (("mixture", slice(0, 4)), ("vocals", slice(0, 2)), ("accompaniment", slice(2, 4))):
        with whole_file(folder / f"{stem}.png") as aside:
            aside.write_bytes(spectrogram_png(_mono(frames, channels), sample_rate, full_scale=full_scale))


def _mono(frames: NDArray[np.int16], channels: slice) -> NDArray[np.float32]:
    """Return the mean of left and right, block by block, as (1, n_frames); with all channels, the mixture's."""
    mono = np.empty((1, len(frames)), np.float32)
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK, channels]
        mono[0, start : start + len(block)] = block.sum(axis=1, dtype=np.float32) / (2 * 32_768)
    return mono
