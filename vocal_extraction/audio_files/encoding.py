"""Write a stem: ffmpeg encodes what is fed to it, with the tags and the cover of the song.

Integer formats get integers, rounded before they come here, so that what is written is known to the bit. Where a
lossy format lacks a rate or a channel count, the nearest that it has is taken and said.
"""

import dataclasses
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.audio_files.ffmpeg import Ffmpeg
from vocal_extraction.audio_files.tags import Attachments
from vocal_extraction.errors import ExtractionError
from vocal_extraction.settings import EXTRACTED_FORMATS, ExtractionSettings

SAMPLE_BITS = {"wav16": 16, "wav24": 24, "flac": 24}
"""Bits of a sample in the formats that hold integers."""

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_AAC_RATES = (7_350, *_MP3_RATES, 64_000, 88_200, 96_000)
_RATES = {"mp3": _MP3_RATES, "m4a": _AAC_RATES}
_OGG_RATES = (8_000, 192_000)
_MOST_CHANNELS = {"mp3": 2, "ogg": 8, "m4a": 8, "flac": 8}
_MOST_KBPS = {"mp3": 320}
_VORBIS_KBPS = (45, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)
"""What libvorbis's qualities -1 to 10 come to for two channels at 44.1 kHz."""


_QUEUE = ["-thread_queue_size", "512"]
"""Packets that ffmpeg reads ahead. With tags as a second input it reads in a thread of its own, and naps for 10 ms
whenever the few packets of its default are used up: ten times as long as the encoding takes."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """How the stems of one song are written."""

    format: str
    sample_rate: int
    """Of what is fed."""
    n_channels: int
    """Of what is fed."""
    channel_layout: str | None
    coded_rate: int
    coded_channels: int
    bitrate_kbps: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from the song because the format has no better."""
        notes = []
        if self.coded_rate != self.sample_rate:
            notes.append(f"{self.format} has no {self.sample_rate} Hz: written at {self.coded_rate} Hz")
        if self.coded_channels != self.n_channels:
            notes.append(f"{self.format} has no {self.n_channels} channels: mixed down to {self.coded_channels}")
        if self.format == "m4a":
            notes.append(
                "m4a holds whole frames of 1024 samples: a player may hear part of a frame of silence at the end"
            )
        return tuple(notes)


def choose_coding(
    settings: ExtractionSettings, *, sample_rate: int, n_channels: int, channel_layout: str | None
) -> Coding:
    """Choose the nearest to the song that the format has.

    Raises
    ------
    ExtractionError
        If the format cannot hold so many channels.
    """
    name = settings.format
    most_channels = _MOST_CHANNELS.get(name, n_channels)
    coded_channels = n_channels
    if n_channels > most_channels:
        if name != "mp3" or n_channels > _MOST_CHANNELS["flac"]:
            raise ExtractionError(
                f"The song has {n_channels} channels, {name} holds {most_channels} at most. Choose --format wav24."
            )
        coded_channels = most_channels
    return Coding(
        name,
        sample_rate,
        n_channels,
        channel_layout if n_channels > 2 else None,
        _nearest_rate(name, sample_rate),
        coded_channels,
        min(settings.bitrate_kbps, _MOST_KBPS.get(name, settings.bitrate_kbps)),
    )


def _nearest_rate(name: str, sample_rate: int) -> int:
    """Return the lowest rate of the format that loses nothing, or its highest.

    >>> _nearest_rate("mp3", 44_100), _nearest_rate("mp3", 37_800), _nearest_rate("mp3", 96_000)
    (44100, 44100, 48000)
    """
    if name == "ogg":
        return min(max(sample_rate, _OGG_RATES[0]), _OGG_RATES[1])
    rates = _RATES.get(name, (sample_rate,))
    return min((rate for rate in rates if rate >= sample_rate), default=rates[-1])


class StemWriter:
    """One stem on its way to a file; use it in a ``with`` statement, and `finish` it.

    Parameters
    ----------
    path
        Where to, None for standard output.
    coding
        What `choose_coding` returned.
    attachments
        Tags and cover, None for none.
    """

    def __init__(self, path: Path | None, coding: Coding, *, attachments: Attachments | None = None) -> None:
        self._dtype, raw, codec = _codec(coding)
        layout = ["-channel_layout", coding.channel_layout] if coding.channel_layout else []
        arguments = [
            *_QUEUE,
            "-f",
            raw,
            "-ar",
            str(coding.sample_rate),
            "-ac",
            str(coding.n_channels),
            *layout,
            "-i",
            "pipe:0",
        ]
        if attachments is not None:
            arguments += attachments.inputs()
        arguments += ["-map", "0:a:0", *(attachments.outputs() if attachments is not None else []), *codec]
        arguments += ["-ar", str(coding.coded_rate), "-ac", str(coding.coded_channels), "-fflags", "+bitexact", "-y"]
        container = {"m4a": "ipod"}.get(EXTRACTED_FORMATS[coding.format], EXTRACTED_FORMATS[coding.format])
        self._ffmpeg = Ffmpeg([*arguments, "-f", container, "pipe:1" if path is None else f"file:{path}"], writes=True)

    def __enter__(self) -> "StemWriter":
        """Feed it now."""
        self._ffmpeg.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the encoder, whether or not it is done."""
        self._ffmpeg.__exit__(kind, error, trace)

    def write(self, samples: NDArray[np.float32]) -> None:
        """Encode samples, in units of the format where it holds integers. Shape: (n_channels, n_samples)."""
        turned = np.ascontiguousarray(samples.T)
        data = turned.astype(self._dtype, copy=False)
        if self._dtype == "<i4":
            data = data << 8  # 24 bits stand in the upper bits of 32
        try:
            self._ffmpeg.write(memoryview(data.tobytes()))
        except BrokenPipeError:
            # ffmpeg ended early: its own words tell more.
            self._ffmpeg.close()
            raise

    def finish(self) -> None:
        """Wait until all is written.

        Raises
        ------
        OSError
            If the disk is full, or nobody reads standard output any more.
        ExtractionError
            If ffmpeg failed.
        """
        self._ffmpeg.close()


def _codec(coding: Coding) -> tuple[str, str, list[str]]:
    """Return the type of the samples that are fed, ffmpeg's name for it, and the encoder with its options."""
    rate = ["-b:a", f"{coding.bitrate_kbps}k"]
    match coding.format:
        case "wav16":
            return "<i2", "s16le", ["-c:a", "pcm_s16le", "-rf64", "auto"]
        case "wav24":
            return "<i4", "s32le", ["-c:a", "pcm_s24le", "-rf64", "auto"]
        case "flac":
            return "<i4", "s32le", ["-c:a", "flac", "-sample_fmt", "s32", "-bits_per_raw_sample", "24"]
        case "mp3":
            return "<f4", "f32le", ["-c:a", "libmp3lame", *rate, "-id3v2_version", "3"]
        case "m4a":
            return "<f4", "f32le", ["-c:a", "aac", *rate]
        case "ogg":
            return "<f4", "f32le", ["-c:a", "libvorbis", "-q:a", f"{_vorbis_quality(coding):.2f}"]
        case _:
            return "<f4", "f32le", ["-c:a", "pcm_f32le", "-rf64", "auto"]


def _vorbis_quality(coding: Coding) -> float:
    """Return the quality that comes near a bit rate; asked for the rate itself, libvorbis refuses many combinations."""
    per_pair = coding.bitrate_kbps * 2 / coding.coded_channels * 44_100 / max(coding.coded_rate, 22_050)
    return float(np.interp(per_pair, _VORBIS_KBPS, np.arange(-1, 11)))
