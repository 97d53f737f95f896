"""Stems written block by block, so that files are whole whenever recording ends."""

import contextlib
import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vocal_extraction.separation.disk_array import Rows

_LARGEST = 2**23 - 1


class Recorder(contextlib.AbstractContextManager["Recorder"]):
    """Writes ``<folder>/<stem>.wav``, 24 bits, in time with what went in: the first `delay` samples are dropped.

    Files are whole after every block, followed by others at 4 GB, and never replaced: a folder with a number is taken.
    """

    def __init__(self, folder: Path, *, sample_rate: int, n_channels: int, delay: int) -> None:
        self.folder = folder
        for number in range(2, 10_000):
            if not any(self.folder.glob("*.wav")):
                break
            self.folder = folder.with_name(f"{folder.name}-{number}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rate, self._n_channels, self._n_dropped = sample_rate, n_channels, delay
        self._files: dict[str, wave.Wave_write] = {}

    def write(self, stems: Mapping[str, Rows]) -> None:
        """Take a block of each stem: (n_samples, n_channels)."""
        n = len(next(iter(stems.values())))
        n_dropped = min(self._n_dropped, n)
        self._n_dropped -= n_dropped
        for name, samples in stems.items():
            integers = np.clip(np.rint(samples[n_dropped:] * 2**23), -_LARGEST - 1, _LARGEST).astype("<i4")
            data = integers.reshape(-1, 1).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
            self._file(name, len(data)).writeframes(data)

    def _file(self, name: str, n_bytes: int) -> wave.Wave_write:
        file = self._files.get(name)
        if file is not None and file.tell() * 3 * self._n_channels + n_bytes < 2**32 - 2**16:
            return file
        path = self.folder / f"{name}.wav"
        if file is not None:
            file.close()
            path = self.folder / f"{name}-{len([*self.folder.glob(f'{name}*.wav')]) + 1}.wav"
        file = self._files[name] = wave.open(str(path), "wb")  # noqa: SIM115 - closed at the end
        file.setnchannels(self._n_channels)
        file.setsampwidth(3)
        file.setframerate(self._rate)
        return file

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()
