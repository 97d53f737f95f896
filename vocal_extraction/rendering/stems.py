"""Stems on disk: which songs there are, how long they are, and excerpts of them."""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from vocal_extraction.errors import VocalExtractionError

Audio = NDArray[np.float32]  # full scale is 1; (n_channels, n_samples) unless a docstring says otherwise

_REMEDY = "Prepare the dataset: python main.py prepare."
_CHANNELS_READ = {"left": [0], "right": [1], "stereo": [0, 1], "swapped": [1, 0]}


class RenderingError(VocalExtractionError):
    """A stem is missing, or could not be read or rendered; the text names it."""


def songs_of(folder: str | Path) -> list[str]:
    """Return the paths of the wav files in a stem's folder, in order; raise RenderingError if there are none."""
    songs = sorted(map(str, Path(folder).glob("*.wav")))
    if not songs:
        raise RenderingError(f"No wav files in {folder}. {_REMEDY}")
    return songs


def duration_s_of(path: str | Path) -> float:
    """Return the length of a stem in seconds; raise RenderingError if it is missing, empty or no audio."""
    try:
        duration_s: float = soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError) as error:
        raise RenderingError(f"Cannot read the stem {path} ({error}). {_REMEDY}") from error
    if duration_s <= 0:
        raise RenderingError(f"The stem {path} is empty. {_REMEDY}")
    return duration_s


def read_excerpt(
    path: str | Path, *, start_s: float, duration_s: float, sample_rate: int, channel: str = "mid"
) -> Audio:
    """Read an excerpt (n_channels, n_samples) of a stem; it ends early where the file does.

    The channel is 'left', 'right', 'mid' (the mean of all channels), 'side' (half the difference of the first two),
    'stereo', 'swapped' or 'doubled' (mid in both). A mono file has only 'mid', doubled where two are asked for.
    """
    # As scaper counts, so that both take the same samples.
    start_sample = int(start_s * sample_rate)
    n_samples = int((start_s + duration_s) * sample_rate) - start_sample
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            file.seek(min(start_sample, file.frames))
            samples = file.read(n_samples, dtype="float32", always_2d=True)  # (n_samples, n_channels)
    except (soundfile.LibsndfileError, OSError) as error:
        raise RenderingError(f"Cannot read the stem {path} ({error}). {_REMEDY}") from error
    if rate != sample_rate:
        raise RenderingError(f"The stem {path} has {rate} Hz, but {sample_rate} Hz were expected. {_REMEDY}")
    n_channels = samples.shape[1]
    if channel in _CHANNELS_READ and n_channels > 1:
        return np.ascontiguousarray(samples.T[_CHANNELS_READ[channel]])
    weights = np.full(n_channels, 1 / n_channels, dtype=np.float32)
    if channel == "side" and n_channels > 1:
        weights = np.array([0.5, -0.5, *[0.0] * (n_channels - 2)], dtype=np.float32)
    # NumPy's mean over so short an axis takes ten times as long, and its product with a vector occupies all cores.
    alone = sum(weight * samples[:, i] for i, weight in enumerate(weights))[None]
    return np.tile(alone, (2, 1)) if channel in ("stereo", "swapped", "doubled") else alone
