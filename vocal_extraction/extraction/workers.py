"""Workers that extract or score songs, each with the model loaded: processes here, or actors of a Ray cluster.

If a worker dies, another one takes up its song; a song that was begun three times and never ended, in this run or in
earlier ones that were killed, is given up.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionError, VocalExtractionError
from vocal_extraction.extraction.addresses import read_text, write_text
from vocal_extraction.machine import n_cores
from vocal_extraction.separation import Cancelled, StemPlan, load_model
from vocal_extraction.settings import ExtractionSettings

MOST_TRIES = 3

Task = TypeVar("Task")


@dataclasses.dataclass(frozen=True)
class Work:
    """What every worker does, in a form that can be sent to it; a subclass has `prepare`."""

    model: Any  # the model itself, or the path of its checkpoint
    sha256: str
    device: str
    runtime: str
    n_workers: int

    @classmethod
    def of(cls, loaded: LoadedModel, given: Any, device: str, runtime: str, *others: Any) -> Self:
        """Return the work with a model that was loaded, or `given` as it is; ONNX Runtime's cannot be sent.

        `others` are `n_workers` and the fields of a subclass.
        """
        is_sent = given is loaded and not loaded.is_onnx
        return cls(loaded if is_sent else loaded.path, loaded.sha256, device, runtime, *others)

    def load(self) -> LoadedModel:
        """Load the model; a VocalExtractionError says that it is not there, or another."""
        model = load_model(self.model, device=self.device, runtime=self.runtime)
        if model.sha256 != self.sha256:
            raise ExtractionError(f"{model.path} is another model here: its SHA-256 is {model.sha256}.")
        return model

    def prepare(self, stopped: Cancelled) -> Callable[[Any], Any]:
        """Load the model, and return the function that does a task."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ExtractionWork(Work):
    plan: StemPlan
    settings: ExtractionSettings
    output: Any  # the folder of the stems, or its address


class WorkerDiedError(ExtractionError):
    """A worker ended in the middle of a song, without an answer."""


class Worker:
    """Does one task at a time and returns its result, or raises `WorkerDiedError`."""

    def __call__(self, task: Any) -> Any:
        raise NotImplementedError

    def stop(self) -> None:
        """Let the task in hand end soon, from another thread."""

    def close(self) -> None:
        """End, after the task in hand."""


class ProcessWorker(Worker):
    """A process of this machine. It ends with the one that started it, however that ends."""

    def __init__(self, work: Work) -> None:
        # Not forked: what computes has threads of its own.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._stopped = context.Event()
        self._process = context.Process(target=_serve, args=(theirs, work, self._stopped), name="song")
        self._process.start()
        theirs.close()
        if (complaint := self._answer()) is not None:
            raise ExtractionError(complaint)

    def __call__(self, task: Any) -> Any:
        with contextlib.suppress(OSError):  # that it has died meanwhile; there will be no answer
            self._pipe.send(task)
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode or 0
            how = f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"
            raise WorkerDiedError(how) from error

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Any, work: Work, stopped: Any) -> None:
    """Do tasks as they come through a pipe; Ctrl-C is for the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        do = work.prepare(stopped.is_set)
    except VocalExtractionError as error:
        pipe.send(str(error))
        return
    with contextlib.suppress(EOFError, BrokenPipeError):
        pipe.send(None)
        while True:
            pipe.send(do(pipe.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def engine_of(
    name: str, work: Work, *, cluster: str | None = None, gpu_share: float = 0.0
) -> tuple[Callable[[], Worker], int]:
    """Return what hires a worker, and how many cores are paid for; see `catalogue.extract_catalogue`."""
    if name == "ray":
        from vocal_extraction.extraction.ray_workers import RayWorker, join_cluster

        join_cluster(cluster)
        return partial(RayWorker, work, gpu_share=gpu_share), work.n_workers
    if name != "processes":
        raise ExtractionError(f"There is no engine {name!r}, expected 'processes' or 'ray'.")
    return partial(ProcessWorker, work), n_cores()


class Tries:
    """The songs in hand, each with how often it was begun, kept in a file or at an address, or nowhere.

    `afresh` forgets what was, so that what was given up is tried again.
    """

    def __init__(self, place: str | Path | None, *, afresh: bool = False) -> None:
        self._place, self._lock = place, threading.Lock()
        self._begun: dict[str, int] = {}
        self._why: dict[str, str] = {}
        before = "" if place is None else read_text(place)
        if isinstance(place, str):
            write_text(place, before or "{}")  # fails now if nothing can be written to the address
        with contextlib.suppress(ValueError, TypeError, AttributeError):  # of a text that was damaged
            self._begun = {} if afresh else {song: int(n) for song, n in json.loads(before or "{}").items()}
        self._suspects = frozenset(self._begun)

    def suspects_last(self, tasks: Iterable[Task], name: Callable[[Task], str]) -> Iterator[Task]:
        """Yield tasks, at the end those that were in hand when an earlier run was killed: all others are done first."""
        held = []
        for task in tasks:
            if name(task) in self._suspects:
                held.append(task)
            else:
                yield task
        yield from held

    def begin(self, song: str) -> None:
        """Count a try; an ExtractionError says that there were as many as there may be."""
        with self._lock:
            if self._begun.get(song, 0) >= MOST_TRIES:
                why = self._why.get(song, "with the whole program")
                raise ExtractionError(
                    f"The process that separated it died {MOST_TRIES} times ({why}), so it is left out. Look at the "
                    "song and at the memory that is free; --overwrite tries it again."
                )
            self._begun[song] = self._begun.get(song, 0) + 1
            self._keep()

    def died(self, song: str, why: str) -> None:
        self._why[song] = why

    def end(self, song: str) -> None:
        """Forget a song that ended, well or not; it is written with the next that begins."""
        with self._lock:
            self._begun.pop(song, None)

    def close(self) -> None:
        """Keep the songs that were given up, and no others: all that was in hand has ended."""
        self._begun = {song: n for song, n in self._begun.items() if n >= MOST_TRIES}
        self._keep()

    def _keep(self) -> None:
        with contextlib.suppress(OSError, VocalExtractionError):  # a full disk is no reason not to try
            if self._place is not None:
                write_text(self._place, json.dumps(self._begun) if self._begun else "")


def do_all(
    tasks: Iterable[Task],
    hire: Callable[[], Worker],
    *,
    n_workers: int,
    tries: Tries,
    name: Callable[[Task], str],
    done: Callable[[Task, Any], None],
) -> None:
    """Have every task done by one of some workers, each of which takes the next when it is free.

    `hire` returns a worker, again after one has died; `done` is called, once at a time, with a task and its result, or
    the `ExtractionError` by which it was given up. Ctrl-C lets the tasks in hand end, and no others begin.
    """
    waiting, lock, stopped = tries.suspects_last(tasks, name), threading.Lock(), threading.Event()
    turn = threading.Lock()
    hired: list[Worker] = []

    def hired_anew() -> Worker:
        for _ in range(MOST_TRIES):
            try:
                worker = hire()
                hired.append(worker)
                return worker
            except WorkerDiedError as error:
                why = str(error)
        raise ExtractionError(f"No worker could be started {MOST_TRIES} times ({why}). Look at the free memory.")

    def attend() -> None:
        """Give tasks to one worker, and to those that replace it, until there are no more."""
        worker: Worker | None = None
        task: Task | None = None
        try:
            while not stopped.is_set():
                if task is None:
                    with lock:
                        task = next(waiting, None)
                if task is None:
                    return
                worker = worker or hired_anew()
                try:
                    tries.begin(name(task))
                    result = worker(task)
                except WorkerDiedError as error:  # the task is tried again
                    tries.died(name(task), str(error))
                    hired.remove(worker)
                    worker.close()
                    worker = None
                    continue
                except ExtractionError as error:  # it was tried too often
                    with turn:
                        done(task, error)
                else:
                    tries.end(name(task))
                    if result is not None:
                        with turn:
                            done(task, result)
                task = None
        except BaseException:
            if worker is not None:
                worker.stop()
            raise
        finally:
            if worker is not None:
                worker.close()

    if n_workers < 2:
        return attend()
    with ThreadPoolExecutor(n_workers, "worker") as threads:
        try:
            for ended in as_completed([threads.submit(attend) for _ in range(n_workers)]):
                ended.result()
        finally:
            stopped.set()
            for worker in [*hired]:
                worker.stop()
