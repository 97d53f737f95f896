"""A region of a song separated and put back: outside of it every source is silent, so residuals are the song itself."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vocal_extraction.errors import ExtractionError
from vocal_extraction.separation import Cancelled, DiskArray, Progress, Separator
from vocal_extraction.separation.disk_array import Array
from vocal_extraction.settings import ExtractionSettings

_FADE_S = 0.01
"""At the region's ends within the song, so that the stems do not click."""
_BLOCK_SAMPLES = 2**16


def separate_region(
    separator: Separator,
    mixture: DiskArray,
    sample_rate: int,
    *,
    settings: ExtractionSettings,
    sources: Sequence[str],
    folder: Path | None,
    progress: Progress,
    cancelled: Cancelled | None,
) -> dict[str, Array]:
    """Estimate sources between ``settings.from_s`` and ``settings.to_s``; return arrays of the song's length.

    The network also gets ``settings.context_s`` of the song on either side.

    Raises
    ------
    ExtractionError
        If the song ends before the region begins.
    """
    n_samples, n_channels = mixture.shape
    end_s = n_samples / sample_rate if settings.to_s is None else settings.to_s
    start, stop = round(settings.from_s * sample_rate), min(round(end_s * sample_rate), n_samples)
    if start >= stop:
        raise ExtractionError(
            f"The region begins at {settings.from_s:g} s, and the song ends at {n_samples / sample_rate:g} s. "
            "Choose an earlier --from."
        )
    context = round(settings.context_s * sample_rate)
    first, last = max(0, start - context), min(n_samples, stop + context)
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(DiskArray((n_channels,), folder))
        for begin in range(first, last, _BLOCK_SAMPLES):
            part.append(mixture[begin : min(begin + _BLOCK_SAMPLES, last)])

        def scaled_progress(done_s: float, total_s: float | None) -> None:
            progress(done_s * n_samples / len(part), total_s)

        estimates = separator(part, sample_rate, sources=sources, progress=scaled_progress, cancelled=cancelled)
        placed: dict[str, Array] = {}
        for name, estimate in estimates.items():
            placed[name] = DiskArray((n_channels,), folder, n_rows=n_samples)
            for begin in range(start, stop, _BLOCK_SAMPLES):
                at = np.arange(begin, min(begin + _BLOCK_SAMPLES, stop))
                rising = (at - start + 0.5) / (_FADE_S * sample_rate) if start > 0 else np.ones(len(at))
                falling = (stop - at - 0.5) / (_FADE_S * sample_rate) if stop < n_samples else np.ones(len(at))
                gain = np.clip(np.minimum(rising, falling), 0.0, 1.0)[:, None]
                placed[name][begin:stop] = gain * estimate[begin - first : at[-1] + 1 - first]
            if isinstance(estimate, DiskArray):
                estimate.close()
    return placed
