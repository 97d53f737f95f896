"""Many songs: a batch is a job that can be stopped at any time and taken up again.

Paths are chosen for all songs before the first is begun, so that they do not depend on which ends first. A song that
fails is recorded, and the others go on. Ctrl-C ends the songs that are under way and leaves no half-written file. Two
batches in one folder take turns.
"""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from vocal_extraction.atomic_files import remove_leftovers, sha256_of, sole_writer
from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionError, VocalExtractionError
from vocal_extraction.extraction.manifest import Manifest, options_of
from vocal_extraction.extraction.naming import STANDARD_INPUT, choose_paths, find_songs, identity, path_key
from vocal_extraction.extraction.outcome import FAILED, SKIPPED, Outcome, ProgressBars
from vocal_extraction.extraction.song import extract_song
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.separation import (
    Cancelled,
    Progress,
    Separator,
    StemPlan,
    load_model,
    stem_plan,
    worker_pool,
)
from vocal_extraction.settings import EXTRACTION_FOLDER, ExtractionSettings

STANDARD_OUTPUT = "-"


def extract_vocals(
    song: str | Path,
    output_folder: str | Path | None = None,
    *,
    stems: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    settings: ExtractionSettings = ExtractionSettings(),
    model: str | Path | LoadedModel | None = None,
    preset_name: str | None = None,
    device: str = "auto",
    runtime: str = "auto",
    longest_s: float | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Outcome:
    """Extract the vocals of one song, or other stems.

    Parameters
    ----------
    song
        Anything that ffmpeg reads, or '-' for standard input.
    output_folder
        The stems go to ``<output_folder>/<song>/``; None is the folder ``extracted``, '-' standard output, which takes
        one stem, by default the vocals.
    stems, without
        Which stems, or what shall be taken out of the song: see `separation.stem_plan`.
    settings
        Format, mask, phase and the rest.
    model, preset_name
        See `separation.load_model`.
    device, runtime
        See `checkpointing.load_checkpoint`.
    longest_s
        How much may be decoded, in seconds, whatever the file says of its length; None is all of it.
    progress
        Called as ``progress(done_s, total_s)``; `total_s` is None where nobody knows.
    cancelled
        Called without arguments; returns True to stop.

    Returns
    -------
    Outcome
        With the path of each stem. A song that was done before with the same model and options is skipped.

    Raises
    ------
    VocalExtractionError
        If it fails: `ExtractionError`, `CheckpointError`, `StorageError` or `DeviceError`.
    """
    identity(song)  # which refuses what can be no song's name
    folder = Path(EXTRACTION_FOLDER if output_folder is None else output_folder)
    loaded = load_model(model, preset_name=preset_name, device=device, runtime=runtime)
    with _folder_of_stems(folder) as manifest:
        plan = plan_of(loaded.sources, stems, without, settings.format, folder)
        job = _Job({song: Path()}, folder, manifest, loaded, plan, settings)
        return job.extract(song, longest_s=longest_s, progress=progress, cancelled=cancelled)


def extract_songs(
    songs: str | Path | Sequence[str | Path],
    output_folder: str | Path = EXTRACTION_FOLDER,
    *,
    stems: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    settings: ExtractionSettings = ExtractionSettings(),
    model: str | Path | LoadedModel | None = None,
    preset_name: str | None = None,
    device: str = "auto",
    runtime: str = "auto",
    n_jobs: int = 1,
    show: bool = True,
    results: TextIO | None = None,
) -> list[Outcome]:
    """Extract the stems of files and folders; what fails does not stop the rest.

    Parameters
    ----------
    songs
        Files, '-' for standard input, or folders, which are searched to the bottom. Folders in them are mirrored below
        the output folder, unless the template has the tags {artist} or {album}.
    output_folder, stems, without, settings, model, preset_name, device, runtime
        See `extract_vocals`. '-' takes one song only, and writes nothing else to standard output.
    n_jobs
        Songs that are under way at the same time.
    show
        Whether bars and failures go to standard error as they come.
    results
        Where the lines of songs that are done go as they come; None is nowhere.

    Returns
    -------
    list of Outcome
        One for each song, in order. ``outcome.failed`` says whether something went wrong.

    Raises
    ------
    VocalExtractionError
        If nothing can be begun: no model, no device, no song, no such stem, a folder that cannot be read.
    """
    folder = Path(output_folder)
    if n_jobs < 1:
        raise ExtractionError(f"The number of jobs is 1 or more; got {n_jobs}.")
    loaded = load_model(model, preset_name=preset_name, device=device, runtime=runtime)
    plan = plan_of(loaded.sources, stems, without, settings.format, folder)
    with _folder_of_stems(folder, say=show) as manifest:
        found = find_songs(songs, output_folder=folder, owned=manifest.owners if manifest is not None else ())
        # Standard input is waited for without end, which only the main thread can be called away from.
        n_jobs = 1 if STANDARD_INPUT in found else n_jobs
        with (
            worker_pool(loaded, n_songs=n_jobs) as pool,
            contextlib.closing(ProgressBars(len(found), show=show, results=results)) as bars,
        ):
            job = _Job(found, folder, manifest, loaded, plan, settings, pool=pool, bars=bars)
            if n_jobs == 1:
                return list(map(job.extract, found))
            with ThreadPoolExecutor(n_jobs, "song") as threads:
                try:
                    return list(threads.map(job.extract, found))
                finally:
                    # After Ctrl-C: end those under way, and begin no others.
                    job.stop.set()
                    threads.shutdown(cancel_futures=True)


def plan_of(
    sources: Sequence[str],
    stems: Sequence[str] | None,
    without: Sequence[str] | None,
    format_name: str,
    folder: Path = EXTRACTION_FOLDER,
) -> StemPlan:
    """Return the `stem_plan` of what is written in a format to a folder or, as '-', to standard output.

    Raises
    ------
    ExtractionError
        If the model does not have these stems, or the format or standard output takes others.
    """
    if FORMATS[format_name].holds_all:
        plan = stem_plan(sources, stems or (None if without else ["all"]), without)
        if len(plan.names) != 4 or str(folder) == STANDARD_OUTPUT:
            raise ExtractionError(
                f"{format_name} is a file of four stems beside the mixture, got {', '.join(plan.names)}. Choose a "
                "model of four sources: --model PATH, or another --format."
            )
        return plan
    if str(folder) != STANDARD_OUTPUT:
        return stem_plan(sources, stems, without)
    plan = stem_plan(sources, stems if stems or without else ["vocals"], without)
    if len(plan.names) != 1:
        raise ExtractionError(f"Standard output takes one stem, got {', '.join(plan.names)}. Name a folder: -o DIR.")
    return plan


@contextlib.contextmanager
def _folder_of_stems(folder: Path, *, say: bool = False) -> Iterator[Manifest | None]:
    """Keep other batches out of a folder, and yield its manifest; None for standard output."""
    if str(folder) == STANDARD_OUTPUT:
        yield None
        return

    def wait(sentence: str) -> None:
        if say:
            print(sentence, file=sys.stderr)

    with sole_writer(folder, doing="extracting", wait=wait):
        remove_leftovers(folder)
        yield Manifest(folder)


class _Job:
    """The songs of a batch, with their places below the folder of stems, and where their stems go."""

    def __init__(
        self,
        songs: Mapping[str | Path, Path],
        folder: Path,
        manifest: Manifest | None,
        model: LoadedModel,
        plan: StemPlan,
        settings: ExtractionSettings,
        *,
        pool: ThreadPoolExecutor | None = None,
        bars: ProgressBars | None = None,
    ) -> None:
        if manifest is None and len(songs) != 1:
            raise ExtractionError(f"Standard output takes one song, got {len(songs)}. Name a folder: -o DIR.")
        self.stop = threading.Event()
        self._manifest, self._plan, self._settings, self._bars = manifest, plan, settings, bars
        self._folder = folder if manifest is not None else None
        self._separator = Separator(
            model,
            mask=settings.mask,
            phase=settings.phase,
            chunk_s=settings.chunk_s,
            wiener=settings.wiener,
            pool=pool,
            folder=self._folder,
        )
        self._options = options_of(settings, model.sha256, plan)
        self._paths: dict[str, dict[str, Path] | VocalExtractionError] = {}
        if manifest is not None:
            self._choose_paths(songs, folder, dict(manifest.owners), model.name)

    def _choose_paths(
        self, songs: Mapping[str | Path, Path], folder: Path, owners: dict[str, str], model_name: str
    ) -> None:
        inputs = {path_key(song) for song in songs if identity(song) != STANDARD_INPUT}
        is_mirrored = not self._settings.template_fields & {"artist", "album"}
        for song, place in songs.items():
            own = identity(song)
            try:
                paths = choose_paths(
                    song,
                    self._plan.names,
                    output_folder=folder / place if is_mirrored else folder,
                    settings=self._settings,
                    owners=owners,
                    inputs=inputs,
                    model_name=model_name,
                )
            except VocalExtractionError as error:
                self._paths[own] = error
                continue
            self._paths[own] = paths
            owners |= {path_key(path): own for path in paths.values()}

    def extract(
        self,
        song: str | Path,
        *,
        longest_s: float | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> Outcome:
        """Extract a song, unless that is done already, and record it; in a batch, a failure is an outcome, too."""
        started = time.monotonic()
        sha256 = _sha256_if_readable(song) if self._manifest is not None else None
        made = {"source": identity(song), "source_sha256": sha256, **self._options}
        with contextlib.ExitStack() as stack:
            if self._bars is not None:
                progress, cancelled = stack.enter_context(self._bars.song(song)), self.stop.is_set
            try:
                paths = self._paths.get(identity(song))
                if isinstance(paths, VocalExtractionError):
                    raise paths
                outcome = self._done_before(song, paths, made) if paths is not None else None
                if outcome is None:
                    outcome = extract_song(
                        song,
                        paths,
                        plan=self._plan,
                        separator=self._separator,
                        settings=self._settings,
                        folder=self._folder,
                        longest_s=longest_s,
                        progress=progress,
                        cancelled=cancelled,
                        record=None if self._manifest is None else partial(self._manifest.add, made=made),
                    )
            except (VocalExtractionError, OSError) as error:
                outcome = self._failed(song, time.monotonic() - started, error, made)
        if self._bars is not None:
            self._bars.report(outcome)
        return outcome

    def _done_before(self, song: str | Path, paths: Mapping[str, Path], made: Mapping[str, Any]) -> Outcome | None:
        """Return the outcome of a song that is done already, None if it may be begun.

        Raises
        ------
        ExtractionError
            If files stand at its paths that may not be replaced.
        """
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

    def _failed(self, song: str | Path, seconds: float, error: Exception, made: Mapping[str, Any]) -> Outcome:
        """Record a failure of a batch; if not even that can be done, as on a full disk, say so, and let it go on.

        Raises
        ------
        VocalExtractionError
            The failure itself, if the song is no batch's.
        BrokenPipeError
            If whoever read our standard output has gone; the program ends as others do then.
        """
        if isinstance(error, BrokenPipeError):
            raise error
        if isinstance(error, OSError):
            error = ExtractionError(f"{song} could not be extracted ({error}). Check the disk and try again.")
        if self._bars is None:
            raise error
        outcome = Outcome(str(song), FAILED, seconds, str(error))
        try:
            if self._manifest is not None and not self.stop.is_set():
                self._manifest.add(outcome, {}, made)
        except ExtractionError as another:
            return dataclasses.replace(outcome, reason=f"{outcome.reason} {another}")
        return outcome


def _sha256_if_readable(song: str | Path) -> str | None:
    """Return the checksum of a song; what cannot be read is named when it is decoded."""
    with contextlib.suppress(OSError, ValueError):
        if Path(song).is_file():
            return sha256_of(song)
    return None
