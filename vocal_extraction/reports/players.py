"""Clips of audio that stand in a page: coded as MP3, which every browser plays, at a modest rate."""

import io
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

COMPRESSION = 0.6
"""libsndfile's scale from 0 (large) to 1 (small): about 90 kbit/s for stereo."""

_LAME = ("-c:a", "libmp3lame", "-q:a", "6")
"""The same of ffmpeg, whose LAME takes a third of the time."""

_PATIENCE_S = 300

Clip = tuple[NDArray[np.float32], int]
"""Samples of shape (n_channels, n_samples), of which the first two channels are heard, and their rate in Hz."""


def clips(sounds: Sequence[Clip]) -> list[tuple[bytes, str]]:
    """Code several clips at once, by ffmpeg where it is found, else as `clip` does.

    Returns
    -------
    list of (bytes, str)
        For each clip its file and that file's MIME type.
    """
    if all(rate in _MP3_RATES for _, rate in sounds):
        try:
            return [(content, "audio/mpeg") for content in _coded_by_ffmpeg(sounds)]
        except (OSError, subprocess.SubprocessError):  # missing, without LAME, hanging, or no room for files
            pass
    return [clip(*sound) for sound in sounds]


def _coded_by_ffmpeg(sounds: Sequence[Clip]) -> list[bytes]:
    """Code all clips in one call, since ffmpeg takes longer to start than to code one."""
    with tempfile.TemporaryDirectory(prefix="clips-") as folder:
        raw, coded = ([Path(folder, f"{i}.{kind}") for i in range(len(sounds))] for kind in ("f32", "mp3"))
        command = ["ffmpeg", "-nostdin", "-v", "error"]
        for path, (samples, rate) in zip(raw, sounds, strict=True):
            path.write_bytes(_heard(samples).astype("<f4").tobytes())
            command += ["-f", "f32le", "-ar", str(rate), "-ac", str(len(samples[:2])), "-i", str(path)]
        for i, path in enumerate(coded):
            command += ["-map", f"{i}:a", *_LAME, str(path)]
        subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=True, start_new_session=True)
        return [path.read_bytes() for path in coded]


def clip(samples: NDArray[np.float32], sample_rate: int) -> tuple[bytes, str]:
    """Code a clip with libsndfile.

    Parameters
    ----------
    samples
        Shape: (n_channels, n_samples). Of more than two channels the first two are heard.
    sample_rate
        In Hz. A rate that MP3 does not know is kept in a 16-bit wav.

    Returns
    -------
    content, kind
        The file and its MIME type.
    """
    heard = _heard(samples)
    written = io.BytesIO()
    if sample_rate in _MP3_RATES:
        soundfile.write(
            written, heard, sample_rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=COMPRESSION
        )
        return written.getvalue(), "audio/mpeg"
    soundfile.write(written, heard, sample_rate, format="WAV", subtype="PCM_16")
    return written.getvalue(), "audio/wav"


def _heard(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what is coded, sample by sample: (n_samples, at most 2)."""
    return np.clip(samples[:2].T, -1.0, 1.0)
