"""Many songs: a batch is a job that can be stopped at any time and taken up again.

Paths are chosen for all songs before the first is begun, so that they do not depend on which ends first. A song that
fails, or kills its process, is recorded, and the others go on. Two batches in one folder take turns.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

from vocal_extraction.atomic_files import remove_leftovers, sole_writer
from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction.folder_job import FolderJob, FolderWork, Task
from vocal_extraction.extraction.manifest import Manifest
from vocal_extraction.extraction.naming import STANDARD_INPUT, find_songs, identity
from vocal_extraction.extraction.outcome import Outcome, ProgressBars
from vocal_extraction.extraction.workers import ProcessWorker, Tries, do_all
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.separation import Cancelled, Progress, Separator, StemPlan, load_model, stem_plan, worker_pool
from vocal_extraction.settings import EXTRACTION_FOLDER, ExtractionSettings

STANDARD_OUTPUT = "-"
IN_HAND_NAME = ".in-hand.json"  # where a batch keeps its `Tries`, beside the manifest


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
        job = FolderJob(manifest, plan, Separator(loaded, settings, folder=manifest.folder if manifest else None))
        paths = job.places({song: Path()}).get(identity(song))
        outcome = job.extract(song, paths, longest_s=longest_s, progress=progress, cancelled=cancelled)
        return cast(Outcome, outcome)


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
        Songs under way at the same time, each in a process of its own with the model loaded. A script that asks for
        more than one begins behind ``if __name__ == "__main__":``, as `multiprocessing` demands.
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
        if manifest is None and len(found) != 1:
            raise ExtractionError(f"Standard output takes one song, got {len(found)}. Name a folder: -o DIR.")
        # Standard input is waited for without end, which only the main thread can be called away from.
        n_workers = 1 if STANDARD_INPUT in found else min(n_jobs, len(found))
        in_hand = folder / IN_HAND_NAME if len(found) > 1 else None
        with (
            worker_pool(loaded) as pool,
            contextlib.closing(ProgressBars(len(found), show=show, results=results)) as bars,
            contextlib.closing(Tries(in_hand, afresh=settings.overwrite)) as tries,
        ):
            work = FolderWork.of(loaded, model, device, runtime, n_workers, plan, settings, folder)
            separator = Separator(loaded, settings, pool=pool, folder=manifest.folder if manifest else None)
            job = FolderJob(manifest, plan, separator)
            places = job.places(found)
            outcomes: dict[str, Outcome] = {}

            def report(task: Task, result: Outcome | ExtractionError) -> None:
                song = identity(task[0])
                outcomes[song] = result if isinstance(result, Outcome) else job.failed(task[0], 0.0, result)
                bars.report(outcomes[song])

            tasks = ((song, places.get(identity(song))) for song in found)
            if n_workers > 1:
                hire = functools.partial(ProcessWorker, work)
                do_all(tasks, hire, n_workers=n_workers, tries=tries, name=lambda task: identity(task[0]), done=report)
            else:
                for task in tries.suspects_last(tasks, lambda task: identity(task[0])):
                    try:
                        tries.begin(identity(task[0]))
                    except ExtractionError as error:
                        report(task, error)
                        continue
                    with bars.song(task[0]) as progress:
                        outcome = job.extract(*task, in_batch=True, progress=progress)
                    tries.end(identity(task[0]))
                    if outcome is not None:
                        report(task, outcome)
            return [outcomes[identity(song)] for song in found]


def plan_of(
    sources: Sequence[str],
    stems: Sequence[str] | None,
    without: Sequence[str] | None,
    format_name: str,
    folder: Path = EXTRACTION_FOLDER,
) -> StemPlan:
    """Return the `stem_plan` of what is written in a format to a folder or, as '-', to standard output."""
    holds_all, to_output = FORMATS[format_name].holds_all, str(folder) == STANDARD_OUTPUT
    if (holds_all or to_output) and not stems and not without:
        stems = ["all"] if holds_all else ["vocals"]
    plan = stem_plan(sources, stems, without)
    if holds_all and (len(plan.names) != 4 or to_output):
        raise ExtractionError(
            f"{format_name} is a file of four stems beside the mixture, got {', '.join(plan.names)}. Choose a model of "
            "four sources: --model PATH, or another --format."
        )
    if to_output and len(plan.names) != 1:
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
