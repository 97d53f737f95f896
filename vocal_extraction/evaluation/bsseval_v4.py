"""BSSEval v4 (SDR, ISR, SIR, SAR in frames of a second) from correlations alone, with museval's definitions.

A song is read once, block by block, and all its estimates share the references' matrix and its factorisation. Source
and edge values are in docs/evaluation.md; a test compares every frame with museval's own. A *row* is one channel of one
signal; rows are counted signal by signal, references first.
"""

import contextlib

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from vocal_extraction.evaluation.scale_metrics import LIMIT_DB, SILENCE_DB

Array = NDArray[np.float64]

BSSEVAL_METRICS = ("SDR", "ISR", "SIR", "SAR")
FRAME_S = 1.0  # length of a frame, and the distance between two: SiSEC's
N_TAPS = 512  # taps of a distortion filter, BSSEval's number; references are delayed by 0 to 511 samples


class BssEvalV4:
    """Adds up correlations of references and estimates; `values` gives the metrics that follow from them."""

    def __init__(self, sample_rate: int) -> None:
        self._frame_length = round(FRAME_S * sample_rate)
        # Of each frame, whose signals count as zero outside of it: delayed products, energies of all rows, and which
        # signals (1 + n_systems, n_sources) museval calls silent: their channels sum to zero everywhere.
        self._frames: list[tuple[Array, Array, NDArray[np.bool_]]] = []
        self._n_sources = self._n_channels = 0
        self._waiting = np.zeros((0, 0))  # (n_rows, n_samples): what does not fill a frame yet
        self._past = np.zeros((0, 0))  # (n_reference_rows, N_TAPS - 1): what came before it
        self._products: Array = np.zeros(())
        self._energy: Array = np.zeros(())

    def add(self, references: ArrayLike, estimates: ArrayLike) -> None:
        """Add the next block; for the shapes see `metrics`."""
        self._n_sources, self._n_channels, n_samples = np.shape(references)
        rows = [np.reshape(signals, (-1, n_samples)) for signals in (references, estimates)]
        if not self._past.size:
            self._waiting = np.zeros((sum(map(len, rows)), 0))
            self._past = np.zeros((len(rows[0]), N_TAPS - 1))
        start = 0
        while start < n_samples:  # a frame at a time, so that no long block is copied whole in double precision
            stop = start + self._frame_length - self._waiting.shape[1]
            chunk = np.concatenate([signals[:, start:stop] for signals in rows]).astype(np.float64)
            self._waiting = np.concatenate([self._waiting, chunk], axis=1)
            if self._waiting.shape[1] == self._frame_length:
                self._add_frame(is_whole=True)
            start = stop

    def _add_frame(self, *, is_whole: bool) -> None:
        """Add the waiting samples to the song's sums, and to the frames if they are a whole one."""
        rows, self._waiting = self._waiting, self._waiting[:, :0]
        references, head = rows[: len(self._past)], rows[:, : N_TAPS - 1]
        products = _delayed_products(np.concatenate([np.zeros_like(self._past), references], axis=1), rows)
        border = np.concatenate([self._past, np.zeros((len(references), head.shape[1]))], axis=1)
        energy = np.einsum("rt,rt->r", rows, rows)
        self._products = self._products + products + _delayed_products(border, head)
        self._energy = self._energy + energy
        self._past = np.concatenate([self._past, references], axis=1)[:, -(N_TAPS - 1) :].copy()
        if is_whole:
            by_signal = rows.reshape(-1, self._n_sources, self._n_channels, rows.shape[1])
            self._frames.append((products, energy, np.all(by_signal.sum(axis=2) == 0, axis=-1)))

    def values(self) -> dict[str, Array]:
        """Return decibels by metric, (n_systems, n_sources, n_frames) each; to be called once, after the last block."""
        if self._waiting.shape[1]:
            self._add_frame(is_whole=not self._frames)  # a song shorter than a frame is one frame
        everything, own = self._filters()
        ratios = np.stack([self._frame_ratios(*frame, everything, own) for frame in self._frames], axis=-1)
        silent = self.silent()
        ratios[:, :, silent] = np.nan
        if np.sum(~silent) < 2:
            ratios[BSSEVAL_METRICS.index("SIR")] = np.nan
        return dict(zip(BSSEVAL_METRICS, ratios.clip(-LIMIT_DB, LIMIT_DB), strict=True))

    def silent(self) -> NDArray[np.bool_]:
        """Return which references are silent. Shape: (n_sources,)."""
        energy = self._energy[: len(self._past)].reshape(-1, self._n_channels).sum(axis=1)
        return np.asarray(energy <= 10 ** (SILENCE_DB / 10) * energy.sum())

    def _filters(self) -> tuple[Array, Array]:
        """Fit every estimate by all references, and by its own reference alone.

        Returns two arrays, each (n_reference_rows * N_TAPS, n_estimate_rows), zero for references that took no part.
        """
        n_rows = len(self._past)
        row_source = np.repeat(np.arange(self._n_sources), self._n_channels)
        sounding = ~self.silent()[row_source] & (self._energy[:n_rows] > 0)
        matrix = _matrix(self._products, n_rows)
        wanted = self._products[:, :, n_rows:].reshape(n_rows * N_TAPS, -1)
        everything, own = np.zeros_like(wanted), np.zeros_like(wanted)
        taps = np.repeat(sounding, N_TAPS)
        everything[taps] = _solve(matrix[np.ix_(taps, taps)], wanted[taps])
        for source in range(self._n_sources):
            taps = np.repeat(sounding & (row_source == source), N_TAPS)
            columns = np.resize(row_source, wanted.shape[1]) == source
            own[np.ix_(taps, columns)] = _solve(matrix[np.ix_(taps, taps)], wanted[np.ix_(taps, columns)])
        return everything, own

    def _frame_ratios(
        self, products: Array, energy: Array, silent: NDArray[np.bool_], everything: Array, own: Array
    ) -> Array:
        """Return SDR, ISR, SIR and SAR of one frame. Shape: (4, n_systems, n_sources).

        With s the source, e the estimate, P the projection on all references and Q that on its own, the parts are
        e_spat = Q - s, e_interf = P - Q and e_artif = e - P.
        """
        n_rows = len(self._past)
        matrix = _matrix(products, n_rows)
        m_all, m_own = matrix @ everything, matrix @ own
        columns = np.arange(everything.shape[1])
        rows = columns % n_rows  # of s, for each row of e
        crossed = products[:, :, n_rows:].reshape(n_rows * N_TAPS, -1)
        s_s, e_e = energy[rows], energy[n_rows:]
        s_e = products[rows, 0, n_rows + columns]
        s_q = m_own[rows * N_TAPS, columns]
        q_q, p_q, p_p = ((a * b).sum(axis=0) for a, b in ((own, m_own), (own, m_all), (everything, m_all)))
        p_e = (everything * crossed).sum(axis=0)
        pairs = (
            (s_s, e_e - 2 * s_e + s_s),
            (s_s, q_q - 2 * s_q + s_s),
            (q_q, p_p - 2 * p_q + q_q),
            (p_p, e_e - 2 * p_e + p_p),
        )
        sums = np.maximum(np.reshape(pairs, (4, 2, -1, self._n_sources, self._n_channels)).sum(axis=-1), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = 10 * np.log10(sums[:, 0] / sums[:, 1])
        is_out = np.any(silent[:, ~self.silent()], axis=1, keepdims=True)  # the references, then each system
        return np.where(is_out[:1] | is_out[1:], np.nan, ratios)


def _delayed_products(references: Array, signals: Array) -> Array:
    """Multiply references, delayed by 0 to 511 samples, with signals, and sum over time.

    The references (n_references, N_TAPS - 1 + n_samples) begin 511 samples before the signals (n_signals, n_samples);
    the result is (n_references, N_TAPS, n_signals). Spectra of short chunks are summed before one inverse transform.

    >>> past_and_now = np.array([[0.0] * (N_TAPS - 2) + [5.0, 1.0, 2.0]])
    >>> _delayed_products(past_and_now, np.array([[1.0, 10.0]]))[0, :3, 0].round(9).tolist()
    [21.0, 15.0, 50.0]
    """
    n_fft = 4 * N_TAPS
    hop = n_fft - (N_TAPS - 1)
    n_chunks = max(-(-signals.shape[1] // hop), 1)
    length = n_chunks * hop
    padded = np.pad(references, ((0, 0), (0, length + N_TAPS - 1 - references.shape[1])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=1)[:, ::hop]
    chunks = np.pad(signals, ((0, 0), (0, length - signals.shape[1]))).reshape(len(signals), n_chunks, hop)
    chunks = np.pad(chunks, ((0, 0), (0, 0), (N_TAPS - 1, 0)))
    of_references = scipy.fft.rfft(windows, axis=-1).conj().transpose(2, 0, 1)  # (n_bins, n_references, n_chunks)
    of_signals = scipy.fft.rfft(chunks, axis=-1).transpose(2, 1, 0)  # (n_bins, n_chunks, n_signals)
    products = scipy.fft.irfft((of_references @ of_signals).transpose(1, 2, 0), n=n_fft)[..., :N_TAPS]
    return np.ascontiguousarray(products.swapaxes(1, 2))  # a copy, which does not keep all lags alive


def _matrix(products: Array, n_rows: int) -> Array:
    """Return the inner products of all delayed reference rows: (n_rows * N_TAPS, n_rows * N_TAPS), symmetric."""
    matrix = np.empty((n_rows, N_TAPS, n_rows, N_TAPS))
    for i in range(n_rows):
        for j in range(n_rows):
            matrix[i, :, j, :] = scipy.linalg.toeplitz(products[i, :, j], products[j, :, i])
    return matrix.reshape(n_rows * N_TAPS, n_rows * N_TAPS)


def _solve(matrix: Array, wanted: Array) -> Array:
    """Solve the normal equations; where channels are alike and elimination fails, take the shortest solution."""
    if not len(matrix):
        return wanted
    with contextlib.suppress(np.linalg.LinAlgError):
        factor = scipy.linalg.cho_factor(matrix + np.finfo(float).eps * np.eye(len(matrix)), lower=True)
        solution: Array = scipy.linalg.cho_solve(factor, wanted)
        if np.abs(matrix @ solution - wanted).max(initial=0.0) <= 1e-6 * np.abs(wanted).max(initial=0.0):
            return solution
    values, vectors = scipy.linalg.eigh(matrix)
    kept = values > 1e-12 * values[-1]
    basis = vectors[:, kept]
    return basis @ ((basis.T @ wanted) / values[kept, None])
