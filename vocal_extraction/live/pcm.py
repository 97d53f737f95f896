"""PCM through pipes: raw 32-bit floats or a wav comes in on one stream, the mix goes out on the other."""

import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from vocal_extraction.errors import ExtractionError
from vocal_extraction.separation.disk_array import Rows

_BLOCK_BYTES = 2**16
_UNKNOWN_LENGTH = 2**32 - 1
_FLOAT, _EXTENSIBLE, _FORMAT_BYTES = 3, 0xFFFE, 16


class PcmInput:
    """Samples as they arrive: a wav of integers of 16, 24 or 32 bits or of 32-bit floats, else raw floats."""

    def __init__(self, stream: BinaryIO, *, sample_rate: int, n_channels: int) -> None:
        self._stream, self.sample_rate, self.n_channels = stream, sample_rate, n_channels
        self._n_left: float = float("inf")
        self._sample_bytes, self._is_float, self._start = 4, True, stream.read(4)
        if self._start == b"RIFF":
            self._start = b""
            self._read_header()

    def _read_header(self) -> None:
        self._exactly(8)
        kind = b""
        while kind != b"data":
            kind, n_bytes = struct.unpack("<4sI", self._exactly(8))
            if kind == b"fmt ":
                content = self._exactly(n_bytes + n_bytes % 2, least=_FORMAT_BYTES)
                code, self.n_channels, self.sample_rate, _, _, n_bits = struct.unpack_from("<HHIIHH", content)
                if code == _EXTENSIBLE and len(content) >= 26:
                    (code,) = struct.unpack_from("<H", content, 24)
                self._sample_bytes, self._is_float = n_bits // 8, code == _FLOAT
                if (code, n_bits) not in ((1, 16), (1, 24), (1, 32), (_FLOAT, 32)) or not self.n_channels:
                    raise ExtractionError(
                        f"The wav has {n_bits} bits of format {code}; expected integers of 16, 24 or 32 bits or "
                        "32-bit floats. Convert it: ffmpeg -i FILE -f f32le -"
                    )
            elif kind != b"data":
                self._exactly(n_bytes + n_bytes % 2)
        if 0 < n_bytes < _UNKNOWN_LENGTH:
            self._n_left = n_bytes

    def _exactly(self, n_bytes: int, *, least: int = 0) -> bytes:
        if not least <= n_bytes <= 2**20 or len(found := self._stream.read(n_bytes)) < n_bytes:
            raise ExtractionError("The wav on standard input ends within its header, or that is damaged.")
        return found

    def blocks(self) -> Iterator[Rows]:
        """Yield samples as they arrive, (n_samples, n_channels); a last sample that is not whole is dropped."""
        frame_bytes, rest = self._sample_bytes * self.n_channels, self._start
        read1: Callable[[int], bytes] = getattr(self._stream, "read1", self._stream.read)
        while self._n_left > 0 and (data := read1(int(min(_BLOCK_BYTES, self._n_left)))):
            self._n_left -= len(data)
            data = rest + data
            whole = len(data) // frame_bytes * frame_bytes
            rest = data[whole:]
            if whole:
                yield self._samples(data[:whole]).reshape(-1, self.n_channels)

    def _samples(self, data: bytes) -> Rows:
        if self._is_float:
            return np.frombuffer(data, "<f4")
        n = self._sample_bytes
        padded = np.zeros((len(data) // n, 4), np.uint8)
        padded[:, 4 - n :] = np.frombuffer(data, np.uint8).reshape(-1, n)
        return (padded.view("<i4")[:, 0] / 2.0**31).astype(np.float32)


def wav_header(sample_rate: int, n_channels: int) -> bytes:
    """Return the header of a wav of 32-bit floats of unknown length."""
    frame_bytes = 4 * n_channels
    form = struct.pack("<HHIIHH", _FLOAT, n_channels, sample_rate, frame_bytes * sample_rate, frame_bytes, 32)
    unknown = struct.pack("<I", _UNKNOWN_LENGTH)
    return b"RIFF" + unknown + b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + unknown
