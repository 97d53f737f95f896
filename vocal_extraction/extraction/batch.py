"""Many songs: a batch is a job that can be stopped at any time and taken up again.

Places are chosen for all songs before the first is begun, so that they do not depend on which ends first. A song that
fails is recorded, and the others go on. Ctrl-C ends the songs that are under way and leaves no half file.
"""

import dataclasses
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vocal_extraction.atomic_files import remove_leftovers
from vocal_extraction.checkpointing import LoadedModel, default_checkpoint, load_checkpoint, shipped_checkpoint
from vocal_extraction.device import choose_device
from vocal_extraction.errors import ExtractionError, VocalExtractionError
from vocal_extraction.extraction.bars import Bars
from vocal_extraction.extraction.manifest import Manifest, options_of
from vocal_extraction.extraction.naming import STANDARD_INPUT, Places, choose_places, find_songs, identity, place_key
from vocal_extraction.extraction.outcome import FAILED, SKIPPED, Outcome
from vocal_extraction.extraction.song import extract_song
from vocal_extraction.separation.estimation import Estimator
from vocal_extraction.separation.separation import Cancelled, Progress, worker_pool
from vocal_extraction.settings import EXTRACTION_FOLDER, ExtractionSettings

STANDARD_OUTPUT = "-"


def extract_vocals(
    song: str | Path,
    output_folder: str | Path | None = None,
    *,
    settings: ExtractionSettings = ExtractionSettings(),
    model: str | Path | LoadedModel | None = None,
    preset_name: str | None = None,
    device: str = "auto",
    longest_s: float | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Outcome:
    """Extract the vocals of one song.

    Parameters
    ----------
    song
        Anything that ffmpeg reads, or '-' for standard input.
    output_folder
        The stems go to ``<output_folder>/<song>/``; None is the folder ``extracted``, '-' standard output.
    settings
        Format, mask, phase and the rest.
    model, preset_name
        A checkpoint, or what `load_checkpoint` returned; without one the shipped model of that preset; without a preset
        the best that ships.
    device
        'auto', or a name that torch knows.
    longest_s
        How much may be decoded, in seconds, whatever the file says of its length; None is all of it.
    progress
        Called as ``progress(done_s, total_s)``; `total_s` is None where nobody knows.
    cancelled
        Called without arguments; returns True to stop.

    Returns
    -------
    Outcome
        With the paths of the stems. A song that was done before with the same model and options is skipped.

    Raises
    ------
    VocalExtractionError
        If it fails: `ExtractionError`, `CheckpointError`, `StorageError` or `DeviceError`.
    """
    folder = Path(EXTRACTION_FOLDER if output_folder is None else output_folder)
    estimator = Estimator(_loaded(model, preset_name, device), settings)
    batch = _Batch([song], folder, estimator)
    return batch.extract(song, longest_s=longest_s, progress=progress, cancelled=cancelled)


def extract_songs(
    songs: Sequence[str | Path],
    output_folder: str | Path = EXTRACTION_FOLDER,
    *,
    settings: ExtractionSettings = ExtractionSettings(),
    model: str | Path | LoadedModel | None = None,
    preset_name: str | None = None,
    device: str = "auto",
    n_jobs: int = 1,
    show: bool = True,
) -> list[Outcome]:
    """Extract the vocals of files and folders; what fails does not stop the rest.

    Parameters
    ----------
    songs
        Files, folders (searched to the bottom), or '-' for standard input.
    output_folder, settings, model, preset_name, device
        See `extract_vocals`. '-' takes one song only, and writes nothing else to standard output.
    n_jobs
        Songs that are under way at the same time.
    show
        Whether bars and failures go to standard error as they come.

    Returns
    -------
    list of Outcome
        One for each song, in order. ``outcome.failed`` tells what went wrong.

    Raises
    ------
    VocalExtractionError
        If nothing can be begun: no model, no device, no song, a folder that cannot be read.
    """
    folder = Path(output_folder)
    owned = () if str(folder) == STANDARD_OUTPUT else Manifest(folder).owners.keys()
    found = find_songs(songs, output_folder=folder, owned=owned)
    estimator = Estimator(_loaded(model, preset_name, device), settings)
    with Bars(len(found), show=show) as bars:
        batch = _Batch(found, folder, estimator, n_jobs=n_jobs, bars=bars)
        return batch.extract_all()


def _loaded(model: str | Path | LoadedModel | None, preset_name: str | None, device: str) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    if model is None:
        model = default_checkpoint() if preset_name is None else shipped_checkpoint(preset_name)
    return load_checkpoint(model, device=choose_device(device))


class _Batch:
    """Songs, their places, and the manifest."""

    def __init__(
        self,
        songs: Sequence[str | Path],
        folder: Path,
        estimator: Estimator,
        *,
        n_jobs: int = 1,
        bars: Bars | None = None,
    ) -> None:
        self._songs, self._estimator, self._bars = songs, estimator, bars or Bars(0, show=False)
        # Standard input is waited for without end, which only the main thread can be called away from.
        self._n_jobs = 1 if STANDARD_INPUT in map(str, songs) else n_jobs
        self._options = options_of(estimator.settings, estimator.model.sha256)
        self._stop = threading.Event()
        self._places: dict[str, Places | VocalExtractionError] = {}
        self._manifest: Manifest | None = None
        if str(folder) == STANDARD_OUTPUT:
            if len(songs) != 1:
                raise ExtractionError(f"Standard output takes one song, got {len(songs)}. Name a folder: -o DIR.")
            return
        remove_leftovers(folder)
        self._manifest = Manifest(folder)
        self._assign(folder, self._manifest)

    def _assign(self, folder: Path, manifest: Manifest) -> None:
        owners = dict(manifest.owners)
        named = [song for song in self._songs if identity(song) != STANDARD_INPUT]
        inputs = {place_key(Path(song)): song for song in named}
        for song in self._songs:
            try:
                places = choose_places(
                    song, output_folder=folder, settings=self._estimator.settings, owners=owners, inputs=inputs
                )
            except VocalExtractionError as error:
                self._places[identity(song)] = error
                continue
            self._places[identity(song)] = places
            owners |= dict.fromkeys(places.as_keys(), identity(song))

    def extract_all(self) -> list[Outcome]:
        """Extract every song."""
        with worker_pool(self._estimator.model, n_songs=self._n_jobs) as pool:
            if self._n_jobs == 1:
                return [self._attempt(song, pool) for song in self._songs]
            with ThreadPoolExecutor(self._n_jobs, "song") as jobs:
                try:
                    return list(jobs.map(lambda song: self._attempt(song, pool), self._songs))
                finally:
                    # After Ctrl-C: end those under way, and begin no others.
                    self._stop.set()
                    jobs.shutdown(cancel_futures=True)

    def _attempt(self, song: str | Path, pool: ThreadPoolExecutor) -> Outcome:
        """Extract a song; a failure is an outcome, too."""
        started = time.monotonic()
        with self._bars.song(song) as progress:
            try:
                outcome = self.extract(song, pool=pool, progress=progress, cancelled=self._stop.is_set)
            except VocalExtractionError as error:
                outcome = self._failed(song, time.monotonic() - started, str(error))
        self._bars.report(outcome)
        return outcome

    def extract(
        self,
        song: str | Path,
        *,
        pool: ThreadPoolExecutor | None = None,
        longest_s: float | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> Outcome:
        """Extract a song, unless that is done already, and record it."""
        places = self._places.get(identity(song))
        if isinstance(places, VocalExtractionError):
            raise places
        if places is not None and self._is_done_or_free(song, places):
            return self._skipped(song, places)
        try:
            outcome = extract_song(
                song,
                places,
                estimator=self._estimator,
                pool=pool,
                longest_s=longest_s,
                progress=progress,
                cancelled=cancelled,
                announce=self._announce,
            )
        except _DoneMeanwhileError as done:
            return self._skipped(song, done.places)
        except BrokenPipeError:
            # Whoever read our standard output has gone; the program ends as others do then.
            raise
        except OSError as error:
            raise ExtractionError(f"{song} could not be extracted ({error}). Check the disk and try again.") from error
        return outcome

    def _is_done_or_free(self, song: str | Path, places: Places) -> bool:
        """Tell whether a song is done already.

        Raises
        ------
        ExtractionError
            If it is not, and its places are taken by what may not be replaced.
        """
        manifest = self._manifest
        if self._estimator.settings.overwrite:
            return False
        if manifest is not None:
            manifest.read_on()
        if manifest is not None and manifest.is_done(song, places, self._options):
            return True
        if manifest is None or not manifest.is_half_done(song, places, self._options):
            _refuse_overwriting(places)
        return False

    def _announce(self, outcome: Outcome, stems: list[Path]) -> None:
        """Record a song whose stems are whole and about to get their names, unless another run was quicker."""
        places = self._places.get(identity(outcome.file))
        if self._manifest is None or not isinstance(places, Places):
            return
        if self._is_done_or_free(outcome.file, places):
            raise _DoneMeanwhileError(places)
        self._manifest.announce(outcome, stems, options=self._options)

    def _failed(self, song: str | Path, seconds: float, reason: str) -> Outcome:
        """Record a failure; if not even that can be done, as on a full disk, say so, and let the others try."""
        outcome = Outcome(str(song), FAILED, seconds, reason)
        try:
            if not self._stop.is_set():
                self._record(outcome)
        except ExtractionError as error:
            return dataclasses.replace(outcome, reason=f"{reason} {error}")
        return outcome

    def _skipped(self, song: str | Path, places: Places) -> Outcome:
        outcome = Outcome(
            str(song),
            SKIPPED,
            reason=f"Done before, with the same model and options: {places.vocals}, {places.accompaniment}",
            vocals=places.vocals,
            accompaniment=places.accompaniment,
        )
        self._record(outcome)
        return outcome

    def _record(self, outcome: Outcome) -> None:
        if self._manifest is not None:
            self._manifest.add(outcome, options=self._options)


class _DoneMeanwhileError(Exception):
    """Another run has just done the same song with the same model and options."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places


def _refuse_overwriting(places: Places) -> None:
    existing = [str(place) for place in (places.vocals, places.accompaniment) if place.exists() or place.is_symlink()]
    if existing:
        raise ExtractionError(
            f"{' and '.join(existing)} exist already, made otherwise or of another song. "
            "Replace them with --overwrite, or choose another folder: -o."
        )
