"""A song's five signals, block by block.

A stem file is decoded by one ffmpeg process, which gives all streams at once; that takes a fifth of the time of the
`musdb` package, which starts ffmpeg seven times and rounds to 16 bits. Wavs need no decoder. All signals get the
mixture's length: shorter ones end in silence, longer ones are cut.
"""

import contextlib
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError, input_arguments
from vocal_extraction.audio_files.integrity import find_header_damage
from vocal_extraction.musdb_preparation.layout import N_CHANNELS, SAMPLE_RATE, STREAMS, PreparationError
from vocal_extraction.musdb_preparation.sources import Song

_BLOCK_SAMPLES = 1 << 16
_REMEDY = "Copy it again from where it came from or take it away, and run the same command again."

Block = NDArray[np.float32]
"""Samples of all five signals: (n_samples, n_streams=5, n_channels=2)."""


def song_blocks(song: Song, stop: threading.Event) -> Iterator[Block]:
    """Yield the song's samples, in the order of `STREAMS`.

    Raises PreparationError if it cannot be decoded to the end, is empty or not finite, or when `stop` is set.
    """
    blocks = _stem_file_blocks(song.files[0]) if song.is_coded else _wav_blocks(song.files)
    n_samples = 0
    with contextlib.closing(blocks):
        for block in blocks:
            if stop.is_set():
                raise PreparationError(f"{song.name} was not decoded, since the preparation was stopped.")
            if not np.isfinite(block).all():
                raise PreparationError(f"The song {song.name} holds samples that are not numbers. {_REMEDY}")
            n_samples += len(block)
            yield block
    if n_samples == 0:
        raise PreparationError(f"The mixture of {song.files[0]} is empty. {_REMEDY}")


def _stem_file_blocks(path: Path) -> Generator[Block, None, None]:
    """Yield the five streams of a stem file, which ffmpeg writes as ten interleaved channels.

    Mono goes into both channels. Every stream but the mixture is padded, so that the mixture sets the length. Any
    damage ends ffmpeg (-xerror): half a song must not pass for a whole one.
    """
    streams = range(len(STREAMS))
    stereo = [f"[0:a:{i}]pan=stereo|FL=FL+FC|FR=FR+FC{',apad' if i else ''}[s{i}]" for i in streams]
    together = "".join(f"[s{i}]" for i in streams) + f"amerge=inputs={len(STREAMS)}"
    source = ["-xerror", "-f", "mov", *input_arguments(path.absolute())]
    wanted = ["-filter_complex", ";".join([*stereo, together]), "-ar", str(SAMPLE_RATE), "-f", "f32le", "pipe:1"]
    frame_bytes = len(STREAMS) * N_CHANNELS * 4
    held = b""
    try:
        with Ffmpeg([*source, *wanted], reads=True) as ffmpeg:
            while data := ffmpeg.read():
                held += data
                n_bytes = len(held) - len(held) % frame_bytes
                yield np.frombuffer(held[:n_bytes], dtype="<f4").reshape(-1, len(STREAMS), N_CHANNELS)
                held = held[n_bytes:]
            ffmpeg.close()
    except ProgramError as error:
        raise PreparationError(f"{path} cannot be decoded: {_reason(error)} {_REMEDY}") from error


def _reason(error: ProgramError) -> str:
    if "matches no streams" in str(error):
        return f"it does not hold {len(STREAMS)} audio streams."
    return str(error).replace("ffmpeg failed:", "it is truncated or damaged, ffmpeg says:")


def _wav_blocks(paths: tuple[Path, ...]) -> Generator[Block, None, None]:
    """Yield five wavs side by side; mono goes into both channels."""
    with contextlib.ExitStack() as stack:
        wavs = [stack.enter_context(_open_wav(path)) for path in paths]
        for start in range(0, wavs[0].frames, _BLOCK_SAMPLES):
            n_samples = min(_BLOCK_SAMPLES, wavs[0].frames - start)
            block = np.empty((n_samples, len(wavs), N_CHANNELS), dtype=np.float32)
            for i, wav in enumerate(wavs):
                try:
                    block[:, i] = wav.read(n_samples, dtype="float32", always_2d=True, fill_value=0.0)
                except soundfile.LibsndfileError as error:
                    raise PreparationError(f"{paths[i]} cannot be read: {error}. {_REMEDY}") from error
            yield block


def _open_wav(path: Path) -> soundfile.SoundFile:
    """Open a wav that has all its bytes, the right rate and one or two channels."""
    try:
        damage = find_header_damage(path, "wav")
        wav = soundfile.SoundFile(path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise PreparationError(f"{path} cannot be read: {error}. {_REMEDY}") from error
    if damage is not None:
        raise PreparationError(f"{path} is truncated: {damage}. {_REMEDY}")
    if wav.samplerate != SAMPLE_RATE or wav.channels > N_CHANNELS:
        raise PreparationError(
            f"{path} has {wav.channels} channels at {wav.samplerate} Hz; MUSDB18 has {N_CHANNELS} at {SAMPLE_RATE} Hz. "
            f"Convert all five wavs of the song, for example: sox in.wav -r {SAMPLE_RATE} -c {N_CHANNELS} out.wav"
        )
    return wav
