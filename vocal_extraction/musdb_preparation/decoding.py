"""A song's five signals, block by block, from one ffmpeg process: five times as fast as the `musdb` package.

All signals get the mixture's length: shorter ones end in silence, longer ones are cut.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError, input_arguments
from vocal_extraction.audio_files.integrity import find_header_damage
from vocal_extraction.musdb_preparation.layout import N_CHANNELS, SAMPLE_RATE, STREAMS, PreparationError
from vocal_extraction.musdb_preparation.sources import Song

_FRAME_BYTES = len(STREAMS) * N_CHANNELS * 4
_REMEDY = "Copy it again from where it came from or take it away, and run the same command again."
Block = NDArray[np.float32]  # samples of all five signals: (n_samples, n_streams=5, n_channels=2)


def song_blocks(song: Song, stop: threading.Event) -> Iterator[Block]:
    """Yield the song's samples, in the order of `STREAMS`; raise PreparationError on damage, or when `stop` is set."""
    if not song.is_coded:
        for path in song.files:
            _check_wav(path)
    n_samples, held = 0, b""
    try:
        with Ffmpeg(_arguments(song), reads=True) as ffmpeg:
            while data := ffmpeg.read():
                if stop.is_set():
                    raise PreparationError(f"{song.name} was not decoded, since the preparation was stopped.")
                held += data
                n_bytes = len(held) - len(held) % _FRAME_BYTES
                block = np.frombuffer(held[:n_bytes], dtype="<f4").reshape(-1, len(STREAMS), N_CHANNELS)
                if not np.isfinite(block).all():
                    raise PreparationError(f"The song {song.name} holds samples that are not numbers. {_REMEDY}")
                n_samples += len(block)
                held = held[n_bytes:]
                yield block
            ffmpeg.close()
    except ProgramError as error:
        reason = str(error).replace("ffmpeg failed:", "it is truncated or damaged, ffmpeg says:")
        if "matches no streams" in reason:
            reason = f"it does not hold {len(STREAMS)} audio streams."
        raise PreparationError(f"{song.place} cannot be decoded: {reason} {_REMEDY}") from error
    if n_samples == 0:
        raise PreparationError(f"The mixture of {song.place} is empty. {_REMEDY}")


def _arguments(song: Song) -> list[str]:
    """Return what makes ffmpeg write the five signals as ten interleaved channels.

    Mono goes into both channels. Every signal but the mixture is padded, so that the mixture sets the length. Any
    damage ends ffmpeg (-xerror): half a song must not pass for a whole one.
    """
    sources = [f"0:a:{i}" if song.is_coded else f"{i}:a" for i in range(len(STREAMS))]
    stereo = [
        f"[{source}]aformat=flt,pan=stereo|FL=FL+FC|FR=FR+FC{',apad' if i else ''}[s{i}]"
        for i, source in enumerate(sources)
    ]
    together = "".join(f"[s{i}]" for i in range(len(STREAMS))) + f"amerge=inputs={len(STREAMS)}"
    kind = "mov" if song.is_coded else "wav"
    files = [argument for path in song.files for argument in ("-f", kind, *input_arguments(path.absolute()))]
    filters = ["-filter_complex", ";".join([*stereo, together])]
    return ["-xerror", *files, *filters, "-ar", str(SAMPLE_RATE), "-f", "f32le", "pipe:1"]


def _check_wav(path: Path) -> None:
    """Raise PreparationError if a file is no wav or truncated, which ffmpeg would overlook."""
    try:
        soundfile.info(path)
        damage = find_header_damage(path, "wav")
    except (OSError, soundfile.LibsndfileError) as error:
        raise PreparationError(f"{path} cannot be read: {error}. {_REMEDY}") from error
    if damage is not None:
        raise PreparationError(f"{path} is truncated: {damage}. {_REMEDY}")
