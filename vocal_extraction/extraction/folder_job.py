"""One song of a folder's batch: whether it is done already, its stems, its line in the manifest, its failure."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, VocalExtractionError
from vocal_extraction.extraction.manifest import Manifest, options_of
from vocal_extraction.extraction.naming import identity
from vocal_extraction.extraction.outcome import FAILED, SKIPPED, Outcome
from vocal_extraction.extraction.song import extract_song
from vocal_extraction.extraction.workers import Stopped, Work
from vocal_extraction.separation import Separator, StemPlan, worker_pool
from vocal_extraction.settings import ExtractionSettings

Task = tuple[str | Path, dict[str, Path] | VocalExtractionError | None]  # where stems go; None is stdout


class FolderJob:
    """A model at work on songs whose stems go to a folder, or to standard output."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest | None,
        model: LoadedModel,
        plan: StemPlan,
        settings: ExtractionSettings,
        *,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self._manifest, self._plan, self._settings = manifest, plan, settings
        self._folder = folder if manifest is not None else None
        self._separator = Separator(model, settings, pool=pool, folder=self._folder)
        self._options = options_of(settings, model.sha256, plan)

    def extract(
        self,
        song: str | Path,
        paths: Mapping[str, Path] | VocalExtractionError | None,
        *,
        in_batch: bool = False,
        **watched: Any,
    ) -> Outcome | None:
        """Extract a song, unless that is done already, and record it.

        In a batch a failure is an outcome, too, and None says that it was to stop.
        """
        started = time.monotonic()
        try:
            if isinstance(paths, VocalExtractionError):
                raise paths
            made = self._made(song)
            if paths is not None and (before := self._done_before(song, paths, made)) is not None:
                return before
            return extract_song(
                song,
                paths,
                plan=self._plan,
                separator=self._separator,
                settings=self._settings,
                folder=self._folder,
                record=None if self._manifest is None else partial(self._manifest.add, made=made),
                **watched,
            )
        except (VocalExtractionError, OSError) as error:
            # With a broken pipe, whoever read our standard output has gone.
            if not in_batch or isinstance(error, BrokenPipeError):
                raise
            cancelled = isinstance(error, ExtractionCancelledError)
            return None if cancelled else self.failed(song, time.monotonic() - started, error)

    def _made(self, song: str | Path) -> dict[str, Any]:
        sha256 = _sha256_if_readable(song) if self._manifest is not None else None
        return {"source": identity(song), "source_sha256": sha256, **self._options}

    def _done_before(self, song: str | Path, paths: Mapping[str, Path], made: Mapping[str, Any]) -> Outcome | None:
        """Return the outcome of a song that is done already, None if it may be begun; refuse to replace other files."""
        if self._manifest is None or self._settings.overwrite:
            return None
        if self._manifest.is_done(paths, made):
            reason = f"Done before, with the same model and options: {', '.join(map(str, paths.values()))}"
            outcome = Outcome(str(song), SKIPPED, reason=reason, stems=dict(paths))
            self._manifest.add(outcome, {}, made)
            return outcome
        if existing := self._manifest.foreign(paths, made):
            raise ExtractionError(
                f"{' and '.join(map(str, existing))} exist already, made otherwise or of another song. "
                "Replace them with --overwrite, or choose another folder: -o."
            )
        return None

    def failed(self, song: str | Path, seconds: float, error: VocalExtractionError | OSError) -> Outcome:
        """Record a failure; if not even that can be done, as on a full disk, say so, and let the batch go on."""
        if isinstance(error, OSError):
            error = ExtractionError(f"{song} could not be extracted ({error}). Check the disk and try again.")
        outcome = Outcome(str(song), FAILED, seconds, str(error))
        try:
            if self._manifest is not None:
                self._manifest.add(outcome, {}, self._made(song))
        except ExtractionError as another:
            return dataclasses.replace(outcome, reason=f"{outcome.reason} {another}")
        return outcome


class FolderWork(Work):
    def prepare(self, stopped: Stopped) -> Callable[[Task], Outcome | None]:
        model = self.load()
        pool = worker_pool(model, n_beside=self.n_workers)
        job = FolderJob(self.output, Manifest(self.output), model, self.plan, self.settings, pool=pool)
        return lambda task: job.extract(*task, in_batch=True, cancelled=stopped)


def _sha256_if_readable(song: str | Path) -> str | None:
    """Return the checksum of a song; what cannot be read is named when it is decoded."""
    with contextlib.suppress(OSError, ValueError):
        if Path(song).is_file():
            return sha256_of(song)
    return None
