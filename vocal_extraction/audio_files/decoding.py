"""Read a song: its samples as a stream of 32-bit floats at its own rate and channels, and whether all of them came.

Most formats decode without complaint where they were cut off, so what a file declares is compared with what came.
"""

import contextlib
import dataclasses
import struct
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.audio_files import integrity
from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError, input_arguments, last_line, message_lines
from vocal_extraction.audio_files.probing import SongFacts
from vocal_extraction.errors import DamagedSongError, ExtractionError

Samples = NDArray[np.float32]  # shape: (n_samples, n_channels)
_BLOCK_SAMPLES = 2**16
_LOSSY_FRAMES = 4_608  # samples of a few coded frames: what encoders add before and after a song
_OPEN_ENDED = (*integrity.SELF_FRAMED, "ogg", "asf")
"""Files whose end is known without a declared duration: by a last frame or page that is whole, or by their size."""
_NAMED_GAPS = 5


class SongReader(Ffmpeg):
    """The samples of a song as a stream, in a ``with`` statement; `keep_partial` takes a truncated one to its break."""

    n_channels: int
    sample_rate: int

    def __init__(self, facts: SongFacts, *, keep_partial: bool = False) -> None:
        self._facts, self._keep_partial = facts, keep_partial
        self._song = str(facts.path or "Standard input")
        self.gaps: tuple[integrity.Gap, ...] = ()  # where sound is missing, once the song was read
        self.notes: list[str] = list(facts.notes)  # what there is to say of the song, once it was read
        if facts.complaint is not None:
            self._complain(facts.complaint)
        self._checksum = integrity.FlacChecksum(facts.path) if facts.path and facts.container == "flac" else None
        # Decoders of several threads lose frames where files were joined.
        self._check = ["-threads", "1", *(["-err_detect", "crccheck"] if facts.is_exact else [])]
        level = ["-v", "level+warning"]  # see `message_lines`
        # Joined files begin again at 0 s; times counted anew keep the muxer from dropping what follows.
        wanted = ["-map", f"0:a:{facts.track - 1}", "-af", "asetpts=N/SR/TB"]
        coding = ["-c:a", "pcm_f32le", "-fflags", "+bitexact", "-f", "wav", "pipe:1"]
        super().__init__([*level, *self._check, *input_arguments(facts.path), *wanted, *coding], reads=True)
        self._held = bytearray()
        self._n_offset = 0

    def __enter__(self) -> Self:
        """Start decoding, as far as the header."""
        with contextlib.ExitStack() as stack:
            stack.push(self)
            self.n_channels, self.sample_rate = self._read_header()
            stack.pop_all()
        return self

    def blocks(self) -> Iterator[Samples]:
        """Yield the song, (n_samples, n_channels) in turn, after silence until the picture's beginning."""
        yield from self._offset()
        n_samples = 0
        frame_bytes = 4 * self.n_channels
        while data := self._take(_BLOCK_SAMPLES * frame_bytes):
            block = np.frombuffer(data, "<f4", len(data) // frame_bytes * self.n_channels).reshape(-1, self.n_channels)
            n_samples += len(block)
            if self._checksum is not None:
                self._checksum.update(block)
            if len(block):
                yield block
        self._judge(n_samples)
        if n_samples == 0:
            raise ExtractionError(f"{self._song} holds no samples: its length is zero.")

    def _offset(self) -> Iterator[Samples]:
        if not (offset_s := self._facts.offset_s):
            return
        self.notes.append(f"the audio begins {offset_s:.3f} s after the picture: so much silence stands before it")
        self._n_offset = round(offset_s * self.sample_rate)
        for start in range(0, self._n_offset, _BLOCK_SAMPLES):
            yield np.zeros((min(_BLOCK_SAMPLES, self._n_offset - start), self.n_channels), np.float32)

    def _read_header(self) -> tuple[int, int]:
        """Read the header of the wav that ffmpeg writes: number of channels, sample rate."""
        kind, size, form = b"", 12, b""
        while kind != b"data":
            content = self._take(size + 8)
            if len(content) < size + 8:
                raise self._nothing_decoded()
            form = content[:size] if kind == b"fmt " else form
            kind, size = struct.unpack("<4sI", content[-8:])
        n_channels, sample_rate = struct.unpack("<HI", form[2:8].ljust(6, b"\0"))
        if n_channels == 0 or sample_rate == 0:
            raise ExtractionError(f"{self._song} decodes to {n_channels} channels at {sample_rate} Hz: no sound.")
        return n_channels, sample_rate

    def _nothing_decoded(self) -> ExtractionError:
        try:
            reason = last_line(self.close())
        except (ProgramError, OSError) as error:
            reason = str(error)
        return ExtractionError(f"{self._song} could not be decoded ({reason.rstrip('.')}).")

    def _take(self, n_bytes: int) -> bytes:
        """Return `n_bytes` of what ffmpeg writes, fewer at the end."""
        while len(self._held) < n_bytes and (fresh := self.read(wait_forever=self._facts.path is None)):
            self._held += fresh
        taken = bytes(self._held[:n_bytes])
        del self._held[:n_bytes]
        return taken

    def _judge(self, n_decoded: int) -> None:
        """Compare the samples decoded with those declared; look at the frames if that, or ffmpeg, gives a reason to."""
        facts = self._facts
        try:
            messages = self.close()
        except ProgramError as error:
            self._complain(str(error).rstrip("."))
            return
        if self._checksum is not None and self._checksum.is_right:
            return
        lines = message_lines(messages, stream=facts.stream, others=facts.pictures)
        declared = None if facts.duration_s is None else facts.duration_s * self.sample_rate
        is_short = declared is not None and n_decoded < declared - self._tolerance()
        if facts.path is None:
            if lines:
                self._complain(lines[-1])
        elif (
            message_lines(messages, others=facts.pictures)  # damage to a video may have been damage to both
            or is_short
            or (declared is None and facts.container in integrity.SELF_FRAMED)
            or (facts.container == "avi" and len(integrity.lost_avi_chunks(facts.path, facts.track)[0]))
        ):
            survey = integrity.survey_frames(
                facts.path,
                track=facts.track,
                sample_rate=self.sample_rate,
                container=facts.container,
                declared_s=facts.duration_s,
                check=self._check,
            )
            n_missing = sum(gap.n_samples for gap in survey.gaps)
            if declared is not None and n_decoded + n_missing < declared - self._tolerance():
                self._complain(
                    f"it declares {declared / self.sample_rate:.3f} s, of which {n_decoded / self.sample_rate:.3f} s "
                    "decode"
                )
            elif declared is None and (
                survey.is_cut_off or (lines and not (survey.gaps or facts.container in _OPEN_ENDED))
            ):
                self._complain(lines[-1] if lines else "its last frame is not whole")
            self._note_damage(survey, lines)
        if self._checksum is not None and self._checksum.is_wrong:
            self.notes.append("its samples differ from the MD5 checksum that its encoder noted: it is damaged")

    def _note_damage(self, survey: integrity.Survey, lines: list[str]) -> None:
        """Say where sound is missing, and how much of it."""
        self.gaps = tuple(dataclasses.replace(gap, start=gap.start + self._n_offset) for gap in survey.gaps)
        named, n_before = [], 0
        reason = f" (ffmpeg: {lines[0].rstrip('.')})" if lines else ""
        for gap in self.gaps:
            milliseconds, at_s = 1_000 * gap.n_samples / self.sample_rate, (gap.start + n_before) / self.sample_rate
            named.append(f"{milliseconds:.0f} ms at {at_s:.3f} s")
            n_before += gap.n_samples
        if named:
            more = f" and at {len(named) - _NAMED_GAPS} places more" if len(named) > _NAMED_GAPS else ""
            places = ", ".join(named[:_NAMED_GAPS])
            self.notes.append(
                f"damaged, but decoded to its end: silence stands where sound is missing: {places}{more}{reason}"
            )
        elif survey.n_trailing_bytes:
            self.notes.append(f"decoded to its end: {survey.n_trailing_bytes} bytes behind the last frame are no sound")
        elif lines:
            self.notes.append(f"decoded to its end, though not all in the file can be read{reason}")

    def _tolerance(self) -> float:
        """Return how many samples fewer than declared a song may have: lossy formats count whole frames."""
        if self._facts.is_exact:
            return 0.001 * self.sample_rate
        return max(0.1 * self.sample_rate, _LOSSY_FRAMES)

    def _complain(self, what: str) -> None:
        if not self._keep_partial:
            raise DamagedSongError(
                f"{self._song} is truncated or damaged: {what}. Get a whole copy, or take what decodes with "
                "--keep-partial."
            )
        self.notes.append(f"taken as far as it decodes: {what}")
