"""One song's way through the page: admitted, taken apart by `extraction`, made ready to be heard.

Songs are worked on one after the other, in the order in which they came; so many may wait. The work runs in a thread
of its own and tells its steps; whoever shows them may stop it at any time, and then nothing of it remains.
"""

import dataclasses
import functools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from vocal_extraction.checkpointing import LoadedModel, load_checkpoint
from vocal_extraction.device import choose_device
from vocal_extraction.errors import ExtractionCancelledError, SongTooLongError
from vocal_extraction.extraction import Outcome, extract_vocals
from vocal_extraction.separation.estimation import Estimator
from vocal_extraction.separation.separation import taped_bytes
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.web_page.intake import Admission, RefusedError, admit
from vocal_extraction.web_page.limits import Limits
from vocal_extraction.web_page.listening import prepare_listening
from vocal_extraction.web_page.markup import Result, Step
from vocal_extraction.web_page.visitors import Visitors

_LOOK_EVERY_S = 0.25


@dataclasses.dataclass(frozen=True)
class Order:
    """What a visitor asked for."""

    visitor: str
    """His token."""
    tab: str
    """Which of his pages asked."""
    song: Path
    name: str
    """What the song is called."""
    model: Path
    settings: ExtractionSettings


class Job:
    """An order that waits, is worked on, or is done."""

    def __init__(self, order: Order, work: Callable[["Job"], Result], executor: ThreadPoolExecutor) -> None:
        self.order = order
        self._step = Step("Waiting")
        self._stop = threading.Event()
        self._future: Future[Result] = executor.submit(work, self)

    def tell(self, step: Step) -> None:
        """Say where the work stands."""
        self._step = step

    def steps(self, n_ahead: Callable[["Job"], int]) -> Iterator[Step]:
        """Yield where the work stands until it is over, a few times a second: news or not, one may stop in between.

        `n_ahead` tells how many songs come first. After `stop` the work's own end is not waited for.

        Raises
        ------
        ExtractionCancelledError
            If the work was stopped.
        """
        while not wait([self._future], _LOOK_EVERY_S).done or self.is_stopped():
            if self.is_stopped():
                raise ExtractionCancelledError
            n_waiting = n_ahead(self)
            yield Step(f"Waiting for {n_waiting} other song{'s'[: n_waiting - 1]}") if n_waiting else self._step

    def result(self) -> Result:
        """Return what came of it, or raise what went wrong."""
        return self._future.result()

    def stop(self) -> None:
        """Ask the work to end; what has not begun never will."""
        self._stop.set()
        self._future.cancel()

    def is_stopped(self) -> bool:
        """Whether the work has been asked to end."""
        return self._stop.is_set()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self._future.done()


class Workshop:
    """Where songs are taken apart, one at a time. Use it in a ``with`` statement."""

    def __init__(self, visitors: Visitors, limits: Limits, device: str) -> None:
        self._visitors, self._limits, self._device = visitors, limits, device
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, "workshop")

    def __enter__(self) -> "Workshop":
        return self

    def __exit__(self, *error: object) -> None:
        for job in self._unfinished():
            job.stop()
        self._executor.shutdown(cancel_futures=True)

    def start(self, order: Order) -> Job:
        """Put an order at the end of the line.

        Raises
        ------
        RefusedError
            If the line is full, or this visitor's share of it.
        """
        with self._lock:
            unfinished = self._unfinished()
            if len(unfinished) > self._limits.queue_length:
                raise RefusedError(
                    f"{self._limits.queue_length} songs are waiting already. Please try again in a few minutes."
                )
            own = [job for job in unfinished if job.order.visitor == order.visitor and not job.is_stopped()]
            if len(own) >= self._limits.songs_per_visitor:
                raise RefusedError("Your other songs are not done yet. Please wait for them, or cancel one.")
            job = Job(order, self._take_apart, self._executor)
            self._jobs = [*unfinished, job]
        return job

    def stop(self, visitor: str, tab: str) -> None:
        """Stop what a visitor asked for in one of his tabs."""
        for job in self._unfinished():
            if (job.order.visitor, job.order.tab) == (visitor, tab):
                job.stop()

    def n_ahead(self, job: Job) -> int:
        """Return how many songs come before `job`."""
        unfinished = self._unfinished()
        return unfinished.index(job) if job in unfinished else 0

    def _unfinished(self) -> list[Job]:
        return [job for job in self._jobs if not job.is_over]

    def _take_apart(self, job: Job) -> Result:
        job.tell(Step("Reading the song"))
        order = job.order
        if not self._visitors.owns(order.visitor, order.song) or not order.song.is_file():
            raise RefusedError("The song is not here any more: its time is over. Please upload it again.")
        os.utime(order.song.parent)  # it shall not go away while it is used
        admission = admit(order.song, self._limits)
        changed_ns = order.model.stat().st_mtime_ns if order.model.is_file() else 0
        model = _loaded(order.model, changed_ns, self._device)
        self._check_room(admission, Estimator(model, order.settings))
        with self._visitors.working_folder(order.visitor) as folder:
            outcome = _extract(job, admission, model, folder / "extracted")
            job.tell(Step("Drawing the spectrograms"))
            stems = _laid_out(outcome, folder)
            listening = prepare_listening(
                folder, **stems, sample_rate=admission.sample_rate, n_channels=admission.n_channels
            )
            if job.is_stopped():
                raise ExtractionCancelledError
            sizes = {stem: (path.name, path.stat().st_size) for stem, path in stems.items()}
            address = f"/results/{self._visitors.keep(order.visitor, folder)}"
        return Result(address, order.name, sizes, listening, self._limits.lifetime_s, outcome.notes)

    def _check_room(self, admission: Admission, estimator: Estimator) -> None:
        tape = taped_bytes(estimator, sample_rate=admission.sample_rate, n_channels=admission.n_channels)
        if not self._visitors.has_room_for(round(admission.stored_bytes(taped_bytes=tape))):
            raise RefusedError("The server's disk is full. Please try again in an hour.")


@functools.lru_cache(maxsize=4)
def _loaded(path: Path, changed_ns: int, device: str) -> LoadedModel:
    """Load a checkpoint once, and again when its file has changed."""
    return load_checkpoint(path, device=choose_device(device))


def _extract(job: Job, admission: Admission, model: LoadedModel, folder: Path) -> Outcome:
    """Extract, tell how far it is, and stop when asked or when the song turns out too long."""
    began_s = time.monotonic()

    def progress(done_s: float, total_s: float | None) -> None:
        stage = "Writing the files" if total_s and done_s >= total_s else "Separating"
        job.tell(Step(stage, done_s, total_s, time.monotonic() - began_s))

    try:
        return extract_vocals(
            job.order.song,
            folder,
            settings=job.order.settings,
            model=model,
            longest_s=admission.longest_s,
            progress=progress,
            cancelled=job.is_stopped,
        )
    except SongTooLongError:
        raise RefusedError(f"{job.order.song.name} is too long. {admission.why}") from None


def _laid_out(outcome: Outcome, folder: Path) -> dict[str, Path]:
    """Move the stems from where `extraction` filed them to where they are served; return them by name."""
    stems = {name: path.rename(folder / path.name) for name, path in outcome.stems.items()}
    shutil.rmtree(folder / "extracted")
    return stems
