"""An array resampled block by block, while other threads already use the first blocks."""

import math

import numpy as np
import soxr

from vocal_extraction.errors import ExtractionError
from vocal_extraction.separation.disk_array import Array, Rows, Scratch

_BLOCK_ROWS = 2**16
_LARGEST_SAMPLE = 1e15
"""Squares of larger samples leave the range of 32-bit floats."""


class Resampler:
    """Resamples one array of samples into another, as far as it is asked to.

    Parameters
    ----------
    source
        Shape: (n_samples, n_channels).
    from_rate, to_rate
        Samples per second; with equal rates nothing is copied, and `target` is the source.
    scratch
        Where the target comes from.
    n_samples
        Length of the target; None follows from the rates. What soxr gives beyond it is dropped, what lacks is silence.
    """

    def __init__(
        self, source: Array, from_rate: int, to_rate: int, *, scratch: Scratch, n_samples: int | None = None
    ) -> None:
        self._source, self._rate = source, from_rate
        self._n_read = self._n_written = 0
        self._stream: soxr.ResampleStream | None = None
        self.target = source
        if from_rate != to_rate:
            n_samples = math.ceil(source.shape[0] * to_rate / from_rate) if n_samples is None else n_samples
            self._stream = soxr.ResampleStream(from_rate, to_rate, source.shape[1], dtype="float32")
            self.target = scratch.new((n_samples, source.shape[1]))

    def read_to(self, stop: int, *, check: bool = False) -> None:
        """Take in the source up to a sample.

        Raises
        ------
        ExtractionError
            If a sample is NaN, infinite or absurdly large, and `check` is given.
        """
        n_samples = self._source.shape[0]
        while self._n_read < min(stop, n_samples) and (check or self._stream is not None):
            start, self._n_read = self._n_read, min(self._n_read + _BLOCK_ROWS, stop, n_samples)
            rows = self._source[start : self._n_read]
            if check:
                _check(rows, start, self._rate)
            if self._stream is None:
                self._n_written = self._n_read
                continue
            is_last = self._n_read == n_samples
            rows = self._stream.resample_chunk(np.ascontiguousarray(rows, np.float32), last=is_last)
            rows = rows[: self.target.shape[0] - self._n_written]
            self.target[self._n_written : self._n_written + len(rows)] = rows
            self._n_written = self.target.shape[0] if is_last else self._n_written + len(rows)

    def write_to(self, stop: int, *, check: bool = False) -> None:
        """Take in as much of the source as the target needs up to a sample; raises as `read_to`."""
        while self._n_written < min(stop, self.target.shape[0]):
            self.read_to(self._n_read + _BLOCK_ROWS, check=check)


def _check(rows: Rows, n_before: int, sample_rate: int) -> None:
    """Raise at the first sample that is not a number of usual size; both comparisons are false for NaN."""
    if -_LARGEST_SAMPLE < rows.min() and rows.max() < _LARGEST_SAMPLE:
        return
    usual = np.abs(rows) < _LARGEST_SAMPLE
    row = int(np.argmin(usual.all(axis=1)))
    raise ExtractionError(
        f"The audio holds {rows[row][~usual[row]][0]} at {(n_before + row) / sample_rate:.3f} s, where a number near "
        "-1 to 1 is expected. Repair the file first."
    )
