"""Clips of audio for a page: coded as MP3, which every browser plays, at a modest rate."""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


def coded(samples: NDArray[np.float32], rate: int) -> tuple[bytes, str]:
    """Code the first two channels of a clip at a rate in Hz as MP3, or wav where MP3 has no such rate; say which."""
    written, stereo = io.BytesIO(), np.clip(samples[:2].T, -1.0, 1.0)
    if rate in _MP3_RATES:
        soundfile.write(written, stereo, rate, "MPEG_LAYER_III", format="MP3", compression_level=0.6)
        return written.getvalue(), "audio/mpeg"
    soundfile.write(written, stereo, rate, "PCM_16", format="WAV")
    return written.getvalue(), "audio/wav"
