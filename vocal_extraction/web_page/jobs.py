"""Jobs and their queue: an upload is validated, separated by `extraction`, and made ready for the players.

Jobs are worked on one after the other, in the order in which they came. A long song gets a preview first: half a minute
of it, from the start or from where the listener asks, while the whole goes on behind it.
"""

import dataclasses
import functools
import re
import secrets
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vocal_extraction.audio_files.ffmpeg import Ffmpeg, input_arguments
from vocal_extraction.checkpointing import LoadedModel, load_checkpoint
from vocal_extraction.device import choose_device
from vocal_extraction.errors import ExtractionCancelledError, SongTooLongError, VocalExtractionError
from vocal_extraction.extraction import Outcome, extract_vocals
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.web_page.limits import Limits
from vocal_extraction.web_page.listening import Track, prepare_listening, waveform
from vocal_extraction.web_page.uploads import RefusedError, Upload, validate_upload

QUEUED, WORKING, DONE, FAILED, CANCELLED = "queued", "working", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)

PREVIEW_S = 30.0
_SHORTEST_PREVIEWED_S = 2 * PREVIEW_S
_CLEAN_EVERY_S = 30.0
_BUG = "This is a bug of the program, not of the song. The server's log says more; please report it."
_OPTION_NAMES = {"--keep-partial": "“Keep what a damaged file still plays”", "--format": "the format"}
"""Options that messages name, as the page calls them."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a client asked for."""

    model: str
    settings: ExtractionSettings
    stems: tuple[str, ...] | None = None
    without: tuple[str, ...] | None = None


class Job:
    """One song's job and its state."""

    def __init__(self, session: str, song: Path, options: Options) -> None:
        self.id = song.parent.name
        self.session, self.song, self.options = session, song, options
        self.folder = song.parent
        self.state, self.stage = QUEUED, "Waiting"
        self.done_s, self.total_s, self.began_s = 0.0, None, 0.0
        self.error: str | None = None
        self.notes: tuple[str, ...] = ()
        self.stems: Mapping[str, Path] = {}
        self.duration_s: float | None = None
        self.peaks: list[int] = []
        self.preview: Track | None = None
        self.track: Track | None = None
        self.finished_s: float | None = None
        self.stop = threading.Event()

    total_s: float | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in OVER

    def as_json(self, *, n_ahead: int = 0) -> dict[str, Any]:
        """Return the state for clients."""
        elapsed_s = time.monotonic() - self.began_s
        is_measured = self.stage == "Separating" and self.done_s > 0 and bool(self.total_s)
        left_s = elapsed_s * ((self.total_s or 0) - self.done_s) / self.done_s if is_measured else None
        return {
            "id": self.id,
            "name": self.song.stem,
            "state": self.state,
            "stage": self.stage,
            "n_ahead": n_ahead,
            "done_s": round(self.done_s, 2),
            "total_s": self.total_s,
            "remaining_s": None if left_s is None else round(max(0.0, left_s), 1),
            "error": self.error,
            "notes": list(self.notes),
            "model": self.options.model,
            "format": self.options.settings.format,
            "duration_s": self.duration_s,
            "peaks": self.peaks,
            "stems": {name: {"file": path.name, "bytes": path.stat().st_size} for name, path in self.stems.items()},
            "preview": self.preview and self.preview.as_json(),
            "track": self.track and self.track.as_json(),
        }


class JobQueue:
    """All jobs of a server, with their files below `root`. Use it in a ``with`` statement."""

    def __init__(self, root: Path, limits: Limits, models: Mapping[str, Path], device: str) -> None:
        self.root, self.limits, self.models = root.resolve(), limits, models
        self._device = device
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(1, "jobs")
        self._previews = ThreadPoolExecutor(1, "previews")
        self._closed = threading.Event()
        threading.Thread(target=self._clean, name="cleaning", daemon=True).start()

    def __enter__(self) -> "JobQueue":
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        for job in self.jobs():
            job.stop.set()
        for executor in (self._workers, self._previews):
            executor.shutdown(cancel_futures=True)

    def jobs(self, session: str | None = None) -> list[Job]:
        """Return the jobs of one session, or all, the oldest first."""
        return [job for job in list(self._jobs.values()) if session in (None, job.session)]

    def find(self, session: str, job_id: str) -> Job | None:
        """Return a session's own job."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.session == session else None

    def state(self, job: Job) -> dict[str, Any]:
        """Return a job's state for clients."""
        waiting = [other for other in self.jobs() if not other.is_over]
        return job.as_json(n_ahead=waiting.index(job) if job in waiting else 0)

    def model(self, name: str) -> LoadedModel:
        """Load a model, once until its file changes."""
        path = self.models[name]
        return _loaded(path, path.stat().st_mtime_ns if path.is_file() else 0, self._device)

    def check_queue(self, session: str) -> None:
        """Raise `RefusedError` if the queue, or the session's share of it, is full."""
        waiting = [job for job in self.jobs() if not job.is_over]
        if len(waiting) > self.limits.queue_length:
            raise RefusedError("The queue is full. Please try again in a few minutes.")
        if sum(job.session == session for job in waiting) >= self.limits.jobs_per_session:
            raise RefusedError("Your other songs are not done yet. Please wait for them, or cancel one.")

    def check_room(self, n_bytes: float) -> None:
        """Raise `RefusedError` if the disk, or the jobs' share of it, has no room for so much."""
        used = sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())
        if n_bytes > min(self.limits.storage_bytes - used, shutil.disk_usage(self.root).free):
            raise RefusedError("The server's disk is full. Please try again in an hour.")

    def new_song(self, name: str) -> Path:
        """Return where an upload called `name` is to be written, in a new job's folder.

        >>> JobQueue.safe_name("../../a <b>.wav")
        'a <b>.wav'
        """
        path = self.root / secrets.token_urlsafe(12) / self.safe_name(name)
        path.parent.mkdir()
        return path

    @staticmethod
    def safe_name(name: str) -> str:
        """Return the last part of a path as a file name that every system takes."""
        name = re.sub(r"[\x00-\x1f\x7f]", "", re.split(r"[/\\]", name)[-1]).lstrip(".") or "song"
        stem, dot, ending = name.rpartition(".")
        return (stem or name).encode()[:120].decode(errors="ignore") + (dot + ending[:10] if stem else "")

    def submit(self, session: str, song: Path, options: Options) -> Job:
        """Put a song at the end of the queue."""
        job = Job(session, song, options)
        with self._lock:
            self._jobs[job.id] = job
        self._workers.submit(self._run, job)
        return job

    def request_preview(self, job: Job, start_s: float) -> None:
        """Separate half a minute of a song from `start_s`, beside whatever else is going on."""
        self._previews.submit(self._guarded, job, lambda: self._separate_preview(job, start_s))

    def remove(self, job: Job) -> None:
        """Cancel a job if it is not over, and remove it with its files."""
        job.stop.set()
        with self._lock:
            self._jobs.pop(job.id, None)
        if job.is_over or job.state == QUEUED:
            self._finish(job, CANCELLED)
            shutil.rmtree(job.folder, ignore_errors=True)

    def remove_expired(self) -> None:
        """Remove jobs that have been over for longer than files are kept."""
        oldest_s = time.monotonic() - self.limits.lifetime_s
        for job in self.jobs():
            if job.finished_s is not None and job.finished_s < oldest_s:
                self.remove(job)

    def _clean(self) -> None:
        while not self._closed.wait(min(_CLEAN_EVERY_S, self.limits.lifetime_s / 4)):
            self.remove_expired()

    def _run(self, job: Job) -> None:
        """Do a job; of one that failed or was cancelled no file remains."""
        try:
            if not job.stop.is_set():
                self._guarded(job, lambda: self._process(job))
        finally:
            if job.stop.is_set():
                self._finish(job, CANCELLED)
            if job.state != DONE:
                shutil.rmtree(job.folder, ignore_errors=True)

    def _guarded(self, job: Job, work: Callable[[], None]) -> None:
        """Do some work; what goes wrong is the job's error."""
        try:
            work()
        except ExtractionCancelledError:
            self._finish(job, CANCELLED)
        except VocalExtractionError as error:
            self._finish(job, FAILED, self._in_words_of_the_page(str(error)))
        except BaseException:
            traceback.print_exc()
            self._finish(job, FAILED, _BUG)
            raise

    @staticmethod
    def _finish(job: Job, state: str, error: str | None = None) -> None:
        job.error, job.finished_s = error, time.monotonic()
        job.state = state

    def _process(self, job: Job) -> None:
        job.state, job.stage = WORKING, "Reading the song"
        upload = validate_upload(job.song, self.limits)
        self.check_room(upload.stored_bytes)
        job.peaks, job.duration_s = waveform(job.song, job.folder, longest_s=upload.longest_s)
        if job.duration_s > _SHORTEST_PREVIEWED_S and job.preview is None:
            self._separate_preview(job, 0.0)
        job.stage, job.began_s = "Separating", time.monotonic()
        outcome = self._extract(job, job.song, "stems", upload, lambda *done: _note_progress(job, *done))
        job.stage = "Preparing the players"
        stems = outcome.stems
        track = prepare_listening(
            job.folder / "track", stems, sample_rate=upload.sample_rate, n_channels=upload.n_channels
        )
        if job.stop.is_set():
            raise ExtractionCancelledError
        job.notes, job.duration_s, job.stems, job.track = outcome.notes, outcome.duration_s, stems, track
        self._finish(job, DONE)

    def _separate_preview(self, job: Job, start_s: float) -> None:
        """Cut, separate and prepare half a minute."""
        job.stage = "Preparing a preview" if job.stage == "Reading the song" else job.stage
        name = f"preview-{secrets.token_hex(4)}"
        cut = job.folder / f"{name}.wav"
        upload = validate_upload(job.song, self.limits)
        bounds = ["-ss", f"{start_s:.3f}", "-t", f"{PREVIEW_S:.3f}"]
        command = [*bounds, *input_arguments(job.song), "-map", "0:a:0", "-f", "wav", "-y", f"file:{cut}"]
        with Ffmpeg(command) as ffmpeg:
            ffmpeg.close()
        settings = dataclasses.replace(job.options.settings, format="wav16")
        outcome = self._extract(job, cut, f"{name}-stems", upload, None, settings)
        job.preview = prepare_listening(
            job.folder / name,
            outcome.stems,
            sample_rate=upload.sample_rate,
            n_channels=upload.n_channels,
            start_s=start_s,
        )
        cut.unlink()
        shutil.rmtree(job.folder / f"{name}-stems")

    def _extract(
        self,
        job: Job,
        song: Path,
        folder: str,
        upload: Upload,
        progress: Callable[[float, float | None], None] | None,
        settings: ExtractionSettings | None = None,
    ) -> Outcome:
        try:
            return extract_vocals(
                song,
                job.folder / folder,
                settings=settings or job.options.settings,
                stems=job.options.stems,
                without=job.options.without,
                model=self.model(job.options.model),
                longest_s=upload.longest_s,
                progress=progress,
                cancelled=job.stop.is_set,
            )
        except SongTooLongError:
            raise RefusedError(f"{song.name} is too long. {upload.why}") from None

    def mix(self, job: Job, gains: Mapping[str, float]) -> Path:
        """Write the sum of a job's stems, each times its gain, and return its path."""
        path = job.folder / "mix.wav"
        inputs = [part for stem in job.stems.values() for part in input_arguments(stem)]
        scaled = "".join(f"[{i}:a:0]volume={gains.get(name, 1.0):.4f}[s{i}];" for i, name in enumerate(job.stems))
        labels = "".join(f"[s{i}]" for i in range(len(job.stems)))
        graph = f"{scaled}{labels}amix=inputs={len(job.stems)}:normalize=0[mix]"
        with Ffmpeg([*inputs, "-filter_complex", graph, "-map", "[mix]", "-y", f"file:{path}"]) as ffmpeg:
            ffmpeg.close()
        return path

    def _in_words_of_the_page(self, text: str) -> str:
        """Leave out where files lie on the server, and name options as the page does."""
        text = re.sub(rf"{re.escape(str(self.root))}/\S*/", "", text)
        for option, label in _OPTION_NAMES.items():
            text = text.replace(option, label)
        return text


def _note_progress(job: Job, done_s: float, total_s: float | None) -> None:
    job.done_s, job.total_s = done_s, total_s
    if total_s and done_s >= total_s:
        job.stage = "Writing the files"


@functools.lru_cache(maxsize=4)
def _loaded(path: Path, changed_ns: int, device: str) -> LoadedModel:
    """Load a checkpoint once, and again when its file has changed."""
    return load_checkpoint(path, device=choose_device(device))
