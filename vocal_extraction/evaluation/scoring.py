"""Songs as jobs. A song is read once, in blocks, which all systems estimate and all families of metrics accumulate.

What a song's file has already is not scored again. Scores are plain values, see `metrics.entry`.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.evaluation import results
from vocal_extraction.evaluation.metrics import Audio, EvaluationError, Metric, accumulators, entry
from vocal_extraction.evaluation.models import ModelSystem
from vocal_extraction.evaluation.systems import Excerpt, Sources, System
from vocal_extraction.settings import ACCOMPANIMENT
from vocal_extraction.tracks import Track

# Excerpts begin at a multiple of the longest window, so that ideal masks are those of the whole song.
GRID_SAMPLES = 16_384
CONTEXT_SAMPLES = 16 * GRID_SAMPLES  # samples on either side of a block that are estimated and dropped: about 6 s
BLOCK_SAMPLES = 80 * GRID_SAMPLES  # samples of a block: about 30 s
Scores = dict[str, dict[str, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Job:
    """One song, and what is wanted of it. The first system is what is evaluated."""

    track: Track  # with the sources that are scored, see `Sources.of`
    systems: Mapping[str, System]
    sources: Sources
    metrics: Mapping[str, Metric]
    folder: Path
    evaluated: Mapping[str, Any]
    data: Mapping[str, Any]  # folder and subset
    save_estimates: bool = False
    notes: tuple[str, ...] = ()  # what the report says of the song


def run_jobs(jobs: Sequence[Job], *, n_jobs: int | None) -> Iterator[dict[str, Any]]:
    """Run jobs on threads, or one after the other on this one, and yield the contents of their songs' files."""
    import joblib

    if n_jobs is not None and n_jobs < 1:
        raise EvaluationError(f"The number of jobs is 1 or more; got {n_jobs}.")
    n_threads = min(n_jobs or joblib.cpu_count(), len(jobs))
    parallel = joblib.Parallel(n_jobs=n_threads, backend="threading", return_as="generator_unordered")
    yield from parallel(joblib.delayed(run_job)(job) for job in jobs)


def run_job(job: Job) -> dict[str, Any]:
    """Score what is missing of one song, write its file and return its content."""
    track = job.track
    shape = {key: getattr(track, key) for key in ("sample_rate", "n_channels", "n_samples")}
    data = {**job.data, "sha256": track.sha256(), **shape}
    before = results.read_song(results.song_file(job.folder, track.name))
    rows = dict(before["rows"]) if before is not None and before["data"] == data else {}
    missing = {name: system for name, system in job.systems.items() if not _is_scored(rows.get(name), system, job)}
    first = next(iter(job.systems))
    estimates = job.folder / results.ESTIMATES_FOLDER
    files = [estimates / track.name / file_name_of(name) for name in job.sources.names]
    save = job.save_estimates and (first in missing or not all(path.is_file() for path in files))
    if save:
        missing = {first: job.systems[first], **missing}
    if missing:
        save_to = estimates if save else None
        scores = score_song(track, missing, sources=job.sources, metrics=job.metrics, save_first_to=save_to)
        for name, system in missing.items():
            if name in rows and rows[name]["settings"] == system.settings:  # other metrics were scored earlier
                earlier = rows[name]["scores"]
                scores[name] = {source: earlier.get(source, {}) | found for source, found in scores[name].items()}
            rows[name] = {"settings": dict(system.settings), "scores": scores[name]}
    content = {"schema": results.SONG_SCHEMA, "schema_version": results.SONG_SCHEMA_VERSION, "song": track.name}
    content |= {"evaluated": dict(job.evaluated), "data": data}
    content |= {"notes": list(job.notes), "rows": rows} if job.notes else {"rows": rows}
    if content != before:
        results.write_song(job.folder, content)
    return content


def _is_scored(found: Mapping[str, Any] | None, system: System, job: Job) -> bool:
    """Return whether a song's file has all that is wanted of a system, made with the same settings."""
    if found is None or found["settings"] != system.settings:
        return False
    return all(job.metrics.keys() <= found["scores"].get(source, {}).keys() for source in job.sources.names)


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
    """Score every system on one song; the first's estimates go to the folder `save_first_to`, if there is one."""
    families, failures = accumulators(metrics, track.sample_rate), dict[str, str]()
    with contextlib.ExitStack() as stack:
        estimators = {name: system.estimate for name, system in systems.items()}
        for name, estimate in estimators.items():
            if isinstance(estimate, ModelSystem):
                estimators[name] = stack.enter_context(estimate.of_song(track, sources))
        write = _writer(stack, track, sources, save_first_to)
        for excerpt, kept in excerpts(track, sources):
            estimates = np.zeros((len(systems), *excerpt.references.shape), np.float32)
            for one, (name, estimate) in zip(estimates, estimators.items(), strict=True):
                if name in failures:
                    continue
                try:
                    one[:] = estimate(excerpt)
                    if not np.isfinite(one).all():
                        raise EvaluationError(f"The estimates of {track.name!r} hold NaN or infinite samples.")
                except (EvaluationError, ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
                    if not systems[name].may_fail:
                        raise
                    one[:], failures[name] = 0, " ".join(str(error).split())
            write(estimates[0][..., kept])
            for family in families:
                family.add(excerpt.references[..., kept], estimates[..., kept])
    scores: dict[str, Scores] = {name: {source: {} for source in sources.names} for name in systems}
    for family in families:
        silent, values = family.silent(), family.values()
        for (k, name), (i, source), metric in itertools.product(enumerate(systems), enumerate(sources.names), values):
            failed = {"value": None, "left_out": failures[name]} if name in failures else None
            scores[name][source][metric] = failed or entry(metric, metrics, values, (k, i), silent)
    return {  # in the order of the tables
        name: {source: {metric: found[metric] for metric in metrics} for source, found in by_source.items()}
        for name, by_source in scores.items()
    }


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
    paths = [stack.enter_context(whole_file(folder / track.name / file_name_of(name))) for name in sources.names]
    shape = (track.sample_rate, track.n_channels)
    files = [stack.enter_context(soundfile.SoundFile(path, "w", *shape, "FLOAT")) for path in paths]

    def write(estimates: Audio) -> None:
        try:
            for file, samples in zip(files, estimates, strict=True):
                file.write(samples.T)
        except soundfile.LibsndfileError as error:
            raise EvaluationError(
                f"Cannot write the estimates of {track.name!r} to {folder} ({error}). Free some space on the disk."
            ) from error

    return write
