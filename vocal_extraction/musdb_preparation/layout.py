"""Where a prepared song lies, and how it is written::

    dataset/<subset>/foreground/<stem>/<song>.wav    bass, drums, other, vocals
    dataset/<subset>/mixture/<song>.wav              the mixture as published, not the sum of the coded stems
    dataset/<subset>/background/                     empty; scaper asks for it

All are stereo at 44.1 kHz and hold 32-bit floats, since decoded AAC overshoots full scale.
"""

import contextlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.settings import DATASET_FOLDER, STEMS

SUBSETS = ("train", "valid", "test")
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # in the order of a stem file's audio streams
SAMPLE_RATE = 44_100  # samples per second of MUSDB18, and of every song that is written here
N_CHANNELS = 2
_BYTES_PER_SAMPLE = 4 * N_CHANNELS


class PreparationError(VocalExtractionError):
    """Songs could not be found, fetched, decoded or kept; the text says which and what to do."""


def song_paths(dataset_folder: str | os.PathLike[str], subset: str, song: str) -> dict[str, Path]:
    """Return the five files of `song` in the order of `STREAMS`.

    >>> song_paths("dataset", "train", "A - B")["vocals"].as_posix()
    'dataset/train/foreground/vocals/A - B.wav'
    """
    folder = Path(dataset_folder) / subset
    stems = {stem: folder / "foreground" / stem / f"{song}.wav" for stem in STREAMS[1:]}
    return {"mixture": folder / "mixture" / f"{song}.wav", **stems}


def song_names(subset: str, dataset_folder: str | os.PathLike[str] = DATASET_FOLDER) -> list[str]:
    """Return the sorted names of the songs of `subset` whose five files are all there; none if there is no folder."""
    folders = [path.parent for path in song_paths(dataset_folder, subset, "any").values()]
    return sorted(set.intersection(*({wav.stem for wav in folder.glob("[!.]*.wav")} for folder in folders)))


def prepared_length(dataset_folder: str | os.PathLike[str], subset: str, song: str) -> int:
    """Return the length of a song in samples, or 0 if one of its five files is missing or shorter than the others."""
    try:
        n_bytes = {path.stat().st_size for path in song_paths(dataset_folder, subset, song).values()}
    except FileNotFoundError:
        return 0
    return (n_bytes.pop() - len(_wav_header(0))) // _BYTES_PER_SAMPLE if len(n_bytes) == 1 else 0


def make_folders(dataset_folder: str | os.PathLike[str]) -> None:
    """Make every folder of the layout that is missing; raise PreparationError if one cannot be made."""
    for subset in SUBSETS:
        for part in ("background", "mixture", *(f"foreground/{stem}" for stem in STEMS)):
            folder = Path(dataset_folder) / subset / part
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PreparationError(
                    f"Cannot make the folder {folder}: {error.strerror}. Choose another dataset folder."
                ) from error


def write_song(
    dataset_folder: str | os.PathLike[str], subset: str, song: str, blocks: Iterable[NDArray[np.floating]]
) -> None:
    """Write blocks (n_samples, n_streams=5, n_channels=2) to a song's five wavs, which appear when all are complete."""
    with contextlib.ExitStack() as stack:
        paths = song_paths(dataset_folder, subset, song).values()
        append_to = [stack.enter_context(_whole_wav(path)) for path in paths]
        for block in blocks:
            for append, samples in zip(append_to, block.swapaxes(0, 1), strict=True):
                append(samples)


@contextlib.contextmanager
def _whole_wav(path: Path) -> Iterator[Callable[[NDArray[np.floating]], int]]:
    """Yield a function that appends samples (n_samples, n_channels=2) to the wav."""
    with whole_file(path) as aside, open(aside, "wb") as file:
        file.write(_wav_header(0))
        yield lambda samples: file.write(np.ascontiguousarray(samples, dtype="<f4").tobytes())
        n_bytes = file.tell() - len(_wav_header(0))
        file.seek(0)
        file.write(_wav_header(n_bytes))


def _wav_header(n_bytes: int) -> bytes:
    """Return the header of a float wav. (SoX complains about those of libsndfile and ffmpeg, which lack a field.)"""
    encoding = struct.pack(
        "<HHIIHHH", 3, N_CHANNELS, SAMPLE_RATE, SAMPLE_RATE * _BYTES_PER_SAMPLE, _BYTES_PER_SAMPLE, 32, 0
    )
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", len(encoding)) + encoding
    chunks += b"fact" + struct.pack("<II", 4, n_bytes // _BYTES_PER_SAMPLE) + b"data" + struct.pack("<I", n_bytes)
    return b"RIFF" + struct.pack("<I", len(chunks) + n_bytes) + chunks
