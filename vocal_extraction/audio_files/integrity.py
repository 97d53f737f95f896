"""Whether a song is whole: lengths in headers, FLAC's checksum, and where frames are missing.

A song that goes on to its end with frames missing on the way is damaged, but usable: the gaps are found by a second
look, which only a song that ffmpeg complained about gets, and filled with silence.
"""

import dataclasses
import hashlib
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.audio_files.ffmpeg import Program, input_arguments, read_all

_TRUEHD = ("truehd", "mlp")
SELF_FRAMED = ("mp3", "aac", "ac3", "eac3", "dts", "mp3 in wav", *_TRUEHD)
"""Files whose frames follow each other without anything between, and have no time of their own."""
_ASF_FILE_PROPERTIES = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")  # the object of a file that holds its size
_TAG_STARTS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS", b"3DI")
"""How tags begin that lie between the frames of files that were joined, or behind the last."""
_SHORTEST_GAP_S, _LONGEST_GAP_S = 0.003, 600.0
"""Containers round times to a millisecond; longer gaps are times that are wrong."""
_BUMP_FRAMES = 3  # Vorbis frames of another length have late times, those behind them have not: nothing is missing
_FILLED_SAMPLES = 2**16
_READ_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Gap:
    """Sound that is missing between two frames that decode."""

    start: int  # sample behind the last that decodes, counted without the gaps before
    n_samples: int


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is known from the frames of a damaged song."""

    gaps: tuple[Gap, ...]
    n_trailing_bytes: int  # bytes behind the last frame that decodes, where frames follow each other
    is_cut_off: bool  # whether the last frame is not whole


def find_header_damage(path: Path, container: str) -> str | None:
    """Return what shows that a wav, w64, AVI, CAF, ASF, VOC or Ogg ends early; ffmpeg corrects that silently."""
    with open(path, "rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        declared = _declared_bytes(file, head, container)
        if size + 1 < declared:  # some programs forget a padding byte
            return f"its header declares {declared} bytes, it has {size}"
        if container == "ogg":
            tail, at = b"", size
            while at > 0 and b"OggS" not in tail:
                at = max(0, at - _READ_BYTES)
                file.seek(at)
                tail = file.read(_READ_BYTES) + tail[:3]
            page = tail[max(0, tail.rfind(b"OggS")) :].ljust(27, b"\0")  # RFC 3533, section 6
            if not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
                return "its last page is missing"
    return None


def _declared_bytes(file: IO[bytes], head: bytes, container: str) -> int:
    """Return how many bytes a file of one of six kinds says that it has, at least; 0 where it does not."""
    if container in ("wav", "avi") and head[:4] == b"RIFF":
        (size,) = struct.unpack("<I", head[4:8])
        # Programs that write to a pipe leave 0 or a size that no file has.
        return size + 8 if size < 0x7FFF_F000 else 0
    file.seek(0)
    if container == "asf":
        _, _, properties = file.read(_READ_BYTES).partition(_ASF_FILE_PROPERTIES)
        return int.from_bytes(properties[24:32], "little")
    if container == "w64":
        size = int.from_bytes(file.read(24)[16:], "little")
        return size if size < 2**62 else 0
    if container == "voc":  # blocks of a kind, three bytes of length, and content, as far as one of kind 0
        at = int.from_bytes((file.seek(20), file.read(2))[1], "little")
        while len((file.seek(at), block := file.read(4))[1]) == 4 and block[0] in range(1, 10):
            at += 4 + int.from_bytes(block[1:], "little")
        return at
    if container == "caf":
        at, kind, size = 8, b"", 0
        while kind != b"data" and len((file.seek(at), chunk := file.read(12))[1]) == 12:
            kind, size = struct.unpack(">4sq", chunk)  # -1: to the end
            at += 12 + max(size, 0)
        return at if kind == b"data" else 0
    return 0


def lost_avi_chunks(path: Path, track: int) -> tuple[list[int], list[float], float]:
    """Return places and durations of an AVI's chunks of an audio track, from 1, that only its index knows.

    ffmpeg passes over them without a word, and counts on. The third value is the duration of all chunks.
    """
    with open(path, "rb") as file:
        head = file.read(2**16)
        movi, at, name, size = head.find(b"movi"), 12, b"", 0
        while name not in (b"idx1", bytes(4)) and len((file.seek(at), chunk := file.read(8))[1]) == 8:
            name, size = struct.unpack("<4sI", chunk)
            at += 8 + size + size % 2
        index = file.read(size) if name == b"idx1" else b""
        entries = list(struct.iter_unpack("<4sIII", index[: len(index) // 16 * 16]))
        first = movi if entries and entries[0][2] < movi else 0  # some count from the file's beginning
        sounds = [part for part in enumerate(head.split(b"strh")[1:]) if part[1][4:8] == b"auds"]
        number, header = sounds[track - 1] if track <= len(sounds) else (0, b"")
        scale, rate, n_sample_bytes = (int.from_bytes(header[at : at + 4], "little") for at in (24, 28, 48))
        places, durations_s, all_s = [], [], 0.0
        for name, _, place, n_bytes in entries:
            if name == b"%02dwb" % number:
                duration_s = (math.ceil(n_bytes / n_sample_bytes) if n_sample_bytes else 1) * scale / max(rate, 1)
                all_s += duration_s
                file.seek(first + place)
                if file.read(8) != struct.pack("<4sI", name, n_bytes):
                    places.append(first + place)
                    durations_s.append(duration_s)
    return places, durations_s, all_s


def survey_frames(
    path: Path, *, track: int, sample_rate: int, container: str, declared_s: float | None, check: Sequence[str]
) -> Survey:
    """Decode an audio track, from 1, of a song once more, for the times and places of its frames."""
    wanted = ["-select_streams", f"a:{track - 1}", "-show_entries", "frame=pts_time,pkt_pos,pkt_size,nb_samples"]
    arguments = ["-v", "quiet", *check, *wanted, "-of", "compact=p=0:nk=1", *input_arguments(path)]
    lines = read_all(Program("ffprobe", arguments, reads=True)).decode(errors="replace").split("\n")
    frames = [numbers for line in lines if len(numbers := [_number(word) for word in line.split("|")[:4]]) == 4]
    if not frames:
        return Survey((), 0, is_cut_off=False)
    times, positions, sizes, lengths = np.array(frames).T
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if container == "avi":
        places, durations_s, all_s = lost_avi_chunks(path, track)
        if starts[-1] / sample_rate + sum(durations_s) < all_s + lengths.max() / sample_rate:  # else they have moved
            times = times + np.cumsum([0, *durations_s])[np.searchsorted(places, positions)]
    missing = np.zeros(len(frames))  # samples before each frame
    (timed,) = np.nonzero(np.isfinite(times))
    if len(timed):
        offsets = np.pad(times[timed] * sample_rate - starts[timed], (0, _BUMP_FRAMES), mode="edge")
        missing[timed[1:]] = np.diff(np.lib.stride_tricks.sliding_window_view(offsets, _BUMP_FRAMES + 1).min(axis=1))
    n_trailing, is_cut_off = 0, False
    if container in SELF_FRAMED:
        ends = positions + sizes
        skipped_frames = np.rint((positions[1:] - ends[:-1]) / np.median(sizes))
        missing[1:] = np.maximum(missing[1:], skipped_frames * np.median(lengths))
        with open(path, "rb") as file:
            for index in np.flatnonzero(positions[1:] > ends[:-1]):
                file.seek(int(ends[index]))
                if file.read(8).startswith(_TAG_STARTS):  # files were joined here; nothing is missing
                    missing[index + 1] = 0
            n_trailing = max(0, file.seek(0, os.SEEK_END) - int(ends[-1]))
            content = np.memmap(path, np.uint8, "r")
            in_step = content[positions.astype(int).clip(0, len(content) - 1)] == content[int(positions[0])]
            if n_trailing and container not in _TRUEHD and not in_step.all():
                # ffmpeg counts what is no frame of an ADTS file, too: as many bytes as are left over were skipped.
                missing[np.argmin(in_step)] += np.rint(n_trailing / np.median(sizes)) * np.median(lengths)
                n_trailing = 0
            file.seek(int(positions[0]))
            sync = file.read(1)
            file.seek(int(ends[-1]))
            head = file.read(2)
            begins_a_frame = head[:1] == sync and n_trailing < 2 * sizes.max()
            if container in _TRUEHD:  # frames begin with their length, in words
                begins_a_frame = n_trailing < 2 * (int.from_bytes(head, "big") & 0xFFF)
            is_cut_off = begins_a_frame or (n_trailing == 0 and _is_short(file, container, positions, sizes))
    (lost,) = np.nonzero((missing > _SHORTEST_GAP_S * sample_rate) & (missing < _LONGEST_GAP_S * sample_rate))
    gaps = [Gap(int(starts[index]), round(float(missing[index]))) for index in lost]
    if container == "mp3" and gaps and declared_s is not None and not is_cut_off:
        # Bytes that were inserted look like missing frames; the header's count of frames says how many are missing.
        n_frames_missing = ((declared_s - times[0]) * sample_rate - starts[-1]) // np.median(lengths)
        largest = max(gaps, key=lambda gap: gap.n_samples)
        excess = sum(gap.n_samples for gap in gaps) - round(n_frames_missing * np.median(lengths))
        if n_frames_missing >= 0:  # files that were joined have more frames than the first declares
            gaps[gaps.index(largest)] = Gap(largest.start, max(0, largest.n_samples - excess))
    return Survey(tuple(gaps), n_trailing, is_cut_off)


def _is_short(file: IO[bytes], container: str, positions: NDArray[np.float64], sizes: NDArray[np.float64]) -> bool:
    """Return whether the last frame is smaller than another whose header, and so whose bit rate, is the same."""
    if container in ("ac3", "eac3"):  # one bit rate
        return bool(sizes[-1] < sizes[:-1].min(initial=sizes[0]))
    if container != "mp3":
        return False

    def header(position: float) -> bytes:
        file.seek(int(position))
        return file.read(3)

    others = zip(positions[-2::-1], sizes[-2::-1], strict=True)
    return bool(sizes[-1] < next((size for position, size in others if header(position) == header(positions[-1])), 0))


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:  # N/A
        return math.nan


def fill_gaps(song: Any, gaps: Sequence[Gap]) -> None:
    """Put silence into the gaps of a song in place, an array of (n_samples, n_channels) that grows at its end."""
    stop, shift = len(song), sum(gap.n_samples for gap in gaps)
    for gap in reversed(gaps):
        for end in range(stop, gap.start, -_FILLED_SAMPLES):
            start = max(gap.start, end - _FILLED_SAMPLES)
            song[start + shift : end + shift] = np.array(song[start:end])
        shift -= gap.n_samples
        for start in range(gap.start, gap.start + gap.n_samples, _FILLED_SAMPLES):
            n_samples = min(_FILLED_SAMPLES, gap.start + gap.n_samples - start)
            song[start + shift : start + shift + n_samples] = np.zeros((n_samples, *song[0:1].shape[1:]), np.float32)
        stop = gap.start


class FlacChecksum:
    """The MD5 of a FLAC file's samples (RFC 9639, section 8.2), beside the one that its encoder noted."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            head = file.read(10)
            if head[:3] == b"ID3":
                file.seek(10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False)))
            else:
                file.seek(0)
            header = file.read(42)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._expected = header[26:42] if header[:4] == b"fLaC" and len(header) == 42 else bytes(16)
        rate_to_length = int.from_bytes(header[18:26].ljust(8, b"\0"), "big")
        self._bits, self._n_declared = (rate_to_length >> 36 & 31) + 1, rate_to_length & (2**36 - 1)
        self._is_noted = any(self._expected) and self._bits <= 24
        self._n_samples = 0

    def update(self, samples: NDArray[np.float32]) -> None:
        """Take in decoded samples. Shape: (n_samples, n_channels)."""
        if self._is_noted:
            integers = np.rint(samples * np.float32(2 ** (self._bits - 1))).astype("<i4")
            n_bytes = -(-self._bits // 8)
            self._md5.update(np.ascontiguousarray(integers[..., None].view(np.uint8)[..., :n_bytes]).data)
            self._n_samples += len(samples)

    @property
    def is_wrong(self) -> bool:
        """Whether as many samples came as the header declares, and they are not those that were encoded."""
        return self._is_noted and self._n_samples == self._n_declared and not self.is_right

    @property
    def is_right(self) -> bool:
        """Whether the samples are those that were encoded, whatever is wrong between or behind the frames."""
        return self._is_noted and self._md5.digest() == self._expected
