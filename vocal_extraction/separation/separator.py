"""Songs in, one estimate for each source out: at any length and rate, and in constant memory if they are on disk.

A song is resampled to the model's rate and its estimates back to the song's, while other threads are at work on chunks
that are there already (`song`). What comes out has the song's length.
"""

import contextlib
import math
import numbers
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.checkpointing import (
    LoadedModel,
    default_checkpoint,
    load_checkpoint,
    named_checkpoint,
    named_checkpoints,
)
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError
from vocal_extraction.separation.disk_array import Array, DiskArray, Scratch
from vocal_extraction.separation.layerwise import Runtime, runtime_of
from vocal_extraction.separation.song import SongSeparation
from vocal_extraction.separation.stems import stem_plan
from vocal_extraction.separation.workers import worker_pool
from vocal_extraction.settings import ExtractionSettings

Progress = Callable[[float, float | None], None]  # seconds that are done, and in all, None if unknown
Cancelled = Callable[[], bool]  # asked from time to time whether to stop
_MEASURED_S = (1.0, 10.0)  # what is separated to measure the speed; the first is for what is done only once
_MOST_CHANNELS = 16  # an array with more channels than this, and than samples, has its axes the other way round
_BLOCK_SAMPLES = 2**16
_LOWEST_RATE = 1_000  # a lower one is in kHz, or no rate at all; it would make a song of a minute one of days


class Separator:
    """A loaded model at work on songs, with the mask, phase, chunk, context and Wiener filter of the settings.

    `pool` are threads from `workers.worker_pool`, which several songs may share; None makes some for each song. Arrays
    lie in `folder` if the song is a `DiskArray`; None is the folder for temporary files. Raises ExtractionError if the
    filter is asked for and there are not soft masks of several sources.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: ExtractionSettings = ExtractionSettings(),
        *,
        pool: ThreadPoolExecutor | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model, self.settings, self._pool, self.folder = model, settings, pool, folder
        self._members: list[Separator] = []
        if model.output == "mean":
            self._members = [Separator(each, settings, pool=pool, folder=folder) for each in model.members]
            self.runtime: str = " and ".join(sorted({member.runtime for member in self._members}))
            return
        masks = (model.output, settings.mask, settings.phase) == ("mask", "soft", "mixture")
        if settings.wiener and not (masks and len(model.sources) > 1):
            raise ExtractionError(
                f"The Wiener filter takes soft masks of two sources or more, and the mixture's phase; {model.path} has "
                f"{', '.join(model.sources)}."
            )
        self._runtimes: dict[tuple[str, ...], tuple[LoadedModel, Runtime]] = {}
        self.runtime = self._for(model.sources)[1].name

    def _for(self, names: tuple[str, ...]) -> tuple[LoadedModel, Runtime]:
        """Return the model, without networks that are for other sources alone, and what runs it."""
        if names not in self._runtimes:
            model = self.model if self.settings.wiener else self.model.only(names)
            self._runtimes[names] = model, runtime_of(model)
        return self._runtimes[names]

    def __call__(
        self,
        mixture: Array,
        sample_rate: int,
        *,
        sources: Sequence[str] | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> dict[str, Array]:
        """Estimate sources of a song, (n_samples, n_channels), full scale 1, at any sample rate; None is all sources.

        `progress` is called as ``progress(done_s, total_s)`` from this thread, `cancelled` without arguments; it says
        True to stop. Returns arrays of the mixture's shape by source: in memory if the mixture is, else `DiskArray`,
        which the caller closes. Raises ExtractionError if a sample is NaN, infinite or absurdly large, and
        ExtractionCancelledError if `cancelled` said so.
        """
        duration_s = len(mixture) / sample_rate

        def tick(share: float) -> None:
            if cancelled is not None and cancelled():
                raise ExtractionCancelledError
            if progress is not None:
                progress(share * duration_s, duration_s)

        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(Scratch(on_disk=isinstance(mixture, DiskArray), folder=self.folder))
            names = self.model.sources if sources is None else sources
            if self._members:
                means = self._means(mixture, sample_rate, names, scratch, tick)
                return {name: scratch.release(array) for name, array in means.items()}
            pool = self._pool or stack.enter_context(worker_pool(self.model))
            model, runtime = self._for(tuple(names))
            song = SongSeparation(
                mixture, sample_rate, model, runtime, self.settings, sources=names, scratch=scratch, pool=pool
            )
            return {name: scratch.release(array) for name, array in song.estimate(tick).items()}

    def _means(
        self, mixture: Array, sample_rate: int, names: Sequence[str], scratch: Scratch, tick: Callable[[float], None]
    ) -> dict[str, Array]:
        """Estimate sources as the mean of the members' estimates, one member after the other."""
        means = {name: scratch.new(len(mixture), mixture.shape[1]) for name in names}
        n_before = dict.fromkeys(names, 0)
        for number, member in enumerate(self._members):

            def move(done_s: float, total_s: float | None, number: int = number) -> None:
                tick((number + done_s / (total_s or math.inf)) / len(self._members))

            shared = [name for name in names if name in member.model.sources]
            for name, estimate in member(mixture, sample_rate, sources=shared, progress=move).items():
                mean, n_before[name] = means[name], n_before[name] + 1
                for start in range(0, len(mixture), _BLOCK_SAMPLES):
                    rows = slice(start, min(start + _BLOCK_SAMPLES, len(mixture)))
                    mean[rows] = mean[rows] + (estimate[rows] - mean[rows]) / n_before[name]
                if isinstance(estimate, DiskArray):
                    estimate.close()
        return means


def separate(
    mixture: Any,
    sample_rate: int,
    *,
    model: LoadedModel | str | Path | None = None,
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
        Samples: an array or a tensor of floats, full scale 1, or of integers of 8, 16 or 32 bits, full scale their
        range. Shape: (n_channels, n_samples).
    sample_rate
        Samples per second, any whole number from 1000; the network takes the signal at its own rate.
    model
        See `load_model`.
    mask, phase, progress, cancelled
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
        If the array has another shape or type, or holds NaN or infinity, or the model does not have a stem.
    ExtractionCancelledError
        If `cancelled` said so.
    """
    samples = _samples_of(mixture)
    is_number = isinstance(sample_rate, numbers.Real)
    if not (is_number and _LOWEST_RATE <= sample_rate < math.inf and sample_rate % 1 == 0):
        raise ExtractionError(
            f"The sample rate is {sample_rate!r}, expected samples per second, a whole number from {_LOWEST_RATE}."
        )
    loaded = load_model(model)
    plan = stem_plan(loaded.sources, stems)
    estimates = Separator(loaded, ExtractionSettings(mask=mask, phase=phase))(
        samples.T, int(sample_rate), sources=plan.sources, progress=progress, cancelled=cancelled
    )
    return plan.stems_of(samples, {name: estimate[:].T for name, estimate in estimates.items()})


def load_model(
    model: LoadedModel | str | Path | None = None,
    *,
    preset_name: str | None = None,
    device: str = "auto",
    runtime: str = "auto",
) -> LoadedModel:
    """Return a model that is loaded already; else load it with `load_checkpoint`, whose runtime and errors are these.

    Without a model, `preset_name` is the name of one that ships or was imported; None is 'studio'. `device`
    is where a model that is loaded here shall be: 'auto', or a name that torch knows.
    """
    if isinstance(model, LoadedModel):
        return model
    if model is None:
        model = default_checkpoint() if preset_name is None else named_checkpoint(preset_name)
    if not isinstance(model, str | Path):
        raise ExtractionError(
            f"The model is a {type(model).__name__}, expected the path of a checkpoint, the name of a model "
            f"({', '.join(named_checkpoints())}), or what load_checkpoint returned."
        )
    return load_checkpoint(model, device=device, runtime=runtime)


def real_time_factor(model: LoadedModel, *, cancelled: Cancelled | None = None) -> float:
    """Return the seconds that a model takes here for a second of a song."""
    for duration_s in _MEASURED_S:
        noise = np.random.default_rng(0).normal(0, 0.1, (2, round(duration_s * model.signal.sample_rate)))
        began_s = time.monotonic()
        separate(noise, model.signal.sample_rate, model=model, cancelled=cancelled)
    return (time.monotonic() - began_s) / duration_s


def _samples_of(mixture: Any) -> NDArray[np.float32]:
    """Return a signal as floats; see `separate`."""
    if hasattr(mixture, "detach"):  # a tensor of torch, which is not imported for that
        mixture = mixture.detach().cpu()
        mixture = (mixture.float() if mixture.is_floating_point() else mixture).numpy()
    try:
        samples = np.asarray(mixture)
    except ValueError as error:
        raise ExtractionError(f"The mixture is no array of samples ({error}).") from error
    if np.ma.is_masked(mixture):
        raise ExtractionError("The mixture has samples that are masked. Give silence for them: mixture.filled(0).")
    if samples.ndim == 0:
        kind = type(mixture).__name__
        raise ExtractionError(f"The mixture is a {kind}, expected an array. A song's file is for extract_vocals.")
    if samples.ndim != 2 or not 0 < samples.shape[0] <= max(_MOST_CHANNELS, samples.shape[1]):
        raise ExtractionError(
            f"The mixture has shape {samples.shape}, expected (n_channels, n_samples) of one song. A channel alone is "
            "mixture[None], and what has the samples first mixture.T."
        )
    if samples.dtype.kind in "iu" and samples.dtype.itemsize < (8 if samples.dtype.kind == "i" else 2):
        full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
        zero = full_scale if samples.dtype.kind == "u" else 0.0  # as in wav files of 8 bits
        return ((samples - zero) / full_scale).astype(np.float32)
    if samples.dtype.kind != "f":
        raise ExtractionError(
            f"The mixture is of type {samples.dtype}, which has no known full scale. Divide it by its largest possible "
            "value: floats from -1 to 1 are expected."
        )
    return samples.astype(np.float32, copy=False)
