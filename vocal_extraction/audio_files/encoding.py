"""Write a stem: ffmpeg encodes what is fed to it, with the tags and the cover of the song.

Integers are rounded before they come here. Where a lossy format lacks a rate or a channel count, the nearest is taken.
"""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.audio_files.ffmpeg import Ffmpeg
from vocal_extraction.audio_files.tags import Attachments
from vocal_extraction.errors import ExtractionError
from vocal_extraction.output_formats import FORMATS, Format
from vocal_extraction.settings import ExtractionSettings

_MOST_MIXED_DOWN = 8
_QUEUE = ["-thread_queue_size", "512"]
"""Packets that ffmpeg reads ahead. With tags as a second input it reads in a thread of its own, which waits for 10 ms
whenever the few packets of its default are used up: encoding would take ten times as long."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """How the stems of one song are written."""

    name: str  # of the format
    format: Format
    sample_rate: int  # of what is fed
    n_channels: int  # of what is fed
    channel_layout: str | None
    coded_rate: int
    coded_channels: int
    bitrate_kbps: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from the song because the format has no better."""
        notes = [self.format.note] if self.format.note else []
        if self.coded_rate != self.sample_rate:
            notes.append(f"{self.name} has no {self.sample_rate} Hz: written at {self.coded_rate} Hz")
        if self.coded_channels != self.n_channels:
            notes.append(f"{self.name} has no {self.n_channels} channels: mixed down to {self.coded_channels}")
        return tuple(notes)


def choose_coding(
    settings: ExtractionSettings, *, sample_rate: int, n_channels: int, channel_layout: str | None
) -> Coding:
    """Choose the nearest to the song that the format has; raise ExtractionError if it cannot hold so many channels."""
    name, kind = settings.format, FORMATS[settings.format]
    most_channels = kind.max_channels or n_channels
    if n_channels > most_channels and not (kind.mixes_down and n_channels <= _MOST_MIXED_DOWN):
        raise ExtractionError(
            f"The song has {n_channels} channels, {name} holds {most_channels} at most. Choose --format wav24."
        )
    layout, coded_rate = channel_layout if n_channels > 2 else None, kind.nearest_rate(sample_rate)
    coded_channels, bitrate_kbps = min(n_channels, most_channels), min(settings.bitrate_kbps, kind.max_kbps)
    return Coding(name, kind, sample_rate, n_channels, layout, coded_rate, coded_channels, bitrate_kbps)


class StemWriter(Ffmpeg):
    """One stem on its way to a file, or to standard output; use it in a ``with`` statement, and `close` it."""

    def __init__(self, path: Path | None, coding: Coding, *, attachments: Attachments | None = None) -> None:
        kind = coding.format
        self._dtype, raw = {16: ("<i2", "s16le"), 24: ("<i4", "s32le"), None: ("<f4", "f32le")}[kind.bits]
        layout = ["-channel_layout", coding.channel_layout] if coding.channel_layout else []
        fed = ["-f", raw, "-ar", str(coding.sample_rate), "-ac", str(coding.n_channels), *layout, "-i", "pipe:0"]
        encoder = ["-map", "0:a:0", "-c:a", *kind.codec]
        if not kind.is_lossless:
            encoder += kind.quality(coding.bitrate_kbps, coding.coded_rate, coding.coded_channels)
        coded = ["-ar", str(coding.coded_rate), "-ac", str(coding.coded_channels), "-fflags", "+bitexact", "-y"]
        target = ["-f", kind.container or kind.extension, "pipe:1" if path is None else f"file:{path}"]
        inputs, outputs = ((), ()) if attachments is None else (attachments.inputs, attachments.outputs)
        super().__init__([*_QUEUE, *fed, *inputs, *encoder, *outputs, *coded, *target], writes=True)

    def encode(self, samples: NDArray[np.floating]) -> None:
        """Take samples, in units of the format where it holds integers. Shape: (n_samples, n_channels)."""
        data = np.ascontiguousarray(samples).astype(self._dtype, copy=False)
        if self._dtype == "<i4":
            data = data << 8  # 24 bits stand in the upper bits of 32
        try:
            self.write(memoryview(data.tobytes()))
        except BrokenPipeError:
            # ffmpeg ended early: `close` raises the reason.
            self.close()
            raise
