"""Jobs and their queue: an upload is validated, separated by `extraction`, and made ready for the players.

Jobs are worked on one after the other, in the order in which they came. A long song gets a preview first: a few seconds
of it, then half a minute, from the start or from where the listener asks, while the whole goes on behind it.
"""

import contextlib
import dataclasses
import functools
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from vocal_extraction import checkpointing
from vocal_extraction.atomic_files import native_name
from vocal_extraction.audio_files.ffmpeg import Ffmpeg, input_arguments
from vocal_extraction.errors import SongTooLongError, VocalExtractionError
from vocal_extraction.extraction import Outcome, extract_vocals
from vocal_extraction.separation import Cancelled, real_time_factor
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.web_page.listening import Streams, Track, overview, prepare_listening, streams_of
from vocal_extraction.web_page.uploads import Limits, RefusedError, Upload, validate_upload

QUEUED, WORKING, DONE, FAILED, CANCELLED = "queued", "working", "done", "failed", "cancelled"
PREVIEWS_S = (6.0, 30.0)  # a preview is made twice: a few seconds that play at once, and what follows them
_SHORTEST_PREVIEWED_S = 60.0
_CLEAN_EVERY_S = 30.0
_OPTION_NAMES = {
    "--keep-partial": "“Keep what a damaged file still plays”",
    "--format": "the format",
    "--from": "beginning",
}
_BUG = "This is a bug of the program, not of the song. The server's log says more; please report it."


@dataclasses.dataclass(frozen=True)
class Options:
    model: str
    settings: ExtractionSettings
    stems: tuple[str, ...] | None = None
    without: tuple[str, ...] | None = None
    names: tuple[str, ...] = ("vocals", "accompaniment")  # of the stems that come of it


@dataclasses.dataclass(eq=False)
class Job:
    session: str
    song: Path
    options: Options
    state: str = QUEUED
    stage: str = "Waiting"
    done_s: float = 0.0
    total_s: float = 0.0
    began_s: float = 0.0
    upload: Upload = dataclasses.field(init=False)
    error: str | None = None
    notes: tuple[str, ...] = ()
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    stems: Streams = dataclasses.field(default_factory=dict)
    duration_s: float | None = None
    peaks: list[int] = dataclasses.field(default_factory=list)
    tempo_bpm: float | None = None
    key: str | None = None
    preview_from_s: float | None = None  # where the preview that was asked for last begins
    preview_error: str | None = None
    previews: tuple[Track, ...] = ()  # the last one, and the one before, which may still be playing
    track: Track | None = None
    finished_s: float | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def folder(self) -> Path:
        return self.song.parent

    @property
    def id(self) -> str:
        """Name of the job, which cannot be guessed."""
        return self.folder.name

    @property
    def is_over(self) -> bool:
        return self.state in (DONE, FAILED, CANCELLED)

    def finish(self, state: str, error: str | None = None) -> None:
        self.error, self.finished_s = error, time.monotonic()
        self.state = state

    def note_progress(self, done_s: float, total_s: float | None) -> None:
        self.done_s, self.total_s = done_s, total_s or 0.0
        if total_s and done_s >= total_s:
            self.stage = "Writing the files"

    def as_json(self, *, n_ahead: int = 0) -> dict[str, Any]:
        elapsed_s, left_s = time.monotonic() - self.began_s, None
        if self.stage == "Separating" and self.done_s > 0 and self.total_s:
            left_s = round(elapsed_s * max(0.0, self.total_s / self.done_s - 1), 1)
        plain = ("id", "state", "stage", "total_s", "error", "notes", "duration_s", "peaks", "tempo_bpm", "key")
        return {name: getattr(self, name) for name in (*plain, "preview_error")} | {
            "name": self.song.stem,
            "n_ahead": n_ahead,
            "done_s": round(self.done_s, 2),
            "remaining_s": left_s,
            "model": self.options.model,
            "format": self.options.settings.format,
            "stems": {name: {"file": path.name, "bytes": path.stat().st_size} for name, path in self.files.items()},
            "preview": self.previews[-1].as_json() if self.previews else None,
            "track": self.track and self.track.as_json(),
        }


class JobQueue(contextlib.AbstractContextManager["JobQueue"]):
    """All jobs of a server, with their files below `root`. Use it in a ``with`` statement."""

    def __init__(self, root: Path, limits: Limits, models: Mapping[str, Path], device: str) -> None:
        self.root, self.limits, self.models = root.resolve(), limits, models
        self.real_time_factors: dict[str, float] = {}  # seconds for a second of a song, as measured
        self._load = functools.partial(checkpointing.load_checkpoint, device=device)
        self._jobs: dict[str, Job] = {}
        self._loading, self._closed = threading.Lock(), threading.Event()
        self._loaded = functools.lru_cache(maxsize=8)(lambda path, changed_ns: self._load(path))
        self._workers, self._previews, self._analyses = self._executors = [ThreadPoolExecutor(1) for _ in range(3)]
        threading.Thread(target=self._clean, name="cleaning", daemon=True).start()

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        for job in self.jobs():
            job.stop.set()
        for executor in self._executors:
            executor.shutdown(cancel_futures=True)

    def jobs(self, session: str | None = None) -> list[Job]:
        """Return the jobs of one session, or all, the oldest first."""
        return [job for job in list(self._jobs.values()) if session in (None, job.session)]

    def find(self, session: str, job_id: str) -> Job | None:
        return next((job for job in self.jobs(session) if job.id == job_id), None)

    def state(self, job: Job) -> dict[str, Any]:
        waiting = [other for other in self.jobs() if not other.is_over]
        return job.as_json(n_ahead=waiting.index(job) if job in waiting else 0)

    def model(self, name: str) -> checkpointing.LoadedModel:
        """Load a model, once until its file changes."""
        path = self.models[name]
        with self._loading:
            return self._loaded(path, path.stat().st_mtime_ns if path.is_file() else 0)

    def metadata(self, name: str) -> checkpointing.CheckpointMetadata:
        """Return a model's metadata; one that does not name its sources there is loaded."""
        with contextlib.suppress(checkpointing.CheckpointError):  # for another of `LOADERS`
            if (metadata := checkpointing.read_metadata(self.models[name])).sources:
                return metadata
        return self.model(name).metadata

    def measure_models(self) -> None:
        """Load the models, the default first, and measure the time that they take; only the default is kept."""
        for i, (name, path) in enumerate(self.models.items()):
            while any(not job.is_over for job in self.jobs()) and not self._closed.wait(1.0):
                pass  # songs come first, and would be measured, too
            if self._closed.is_set():
                return
            with contextlib.suppress(VocalExtractionError):  # reported when the model is chosen
                factor = real_time_factor(self._load(path) if i else self.model(name), cancelled=self._closed.is_set)
                self.real_time_factors.setdefault(name, round(factor, 3))

    def new_song(self, session: str, name: str, n_bytes: int) -> Path:
        """Return where an upload called `name` is to be written, in a new job's folder, if there is room for it."""
        waiting = [job for job in self.jobs() if not job.is_over]
        if len(waiting) > self.limits.queue_length:
            raise RefusedError("The queue is full. Please try again in a few minutes.")
        if sum(job.session == session for job in waiting) >= self.limits.jobs_per_session:
            raise RefusedError("Your other songs are not done yet. Please wait for them, or cancel one.")
        self._check_room(n_bytes)
        path = self.root / secrets.token_urlsafe(12) / safe_name(name)
        path.parent.mkdir()
        return path

    def _check_room(self, n_bytes: float) -> None:
        """Refuse what the disk, or the jobs' share of it, has no space for."""
        used = 0
        for folder, _, names in os.walk(self.root):  # which passes over folders of jobs that end meanwhile
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    used += Path(folder, name).stat().st_size
        if n_bytes > min(self.limits.storage_bytes - used, shutil.disk_usage(self.root).free):
            raise RefusedError("The server's disk is full. Please try again in an hour.")

    def submit(self, session: str, song: Path, options: Options) -> Job:
        job = Job(session, song, options)
        self._jobs[job.id] = job
        self._workers.submit(self._run, job)
        return job

    def request_preview(self, job: Job, start_s: float) -> list[Future[None]]:
        """Separate half a minute of a song from `start_s`, beside whatever else is going on, in place of others."""
        job.preview_from_s = start_s
        return [self._previews.submit(self._preview, job, start_s, duration_s) for duration_s in PREVIEWS_S]

    def remove(self, job: Job) -> None:
        """Cancel a job if it is not over, and remove it with its files."""
        job.stop.set()
        self._jobs.pop(job.id, None)
        if job.is_over or job.state == QUEUED:
            job.finish(CANCELLED)
            shutil.rmtree(job.folder, ignore_errors=True)

    def _clean(self) -> None:
        """Remove jobs that have been over for longer than files are kept."""
        while not self._closed.wait(min(_CLEAN_EVERY_S, self.limits.lifetime_s / 4)):
            oldest_s = time.monotonic() - self.limits.lifetime_s
            for job in self.jobs():
                if job.finished_s is not None and job.finished_s < oldest_s:
                    self.remove(job)

    def _run(self, job: Job) -> None:
        """Do a job; of one that failed or was cancelled no file remains."""
        try:
            if not job.stop.is_set():
                with self._what_went_wrong(job, lambda reason: job.finish(FAILED, reason)):
                    self._process(job)
        finally:
            if job.stop.is_set():
                job.finish(CANCELLED)
            if job.state != DONE:
                shutil.rmtree(job.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _what_went_wrong(self, job: Job, say: Callable[[str], None]) -> Iterator[None]:
        """Say why the work inside failed: in a message of the page, without folders of the server."""
        try:
            yield
        except SongTooLongError:
            say(f"{job.song.name} is too long. {job.upload.why}")
        except VocalExtractionError as error:
            text = re.sub(rf"{re.escape(str(self.root))}/\S*/", "", str(error))
            for option, label in _OPTION_NAMES.items():
                text = text.replace(option, label)
            say(text)
        except BaseException:
            traceback.print_exc()
            say(_BUG)
            raise

    def _process(self, job: Job) -> None:
        job.state, job.stage = WORKING, "Reading the song"
        settings, job.upload = job.options.settings, validate_upload(job.song, self.limits)
        self._check_room(job.upload.stored_bytes(len(job.options.names)))
        song = overview(job.song, longest_s=job.upload.longest_s)
        job.peaks, job.duration_s = song.peaks, song.duration_s
        is_long = job.duration_s > _SHORTEST_PREVIEWED_S
        if is_long:
            job.stage, start_s = "Preparing a preview", min(settings.from_s, job.duration_s - PREVIEWS_S[0])
            wait(self.request_preview(job, start_s)[:1])
        tempo_and_key = self._analyses.submit(song.tempo_and_key)
        job.stage, job.began_s, folder = "Separating", time.monotonic(), job.folder / "stems"
        outcome = self._extract(job, job.song, folder, settings, job.stop.is_set, progress=job.note_progress)
        if is_long and settings.region is None and settings.phase == "mixture":
            self.real_time_factors[job.options.model] = round(outcome.seconds / job.duration_s, 3)
        job.stage, stems = "Preparing the players", streams_of(outcome.stems, job.options.names)
        track = prepare_listening(job.folder / "track", stems, job.upload)
        job.tempo_bpm, job.key = tempo_and_key.result()
        if not job.stop.is_set():
            job.notes, job.duration_s, job.files, job.stems = outcome.notes, outcome.duration_s, outcome.stems, stems
            job.track = track
            job.finish(DONE)

    def _preview(self, job: Job, start_s: float, duration_s: float) -> None:
        """Make a preview if it is still wanted; what goes wrong with it is said, and the job goes on."""

        def is_unwanted() -> bool:
            return start_s != job.preview_from_s or job.is_over or job.stop.is_set()

        def say(reason: str | None) -> None:
            job.preview_error = None if reason is None or is_unwanted() else f"The preview failed: {reason}"

        if is_unwanted():
            return
        say(None)
        folder = job.folder / f"preview-{secrets.token_hex(4)}"
        bounds = ["-ss", f"{start_s:.3f}", "-t", f"{duration_s:.3f}"]
        settings = dataclasses.replace(job.options.settings, format="wav16", from_s=0.0, to_s=None)
        with self._what_went_wrong(job, say), tempfile.TemporaryDirectory(dir=job.folder) as scratch:
            cut, stems = Path(scratch, "cut.wav"), Path(scratch, "preview")
            with Ffmpeg([*bounds, *input_arguments(job.song), "-map", "0:a:0", "-y", f"file:{cut}"]) as ffmpeg:
                ffmpeg.close()
            written = streams_of(self._extract(job, cut, stems, settings, is_unwanted).stems, job.options.names)
            preview = prepare_listening(folder, written, job.upload, start_s=start_s)
            for old in job.previews[:-1]:
                shutil.rmtree(old.folder, ignore_errors=True)
            job.previews = (*job.previews[-1:], preview)

    def _extract(
        self, job: Job, song: Path, folder: Path, settings: ExtractionSettings, cancelled: Cancelled, **options: Any
    ) -> Outcome:
        asked, model = job.options, self.model(job.options.model)
        options |= {"stems": asked.stems, "without": asked.without, "longest_s": job.upload.longest_s}
        return extract_vocals(song, folder, settings=settings, model=model, cancelled=cancelled, **options)


def safe_name(name: str) -> str:
    """Return the last part of a path as a file name that every system takes.

    >>> safe_name("../../a <b>.wav")
    'a <b>.wav'
    """
    name = re.sub(r"[\x00-\x1f\x7f]", "", re.split(r"[/\\]", name)[-1]).lstrip(".") or "song"
    stem, dot, ending = name.rpartition(".")
    return native_name(stem or name, 120) + (dot + ending[:10] if stem else "")
