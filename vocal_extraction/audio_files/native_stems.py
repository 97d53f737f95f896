"""Native Instruments' stem files: an MP4 of five audio streams, the mixture first, with a box that names the others.

DJ programs read names and colours from ``moov.udta.stem``, which is JSON (www.stems-music.com, version 1).
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, input_arguments

_COLORS = {"drums": "#009E73", "bass": "#D55E00", "other": "#CC79A7", "vocals": "#56B4E9"}
_MASTERING = {  # what players do to the sum of stems that are changed: nothing
    "compressor": {
        "enabled": False, "ratio": 3, "input_gain": 0.5, "output_gain": 0.5, "threshold": 0, "attack": 0.003,
        "release": 0.3, "hp_cutoff": 300, "dry_wet": 50,
    },
    "limiter": {"enabled": False, "threshold": 0, "ceiling": -0.35, "release": 0.05},
}  # fmt: skip


def native_order(names: Iterable[str]) -> list[str]:
    """Return stems in the format's usual order: drums, bass, other, vocals, and what has other names behind."""
    return sorted(names, key=lambda name: [*_COLORS, name].index(name))


def write_native_stems(mixture: Path, stems: Mapping[str, Path], target: Path) -> None:
    """Join the coded files (m4a) of a mixture, with its tags and cover, and of its stems to a stem file."""
    stems = {name: stems[name] for name in native_order(stems)}
    inputs = [argument for path in (mixture, *stems.values()) for argument in input_arguments(path)]
    streams = [argument for i in range(1 + len(stems)) for argument in ("-map", f"{i}:a:0")]
    shown = ["-disposition:a", "0", "-disposition:a:0", "default", "-disposition:v", "attached_pic"]
    coded = ["-c", "copy", "-map_metadata", "0", "-fflags", "+bitexact", "-f", "mp4", "-y", f"file:{target}"]
    with Ffmpeg([*inputs, *streams, "-map", "0:v?", *shown, *coded]) as ffmpeg:
        ffmpeg.close()
    described = [{"name": name.capitalize(), "color": _COLORS.get(name, "#999999")} for name in stems]
    content = {"version": 1, "mastering_dsp": _MASTERING, "stems": described}
    with open(target, "r+b") as file:
        _add_to_user_data(file, _box(b"stem", json.dumps(content).encode()))


def _add_to_user_data(file: IO[bytes], box: bytes) -> None:
    """Put a box into ``moov.udta``. ffmpeg writes ``moov`` behind the samples, whose places then stay the same."""
    start = 0
    while True:
        file.seek(start)
        size, kind, large_size = struct.unpack(">I4sQ", file.read(16))
        if kind == b"moov":
            break
        start += large_size if size == 1 else size
    file.seek(start + 8)
    movie, at = file.read(), 0
    while at < len(movie) and movie[at + 4 : at + 8] != b"udta":
        at += int(struct.unpack_from(">I", movie, at)[0])
    user_data = movie[at + 8 :]  # of the boxes in a movie, ffmpeg writes it last
    file.seek(start)
    file.write(_box(b"moov", movie[:at] + _box(b"udta", user_data + box)))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
