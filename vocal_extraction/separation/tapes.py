"""Tapes: what is known of each sample or frame of a song, in rows, on disk or in memory.

A song is taken through its network in several passes, some of them backwards, and must not stand in memory between
them. A tape is a nameless file, so that it vanishes by itself, whatever happens; where the disk shall not be touched it
is memory, as `separate` needs for arrays that are in memory anyway.
"""

import contextlib
import io
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.audio_files.decoding import Samples

Rows = NDArray[np.float32]
"""Shape: (n_rows, ...)."""

_BLOCK_ROWS = 2**16


class Tape:
    """Rows of 32-bit floats that any thread may write and read.

    Parameters
    ----------
    folder
        Where its file lies, None for memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.n_rows = 0
        self.row_shape: tuple[int, ...] = ()
        self._file: Any = io.BytesIO()
        if folder is not None:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - `close` closes it
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the rows."""
        with self._lock:
            self._file.close()

    @property
    def _row_bytes(self) -> int:
        return 4 * int(np.prod(self.row_shape))

    @property
    def n_bytes(self) -> int:
        """What it holds."""
        return self.n_rows * self._row_bytes

    def write(self, start: int, rows: Rows) -> None:
        """Put rows in their place; all rows of a tape have one shape."""
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        with self._lock:
            self.row_shape = rows.shape[1:]
            self._file.seek(start * self._row_bytes)
            while data:
                data = data[self._file.write(data) :]
            self.n_rows = max(self.n_rows, start + len(rows))

    def read(self, start: int, stop: int) -> Rows:
        """Return the rows from `start` to before `stop`, which were written before."""
        rows = np.empty((stop - start, *self.row_shape), np.float32)
        view = rows.reshape(-1).view(np.uint8).data
        with self._lock:
            self._file.seek(start * self._row_bytes)
            while view:
                n_read = self._file.readinto(view)
                if not n_read:
                    raise EOFError(f"A tape of {self.n_rows} rows ends before row {stop}.")
                view = view[n_read:]
        return rows

    def recording(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Pass samples (n_channels, n_samples) on, and keep them: a row a sample."""
        for block in blocks:
            if block.shape[1]:
                self.write(self.n_rows, block.T)
            yield block

    def playing(self) -> Iterator[Samples]:
        """Give back in blocks what was recorded."""
        for start in range(0, self.n_rows, _BLOCK_ROWS):
            yield self.samples(start, min(start + _BLOCK_ROWS, self.n_rows))

    def samples(self, start: int, stop: int) -> Samples:
        """Return recorded samples: (n_channels, n_samples)."""
        return np.ascontiguousarray(self.read(start, stop).T)


class Tapes(contextlib.ExitStack):
    """Gives out tapes, and ends those that still run when it ends.

    Parameters
    ----------
    folder
        As for `Tape`.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self._folder = folder
        self._running: list[Tape] = []
        self._most_bytes = 0

    def new(self) -> Tape:
        """Return an empty tape."""
        tape = Tape(self._folder)
        self.callback(tape.close)
        self._running.append(tape)
        return tape

    def end(self, *tapes: Tape) -> None:
        """Let go of tapes that are not needed any more."""
        self._most_bytes = self.most_bytes
        for tape in tapes:
            tape.close()
            self._running.remove(tape)

    @property
    def most_bytes(self) -> int:
        """The most that its tapes have held together: they only grow, until they end."""
        return max(self._most_bytes, sum(tape.n_bytes for tape in self._running))
