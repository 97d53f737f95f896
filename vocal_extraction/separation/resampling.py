"""An array resampled block by block, while other threads already use the first blocks."""

import math

import numpy as np
import soxr

from vocal_extraction.separation.disk_array import Array, Scratch

_BLOCK_ROWS = 2**16


class Resampler:
    """Resamples an array (n_samples, n_channels) into `target` as far as it is asked to; equal rates copy nothing."""

    def __init__(
        self,
        source: Array,
        rates: tuple[int, int],
        scratch: Scratch,
        *,
        n_samples: int | None = None,
    ) -> None:
        self._source = source
        self._n_read = self._n_written = 0
        self._stream: soxr.ResampleStream | None = None
        self.target = source
        if rates[0] != rates[1]:
            n_samples = math.ceil(len(source) * rates[1] / rates[0]) if n_samples is None else n_samples
            self._stream = soxr.ResampleStream(*rates, source.shape[1], dtype="float32")
            self.target = scratch.new(n_samples, source.shape[1])

    def read_to(self, stop: int) -> None:
        """Take in the source up to a sample."""
        while self._stream is not None and self._n_read < min(stop, len(self._source)):
            start, self._n_read = self._n_read, min(self._n_read + _BLOCK_ROWS, stop, len(self._source))
            rows, is_last = self._source[start : self._n_read], self._n_read == len(self._source)
            rows = self._stream.resample_chunk(np.ascontiguousarray(rows, np.float32), last=is_last)
            rows = rows[: len(self.target) - self._n_written]
            self.target[self._n_written : self._n_written + len(rows)] = rows
            self._n_written = len(self.target) if is_last else self._n_written + len(rows)

    def write_to(self, stop: int) -> None:
        """Take in as much of the source as the target needs up to a sample."""
        while self._stream is not None and self._n_written < min(stop, len(self.target)):
            self.read_to(self._n_read + _BLOCK_ROWS)
