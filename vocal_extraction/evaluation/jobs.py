"""Songs to workers: each is a job of its own, is skipped where its scores are there already, and leaves one file."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vocal_extraction.evaluation.results import (
    ESTIMATES_FOLDER,
    SCHEMA_VERSION,
    SONG_SCHEMA,
    read_song,
    song_file,
    write_song,
)
from vocal_extraction.evaluation.scoring import FAMILIES, Scores, score_song
from vocal_extraction.evaluation.separators import Separator
from vocal_extraction.evaluation.songs import SOURCES, EvaluationError, Recording

HOLD_PYTHON = ("repet_sim", "ft2d", "hpss")
"""Rows that keep Python itself busy, so that songs gain nothing from threads and go to processes of their own. Those
take seconds to start, since each imports torch and nussl; all other rows leave Python to the others."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Something to be scored."""

    name: str
    settings: Mapping[str, Any]
    """What its estimates depend on beside the data."""
    separator: Separator


@dataclasses.dataclass(frozen=True)
class Job:
    """One song, and what is wanted of it. The first row is what is evaluated."""

    song: Recording
    rows: tuple[Row, ...]
    families: tuple[str, ...]
    folder: Path
    evaluated: Mapping[str, Any]
    data: Mapping[str, Any]
    """Folder and subset."""
    save_estimates: bool


def run_job(job: Job) -> dict[str, Any]:
    """Score what is missing of one song, write its file and return its content."""
    path = song_file(job.folder, job.song.name)
    data = {
        **job.data,
        "sha256": job.song.sha256(),
        "sample_rate": job.song.sample_rate,
        "n_channels": job.song.n_channels,
        "n_samples": job.song.n_samples,
    }
    before = read_song(path)
    usable = before["rows"] if before is not None and before["data"] == data else {}
    missing = [row for row in job.rows if not _is_scored(usable.get(row.name), row, job.families)]
    estimates_folder = job.folder / ESTIMATES_FOLDER
    save = job.save_estimates and (job.rows[0] in missing or _lacks_estimates(job, estimates_folder))
    if save and job.rows[0] not in missing:
        missing.insert(0, job.rows[0])
    rows = dict(usable)
    if missing:
        scores = score_song(
            job.song,
            {row.name: row.separator for row in missing},
            families=job.families,
            save_first_to=estimates_folder if save else None,
        )
        for row in missing:
            rows[row.name] = {"settings": dict(row.settings), "scores": _joined(usable.get(row.name), row, scores)}
    content = {
        "schema": SONG_SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "song": job.song.name,
        "evaluated": dict(job.evaluated),
        "data": data,
        "rows": rows,
    }
    if content != before:
        write_song(job.folder, content)
    return content


def _is_scored(found: Mapping[str, Any] | None, row: Row, families: Sequence[str]) -> bool:
    """Tell whether a row of a song's file holds all that is wanted, made with the same settings."""
    if found is None or found["settings"] != row.settings:
        return False
    wanted = {name for family in families for name in FAMILIES[family]}
    return all(wanted <= found["scores"][source].keys() for source in SOURCES)


def _joined(found: Mapping[str, Any] | None, row: Row, scores: Mapping[str, Scores]) -> Scores:
    """Add new metrics to those of an earlier run with the same settings."""
    earlier = found["scores"] if found is not None and found["settings"] == row.settings else {}
    return {source: {**earlier.get(source, {}), **scores[row.name][source]} for source in SOURCES}


def _lacks_estimates(job: Job, folder: Path) -> bool:
    return not all((folder / job.song.name / name).is_file() for name in ("vocals.wav", "accompaniment.wav"))


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
        If `n_jobs` is less than 1, a song is damaged, or a worker dies.
    """
    import joblib

    if n_jobs is not None and n_jobs < 1:
        raise EvaluationError(f"The number of jobs is 1 or more; got {n_jobs}.")
    n_cores = joblib.cpu_count()
    n_workers = min(n_jobs or (1 if on_accelerator else n_cores), len(jobs))
    if n_workers == 1:
        yield from map(run_job, jobs)
    elif any(row.name in HOLD_PYTHON for row in jobs[0].rows):
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
