"""Clips of audio for a page: coded as MP3, which every browser plays, at a modest rate."""

import io
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

_COMPRESSION = 0.6
"""libsndfile's scale from 0 (large) to 1 (small): about 90 kbit/s for stereo."""

_LAME = ("-c:a", "libmp3lame", "-q:a", "6")
"""The same of ffmpeg, whose LAME takes a third of the time."""

_TIMEOUT_S = 300

Clip = tuple[NDArray[np.float32], int]
"""Samples of shape (n_channels, n_samples), of which the first two channels are kept, and their rate in Hz."""


def clips(sounds: Sequence[Clip]) -> list[tuple[bytes, str]]:
    """Code several clips at once, by ffmpeg where it is found, else by libsndfile.

    Returns
    -------
    list of (bytes, str)
        For each clip its file and that file's MIME type: MP3, or wav where MP3 does not know the rate.
    """
    stereo = [(np.clip(samples[:2].T, -1.0, 1.0), rate) for samples, rate in sounds]
    if all(rate in _MP3_RATES for _, rate in stereo):
        try:
            return [(content, "audio/mpeg") for content in _coded_by_ffmpeg(stereo)]
        except (OSError, subprocess.SubprocessError):  # missing, without LAME, hanging, or a full disk
            pass
    return [_coded_by_libsndfile(*clip) for clip in stereo]


def _coded_by_ffmpeg(sounds: Sequence[Clip]) -> list[bytes]:
    """Code all clips in one call, since ffmpeg takes longer to start than to code one."""
    with tempfile.TemporaryDirectory(prefix="clips-") as folder:
        raw, coded = ([Path(folder, f"{i}.{kind}") for i in range(len(sounds))] for kind in ("f32", "mp3"))
        command = ["ffmpeg", "-nostdin", "-v", "error"]
        for path, (samples, rate) in zip(raw, sounds, strict=True):
            path.write_bytes(samples.astype("<f4").tobytes())
            command += ["-f", "f32le", "-ar", str(rate), "-ac", str(samples.shape[1]), "-i", str(path)]
        for i, path in enumerate(coded):
            command += ["-map", f"{i}:a", *_LAME, str(path)]
        subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True, start_new_session=True)
        return [path.read_bytes() for path in coded]


def _coded_by_libsndfile(samples: NDArray[np.float32], rate: int) -> tuple[bytes, str]:
    written = io.BytesIO()
    if rate in _MP3_RATES:
        soundfile.write(written, samples, rate, "MPEG_LAYER_III", format="MP3", compression_level=_COMPRESSION)
        return written.getvalue(), "audio/mpeg"
    soundfile.write(written, samples, rate, "PCM_16", format="WAV")
    return written.getvalue(), "audio/wav"
