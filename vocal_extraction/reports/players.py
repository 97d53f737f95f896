"""Clips of audio for a page: coded as MP3, which every browser plays, at a modest rate."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

Clip = tuple[NDArray[np.float32], int]
"""Samples of shape (n_channels, n_samples), of which the first two channels are kept, and their rate in Hz."""


def clips(sounds: Sequence[Clip]) -> list[tuple[bytes, str]]:
    """Code several clips, and return each with its MIME type: MP3, or wav where MP3 does not know the rate.

    ffmpeg does it where it is found, since its LAME takes a third of the time of libsndfile's.
    """
    stereo = [(np.clip(samples[:2].T, -1.0, 1.0), rate) for samples, rate in sounds]
    if all(rate in _MP3_RATES for _, rate in stereo):
        try:
            return [(content, "audio/mpeg") for content in _coded_by_ffmpeg(stereo)]
        except (OSError, ProgramError):  # missing, without LAME, hanging, or a full disk
            pass
    return [_coded_by_libsndfile(*clip) for clip in stereo]


def _coded_by_ffmpeg(sounds: Sequence[Clip]) -> list[bytes]:
    """Code all clips in one call, since ffmpeg takes longer to start than to code one."""
    with tempfile.TemporaryDirectory(prefix="clips-") as folder:
        inputs, outputs, coded = list[str](), list[str](), list[Path]()
        for i, (samples, rate) in enumerate(sounds):
            raw, mp3 = Path(folder, f"{i}.f32"), Path(folder, f"{i}.mp3")
            raw.write_bytes(samples.astype("<f4").tobytes())
            inputs += ["-f", "f32le", "-ar", str(rate), "-ac", str(samples.shape[1]), "-i", str(raw)]
            outputs += ["-map", f"{i}:a", "-c:a", "libmp3lame", "-q:a", "6", str(mp3)]
            coded.append(mp3)
        with Ffmpeg([*inputs, *outputs]) as ffmpeg:
            ffmpeg.close()
        return [path.read_bytes() for path in coded]


def _coded_by_libsndfile(samples: NDArray[np.float32], rate: int) -> tuple[bytes, str]:
    written = io.BytesIO()
    if rate in _MP3_RATES:  # about 90 kbit/s for stereo, as by ffmpeg
        soundfile.write(written, samples, rate, "MPEG_LAYER_III", format="MP3", compression_level=0.6)
        return written.getvalue(), "audio/mpeg"
    soundfile.write(written, samples, rate, "PCM_16", format="WAV")
    return written.getvalue(), "audio/wav"
