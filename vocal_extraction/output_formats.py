"""The formats that stems are written in, a row of `FORMATS` each.

A new one is a row; every option that names formats takes it then::

    FORMATS["opus"] = Format("opus", ("libopus",), rates=(8_000, 12_000, 16_000, 24_000, 48_000), max_channels=8)
"""

import bisect
import dataclasses
from collections.abc import Callable, Sequence

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_VORBIS_KBPS = (45, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)  # qualities -1 to 10 in stereo


def _bitrate(kbps: int, sample_rate: int, n_channels: int) -> tuple[str, ...]:
    return ("-b:a", f"{kbps}k")


def _vorbis_quality(kbps: int, sample_rate: int, n_channels: int) -> tuple[str, ...]:
    """Return the quality nearest to a bit rate; libvorbis refuses many bit rates themselves."""
    per_pair = min(max(kbps * 2 / n_channels * 44_100 / max(sample_rate, 22_050), _VORBIS_KBPS[0]), _VORBIS_KBPS[-1])
    above = max(1, bisect.bisect_left(_VORBIS_KBPS, per_pair))
    low, high = _VORBIS_KBPS[above - 1 : above + 1]
    return ("-q:a", f"{above - 2 + (per_pair - low) / (high - low):.2f}")


@dataclasses.dataclass(frozen=True)
class Format:
    extension: str  # of the file's name, without the dot
    codec: tuple[str, ...]  # ffmpeg's encoder, and options that it always gets
    container: str = ""  # ffmpeg's name of the container; empty where it is the extension
    bits: int | None = None  # of integers, 16 or 24; None for floats and lossy formats
    is_lossless: bool = False
    rates: Sequence[int] | None = None  # sample rates that it has, ascending; None for all
    max_channels: int | None = None  # None for as many as there may be
    mixes_down: bool = False  # whether a song of more channels (up to 8) is mixed down rather than refused
    max_kbps: int = 512
    quality: Callable[[int, int, int], tuple[str, ...]] = _bitrate  # for (kbit/s, sample rate, channels)
    cover: str = ""  # how it holds one: 'stream', ffmpeg's attached picture, or 'tag', FLAC's picture block
    holds_all: bool = False  # whether one file holds the mixture and four stems (`audio_files.native_stems`)
    note: str = ""  # what there is to say of every file

    def nearest_rate(self, sample_rate: int) -> int:
        """Return the lowest rate of the format that loses nothing, or its highest.

        >>> [FORMATS["mp3"].nearest_rate(rate) for rate in (44_100, 37_800, 96_000)]
        [44100, 44100, 48000]
        """
        if self.rates is None:
            return sample_rate
        return self.rates[min(bisect.bisect_left(self.rates, sample_rate), len(self.rates) - 1)]


def _wav(encoder: str, bits: int | None) -> Format:
    return Format("wav", (encoder, "-rf64", "auto"), bits=bits, is_lossless=True)


FORMATS: dict[str, Format] = {
    "wav16": _wav("pcm_s16le", 16),
    "wav24": _wav("pcm_s24le", 24),
    "float": _wav("pcm_f32le", None),
    "flac": Format("flac", ("flac", "-sample_fmt", "s32", "-bits_per_raw_sample", "24"), bits=24, is_lossless=True,
                   max_channels=8, cover="stream"),
    "mp3": Format("mp3", ("libmp3lame", "-id3v2_version", "3"), rates=_MP3_RATES, max_channels=2, mixes_down=True,
                  max_kbps=320, cover="stream"),
    "ogg": Format("ogg", ("libvorbis",), rates=range(8_000, 192_001), max_channels=8, quality=_vorbis_quality,
                  cover="tag"),
    "m4a": Format("m4a", ("aac",), container="ipod", rates=(7_350, *_MP3_RATES, 64_000, 88_200, 96_000), max_channels=8,
                  cover="stream",
                  note="m4a holds whole frames of 1024 samples: part of a frame of silence may follow at the end"),
    "stem.mp4": Format("stem.mp4", ("aac",), container="ipod", rates=(44_100, 48_000), max_channels=2, mixes_down=True,
                       cover="stream", holds_all=True),
}  # fmt: skip
"""By the name that ``--format`` takes. 'float' is a wav of 32-bit floats, flac has 24 bits, stem.mp4 is one
file for DJ programs."""
