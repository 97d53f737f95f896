"""Workers of a Ray cluster: actors that do what `workers.ProcessWorker` does, on any machine that has the project."""

import os
from typing import Any

import ray

from vocal_extraction.errors import ExtractionError, VocalExtractionError
from vocal_extraction.extraction.workers import Work, Worker, WorkerDiedError


def join_cluster(address: str | None) -> None:
    """Connect to a Ray cluster, 'auto' for the one that this machine is of; None starts one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", ignore_reinit_error=True, **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ExtractionError(
            f"No Ray cluster answers at {address} ({error}). Start one (ray start --head), or leave --address out."
        ) from error


class _Actor:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._do: Any = None

    def prepare(self) -> str | None:
        try:
            self._do = self._work.prepare(lambda: False)
        except VocalExtractionError as error:
            return str(error)
        return None

    def do(self, task: Any) -> Any:
        return self._do(task)


class RayWorker(Worker):
    """An actor with one core, and a share of a GPU; where there is no room for it, it waits until there is."""

    def __init__(self, work: Work, *, gpu_share: float = 0.0) -> None:
        kind: Any = ray.remote(num_cpus=1, num_gpus=gpu_share, max_restarts=0)(_Actor)
        self._actor = kind.remote(work)
        if (complaint := _answer(self._actor.prepare.remote())) is not None:
            raise ExtractionError(complaint)

    def __call__(self, task: Any) -> Any:
        return _answer(self._actor.do.remote(task))

    def stop(self) -> None:
        """End the actor, in the middle of a task."""
        ray.kill(self._actor)

    close = stop


def _answer(of: Any) -> Any:
    try:
        return ray.get(of)
    except ray.exceptions.RayError as error:
        raise WorkerDiedError(str(error).strip().partition("\n")[0].rstrip(".")) from error
