"""The scale-invariant and scale-dependent metrics of Le Roux et al. 2019, computed from inner products alone.

All of them (SI-SDR, SI-SIR, SI-SAR, SD-SDR, SNR, SRR) are functions of the inner products between references and
estimates. So a song of any length is read once, block by block, its Gram matrix is added up in constant memory, and
all estimates of a song share one matrix product. nussl's ``BSSEvalScale`` computes the same numbers from whole
signals; a test compares the two.

Source: Le Roux, Wisdom, Erdogan and Hershey, "SDR - half-baked or well done?", ICASSP 2019; the names and signs are
those of nussl 1.1.9, ``evaluation/bss_eval.py``.

Axes: signals are ``(n_signals, n_channels, n_samples)``, Gram matrices ``(n_channels, n_signals, n_signals)``.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SCALE_METRICS = ("SI-SDR", "SI-SIR", "SI-SAR", "SD-SDR", "SNR", "SRR", "SI-SDRi", "SD-SDRi", "SNRi")
"""In nussl's order. SRR is the source-to-rescaled-source ratio. An ``i`` is the improvement over the mixture."""

LIMIT_DB = 100.0
"""Ratios beyond this are clipped to it and flagged: they mean perfect (or silent) and no more.

Double precision resolves energies to about 1e-15 of their terms, so 100 dB still has four exact decimals."""

SILENCE_DB = -90.0
"""A reference weaker than this, relative to all references of the channel together, is silent: no ratio to it means
anything. A sum of 16-bit dither is."""

_ROUNDING = 1e-15
"""Energies below this share of the signal as given are rounding errors. The share of 32-bit samples' own rounding."""

_CHUNK_SAMPLES = 1 << 15
"""Samples that are converted to double precision at a time."""


class GramMatrix:
    """The inner products of some signals with their means taken out, added up over blocks.

    >>> gram = GramMatrix()
    >>> gram.add(np.array([[[1.0, 3.0]], [[0.0, 2.0]]]))
    >>> gram.add(np.array([[[2.0]], [[1.0]]]))
    >>> gram.centred()
    array([[[2., 2.],
            [2., 2.]]])
    >>> gram.energy()
    array([[14.,  5.]])
    """

    def __init__(self) -> None:
        self._n_samples = 0
        self._shift: Array | None = None  # (n_channels, n_signals, 1): large means of the first block, taken out first
        self._sums: Array = np.zeros(())
        self._products: Array = np.zeros(())

    def add(self, signals: ArrayLike) -> None:
        """Add the next block. Shape: (n_signals, n_channels, n_samples)."""
        by_channel = np.asarray(signals).swapaxes(0, 1)  # (n_channels, n_signals, n_samples)
        self._n_samples += by_channel.shape[-1]
        for start in range(0, by_channel.shape[-1], _CHUNK_SAMPLES):
            chunk = by_channel[..., start : start + _CHUNK_SAMPLES].astype(np.float64)
            if self._shift is None:
                mean = chunk.mean(axis=-1, keepdims=True)
                self._shift = np.where(mean**2 > 1e-6 * np.mean(chunk**2, axis=-1, keepdims=True), mean, 0.0)
            if self._shift.any():
                chunk -= self._shift
            self._sums = self._sums + chunk.sum(axis=-1)
            self._products = self._products + chunk @ chunk.swapaxes(1, 2)

    def centred(self) -> Array:
        """Return the Gram matrix of the zero-mean signals. Shape: (n_channels, n_signals, n_signals)."""
        outer = self._sums[:, :, None] * self._sums[:, None, :]
        return self._products - outer / max(self._n_samples, 1)

    def energy(self) -> Array:
        """Return the energies of the signals as given, means included. Shape: (n_channels, n_signals)."""
        centred = np.diagonal(self.centred(), axis1=1, axis2=2)
        if self._shift is None:
            return centred
        mean = self._shift[..., 0] + self._sums / max(self._n_samples, 1)
        return centred + self._n_samples * mean**2


def is_silent(gram: Array, energy: Array, n_sources: int) -> NDArray[np.bool_]:
    """Return which references are silent, constant ones included. Shape: (n_channels, n_sources)."""
    centred = np.diagonal(gram, axis1=1, axis2=2)[:, :n_sources]
    as_given = energy[:, :n_sources]
    beside_others = centred <= 10 ** (SILENCE_DB / 10) * centred.sum(axis=1, keepdims=True)
    return beside_others | (centred <= _ROUNDING * as_given)


def scale_metrics(
    gram: Array, energy: Array, n_sources: int, *, mixture: int, estimates: list[int]
) -> dict[str, Array]:
    """Compute every metric of `SCALE_METRICS` for each channel and source.

    Parameters
    ----------
    gram
        Centred Gram matrix whose first `n_sources` signals are the references.
        Shape: (n_channels, n_signals, n_signals).
    energy
        Energies of the signals as given; what is below rounding beside them counts as nothing.
        Shape: (n_channels, n_signals).
    n_sources
        How many references there are.
    mixture
        Index of the signal that improvements are measured against.
    estimates
        For each source the index of its estimate.

    Returns
    -------
    dict[str, Array]
        Decibels, clipped to ±`LIMIT_DB`. Shape of each: (n_channels, n_sources). NaN where the metric has no
        meaning: all of them for a silent reference, SI-SIR where no other source sounds, an improvement where the
        mixture is already perfect.
    """
    silent = is_silent(gram, energy, n_sources)
    values = _ratios(gram, energy, silent, n_sources, estimates)
    before = _ratios(gram, energy, silent, n_sources, [mixture] * n_sources)
    for name in ("SI-SDR", "SD-SDR", "SNR"):
        values[f"{name}i"] = np.where(before[name] < LIMIT_DB, values[name] - before[name], np.nan)
    return {name: np.where(silent, np.nan, values[name]) for name in SCALE_METRICS}


def _ratios(
    gram: Array, energy: Array, silent: NDArray[np.bool_], n_sources: int, estimates: list[int]
) -> dict[str, Array]:
    """The six ratios; the letters are the paper's: s the reference, e the estimate, alpha the best scale of s."""
    sources = np.arange(n_sources)
    s_s = np.where(silent, 1.0, gram[:, sources, sources])
    s_e = np.where(silent, 0.0, gram[:, sources, estimates])
    as_given = energy[:, estimates]
    e_e = np.where(gram[:, estimates, estimates] > _ROUNDING * as_given, gram[:, estimates, estimates], 0.0)
    alpha = np.where(e_e > 0, s_e / s_s, 0.0)
    target = alpha**2 * s_s
    residual = e_e - target
    interference, others = _interference(gram, silent, n_sources, estimates, alpha)
    snr = _decibels(s_s, e_e - 2 * s_s * alpha + s_s, scale=as_given + s_s)
    with np.errstate(divide="ignore"):
        gain_db = 20 * np.log10(np.abs(alpha))
        # (1 - 1/alpha)^2 without dividing by an alpha of nothing
        rescaling = _decibels(alpha**2, (alpha - 1) ** 2, scale=1 + alpha**2)
    return {
        "SI-SDR": _decibels(target, residual, scale=as_given),
        "SI-SIR": np.where(others, _decibels(target, interference, scale=as_given), np.nan),
        "SI-SAR": _decibels(target, residual - interference, scale=as_given),
        "SD-SDR": np.clip(snr + gain_db, -LIMIT_DB, LIMIT_DB),
        "SNR": snr,
        "SRR": rescaling,
    }


def _interference(
    gram: Array, silent: NDArray[np.bool_], n_sources: int, estimates: list[int], alpha: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Return the energy of the residual's projection on the references, and whether other sources sound at all."""
    references = gram[:, :n_sources, :n_sources]
    loud = ~silent
    among_loud = loud[:, :, None] & loud[:, None, :]
    # Silent references span nothing; the pseudo-inverse also copes with two references that are one and the same.
    inverse = np.linalg.pinv(np.where(among_loud, references, 0.0), rcond=1e-13, hermitian=True)
    # Inner products of each residual with each reference: (n_channels, n_sources of estimates, n_sources)
    onto = gram[:, estimates, :n_sources] - alpha[:, :, None] * references
    onto = np.where(loud[:, None, :], onto, 0.0)
    energy = np.einsum("cej,cjk,cek->ce", onto, inverse, onto)
    others = (loud.sum(axis=1, keepdims=True) - loud) > 0
    return np.maximum(energy, 0.0), others


def _decibels(signal: Array, noise: Array, *, scale: Array) -> Array:
    """Return 10 log10 of signal over noise, clipped; where both are rounding errors of `scale`, the lower limit."""
    floor = _ROUNDING * scale
    signal, noise = np.where(signal > floor, signal, 0.0), np.where(noise > floor, noise, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(signal > 0, 10 * np.log10(signal / noise), -np.inf)
    return np.clip(ratio, -LIMIT_DB, LIMIT_DB)
