"""The stems of a song, in any formats, into wavs of one sample rate and one length that lie side by side."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.audio_files.probing import examine
from vocal_extraction.errors import DamagedSongError

_SAME_TIME_NS = 2 * 10**9  # file systems keep times to 2 s or better


def convert_stems(stems: Sequence[Path], wavs: Sequence[Path], *, sample_rate: int | None = None) -> None:
    """Decode the stems of one song to 32-bit float wavs, all or none, unless that was done before.

    Shorter stems end in silence. A wav gets its stem's modification time, which shows whether it is up to date. Without
    a `sample_rate`, the highest of the stems is taken.
    """
    if are_converted(stems, wavs):
        return
    rate = sample_rate or max(examine(stem).sample_rate for stem in stems)
    with contextlib.ExitStack() as stack:
        files = []
        for stem, wav in zip(stems, wavs, strict=True):
            reader = stack.enter_context(SongReader(examine(stem)))
            temporary = stack.enter_context(whole_file(wav))
            file = stack.enter_context(soundfile.SoundFile(temporary, "w", rate, reader.n_channels, "FLOAT"))
            for block in _resampled(reader, rate):
                file.write(block)
            if reader.gaps:  # the stems would drift apart
                raise DamagedSongError(f"{stem} is {reader.notes[-1]}. Export it again.")
            files.append(file)
        longest = max(file.frames for file in files)
        for file in files:
            file.write(np.zeros((longest - file.frames, file.channels), dtype=np.float32))
    for stem, wav in zip(stems, wavs, strict=True):
        os.utime(wav, ns=(0, stem.stat().st_mtime_ns))


def are_converted(stems: Iterable[Path], wavs: Iterable[Path]) -> bool:
    """Whether all wavs are there, from stems as they are now."""
    return all(
        wav.is_file() and abs(wav.stat().st_mtime_ns - stem.stat().st_mtime_ns) < _SAME_TIME_NS
        for stem, wav in zip(stems, wavs, strict=True)
    )


def _resampled(reader: SongReader, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield the blocks (n_samples, n_channels) of a song at another sample rate."""
    if reader.sample_rate == sample_rate:
        yield from reader.blocks()
        return
    stream = soxr.ResampleStream(reader.sample_rate, sample_rate, reader.n_channels, dtype="float32")
    for block in reader.blocks():
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros((0, reader.n_channels), dtype=np.float32), last=True)
