"""The metrics of Le Roux et al. 2019 from inner products alone, so that a song is read once, in blocks.

Definitions, source and edge values are in docs/evaluation.md; a test compares with nussl's ``BSSEvalScale``.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SCALE_METRICS = ("SI-SDR", "SI-SIR", "SI-SAR", "SD-SDR", "SNR", "SRR", "SI-SDRi", "SD-SDRi", "SNRi")  # nussl's order
LIMIT_DB = 100.0  # ratios are clipped to ± this; double precision resolves energies to 1e-15
SILENCE_DB = -90.0  # a weaker reference, relative to all of the channel together, is silent, as 16-bit dither is
_ROUNDING = 1e-15  # energies below this share of the signal as given are rounding errors, as of 32-bit samples
_CHUNK_SAMPLES = 1 << 15  # samples that are converted to double precision at a time


class ScaleMetrics:
    """Adds up Gram matrices (n_channels, n_signals, n_signals) of references, mixture and estimates; see `values`."""

    def __init__(self, sample_rate: int) -> None:
        self._n_sources = self._n_samples = 0
        self._shift: Array = np.zeros(())  # (n_channels, n_signals, 1): large means of the first chunk, taken out first
        self._sums: Array = np.zeros(())
        self._products: Array = np.zeros(())

    def add(self, references: NDArray[np.floating], estimates: NDArray[np.floating]) -> None:
        """Add the next block; for the shapes see `metrics`."""
        self._n_sources = len(references)
        signals = np.concatenate([references, references.sum(axis=0, keepdims=True), *estimates]).swapaxes(0, 1)
        self._n_samples += signals.shape[-1]
        for start in range(0, signals.shape[-1], _CHUNK_SAMPLES):
            chunk = signals[..., start : start + _CHUNK_SAMPLES].astype(np.float64)
            if not self._shift.shape:
                mean = chunk.mean(axis=-1, keepdims=True)
                self._shift = np.where(mean**2 > 1e-6 * np.mean(chunk**2, axis=-1, keepdims=True), mean, 0.0)
            if self._shift.any():
                chunk -= self._shift
            self._sums = self._sums + chunk.sum(axis=-1)
            self._products = self._products + chunk @ chunk.swapaxes(1, 2)

    def _gram(self) -> tuple[Array, Array]:
        """Return the Gram matrix of the zero-mean signals, and the energies of the signals as given."""
        gram = self._products - self._sums[:, :, None] * self._sums[:, None, :] / self._n_samples
        mean = self._shift[..., 0] + self._sums / self._n_samples
        return gram, np.diagonal(gram, axis1=1, axis2=2) + self._n_samples * mean**2

    def _silent(self, gram: Array, energy: Array) -> NDArray[np.bool_]:
        """Return which references are silent, constant ones included. Shape: (n_channels, n_sources)."""
        centred = np.diagonal(gram, axis1=1, axis2=2)[:, : self._n_sources]
        beside_others = centred <= 10 ** (SILENCE_DB / 10) * centred.sum(axis=1, keepdims=True)
        return beside_others | (centred <= _ROUNDING * energy[:, : self._n_sources])

    def silent(self) -> NDArray[np.bool_]:
        """Return which references are silent in all channels. Shape: (n_sources,)."""
        return np.all(self._silent(*self._gram()), axis=0)

    def values(self) -> dict[str, Array]:
        """Return decibels by metric; NaN where it has no meaning. Shape: (n_systems, n_sources, n_channels)."""
        gram, energy = self._gram()
        n, silent = self._n_sources, self._silent(gram, energy)
        before = _ratios(gram, energy, silent, [n] * n)
        systems = []
        for first in range(n + 1, gram.shape[1], n):
            found = _ratios(gram, energy, silent, list(range(first, first + n)))
            for name in ("SI-SDR", "SD-SDR", "SNR"):
                found[f"{name}i"] = np.where(before[name] < LIMIT_DB, found[name] - before[name], np.nan)
            systems.append(found)
        return {
            name: np.stack([np.where(silent, np.nan, found[name]).T for found in systems]) for name in SCALE_METRICS
        }


def _ratios(gram: Array, energy: Array, silent: NDArray[np.bool_], estimates: list[int]) -> dict[str, Array]:
    """Return the six ratios, (n_channels, n_sources) each, of the signals at the indices `estimates`.

    The letters are the paper's: s the reference, e the estimate, alpha the best scale of s.
    """
    sources = np.arange(len(estimates))
    s_s = np.where(silent, 1.0, gram[:, sources, sources])
    s_e = np.where(silent, 0.0, gram[:, sources, estimates])
    as_given = energy[:, estimates]
    e_e = np.where(gram[:, estimates, estimates] > _ROUNDING * as_given, gram[:, estimates, estimates], 0.0)
    alpha = np.where(e_e > 0, s_e / s_s, 0.0)
    target = alpha**2 * s_s
    residual = e_e - target
    interference, others = _interference(gram, silent, estimates, alpha)
    error = e_e - 2 * s_s * alpha + s_s
    return {
        "SI-SDR": _decibels(target, residual, scale=as_given),
        "SI-SIR": np.where(others, _decibels(target, interference, scale=as_given), np.nan),
        "SI-SAR": _decibels(target, residual - interference, scale=as_given),
        "SD-SDR": _decibels(target, error, scale=as_given + s_s),
        "SNR": _decibels(s_s, error, scale=as_given + s_s),
        "SRR": _decibels(alpha**2, (alpha - 1) ** 2, scale=1 + alpha**2),
    }


def _interference(
    gram: Array, silent: NDArray[np.bool_], estimates: list[int], alpha: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Return the energy of the residual's projection on the references, and whether other sources sound at all."""
    n_sources = len(estimates)
    references, loud = gram[:, :n_sources, :n_sources], ~silent
    among_loud = loud[:, :, None] & loud[:, None, :]
    # Silent references span nothing; the pseudo-inverse also copes with two references that are one and the same.
    inverse = np.linalg.pinv(np.where(among_loud, references, 0.0), rcond=1e-13, hermitian=True)
    # Inner products of each residual with each reference: (n_channels, n_sources of estimates, n_sources)
    onto = gram[:, estimates, :n_sources] - alpha[:, :, None] * references
    onto = np.where(loud[:, None, :], onto, 0.0)
    energy = np.einsum("cej,cjk,cek->ce", onto, inverse, onto)
    return np.maximum(energy, 0.0), (loud.sum(axis=1, keepdims=True) - loud) > 0


def _decibels(signal: Array, noise: Array, *, scale: Array) -> Array:
    """Return 10 log10 of signal over noise, clipped; where both are rounding errors of `scale`, the lower limit.

    Noise is taken to be at least those errors, since a signal may be only a little above them.
    """
    floor = _ROUNDING * scale
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(signal > floor, 10 * np.log10(signal / np.maximum(noise, floor)), -np.inf)
    return np.clip(ratio, -LIMIT_DB, LIMIT_DB)
