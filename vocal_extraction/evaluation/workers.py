"""Songs scored by the workers of `extraction.workers`: processes here, or actors of a Ray cluster."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionError, VocalExtractionError
from vocal_extraction.evaluation.metrics import EvaluationError
from vocal_extraction.evaluation.models import ModelSystem
from vocal_extraction.evaluation.scoring import Job, run_job
from vocal_extraction.extraction.outcome import DONE, FAILED, Outcome, ProgressBars, Totals
from vocal_extraction.extraction.workers import Tries, Work, do_all, engine_of
from vocal_extraction.separation import Cancelled, worker_pool

_Result = tuple[Outcome, dict[str, Any] | None]  # of a song, with the content of its file


class ScoringWork(Work):
    """Scores jobs, whose model each worker loads; `model` is None where estimates are scored."""

    def prepare(self, stopped: Cancelled) -> Callable[[Job], _Result]:
        model = self.load() if self.model else None
        pool = worker_pool(model, n_beside=self.n_workers) if model else None

        def score(job: Job) -> _Result:
            track, started = job.track, time.monotonic()
            try:
                content = run_job(_with_model(job, model, pool))
            except (VocalExtractionError, OSError) as error:
                return Outcome(track.name, FAILED, time.monotonic() - started, str(error)), None
            return Outcome(track.name, DONE, time.monotonic() - started, duration_s=track.duration_s), content

        return score


def _with_model(job: Job, model: LoadedModel | None, pool: ThreadPoolExecutor | None = None) -> Job:
    """Return a job whose model is another one, or with None a job that can be sent to a worker."""
    first, system = next(iter(job.systems.items()))
    if not isinstance(system.estimate, ModelSystem):
        return job
    estimate = dataclasses.replace(system.estimate, model=model, pool=pool)
    return dataclasses.replace(job, systems={**job.systems, first: dataclasses.replace(system, estimate=estimate)})


def run_on_workers(
    jobs: Sequence[Job],
    work: ScoringWork,
    *,
    engine: str,
    cluster: str | None,
    gpu_share: float,
    price_per_core_hour: float | None,
    in_hand: Path,
    overwrite: bool,
    show: bool,
) -> list[dict[str, Any]]:
    """Run jobs on the workers of an engine, see `extract_catalogue`, and return the contents of their songs' files.

    Songs that fail keep no others from being scored; at the end an `EvaluationError` says how many did, and why.
    `in_hand` is the file of the songs that workers have begun; `overwrite` tries again what was given up.
    """
    hire, n_paid = engine_of(engine, work, cluster=cluster, gpu_share=gpu_share)
    totals, contents = Totals(price_per_core_hour, n_paid), list[dict[str, Any]]()
    with (
        contextlib.closing(Tries(in_hand, afresh=overwrite)) as tries,
        contextlib.closing(ProgressBars(len(jobs), show=show, totals=totals)) as bars,
    ):

        def record(job: Job, result: _Result | ExtractionError) -> None:
            failure = (Outcome(job.track.name, FAILED, reason=str(result)), None)
            outcome, content = failure if isinstance(result, ExtractionError) else result
            bars.report(outcome)
            if content is not None:
                contents.append(content)

        sent = (_with_model(job, None) for job in jobs)
        do_all(sent, hire, n_workers=work.n_workers, tries=tries, name=lambda job: job.track.name, done=record)
    if totals.failures:
        raise EvaluationError(f"{totals}. The scores of the others are kept; the same command goes on with the rest.")
    if show:
        print(totals, file=sys.stderr)
    return contents
