"""Clips of audio that stand in a page: coded as MP3, which every browser plays, at a modest rate."""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

COMPRESSION = 0.6
"""libsndfile's scale from 0 (large) to 1 (small): about 90 kbit/s for stereo."""


def clip(samples: NDArray[np.float32], sample_rate: int) -> tuple[bytes, str]:
    """Code a clip.

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
    heard = np.clip(samples[:2].T, -1.0, 1.0)
    written = io.BytesIO()
    if sample_rate in _MP3_RATES:
        soundfile.write(
            written, heard, sample_rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=COMPRESSION
        )
        return written.getvalue(), "audio/mpeg"
    soundfile.write(written, heard, sample_rate, format="WAV", subtype="PCM_16")
    return written.getvalue(), "audio/wav"
