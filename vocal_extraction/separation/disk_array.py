"""Rows of 32-bit floats on disk that are indexed like an array.

A song goes through its network in several passes, some of them backwards, and must not stand in memory between them.
Plain reads and writes are used rather than a memory map, whose pages would count as this process's memory.
"""

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # shape: (n_rows, *row_shape)


class DiskArray(contextlib.AbstractContextManager["DiskArray"]):
    """Float32 rows in a nameless temporary file, which vanishes when it is closed or the process ends.

    ``array[start:stop]`` reads rows, ``array[start:stop] = rows`` writes them; past the end that adds more. Several
    threads may use it at a time, as long as none reads rows that another is writing. It begins with `n_rows` of zeros,
    in `folder`, None is the system's folder for temporary files.

    >>> with DiskArray((2,)) as array:
    ...     array.append(np.ones((3, 2)))
    ...     array[1:2] = np.zeros((1, 2))
    ...     array.shape, array[1:3].tolist()
    ((3, 2), [[0.0, 0.0], [1.0, 1.0]])
    """

    def __init__(self, row_shape: tuple[int, ...], folder: Path | None = None, *, n_rows: int = 0) -> None:
        self.row_shape, self.n_rows = tuple(row_shape), n_rows
        self._row_bytes = 4 * math.prod(self.row_shape)
        self._file: Any = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - `close` closes it
        self._file.truncate(n_rows * self._row_bytes)

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self.n_rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n_rows, *self.row_shape)

    def __setitem__(self, rows: slice, values: NDArray[Any]) -> None:
        """Write rows from ``rows.start`` on, as many as there are values."""
        start, _, _ = rows.indices(max(self.n_rows, rows.start or 0))
        values = np.ascontiguousarray(values, np.float32)
        data, position = values.reshape(-1).view(np.uint8).data, start * self._row_bytes
        while data:
            n_written = os.pwrite(self._file.fileno(), data, position)
            position, data = position + n_written, data[n_written:]
        self.n_rows = max(self.n_rows, start + len(values))

    def __getitem__(self, rows: slice) -> Rows:
        """Read rows; EOFError if the file ends before them."""
        start, stop, _ = rows.indices(self.n_rows)
        values = np.empty((max(stop - start, 0), *self.row_shape), np.float32)
        data, position = values.reshape(-1).view(np.uint8).data, start * self._row_bytes
        while data:
            n_read = os.preadv(self._file.fileno(), [data], position)
            if not n_read:
                raise EOFError(f"An array of {self.n_rows} rows on disk ends before row {stop}.")
            position, data = position + n_read, data[n_read:]
        return values

    def append(self, values: NDArray[Any]) -> None:
        self[self.n_rows :] = values


Array = Rows | DiskArray  # rows at random access, in memory or on disk


class Scratch(contextlib.AbstractContextManager["Scratch"]):
    """Makes the arrays of one separation, all in memory or all on disk; closes at its end those that it still has."""

    def __init__(self, *, on_disk: bool, folder: Path | None = None) -> None:
        self._on_disk, self._folder = on_disk, folder
        self._arrays: dict[int, Array] = {}

    def __exit__(self, *error: object) -> None:
        self.close(*self._arrays.values())

    def new(self, *shape: int) -> Array:
        array: Array = np.zeros(0 if self._on_disk else shape, np.float32)
        if self._on_disk:
            array = DiskArray(shape[1:], self._folder, n_rows=shape[0])
        self._arrays[id(array)] = array
        return array

    def release(self, array: Array) -> Array:
        """Return an array that is to live longer."""
        return self._arrays.pop(id(array))

    def close(self, *arrays: Array) -> None:
        for array in arrays:
            self._arrays.pop(id(array), None)
            if isinstance(array, DiskArray):
                array.close()
