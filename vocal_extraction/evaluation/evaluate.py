"""Evaluation of a checkpoint, or of a folder of any separator's estimates; see docs/evaluation.md."""

import collections
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vocal_extraction.atomic_files import remove_leftovers, write_json, write_text
from vocal_extraction.evaluation import results
from vocal_extraction.evaluation.estimates import find_estimates
from vocal_extraction.evaluation.metrics import EvaluationError, choose_metrics
from vocal_extraction.evaluation.models import ModelSystem
from vocal_extraction.evaluation.results import shown_path
from vocal_extraction.evaluation.scoring import Job, excerpt_of, run_jobs
from vocal_extraction.evaluation.systems import Sources, System, systems_beside
from vocal_extraction.evaluation.workers import ScoringWork, run_on_workers
from vocal_extraction.extraction.addresses import songs_listed
from vocal_extraction.extraction.shards import Shard
from vocal_extraction.machine import n_cores
from vocal_extraction.presets import SPECIFIED
from vocal_extraction.progress import counted
from vocal_extraction.reports.page import Example, report_page
from vocal_extraction.reports.tables import main_metric, report_card
from vocal_extraction.settings import (
    ACCOMPANIMENT,
    DATASET_FOLDER,
    EVALUATION_FOLDER,
    TRAINED_MODEL,
    SignalSettings,
    converted,
)
from vocal_extraction.tracks import Track, find_tracks, prepare_if_needed

CLIP_S = 10.0  # longest clip of an example; of a longer song, where the main source is loudest

PathLike = str | os.PathLike[str]

_TRAINED_MODEL = TRAINED_MODEL.as_posix()
_CHOICES = {"mask": ("soft", "binary"), "separator": ("extraction", "nussl"), "normalization": ("stored", "song")}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where its files are."""

    summary: dict[str, Any]  # content of ``summary.json``
    report_card: str  # content of ``report_card.txt``: the table that was printed
    output_folder: Path
    songs: list[dict[str, Any]] = dataclasses.field(repr=False)  # contents of the songs' files, in order of their names


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """The options that `evaluate_model` and `evaluate_estimates` share."""

    tracks: PathLike | Sequence[PathLike] | None = None
    """Folders of songs with stems, in any of `track_layouts.LAYOUTS`; None is `dataset_folder`."""
    list_path: str | Path | None = None
    """A list of more of them, of which each may be one song's: see `extraction.addresses.songs_listed`."""
    dataset_folder: PathLike = DATASET_FOLDER  # of prepared songs, or for MUSDB18's; see `tracks.prepare_if_needed`
    musdb_path: PathLike | None = None
    """Where MUSDB18 lies; None takes the environment variable ``MUSDB_PATH``, or downloads the 7 s sample."""
    subset: str = "test"  # or 'valid' or 'train'
    output_folder: PathLike | None = None
    """Where the results go; None is ``evaluation_results``, for a model that ships or for estimates a folder in it."""
    metrics: str | Sequence[str] | None = None
    """Families of metrics: 'scale' (SI-SDR and others), 'bsseval_v4' (museval's SDR, ISR, SIR, SAR), 'leakage', or
    metrics of one's own; None is all."""
    oracles: bool = False  # also score ideal masks at the network's STFT
    baselines: bool = False  # also score a random mask and nussl's REPET-SIM, 2DFT and HPSS; the mixture always is
    limit: int | None = None  # score only the first so many songs
    shard: str | None = None
    """Score only these of them, see `extraction.shards.Shard`, and write the songs' files alone; without it, what all
    shards have scored is summed up."""
    n_jobs: int | None = None  # songs scored at the same time; None chooses
    engine: str = "threads"
    """Where: 'threads' of this process; for large data sets 'processes', or 'ray' with `cluster` and `gpu_share` as in
    `extraction.catalogue.extract_catalogue`, where a song that fails keeps no others from being scored."""
    cluster: str | None = None
    gpu_share: float = 0.0
    price_per_core_hour: float | None = None  # with such an engine, also say what it costs
    overwrite: bool = False  # take an output folder that has another model's results, and move those to a folder in it
    progress: bool = True  # show on stderr how far it is
    show: bool = True  # print the report card on stdout

    def __post_init__(self) -> None:
        choose_metrics(self.metrics)  # which raises an EvaluationError
        for name in ("limit", "n_jobs"):
            converted(getattr(self, name), int | None, name)

    def find(self) -> list[Track]:
        """Return the songs, after they were prepared if that was still to be done."""
        which: dict[str, Any] = {"subset": self.subset, "limit": self.limit, "progress": self.progress}
        if self.tracks is None and self.list_path is None:
            prepare_if_needed(self.dataset_folder, self.musdb_path, **which)
        folders = self._folders
        if self.list_path is not None:
            with tempfile.TemporaryDirectory() as scratch:
                folders += songs_listed(self.list_path, Path(scratch))
        if not folders:
            raise EvaluationError(f"The list {self.list_path} names no folders of songs.")
        tracks = find_tracks(folders, **which)
        name, n_songs = collections.Counter(track.name for track in tracks).most_common(1)[0]
        if n_songs > 1:
            raise EvaluationError(f"{n_songs} songs are named {name!r}. Rename them, or score one folder at a time.")
        return tracks

    @property
    def n_workers(self) -> int:
        return self.n_jobs or n_cores()

    @property
    def data(self) -> dict[str, Any]:
        """Folders, or the list of them, and subset of the songs, as results have them."""
        places = [*self._folders, *([] if self.list_path is None else [self.list_path])]
        return {"folder": ", ".join(map(shown_path, places)), "subset": self.subset}

    @property
    def _folders(self) -> list[Any]:
        folders = self.tracks if self.tracks is not None else [] if self.list_path else self.dataset_folder
        return [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)


def evaluate_model(
    path_to_trained_model: PathLike = _TRAINED_MODEL,
    *,
    mask: str = "soft",
    separator: str = "extraction",
    normalization: str = "stored",
    save_estimates: bool = False,
    device: str = "auto",
    **options: Any,
) -> Evaluation:
    """Score a checkpoint on songs whose stems are known.

    Parameters
    ----------
    path_to_trained_model
        The checkpoint, or the name of a model that ships.
    mask
        'soft' or 'binary'.
    separator
        'extraction', or 'nussl' for the specification's workaround, the slow reference.
    normalization
        'stored', or 'song': batch normalization by each song's own statistics, as the specification's published figures
        were computed. Takes whole songs at once, so memory grows with their length.
    save_estimates
        Keep the model's estimates as ``estimates/<song>/<source>.wav``.
    device
        'auto', 'cpu', 'cuda' or 'cuda:1' and so on.
    **options
        Fields of `EvaluationOptions`, such as ``dataset_folder``, ``output_folder``, ``metrics``, ``oracles``.

    Raises
    ------
    EvaluationError, TrackError, CheckpointError
        If an argument is unknown, songs or checkpoint are missing or damaged, they share no source, or the folder has
        another model's results.
    """
    from vocal_extraction.checkpointing import licence_of, load_checkpoint, named_checkpoints

    use: dict[str, Any] = {"mask": mask, "separator": separator, "normalization": normalization}
    for what, value in use.items():
        if value not in _CHOICES[what]:
            raise EvaluationError(f"Unknown {what}: {value!r}. Expected one of {', '.join(_CHOICES[what])}.")
    common = EvaluationOptions(**options)
    runtime = "auto" if separator == "extraction" and normalization == "stored" else "torch"
    model = load_checkpoint(path_to_trained_model, device=device, runtime=runtime)
    path, name = model.path, model.name
    has_name = path.resolve() in [each.resolve() for each in named_checkpoints().values()]
    if common.n_jobs is None and not model.is_on_cpu:
        common = dataclasses.replace(common, n_jobs=1)
    estimate = ModelSystem(model, **use)
    if normalization == "stored":  # as before there was a choice, so that earlier results are of the same settings
        del use["normalization"]
    system = System(name, "evaluated", estimate, {"sha256": model.sha256, **use})
    tracks = common.find()
    return _evaluate(
        [(track, system, ()) for track in tracks],
        ScoringWork.of(model, path, device, runtime, common.n_workers),
        Sources.shared(model.sources, tracks),
        {"kind": "model", "name": name, "path": shown_path(path), "sha256": model.sha256, "settings": use},
        common,
        default_folder=EVALUATION_FOLDER / (f"pretrained-{name}" if has_name else ""),
        signal=model.signal,
        save_estimates=save_estimates,
        preset=str(model.metadata.preset or ""),
        licence=licence_of(path, model.metadata.licence),
    )


def evaluate_estimates(estimates_folder: PathLike, **options: Any) -> Evaluation:
    """Score estimates that any separator made: ``<estimates_folder>/<song>/<source>.wav``.

    Other audio formats are taken, too. All songs have at least ``vocals.wav``, or another of their stems. Where an
    ``accompaniment.wav`` is beside the vocals, that is scored; else the mixture less the vocals is. Oracles use the
    specified STFT. Options are the fields of `EvaluationOptions`; the default output folder is
    ``evaluation_results/estimates-<name of the folder>``.
    """
    common, path = EvaluationOptions(**options), Path(estimates_folder)
    if not path.is_dir():
        raise EvaluationError(f"No folder {path} with estimates. Name one that holds SONG/vocals.wav.")
    tracks, name = common.find(), path.resolve().name
    sources, found = find_estimates(path, tracks, subset=common.subset)
    systems = [System(name, "evaluated", one, {"sha256": one.sha256()}) for one in found]
    songs = list(zip(tracks, systems, [one.notes for one in found], strict=True))
    evaluated = dict[str, Any](kind="estimates", name=name, path=shown_path(path), sha256=None, settings={})
    folder, work = EVALUATION_FOLDER / f"estimates-{name}", ScoringWork(None, "", "", "", common.n_workers)
    return _evaluate(songs, work, sources, evaluated, common, default_folder=folder, signal=SPECIFIED.signal)


def _evaluate(
    songs: Sequence[tuple[Track, System, tuple[str, ...]]],
    work: ScoringWork,
    sources: Sources,
    evaluated: dict[str, Any],
    options: EvaluationOptions,
    *,
    default_folder: Path,
    signal: SignalSettings,
    save_estimates: bool = False,
    preset: str = "",
    licence: str = "",
) -> Evaluation:
    """Score songs, each with the system that is evaluated and notes, then write all files that come of their scores."""
    folder, metrics = Path(options.output_folder or default_folder), choose_metrics(options.metrics)
    in_hand = ".in-hand"
    if options.shard is None:  # else others, on other machines, may be at work in the folder
        remove_leftovers(folder)
    else:
        part = Shard.parse(options.shard)
        songs, in_hand = [song for song in songs if part.has(song[0].name)], f".{part.index}-of-{part.n_shards}.in-hand"
    earlier = results.claim_folder(folder, evaluated=evaluated, data=options.data, overwrite=options.overwrite)
    if earlier is not None:
        print(f"Earlier results in {folder} were moved to {earlier}.", file=sys.stderr)
    row, beside = evaluated["kind"], systems_beside(signal, oracles=options.oracles, baselines=options.baselines)
    more = (sources, metrics, folder, evaluated, options.data, save_estimates)
    jobs = [Job(sources.of(track), {row: system, **beside}, *more, notes) for track, system, notes in songs]
    scored: Iterable[dict[str, Any]] = ()
    if options.engine != "threads":
        names = ("engine", "cluster", "gpu_share", "price_per_core_hour", "overwrite")
        own: Any = {name: getattr(options, name) for name in names}
        scored = run_on_workers(jobs, work, **own, in_hand=folder / in_hand, show=options.progress)
    elif jobs:  # a shard may be without songs
        running = run_jobs(jobs, n_jobs=options.n_jobs)
        scored = counted(running, len(jobs), "evaluating", show=options.progress)
    contents = sorted(scored, key=lambda content: content["song"])
    if options.shard is not None:
        return Evaluation({}, "", folder, contents)
    summary = results.summarise_evaluation(contents, jobs[0], preset=preset, licence=licence)
    for song, notes in summary["notes"].items():
        print(*(f"{song}: {note}." for note in notes), sep="\n", file=sys.stderr)
    card = report_card(summary)
    write_json(folder / results.SUMMARY, summary)
    results.write_scores_csv(folder / results.SCORES, contents, summary)
    write_text(folder / results.CARD, card)
    if any(metric.family == "bsseval_v4" for metric in metrics.values()):
        results.write_museval_json(folder / results.MUSEVAL_FOLDER / options.subset, contents, row=row)
    examples = choose_examples(jobs, contents, metric=main_metric(summary))
    write_text(folder / results.PAGE, report_page(summary, contents, examples=examples))
    if options.show:
        print(f"{card}\n{folder / results.PAGE}")
    return Evaluation(summary, card, folder, contents)


def choose_examples(jobs: Sequence[Job], contents: Sequence[Mapping[str, Any]], *, metric: str) -> list[Example]:
    """Return examples of the songs that score best, in the middle and worst; of two songs or one, those."""
    system, source = next(iter(jobs[0].systems)), jobs[0].sources.names[0]
    scored = [(content["rows"][system]["scores"][source][metric]["value"], content["song"]) for content in contents]
    sign = 1 if jobs[0].metrics[metric].more_is_better else -1
    ranked = sorted(((v, song) for v, song in scored if v is not None), key=lambda one: sign * one[0], reverse=True)
    by_song, chosen = {job.track.name: job for job in jobs}, dict[int, str]()
    for rank, i in (("best", 0), ("worst", len(ranked) - 1), ("median", len(ranked) // 2)):
        chosen.setdefault(i, rank)
    return [_example(by_song[ranked[i][1]], chosen[i], metric, ranked[i][0]) for i in sorted(chosen) if ranked]


def _example(job: Job, rank: str, metric: str, value: float) -> Example:
    """Return clips of what went in, what came out and what should have."""
    track = job.track
    start, stop = loudest_clip(track)
    excerpt, kept = excerpt_of(track, job.sources, start, stop)
    estimates = next(iter(job.systems.values())).estimate(excerpt)[..., kept]
    rest = (ACCOMPANIMENT, job.sources.residual)
    first, *others = ("The rest" if name in rest else name.capitalize() for name in job.sources.names)
    clips = {
        "Mixture": excerpt.mixture[:, kept],
        f"{first} as estimated": estimates[0],
        f"{first} as recorded": excerpt.references[0][:, kept],
        **{f"{name} as estimated": estimate for name, estimate in zip(others, estimates[1:], strict=True)},
    }
    return Example(rank, track.name, metric, value, track.sample_rate, start / track.sample_rate, clips)


def loudest_clip(track: Track) -> tuple[int, int]:
    """Return the first and the last sample of the `CLIP_S` in which the first source has the most energy."""
    length, second = round(CLIP_S * track.sample_rate), track.sample_rate
    if track.n_samples <= length:
        return 0, track.n_samples
    first_source = dataclasses.replace(track, sources=dict([next(iter(track.sources.items()))]))
    starts = range(0, track.n_samples - second + 1, second)
    energy = np.array([np.square(first_source.read(start, start + second)).sum(dtype=float) for start in starts])
    n_seconds = min(round(CLIP_S), len(energy))
    first = int(np.convolve(energy, np.ones(n_seconds), "valid").argmax()) * second
    first = min(first, track.n_samples - length)
    return first, first + length
