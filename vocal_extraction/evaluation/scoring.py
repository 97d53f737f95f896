"""One song, all systems, one pass: the song is read in blocks, every system estimates each block, and each family of
metrics adds up what it needs; the metrics come from that at the end.

Scores of a system are plain values: ``{source: {metric: {"value", "channels" or "frames", "left_out", "at_limit"}}}``,
see `metrics.entry`.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.evaluation.metrics import Audio, EvaluationError, Metric, Values, accumulators, entry
from vocal_extraction.evaluation.models import ModelSystem
from vocal_extraction.evaluation.scale_metrics import LIMIT_DB
from vocal_extraction.evaluation.sources import Sources
from vocal_extraction.evaluation.systems import Excerpt, System
from vocal_extraction.settings import ACCOMPANIMENT
from vocal_extraction.tracks import Track

GRID_SAMPLES = 16_384
"""Excerpts begin at a multiple of this, the longest window: so the frames of all blocks lie on one grid, and an ideal
mask is the same as that of the whole song."""

CONTEXT_SAMPLES = 16 * GRID_SAMPLES
"""Samples on either side of a block that are estimated and dropped: about 6 s."""

BLOCK_SAMPLES = 80 * GRID_SAMPLES
"""Samples of a block: about 30 s."""

Scores = dict[str, dict[str, dict[str, Any]]]


def excerpts(track: Track, sources: Sources) -> Iterator[tuple[Excerpt, slice]]:
    """Divide a song into blocks; see `excerpt_of`."""
    for start in range(0, track.n_samples, BLOCK_SAMPLES):
        yield excerpt_of(track, sources, start, min(start + BLOCK_SAMPLES, track.n_samples))


def excerpt_of(track: Track, sources: Sources, start: int, stop: int) -> tuple[Excerpt, slice]:
    """Return samples `start` to `stop` of a song with context on both sides, and which of them are not context."""
    first = max(start - CONTEXT_SAMPLES, 0) // GRID_SAMPLES * GRID_SAMPLES
    last = min(stop + CONTEXT_SAMPLES, track.n_samples)
    excerpt = Excerpt(track.name, first, track.sample_rate, track.read(first, last), sources)
    return excerpt, slice(start - first, stop - first)


def score_song(
    track: Track,
    systems: Mapping[str, System],
    *,
    sources: Sources,
    metrics: Mapping[str, Metric],
    save_first_to: Path | None = None,
) -> dict[str, Scores]:
    """Score every system on one song.

    Parameters
    ----------
    track
        With the sources that are scored, see `Sources.of`.
    systems
        By name.
    sources
        What is scored.
    metrics
        By name, see `metrics.choose_metrics`.
    save_first_to
        Folder for the first system's estimates, as float wavs under the song's name; None saves nothing.

    Returns
    -------
    dict[str, Scores]
        By system; see the head of this file.

    Raises
    ------
    EvaluationError
        If the evaluated system gives NaN or infinity.
    TrackError
        If a file of the song is damaged.
    """
    families, failures = accumulators(metrics, track.sample_rate), dict[str, str]()
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(system.estimate.of_song(track, sources))
            if isinstance(system.estimate, ModelSystem)
            else system.estimate
            for system in systems.values()
        ]
        write = _writer(stack, track, sources, save_first_to)
        for excerpt, kept in excerpts(track, sources):
            estimates = np.zeros((len(systems), *excerpt.references.shape), np.float32)
            for one, (name, system), estimate in zip(estimates, systems.items(), opened, strict=True):
                if name not in failures and (failure := _estimate(one, excerpt, estimate, may_fail=system.may_fail)):
                    failures[name] = failure
            write(estimates[0][..., kept])
            for family in families:
                family.add(excerpt.references[..., kept], estimates[..., kept])
    scores: dict[str, Scores] = {name: {source: {} for source in sources.names} for name in systems}
    for family in families:
        silent, values = family.silent(), family.values()
        for (k, name), (i, source), metric in itertools.product(enumerate(systems), enumerate(sources.names), values):
            if name in failures:
                found = {"value": None, "left_out": failures[name]}
            else:
                at_limit = _at_limit(values, metric, (k, i), metrics)
                more = {"silent": bool(silent[i]), "alone": bool(np.sum(~silent) < 2), "at_limit": at_limit}
                found = entry(metrics[metric], values[metric][k, i], **more)
            scores[name][source][metric] = found
    return {  # in the order of the tables
        name: {source: {metric: found[metric] for metric in metrics} for source, found in by_source.items()}
        for name, by_source in scores.items()
    }


def _estimate(
    estimates: Audio, excerpt: Excerpt, estimate: Callable[[Excerpt], Audio], *, may_fail: bool
) -> str | None:
    """Write estimates into an array; return why a system that may fail did, which then has zeros."""
    try:
        estimates[:] = estimate(excerpt)
        if not np.isfinite(estimates).all():
            raise EvaluationError(f"The estimates of {excerpt.song!r} hold NaN or infinite samples.")
    except (EvaluationError, ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
        if not may_fail:
            raise
        estimates[:] = 0
        return " ".join(str(error).split())
    return None


def _at_limit(values: Values, name: str, at: tuple[int, int], metrics: Mapping[str, Metric]) -> bool:
    """Return whether a channel of the metric, or of that which it is an improvement of, is clipped."""
    base = name[:-1] if name.endswith("i") and name[:-1] in values else name
    metric = metrics[base]
    return metric.unit == "dB" and metric.parts == "channels" and bool((np.abs(values[base][at]) >= LIMIT_DB).any())


def file_name_of(source: str) -> str:
    """Return the name of a source's wav.

    >>> file_name_of("vocals"), file_name_of("bass+drums+other")
    ('vocals.wav', 'accompaniment.wav')
    """
    return "accompaniment.wav" if source == ACCOMPANIMENT else f"{source}.wav"


def _writer(
    stack: contextlib.ExitStack, track: Track, sources: Sources, folder: Path | None
) -> Callable[[Audio], None]:
    """Return a function that appends a block of estimates to the song's wavs, which appear when `stack` closes."""
    if folder is None:
        return lambda estimates: None
    temporary = [stack.enter_context(whole_file(folder / track.name / file_name_of(name))) for name in sources.names]
    files = [
        stack.enter_context(soundfile.SoundFile(path, "w", track.sample_rate, track.n_channels, "FLOAT"))
        for path in temporary
    ]

    def write(estimates: Audio) -> None:
        for file, samples in zip(files, estimates, strict=True):
            try:
                file.write(samples.T)
            except soundfile.LibsndfileError as error:
                raise EvaluationError(
                    f"Cannot write the estimates of {track.name!r} to {folder} ({error}). Free some space on the disk."
                ) from error

    return write
