"""Songs as jobs: each is scored by itself, is skipped where its scores are there already, and leaves one file."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vocal_extraction.evaluation.metrics import EvaluationError, Metric
from vocal_extraction.evaluation.results import (
    ESTIMATES_FOLDER,
    SONG_SCHEMA,
    SONG_SCHEMA_VERSION,
    read_song,
    song_file,
    write_song,
)
from vocal_extraction.evaluation.scoring import file_name_of, score_song
from vocal_extraction.evaluation.sources import Sources
from vocal_extraction.evaluation.systems import System
from vocal_extraction.tracks import Track


@dataclasses.dataclass(frozen=True)
class Job:
    """One song, and what is wanted of it. The first system is what is evaluated."""

    track: Track
    """With the sources that are scored."""
    systems: Mapping[str, System]
    sources: Sources
    metrics: Mapping[str, Metric]
    folder: Path
    evaluated: Mapping[str, Any]
    data: Mapping[str, Any]
    """Folder and subset."""
    save_estimates: bool = False
    notes: tuple[str, ...] = ()
    """What the report says of the song."""


def run_job(job: Job) -> dict[str, Any]:
    """Score what is missing of one song, write its file and return its content."""
    track = job.track
    path = song_file(job.folder, track.name)
    shape = {key: getattr(track, key) for key in ("sample_rate", "n_channels", "n_samples")}
    data = {**job.data, "sha256": track.sha256(), **shape}
    before = read_song(path)
    usable = before["rows"] if before is not None and before["data"] == data else {}
    missing = [name for name in job.systems if not _is_scored(usable.get(name), name, job)]
    first = next(iter(job.systems))
    save = job.save_estimates and (first in missing or _lacks_estimates(job))
    if save and first not in missing:
        missing.insert(0, first)
    rows = dict(usable)
    if missing:
        save_to = job.folder / ESTIMATES_FOLDER if save else None
        systems = {name: job.systems[name] for name in missing}
        scores = score_song(track, systems, sources=job.sources, metrics=job.metrics, save_first_to=save_to)
        for name, system in systems.items():
            earlier = usable.get(name)
            kept = earlier["scores"] if earlier is not None and earlier["settings"] == system.settings else {}
            joined = {source: {**kept.get(source, {}), **found} for source, found in scores[name].items()}
            rows[name] = {"settings": dict(system.settings), "scores": joined}
    content = {
        "schema": SONG_SCHEMA,
        "schema_version": SONG_SCHEMA_VERSION,
        "song": track.name,
        "evaluated": dict(job.evaluated),
        "data": data,
        **({"notes": list(job.notes)} if job.notes else {}),
        "rows": rows,
    }
    if content != before:
        write_song(job.folder, content)
    return content


def _is_scored(found: Mapping[str, Any] | None, name: str, job: Job) -> bool:
    """Return whether a song's file has all that is wanted of a system, made with the same settings."""
    if found is None or found["settings"] != job.systems[name].settings:
        return False
    return all(job.metrics.keys() <= found["scores"].get(source, {}).keys() for source in job.sources.names)


def _lacks_estimates(job: Job) -> bool:
    folder = job.folder / ESTIMATES_FOLDER / job.track.name
    return not all((folder / file_name_of(name)).is_file() for name in job.sources.names)


def run_jobs(jobs: Sequence[Job], *, n_jobs: int | None) -> Iterator[dict[str, Any]]:
    """Run jobs on threads, and yield their songs' contents as they are done; with one thread, on this one.

    Raises
    ------
    EvaluationError
        If `n_jobs` is less than 1.
    """
    import joblib

    if n_jobs is not None and n_jobs < 1:
        raise EvaluationError(f"The number of jobs is 1 or more; got {n_jobs}.")
    n_threads = min(n_jobs or joblib.cpu_count(), len(jobs))
    if n_threads == 1:
        yield from map(run_job, jobs)
    else:
        parallel = joblib.Parallel(n_jobs=n_threads, backend="threading", return_as="generator_unordered")
        yield from parallel(joblib.delayed(run_job)(job) for job in jobs)
