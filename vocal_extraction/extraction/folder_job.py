"""One song of a folder's batch: whether it is done already, its stems, its line in the manifest, its failure."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, VocalExtractionError
from vocal_extraction.extraction.manifest import Manifest, options_of
from vocal_extraction.extraction.naming import STANDARD_INPUT, choose_paths, identity, path_key
from vocal_extraction.extraction.outcome import FAILED, SKIPPED, Outcome
from vocal_extraction.extraction.song import extract_song
from vocal_extraction.extraction.workers import ExtractionWork
from vocal_extraction.separation import Cancelled, Separator, StemPlan, worker_pool

Places = dict[str, Path] | VocalExtractionError | None  # by stem, or why there are none; None is standard output
Task = tuple[str | Path, Places]


class FolderJob:
    """A model at work on songs whose stems go to a manifest's folder, or without one to standard output."""

    def __init__(self, manifest: Manifest | None, plan: StemPlan, separator: Separator) -> None:
        self._manifest, self._plan, self._separator, self._settings = manifest, plan, separator, separator.settings
        self._options = options_of(self._settings, separator.model.sha256, plan)

    def places(self, songs: Mapping[str | Path, Path]) -> dict[str, Places]:
        """Choose where the stems of all songs go, by their identity; none have a place on standard output."""
        if self._manifest is None:
            return {}
        folder, settings = self._manifest.folder, self._settings
        inputs = {path_key(song) for song in songs if identity(song) != STANDARD_INPUT}
        is_mirrored = not settings.template_fields & {"artist", "album"}
        owners, chosen, naming = dict(self._manifest.owners), dict[str, Places](), self._separator.model.name
        for song, place in songs.items():
            own, base = identity(song), folder / place if is_mirrored else folder
            try:
                paths = choose_paths(song, self._plan.names, base, settings, naming, owners=owners, inputs=inputs)
                owners |= {path_key(path): own for path in paths.values()}
                chosen[own] = paths
            except VocalExtractionError as error:
                chosen[own] = error
        return chosen

    def extract(self, song: str | Path, paths: Places, *, in_batch: bool = False, **watched: Any) -> Outcome | None:
        """Extract a song, unless that is done already, and record it; return None if a batch was stopped.

        Raises ExtractionError or another VocalExtractionError if that fails; in a batch a failure is an outcome.
        """
        started = time.monotonic()
        try:
            if isinstance(paths, VocalExtractionError):
                raise paths
            made = self._made(song)
            if paths is not None and (before := self._done_before(song, paths, made)) is not None:
                return before
            record = None if self._manifest is None else partial(self._manifest.add, made=made)
            return extract_song(song, paths, self._plan, self._separator, record=record, **watched)
        except BrokenPipeError:  # the reader of standard output has gone
            raise
        except (VocalExtractionError, OSError) as error:
            if isinstance(error, OSError):
                error = ExtractionError(f"{song} could not be extracted ({error}). Check the disk and try again.")
            if not in_batch:
                raise error
            cancelled = isinstance(error, ExtractionCancelledError)
            return None if cancelled else self.failed(song, time.monotonic() - started, error)

    def _made(self, song: str | Path) -> dict[str, Any]:
        source, sha256 = identity(song), None
        if self._manifest is not None and source != STANDARD_INPUT:
            with contextlib.suppress(OSError):  # what cannot be read is named when it is decoded
                sha256 = sha256_of(song) if Path(song).is_file() else None
        return {"source": source, "source_sha256": sha256, **self._options}

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

    def failed(self, song: str | Path, seconds: float, error: VocalExtractionError) -> Outcome:
        """Record a failure; if not even that can be done, as on a full disk, say so, and let the batch go on."""
        outcome = Outcome(str(song), FAILED, seconds, str(error))
        try:
            if self._manifest is not None:
                self._manifest.add(outcome, {}, self._made(song))
        except ExtractionError as another:
            return dataclasses.replace(outcome, reason=f"{outcome.reason} {another}")
        return outcome


class FolderWork(ExtractionWork):
    def prepare(self, stopped: Cancelled) -> Callable[[Task], Outcome | None]:
        model = self.load()
        pool = worker_pool(model, n_beside=self.n_workers)
        separator = Separator(model, self.settings, pool=pool, folder=self.output)
        job = FolderJob(Manifest(self.output), self.plan, separator)
        return lambda task: job.extract(*task, in_batch=True, cancelled=stopped)
