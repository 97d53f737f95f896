"""Integrated loudness as scaper measures it, ITU-R BS.1770-4, in one pass.

K-weighting (with pyloudnorm's filters), mean square over blocks of 0.4 s that overlap by three quarters, an absolute
gate at -70 LUFS, and a relative one at 10 LU below what passes it.
"""

import functools

import numba
import numpy as np
from numpy.typing import NDArray

from vocal_extraction.rendering.stems import Audio

LOWEST_LUFS = -70.0  # what scaper calls silence; the absolute gate lies there as well
_BLOCK_S = 0.4
_HOP_SHARE = 0.25
_LEAST_S = 0.5


def loudness_lufs(audio: Audio, sample_rate: int) -> float:
    """Return the loudness of (n_samples,) or of one or two channels (n_channels, n_samples), at least -70 LUFS.

    Equal to ``scaper.audio.get_integrated_lufs`` to 1e-3 LU. Less than half a second is repeated until it is as long.

    >>> tone = np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000).astype(np.float32)
    >>> round(loudness_lufs(tone, 48_000), 2)  # BS.1770 says -3.01 for full scale; pyloudnorm's filters give this
    -3.05
    """
    audio = np.atleast_2d(audio)
    n_samples = audio.shape[1]
    if not n_samples:
        return LOWEST_LUFS
    if n_samples < _LEAST_S * sample_rate:
        audio = np.tile(audio, int(np.ceil(_LEAST_S * sample_rate / n_samples)))
    edges, low, high = _blocks(audio.shape[1], sample_rate)
    filters = _k_weighting(sample_rate)
    energy = np.sum([_weighted_energy(np.ascontiguousarray(one), filters, edges) for one in audio], axis=0)
    running = np.concatenate(([0.0], np.cumsum(energy)))
    return _gated((running[high] - running[low]) / (_BLOCK_S * sample_rate))


@functools.lru_cache(maxsize=256)
def _blocks(n_samples: int, sample_rate: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return all samples at which a block begins or ends, and the index of each block's first and last among them."""
    # Rounded as in pyloudnorm. Blocks overlap, so each stretch between two edges is summed once.
    n_blocks = int(np.round((n_samples / sample_rate - _BLOCK_S) / (_BLOCK_S * _HOP_SHARE))) + 1
    places = np.arange(n_blocks) * _HOP_SHARE
    starts = (_BLOCK_S * places * sample_rate).astype(np.int64)
    ends = np.minimum((_BLOCK_S * (places + 1) * sample_rate).astype(np.int64), n_samples)
    edges = np.unique(np.concatenate(([0], starts, ends)))
    return edges, np.searchsorted(edges, starts), np.searchsorted(edges, ends)


@functools.lru_cache(maxsize=4)
def _k_weighting(sample_rate: int) -> NDArray[np.float64]:
    """Return pyloudnorm's filters at this rate, a row (b0, b1, b2, a1, a2) each: a shelf and a high pass."""
    import pyloudnorm

    filters = pyloudnorm.Meter(sample_rate)._filters.values()
    return np.array([[*stage.b, *stage.a[1:]] for stage in filters])


@numba.njit(cache=True)
def _weighted_energy(audio: Audio, filters: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Run (n_samples,) through both filters and sum its squares between neighbouring edges: (n_edges - 1,)."""
    shelf_b0, shelf_b1, shelf_b2, shelf_a1, shelf_a2 = filters[0]
    pass_b0, pass_b1, pass_b2, pass_a1, pass_a2 = filters[1]
    shelf_1 = shelf_2 = pass_1 = pass_2 = 0.0  # the filters' states (transposed direct form II)
    energy = np.zeros(len(edges) - 1)
    for i in range(len(energy)):
        total = 0.0
        for n in range(edges[i], edges[i + 1]):
            x = np.float64(audio[n])
            y = shelf_b0 * x + shelf_1
            shelf_1 = (shelf_b1 * x + shelf_2) - shelf_a1 * y  # in this order, the fewest steps wait for y
            shelf_2 = shelf_b2 * x - shelf_a2 * y
            z = pass_b0 * y + pass_1
            pass_1 = (pass_b1 * y + pass_2) - pass_a1 * z
            pass_2 = pass_b2 * y - pass_a2 * z
            total += z * z
        energy[i] = total
    return energy


def _gated(power: NDArray[np.float64]) -> float:
    """Average the blocks' power (n_blocks,) above both gates."""

    def lufs(mean_square: NDArray[np.float64]) -> NDArray[np.float64]:
        return -0.691 + 10 * np.log10(np.maximum(mean_square, 1e-30))

    audible = power[lufs(power) >= LOWEST_LUFS]
    if not len(audible):
        return LOWEST_LUFS
    loud = audible[lufs(audible) > lufs(audible.mean()) - 10]
    return max(float(lufs(loud.mean())), LOWEST_LUFS) if len(loud) else LOWEST_LUFS
