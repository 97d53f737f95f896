"""Songs as jobs: each is scored by itself, is skipped where its scores are there already, and leaves one file."""

import contextlib
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
from vocal_extraction.evaluation.scoring import Scores, file_name_of, score_song
from vocal_extraction.evaluation.sources import Sources
from vocal_extraction.evaluation.systems import System
from vocal_extraction.tracks import Track


@dataclasses.dataclass(frozen=True)
class Job:
    """One song, and what is wanted of it. The first system is what is evaluated."""

    track: Track
    """With the sources that are scored."""
    systems: tuple[System, ...]
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
    missing = [system for system in job.systems if not is_scored(usable.get(system.name), system, job)]
    save = job.save_estimates and (job.systems[0] in missing or _lacks_estimates(job))
    if save and job.systems[0] not in missing:
        missing.insert(0, job.systems[0])
    rows = dict(usable)
    if missing:
        save_to = job.folder / ESTIMATES_FOLDER if save else None
        scores = score_song(track, missing, sources=job.sources, metrics=job.metrics, save_first_to=save_to)
        for system in missing:
            earlier = usable.get(system.name)
            rows[system.name] = {
                "settings": dict(system.settings),
                "scores": _joined(earlier, system, scores[system.name]),
            }
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


def is_scored(found: Mapping[str, Any] | None, system: System, job: Job) -> bool:
    """Return whether a song's file has all that is wanted of a system, made with the same settings."""
    if found is None or found["settings"] != system.settings:
        return False
    return all(job.metrics.keys() <= found["scores"].get(source, {}).keys() for source in job.sources.names)


def _joined(earlier: Mapping[str, Any] | None, system: System, scores: Scores) -> Scores:
    """Add new metrics to those of earlier, of the same settings."""
    kept = earlier["scores"] if earlier is not None and earlier["settings"] == system.settings else {}
    return {source: {**kept.get(source, {}), **found} for source, found in scores.items()}


def _lacks_estimates(job: Job) -> bool:
    folder = job.folder / ESTIMATES_FOLDER / job.track.name
    return not all((folder / file_name_of(name)).is_file() for name in job.sources.names)


def run_jobs(jobs: Sequence[Job], *, n_jobs: int | None, on_accelerator: bool = False) -> Iterator[dict[str, Any]]:
    """Run jobs, several at a time, and yield their songs' contents as they are done.

    Parameters
    ----------
    jobs
        Independent of each other.
    n_jobs
        Songs at a time; None takes one a processor, and one in all where the model runs on an accelerator. With 1
        everything happens in this thread.

    Raises
    ------
    EvaluationError
        If `n_jobs` is less than 1 or a worker dies.
    """
    import joblib

    if n_jobs is not None and n_jobs < 1:
        raise EvaluationError(f"The number of jobs is 1 or more; got {n_jobs}.")
    n_cores = joblib.cpu_count()
    n_workers = min(n_jobs or (1 if on_accelerator else n_cores), len(jobs))
    if n_workers == 1:
        yield from map(run_job, jobs)
    elif any(system.holds_python for system in jobs[0].systems):
        yield from _in_processes(jobs, n_workers, n_threads=max(n_cores // n_workers, 1))
    else:
        parallel = joblib.Parallel(n_jobs=n_workers, backend="threading", return_as="generator_unordered")
        yield from parallel(joblib.delayed(run_job)(job) for job in jobs)


def _in_processes(jobs: Sequence[Job], n_workers: int, *, n_threads: int) -> Iterator[dict[str, Any]]:
    """Run jobs in loky's processes, which, unlike Python's own, do not run the caller's script again."""
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    with contextlib.ExitStack() as stack:
        stack.callback(_end_workers)
        parallel = joblib.Parallel(n_jobs=n_workers, backend="loky", return_as="generator_unordered", batch_size=1)
        try:
            yield from parallel(joblib.delayed(_run_with_threads)(job, n_threads) for job in jobs)
        except TerminatedWorkerError as error:
            raise EvaluationError(
                "A worker died, most likely for want of memory. What is scored is kept: run the same command again, "
                "with fewer jobs."
            ) from error


def _end_workers() -> None:
    from joblib.externals.loky import get_reusable_executor

    with contextlib.suppress(RuntimeError):  # Ctrl-C came before loky's own thread had begun: nothing works yet
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _run_with_threads(job: Job, n_threads: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(n_threads)
    return run_job(job)
