"""Read a song: what its file says of itself, its samples as a stream, and whether all of them came.

ffprobe tells what there is, ffmpeg decodes, whatever the format, to a stream of 32-bit floats at the song's own rate
and channels. A file that was cut off decodes without complaint in most formats; what it declares is therefore compared
with what came, and the headers of wav and Ogg, where ffmpeg corrects the declaration silently, are read here.
"""

import contextlib
import dataclasses
import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError, ask_ffprobe, input_arguments, last_line
from vocal_extraction.errors import ExtractionError

Samples = NDArray[np.float32]
"""Shape: (n_channels, n_samples)."""

_Kind = TypeVar("_Kind")

_BLOCK_SAMPLES = 2**16
_EXACT_CODECS = ("pcm", "flac", "alac", "wavpack", "ape", "tta")
_LOSSY_FRAMES = 4_608
"""Samples of a few coded frames: what encoders add before and after a song."""
_OWN_WORDS_OF_CODERS = {
    "compatible_brands", "creation_time", "duration", "encoder", "encoding_settings", "handler_name", "itunsmpb",
    "language", "major_brand", "minor_version", "metadata_block_picture", "tlen", "tsse", "vendor_id",
}  # fmt: skip
"""Tags that describe the old file's coding and would be wrong of a new one."""


class DamagedSongError(ExtractionError):
    """A song is truncated or broken; `keep_partial` takes what decodes."""


_OF_THE_OLD_SOUND = ("replaygain", "r128", "id3v2_priv")
"""How tags begin that tell loudness, or what some shop's program wanted to know."""


@dataclasses.dataclass(frozen=True)
class Cover:
    """A picture in a song's file."""

    stream_index: int
    codec: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class SongFacts:
    """What a file says of its first audio stream."""

    path: Path
    duration_s: float | None
    """Declared duration, None where it is a guess."""
    is_exact: bool
    """Whether the declaration counts samples."""
    sample_rate: int
    """Declared, 0 where it is not."""
    n_channels: int
    """Declared, 0 where they are not."""
    tags: dict[str, str]
    channel_layout: str | None
    cover: Cover | None
    complaint: str | None
    """What the header alone shows to be wrong."""


def examine(path: Path, *, containers: str | None = None) -> SongFacts:
    """Ask what `path` holds.

    Parameters
    ----------
    path
        The song.
    containers
        ffmpeg's names of the formats that it may have, with commas between; None is any.

    Raises
    ------
    ExtractionError
        If there is no such file, it cannot be read, is empty, or holds no audio.
    """
    _check_file(path)
    asked = ["-show_streams", "-show_format", "-of", "json"]
    if containers is not None:
        asked += ["-format_whitelist", containers]
    output, messages, status = ask_ffprobe([*asked, *input_arguments(path)])
    content = _parsed(output) if status == 0 else {}
    container: dict[str, Any] = _entry(content, "format", dict)
    streams: list[dict[str, Any]] = [stream for stream in _entry(content, "streams", list) if isinstance(stream, dict)]
    audio = [stream for stream in streams if stream.get("codec_type") == "audio"]
    if not audio:
        raise _no_audio(path, messages, streams)
    complaint = _cut_short(path, _entry(container, "format_name", str))
    covers = [_cover(stream) for stream in streams if "attached_pic" in _marks(stream)]
    is_alone = len(streams) == len(audio[:1]) + len(covers)
    return SongFacts(
        path=path,
        duration_s=_declared_duration(audio[0], container, messages, is_alone=is_alone),
        is_exact=_entry(audio[0], "codec_name", str).startswith(_EXACT_CODECS),
        sample_rate=_count(audio[0].get("sample_rate")),
        n_channels=_count(audio[0].get("channels")),
        tags=_tags(_entry(container, "tags", dict), _entry(audio[0], "tags", dict)),
        channel_layout=_entry(audio[0], "channel_layout", str) or None,
        cover=covers[0] if covers else None,
        complaint=complaint,
    )


def _marks(stream: dict[str, Any]) -> set[str]:
    disposition: dict[str, Any] = _entry(stream, "disposition", dict)
    return {name for name, is_set in disposition.items() if is_set}


def _cover(stream: dict[str, Any]) -> Cover:
    index, width, height = (_entry(stream, name, int) for name in ("index", "width", "height"))
    return Cover(index, _entry(stream, "codec_name", str), width, height)


def _parsed(output: str) -> Any:
    """Return what ffprobe tells; a stranger's file may bring it to print what is no JSON."""
    try:
        return json.loads(output)
    except (ValueError, RecursionError):
        return {}


def _entry(holder: Any, name: str, kind: type[_Kind]) -> _Kind:
    """Return an entry of ffprobe's answer if it is of the kind that it should be, else an empty one."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, kind) else kind()


def _count(told: Any) -> int:
    """Return a number of ffprobe's answer, written out or not, if it is one that ffmpeg can count to, else 0."""
    try:
        number = int(told)
    except (TypeError, ValueError, OverflowError):
        return 0
    return number if 0 < number < 2**31 else 0


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ExtractionError(f"{path} is a folder, expected a song.")
    if not path.exists():
        raise ExtractionError(f"There is no file {path}. Check the name.")
    if not path.is_file():
        raise ExtractionError(f"{path} is no regular file. To read from a pipe, give - and redirect standard input.")
    if not os.access(path, os.R_OK):
        raise ExtractionError(f"{path} may not be read. Change its permissions: chmod u+r.")
    if path.stat().st_size == 0:
        raise ExtractionError(f"{path} is empty (0 bytes). Copy or download it again.")


def _no_audio(path: Path, messages: str, streams: list[Any]) -> ExtractionError:
    if streams:
        kinds = ", ".join(sorted({str(stream.get("codec_type")) for stream in streams}))
        return ExtractionError(f"{path} holds no audio, only {kinds}.")
    if "moov atom not found" in messages:
        return DamagedSongError(
            f"{path} is truncated: its table of contents (moov atom) is missing, so nothing decodes."
        )
    return ExtractionError(f"{path} is no audio that ffmpeg can read ({last_line(messages)}).")


def _declared_duration(
    audio: dict[str, Any], container: dict[str, Any], messages: str, *, is_alone: bool
) -> float | None:
    """Return the duration of the audio stream if it is declared; that of the container serves an only stream."""
    if "Estimating duration from bitrate" in messages:
        return None
    told = audio.get("duration") or (container.get("duration") if is_alone else None)
    try:
        duration_s = float(told) if told else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return duration_s if 0 <= duration_s < math.inf else None


def _tags(*sources: dict[str, Any]) -> dict[str, str]:
    found = {name: value for tags in sources for name, value in tags.items() if isinstance(value, str)}
    return {
        name: value
        for name, value in found.items()
        if name.lower() not in _OWN_WORDS_OF_CODERS and not name.lower().startswith(_OF_THE_OLD_SOUND)
    }


def _cut_short(path: Path, container: str) -> str | None:
    """Return what shows that a wav or Ogg file ends before its end."""
    with open(path, "rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        if container == "wav" and head[:4] == b"RIFF":
            (declared,) = struct.unpack("<I", head[4:8])
            # Programs that write to a pipe leave 0 or a size that no file has; some forget a padding byte.
            if size + 1 < declared + 8 and declared < 0x7FFF_F000:
                return f"its header declares {declared + 8} bytes, it has {size}"
        if container == "ogg":
            file.seek(max(0, size - 2**16))
            tail = file.read()
            last_page = tail.rfind(b"OggS")
            if last_page < 0 or len(tail) < last_page + 6 or not tail[last_page + 5] & 4:
                return "its last page is missing"
    return None


class SongReader:
    """The samples of a song as a stream; use it in a ``with`` statement.

    Parameters
    ----------
    facts
        What `examine` told, None for standard input.
    keep_partial
        Whether a damaged song ends where it breaks, rather than in an error.
    """

    def __init__(self, facts: SongFacts | None, *, keep_partial: bool = False) -> None:
        self._facts = facts
        self._keep_partial = keep_partial
        self._name = "Standard input" if facts is None else str(facts.path)
        self.complaint: str | None = None
        """What is wrong with the song, once it has been read and `keep_partial` let it pass."""
        if facts is not None and facts.complaint is not None:
            self._complain(facts.complaint)
        source = input_arguments(None if facts is None else facts.path)
        wanted = ["-map", "0:a:0", "-c:a", "pcm_f32le", "-fflags", "+bitexact", "-f", "wav", "pipe:1"]
        self._ffmpeg = Ffmpeg([*source, *wanted], reads=True)
        self._held = b""

    def __enter__(self) -> "SongReader":
        """Start decoding, as far as the header."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._ffmpeg)
            self.n_channels, self.sample_rate = self._read_header()
            stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ffmpeg.__exit__(*error)

    def blocks(self) -> Iterator[Samples]:
        """Yield the song in turn. Shape of each block: (n_channels, n_samples).

        Raises
        ------
        DamagedSongError
            At the end, if less came than the file declares or ffmpeg complained, unless `keep_partial`.
        ExtractionError
            If there is not one sample.
        """
        n_samples = 0
        frame_bytes = 4 * self.n_channels
        for data in self._chunks(_BLOCK_SAMPLES * frame_bytes):
            whole = len(data) - len(data) % frame_bytes
            block = np.frombuffer(data[:whole], "<f4").reshape(-1, self.n_channels)
            n_samples += len(block)
            if len(block):
                yield np.ascontiguousarray(block.T)
        self._judge(n_samples / self.sample_rate)
        if n_samples == 0:
            raise ExtractionError(f"{self._name} holds no samples: its length is zero.")

    def _read_header(self) -> tuple[int, int]:
        """Read the header of the wav that ffmpeg writes: number of channels, sample rate."""
        self._exactly(12)
        form = b""
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(8))
            if kind == b"data":
                n_channels, sample_rate = struct.unpack("<HI", form[2:8].ljust(6, b"\0"))
                if n_channels == 0 or sample_rate == 0:
                    raise ExtractionError(
                        f"{self._name} decodes to {n_channels} channels at {sample_rate} Hz: no sound."
                    )
                return n_channels, sample_rate
            content = self._exactly(size)
            form = content if kind == b"fmt " else form

    def _exactly(self, n_bytes: int) -> bytes:
        while len(self._held) < n_bytes:
            fresh = self._fresh()
            if not fresh:
                raise self._nothing_decoded()
            self._held += fresh
        taken, self._held = self._held[:n_bytes], self._held[n_bytes:]
        return taken

    def _nothing_decoded(self) -> ExtractionError:
        try:
            reason = last_line(self._ffmpeg.close())
        except (ProgramError, OSError) as error:
            reason = str(error)
        return ExtractionError(f"{self._name} could not be decoded ({reason.rstrip('.')}).")

    def _chunks(self, n_bytes: int) -> Iterator[bytes]:
        """Yield all that comes, in pieces of `n_bytes`."""
        parts, n_held = [self._held], len(self._held)
        self._held = b""
        while fresh := self._fresh():
            parts.append(fresh)
            n_held += len(fresh)
            if n_held >= n_bytes:
                data = b"".join(parts)
                whole = len(data) - len(data) % n_bytes
                for start in range(0, whole, n_bytes):
                    yield data[start : start + n_bytes]
                parts, n_held = [data[whole:]], len(data) - whole
        yield b"".join(parts)

    def _fresh(self) -> bytes:
        return self._ffmpeg.read(patiently=self._facts is None)

    def _judge(self, decoded_s: float) -> None:
        """Compare what came with what was declared, and listen to what ffmpeg has to say."""
        try:
            messages = self._ffmpeg.close()
        except ProgramError as error:
            self._complain(str(error).rstrip("."))
            return
        declared_s = self._facts.duration_s if self._facts is not None else None
        if declared_s is None:
            if messages.strip():
                self._complain(last_line(messages))
        elif decoded_s < declared_s - self._tolerance_s():
            self._complain(f"it declares {declared_s:.3f} s, of which {decoded_s:.3f} s decode")

    def _tolerance_s(self) -> float:
        """How much shorter than declared a song may decode: lossless formats count samples, lossy ones whole frames."""
        if self._facts is not None and self._facts.is_exact:
            return 0.001
        return max(0.1, _LOSSY_FRAMES / self.sample_rate)

    def _complain(self, what: str) -> None:
        if not self._keep_partial:
            raise DamagedSongError(
                f"{self._name} is truncated or damaged: {what}. Get a whole copy, or take what decodes with "
                "--keep-partial."
            )
        self.complaint = what
