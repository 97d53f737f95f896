"""Pitch and tempo of several channels together, as SoX's ``pitch`` and ``tempo`` do it for one.

Resampling changes the pitch, and WSOLA restores the length: overlapping segments, each taken from where it continues
the one before most smoothly (Verhelst and Roelands, "An overlap-add technique based on waveform similarity (WSOLA) for
high quality time-scale modification of speech", ICASSP 1993).
"""

import functools

import numba
import numpy as np
import soxr
from numpy.typing import NDArray

from vocal_extraction.rendering.stems import Audio

# The lengths that SoX's `pitch` and `tempo` take by default: see "tempo" in its manual.
_SEGMENT_S = 0.082
_SEARCH_S = 0.01468
_OVERLAP_S = 0.012
_STRIDE = 2  # the search looks at every second place first, then around the best of them


def change_pitch_and_tempo(audio: Audio, *, semitones: float, n_wanted: int, sample_rate: int) -> Audio:
    """Shift the pitch of aligned channels (n_channels, n_samples), and stretch them to (n_channels, n_wanted)."""
    if audio.shape[1] and abs(semitones) > 1e-6:
        audio = _resample(audio, 2 ** (semitones / 12))
    n_missing = n_wanted - audio.shape[1]
    # Where the stretch follows from the pitch, the length is right already, up to rounding.
    if abs(n_missing) > 2:
        return _stretch_time(audio, n_wanted, sample_rate)
    return np.pad(audio, ((0, 0), (0, max(n_missing, 0))))[:, :n_wanted] if n_missing else audio


def _resample(audio: Audio, speed: float) -> Audio:
    """Play faster by the factor `speed`: (n_channels, n_samples) to (n_channels, about n_samples / speed)."""
    # soxr wants samples first; a transposed view takes its path for channels that lie apart, which copies nothing.
    resampled: Audio = soxr.resample(np.ascontiguousarray(audio).T, speed, 1.0, quality="MQ").T
    return np.ascontiguousarray(resampled)


def _stretch_time(audio: Audio, n_wanted: int, sample_rate: int) -> Audio:
    """Stretch (n_channels, n_samples) to `n_wanted` samples by WSOLA, with the same splices in every channel."""
    segment, search, overlap = (int(length_s * sample_rate) for length_s in (_SEGMENT_S, _SEARCH_S, _OVERLAP_S))
    n_samples = audio.shape[1]
    if n_samples < segment + search or not n_wanted:
        stretched = _resample(audio, n_samples / max(n_wanted, 1)) if n_samples else audio  # too short to splice
        return np.pad(stretched, ((0, 0), (0, max(n_wanted - stretched.shape[1], 0))))[:, :n_wanted]
    guide = audio[0] if len(audio) == 1 else audio.sum(axis=0)
    starts = _splice_points(guide, n_wanted, segment, search, overlap)
    return _overlap_add(audio, starts, n_wanted, segment - overlap, _rise(overlap))


@functools.lru_cache(maxsize=8)
def _rise(overlap: int) -> Audio:
    """Return the rising half of a Hann window (overlap,), to cross-fade segments."""
    return np.square(np.sin(np.linspace(0, np.pi / 2, overlap))).astype(np.float32)


@numba.njit(cache=True)
def _splice_points(guide: Audio, n_wanted: int, segment: int, search: int, overlap: int) -> NDArray[np.int64]:
    """Choose where in `guide` (n_samples,) each segment begins."""
    step, n_samples = segment - overlap, len(guide)
    last = n_samples - segment
    starts = np.zeros(max(-(-n_wanted // step), 1), dtype=np.int64)
    for i in range(1, len(starts)):
        natural = starts[i - 1] + step  # what follows in the original
        continuation = guide[natural : natural + overlap]
        middle = (i * step + segment / 2) * n_samples / n_wanted
        nominal = min(max(int(middle - segment / 2), 0), last)
        low, high = max(nominal - search // 2, 0), min(nominal + search // 2, last)
        rough = _most_alike(guide, continuation, nominal, low, high, _STRIDE)
        low, high = max(rough - _STRIDE + 1, low), min(rough + _STRIDE - 1, high)
        starts[i] = _most_alike(guide, continuation, rough, low, high, 1)
    return starts


@numba.njit(cache=True, fastmath={"reassoc", "contract"})
def _most_alike(guide: Audio, pattern: Audio, default: int, low: int, high: int, stride: int) -> int:
    """Return the place from `low` to `high` where `guide` correlates best with `pattern`; in silence, `default`."""
    best, best_likeness = default, 0.0
    energy = 1e-9
    for k in range(len(pattern)):
        energy += np.float64(guide[low + k]) ** 2
    for place in range(low, high + 1, stride):
        candidate = guide[place : place + len(pattern)]
        product = np.float32(0.0)
        for k in range(len(pattern)):
            product += pattern[k] * candidate[k]
        likeness = product / np.sqrt(energy)  # normalized cross-correlation
        if likeness > best_likeness:
            best, best_likeness = place, likeness
        for k in range(place, min(place + stride, high)):
            energy += np.float64(guide[k + len(pattern)]) ** 2 - np.float64(guide[k]) ** 2
    return best


@numba.njit(cache=True)
def _overlap_add(audio: Audio, starts: NDArray[np.int64], n_wanted: int, step: int, rise: Audio) -> Audio:
    """Join segments of (n_channels, n_samples), cross-faded along `rise` (overlap,)."""
    out = np.empty((audio.shape[0], n_wanted), dtype=np.float32)
    for channel in range(audio.shape[0]):
        for i in range(len(starts)):
            at, start = i * step, starts[i]
            natural = starts[i - 1] + step if i else start
            n_here = min(step, n_wanted - at)
            n_faded = min(len(rise), n_here)
            for k in range(n_faded):
                old = audio[channel, natural + k]
                out[channel, at + k] = old + rise[k] * (audio[channel, start + k] - old)
            for k in range(n_faded, n_here):
                out[channel, at + k] = audio[channel, start + k]
    return out
