"""What a network is given of a song: which channels together, at which level, and nothing below the voice.

Networks are trained on mixtures of a usual level, with the voice in the middle or on both sides. A quiet song, a DC
offset or a voice on one side alone must not make the estimates worse.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.separation.disk_array import Array, Rows

MARGIN_S = 0.2
"""How far the high-pass reaches, before and after, in seconds."""

_CUTOFF_HZ = 25.0
"""The lowest voices begin at 60 Hz; the high-pass is 6 dB down here, and closed within 5 Hz."""
_LEAST_CORRELATION = 0.35
"""Above this absolute correlation, two channels are taken together, as mid and side (docs/measurements.md)."""


def covariance_of(mixture: Array, sample_rate: int) -> NDArray[np.float64]:
    """Return the covariance of the channels of a song, the mean over blocks of a second: (n_channels, n_channels)."""
    total = np.zeros((mixture.shape[1],) * 2)
    for start in range(0, len(mixture), sample_rate):
        block = mixture[start : start + sample_rate].astype(np.float64)
        block -= block.mean(axis=0)
        total += block.T @ block
    return total / max(len(mixture), 1)


def input_gain(covariance: NDArray[np.float64], level_db: float | None) -> float:
    """Return the factor that brings a song to a level in dB of full scale (RMS, slow waves aside); None: 1."""
    power = float(np.trace(covariance)) / len(covariance)
    return 10 ** (level_db / 20) / power**0.5 if level_db is not None and 0 < power < np.inf else 1.0


def channel_groups(covariance: NDArray[np.float64], stereo: str, n_network_channels: int) -> NDArray[np.intp]:
    """Return which channels of a song make up each item: (n_items, n_channels_together).

    Two channels with little in common, such as a voice and its band on one side each, are an item each: what stands out
    in one of them would be buried in mid and side. Where an item has fewer channels than the network takes, its last
    one is repeated.
    """
    n_channels = len(covariance)
    if stereo == "mid-side" and n_channels == 2:
        (left, both), (_, right) = covariance
        if abs(both) <= _LEAST_CORRELATION * (left * right) ** 0.5:
            return np.repeat([[0], [1]], n_network_channels, axis=1)
    n_together = 2 if stereo == "mid-side" and n_channels > 1 else n_network_channels
    return np.minimum(np.arange(-(-n_channels // n_together) * n_together), n_channels - 1).reshape(-1, n_together)


def without_slow_waves(rows: Rows, sample_rate: int) -> Rows:
    """Remove offset and waves below 25 Hz from (n_channels, n_samples), which goes on at its edges as it ends there.

    Samples nearer to an edge than `MARGIN_S` are exact only where the signal does end there.
    """
    margin, n_samples = round(MARGIN_S * sample_rate), rows.shape[1]
    if not n_samples:
        return rows
    n_fft = -(-(n_samples + 2 * margin) // 4_096) * 4_096
    padded = np.pad(rows, ((0, 0), (margin, margin)), mode="edge")
    slow = np.fft.irfft(np.fft.rfft(padded, n_fft) * _low_pass(n_fft, sample_rate), n_fft)
    return rows - slow[:, margin : margin + n_samples].astype(np.float32)


@functools.lru_cache(maxsize=16)
def _low_pass(n_fft: int, sample_rate: int) -> NDArray[np.float64]:
    """Return the response of a low-pass without delay: a windowed sinc of twice `MARGIN_S`, wrapped around zero."""
    margin = round(MARGIN_S * sample_rate)
    n = np.arange(-margin, margin + 1)
    taps = np.sinc(2 * _CUTOFF_HZ / sample_rate * n) * np.hanning(len(n) + 2)[1:-1]
    kernel = np.zeros(n_fft)
    kernel[n] = taps / taps.sum()
    return np.fft.rfft(kernel).real
