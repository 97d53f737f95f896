"""What a network is given of a song: which channels together, at which level, and nothing below the voice.

Networks are trained on mixtures of a usual level, with the voice in the middle or on both sides. A quiet song, a DC
offset or a voice on one side alone must not make the estimates worse.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.errors import ExtractionError
from vocal_extraction.separation.disk_array import Array, Rows

MARGIN_S = 0.2  # how far the high-pass reaches, before and after, in seconds
_CUTOFF_HZ = 25.0  # the lowest voices begin at 60 Hz; the high-pass is 6 dB down here, and closed within 5 Hz
_SLOW_RATE = 1_378  # samples of slow waves per second
_BLOCK_STEPS = 64  # of these that are multiplied with splines at once
_LEAST_CORRELATION = 0.35  # above, two channels are taken together (docs/measurements.md)
_SILENCE = 1e-3  # a second of a channel with less than this share of the song's mean power is silent: -30 dB
_LARGEST_SAMPLE = 1e15  # squares of larger samples leave the range of 32-bit floats


def covariances_of(
    mixture: Array, sample_rate: int, *, mapped: Callable[..., Iterable[Any]] = map
) -> NDArray[np.float64]:
    """Return the covariance of channels, slow waves aside, of each second of a song: (n, n_channels, n_channels).

    `mapped` calls a function as `map` does, perhaps on several threads. Raises ExtractionError if a sample is NaN,
    infinite or absurdly large.
    """

    def covariance_of(start: int, stop: int) -> NDArray[np.float64]:
        rows = mixture[start:stop]
        refuse_numbers_out_of_range(rows, start, sample_rate)
        n_fft, window = -(-(stop - start) // 4_096) * 4_096, _hann(stop - start)
        first_bin = math.ceil(_CUTOFF_HZ * n_fft / sample_rate)
        spectra = np.fft.rfft(rows.T * window, n_fft, norm="forward")[:, first_bin:].astype(np.complex128)
        covariance: NDArray[np.float64] = (spectra @ spectra.conj().T).real * 2 * n_fft / np.dot(window, window)
        return covariance

    n, n_channels = -(-len(mixture) // sample_rate), mixture.shape[1]
    edges = np.linspace(0, len(mixture), n + 1).astype(int).tolist()
    return np.reshape([*mapped(covariance_of, edges[:-1], edges[1:])], (n, n_channels, n_channels))


def refuse_numbers_out_of_range(rows: Rows, n_before: int, sample_rate: int) -> None:
    """Raise at the first sample that is not a number of usual size; both comparisons are false for NaN."""
    if not rows.size or (-_LARGEST_SAMPLE < rows.min() and rows.max() < _LARGEST_SAMPLE):
        return
    usual = np.abs(rows) < _LARGEST_SAMPLE
    row = int(np.argmin(usual.all(axis=1)))
    raise ExtractionError(
        f"The audio holds {rows[row][~usual[row]][0]} at {(n_before + row) / sample_rate:.3f} s, where a number near "
        "-1 to 1 is expected. Repair the file first."
    )


def input_gain(covariances: NDArray[np.float64], level_db: float | None) -> float:
    """Return the factor that brings a song's RMS, where its channels sound, to a level in dB of full scale; None: 1."""
    powers = np.diagonal(covariances, axis1=1, axis2=2)
    sounding = powers[powers > _SILENCE * (powers.mean() if powers.size else 0.0)]
    power = float(sounding.mean()) if sounding.size else 0.0
    return 10 ** (level_db / 20) / power**0.5 if level_db is not None and 0 < power < np.inf else 1.0


def channel_groups(covariances: NDArray[np.float64], stereo: str, n_network_channels: int) -> NDArray[np.intp]:
    """Return which channels of a song make up each item: (n_items, n_channels_together).

    With mid and side, channels are taken two by two, but two with little in common, such as a voice and its band on one
    side each, are an item each; so are two of opposite polarity for a network that takes mid and side together, and not
    alike. Where an item has fewer channels than it takes, its last one is repeated.
    """
    n_channels = covariances.shape[1]
    n_together = 2 if stereo == "mid-side" and n_channels > 1 else n_network_channels
    groups = np.minimum(np.arange(-(-n_channels // n_together) * n_together), n_channels - 1).reshape(-1, n_together)
    if stereo != "mid-side" or n_channels == 1:
        return groups
    covariance = covariances.sum(axis=0)
    common = covariance if n_network_channels > 1 else abs(covariance)
    items = [item for pair in groups for item in ([pair] if _have_much_in_common(common, *pair) else pair[:, None])]
    n_together = n_network_channels if all(len(item) == 1 for item in items) else 2
    return np.array([np.resize(item, n_together) for item in items])


def _have_much_in_common(covariance: NDArray[np.float64], one: int, other: int) -> bool:
    """Return whether two channels are better taken as mid and side than each by itself."""
    both = (covariance[one, one] * covariance[other, other]) ** 0.5
    return not covariance[one, other] <= _LEAST_CORRELATION * both


def without_slow_waves(rows: Rows, sample_rate: int, *, beside: tuple[int, int] = (0, 0)) -> Rows:
    """Remove offset and waves below 25 Hz from (n_channels, n_samples).

    So many samples `beside` those that are returned, before and after, are in the rows as well. A low-pass of what
    cubic B-splines leave at a thirtieth of the rate is as exact as one of all samples to -85 dB, and 10 times as quick.
    """
    margin, (before, after), n = round(MARGIN_S * sample_rate), beside, rows.shape[1] - sum(beside)
    if n <= 0:
        return rows[:, :0]
    step = max(sample_rate // _SLOW_RATE, 1)
    n_slow, splines = -(-(n + 2 * margin) // (_BLOCK_STEPS * step)) * _BLOCK_STEPS, _splines(step)
    padded = np.pad(rows, ((0, 0), (margin - before, n_slow * step - margin - n - after)), mode="edge")
    # Each sample is part of four splines. Products are of blocks: those of larger arrays start threads of their own.
    parts = padded.reshape(len(rows), -1, _BLOCK_STEPS, step) @ splines
    sums = np.sum([np.roll(parts[..., j].reshape(len(rows), -1), -j, axis=1) for j in range(4)], axis=0)
    # With a factor of its own, as in "forward", NumPy stays with 32-bit floats, in a third of the time.
    slow = np.fft.irfft(np.fft.rfft(sums, norm="forward") * _low_pass(n_slow, step, sample_rate), n_slow)
    parts = np.stack([np.roll(slow.astype(np.float32), j, axis=1) for j in range(4)], axis=-1).reshape(parts.shape)
    return rows[:, before : before + n] - (parts @ splines.T).reshape(len(rows), -1)[:, margin : margin + n]


@functools.lru_cache(maxsize=16)
def _hann(n_samples: int) -> NDArray[np.float32]:
    return np.hanning(n_samples + 2)[1:-1].astype(np.float32)


@functools.lru_cache(maxsize=16)
def _splines(step: int) -> NDArray[np.float32]:
    """Return the four steps of a cubic B-spline, (step, 4), the sum of which is 1."""
    box = np.ones(step)
    spline = np.convolve(np.convolve(box, box), np.convolve(box, box))
    return (np.append(spline, np.zeros(3)) / spline.sum()).reshape(4, step).T.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _low_pass(n_slow: int, step: int, sample_rate: int) -> NDArray[np.float32]:
    """Return the response of a low-pass without delay between two splines, times `n_slow * step`.

    It is a windowed sinc, wrapped around zero, over what splines leave of each frequency, twice.
    """
    reach = round(MARGIN_S * sample_rate) // step - 4  # the splines reach the rest
    n = np.arange(-reach, reach + 1)
    taps = np.sinc(2 * _CUTOFF_HZ * step / sample_rate * n) * np.hanning(len(n) + 2)[1:-1]
    kernel = np.zeros(n_slow)
    kernel[n] = taps / taps.sum()
    angles = np.arange(n_slow // 2 + 1) * np.pi / (n_slow * step)
    box = np.divide(np.sin(step * angles), step * np.sin(angles), out=np.ones_like(angles), where=angles > 0)
    return (n_slow * step * np.fft.rfft(kernel).real / box**8).astype(np.float32)
