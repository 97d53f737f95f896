"""Songs in, one estimate for each source out: at any length and rate, and in constant memory if they are on disk.

A song is resampled to the model's rate and its estimates back to the song's, while other threads are at work on chunks
that are there already (`song`). What comes out has the song's length.
"""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError
from vocal_extraction.separation.disk_array import Array, DiskArray, Scratch
from vocal_extraction.separation.layerwise import TorchRuntime, layerwise_network
from vocal_extraction.separation.song import SongSeparation
from vocal_extraction.separation.stems import stem_plan
from vocal_extraction.separation.workers import worker_pool
from vocal_extraction.settings import ExtractionSettings

Progress = Callable[[float, float | None], None]
"""Called with the seconds of audio that are done, and the seconds in all, None where nobody knows."""
Cancelled = Callable[[], bool]
"""Asked from time to time whether to stop."""


class Separator:
    """A loaded model at work on songs.

    Parameters
    ----------
    model
        What `checkpointing.load_checkpoint` returned.
    mask
        'soft' or 'binary', see `masking.source_mask`.
    phase
        'mixture' or 'griffin-lim'.
    chunk_s
        Length of a chunk in seconds, without context; networks of layers take at most 2 on a CPU.
    context_s
        Context on either side, for Griffin-Lim and for networks that know chunks only.
    pool
        Threads from `workers.worker_pool`, which several songs may share; None makes some for each song.
    folder
        Where arrays lie if the song is a `DiskArray`; None is the folder for temporary files.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        mask: str = ExtractionSettings.mask,
        phase: str = ExtractionSettings.phase,
        chunk_s: float = ExtractionSettings.chunk_s,
        context_s: float = ExtractionSettings.context_s,
        pool: ThreadPoolExecutor | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model, self._pool, self._folder = model, pool, folder
        self._settings = ExtractionSettings(mask=mask, phase=phase, chunk_s=chunk_s, context_s=context_s)
        layers = layerwise_network(model.network) if model.output == "mask" else None
        self._runtime = None if layers is None else TorchRuntime(layers, model.device)

    def __call__(
        self,
        mixture: Array,
        sample_rate: int,
        *,
        sources: Sequence[str] | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> dict[str, Array]:
        """Estimate sources of a song.

        Parameters
        ----------
        mixture
            Full scale is 1. Shape: (n_samples, n_channels).
        sample_rate
            Samples per second, any.
        sources
            Which of the model's; None is all.
        progress
            Called as ``progress(done_s, total_s)`` from this thread.
        cancelled
            Called without arguments; returns True to stop.

        Returns
        -------
        dict of arrays
            By source, of the mixture's shape: in memory if the mixture is, else `DiskArray`, which the caller closes.

        Raises
        ------
        ExtractionError
            If a sample is NaN, infinite or absurdly large.
        ExtractionCancelledError
            If `cancelled` said so.
        """
        duration_s = len(mixture) / sample_rate

        def tick(share: float) -> None:
            if cancelled is not None and cancelled():
                raise ExtractionCancelledError
            if progress is not None:
                progress(share * duration_s, duration_s)

        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(Scratch(on_disk=isinstance(mixture, DiskArray), folder=self._folder))
            pool = self._pool or stack.enter_context(worker_pool(self.model))
            names = self.model.sources if sources is None else sources
            song = SongSeparation(
                mixture, sample_rate, self.model, self._runtime, self._settings, sources=names, scratch=scratch
            )
            return {name: scratch.release(array) for name, array in song.estimate(pool, tick).items()}


def separate(
    mixture: NDArray[np.floating[Any]],
    sample_rate: int,
    *,
    model: LoadedModel,
    stems: Sequence[str] | None = None,
    mask: str = ExtractionSettings.mask,
    phase: str = ExtractionSettings.phase,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Separate an array into stems.

    Parameters
    ----------
    mixture
        Samples, full scale is 1. Shape: (n_channels, n_samples).
    sample_rate
        Samples per second, any; the network takes the signal at its own rate.
    model, mask, phase, progress, cancelled
        As for `Separator`.
    stems
        Which, see `stems.stem_plan`; None is vocals and accompaniment, or all stems of a model without vocals.

    Returns
    -------
    dict
        By stem: 32-bit floats. Where several stems are asked for, they add up to the mixture to rounding. Shape of
        each: (n_channels, n_samples).

    Raises
    ------
    ExtractionError
        If the array has another shape, or holds NaN or infinity, or the model does not have a stem.
    ExtractionCancelledError
        If `cancelled` said so.
    """
    samples = np.asarray(mixture, np.float32)
    if samples.ndim != 2 or samples.shape[0] == 0:
        raise ExtractionError(f"The mixture has shape {np.shape(mixture)}, expected (n_channels, n_samples).")
    if sample_rate <= 0:
        raise ExtractionError(f"The sample rate is {sample_rate}, expected samples per second, more than 0.")
    plan = stem_plan(model.sources, stems)
    estimates = Separator(model, mask=mask, phase=phase)(
        samples.T, sample_rate, sources=plan.sources, progress=progress, cancelled=cancelled
    )
    return plan.stems_of(samples, {name: estimate[:].T for name, estimate in estimates.items()})
