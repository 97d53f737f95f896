"""The entrances of the evaluation: a checkpoint, or a folder of anyone's estimates.

The protocol is the one behind the specification's benchmark table: sources vocals and bass+drums+other, each channel by
itself, the median over channels, then mean and standard deviation over songs; the accompaniment's estimate is the
mixture less the vocals, and the mixture is the sum of the stems.
"""

import dataclasses
import functools
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vocal_extraction.atomic_files import remove_leftovers, write_json, write_text
from vocal_extraction.evaluation import results
from vocal_extraction.evaluation.aggregate import aggregate
from vocal_extraction.evaluation.exhibits import choose_exhibits
from vocal_extraction.evaluation.jobs import Job, Row, run_jobs
from vocal_extraction.evaluation.scoring import FAMILIES
from vocal_extraction.evaluation.separators import (
    BASELINES,
    ORACLES,
    ModelSeparator,
    ModelSettings,
    ideal_mask,
    mixture_as_estimate,
    nussl_primitive,
    random_mask,
    read_estimate,
)
from vocal_extraction.evaluation.songs import EvaluationError, Recording, find_estimates, find_songs
from vocal_extraction.reports.page import report_page
from vocal_extraction.reports.tables import report_card
from vocal_extraction.settings import (
    DATASET_FOLDER,
    EVALUATION_FOLDER,
    PRETRAINED_FOLDER,
    SPECIFIED,
    TRAINED_MODEL,
    SignalSettings,
)

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where it stands."""

    summary: dict[str, Any]
    """The content of ``summary.json``."""
    report_card: str
    """The content of ``report_card.txt``: the table that was printed."""
    output_folder: Path
    """Where all files stand, ``report.html`` among them."""
    songs: list[dict[str, Any]] = dataclasses.field(repr=False)
    """The contents of the songs' files, in order of their names."""


@dataclasses.dataclass(frozen=True)
class _Options:
    """What all entrances have in common."""

    dataset_folder: PathLike
    subset: str
    metrics: tuple[str, ...]
    oracles: bool
    baselines: bool
    limit: int | None
    n_jobs: int | None
    overwrite: bool
    progress: bool
    show: bool
    save_estimates: bool = False
    on_accelerator: bool = False

    def songs(self) -> list[Recording]:
        return find_songs(self.dataset_folder, subset=self.subset, limit=self.limit)


def evaluate_model(
    path_to_trained_model: PathLike = TRAINED_MODEL,
    *,
    dataset_folder: PathLike = DATASET_FOLDER,
    subset: str = "test",
    output_folder: PathLike | None = None,
    metrics: Sequence[str] = tuple(FAMILIES),
    mask: str = "soft",
    oracles: bool = False,
    baselines: bool = False,
    limit: int | None = None,
    n_jobs: int | None = None,
    save_estimates: bool = False,
    separator: str = "extraction",
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
    show: bool = True,
) -> Evaluation:
    """Score a checkpoint on songs whose stems are known.

    Parameters
    ----------
    path_to_trained_model
        The checkpoint.
    dataset_folder
        Where the songs lie; `evaluation.songs` tells the layouts.
    subset
        'test', 'valid' or 'train'.
    output_folder
        Where the results go. None takes ``evaluation_results``, and for a model that ships a folder of its own in it.
    metrics
        'scale' (SI-SDR and its kin), 'bsseval_v4' (museval's SDR, ISR, SIR, SAR), or both, as by default.
    mask
        'soft' or 'binary'.
    oracles
        Also score ideal masks at the network's STFT, the ceiling.
    baselines
        Also score a random mask and nussl's REPET-SIM, 2DFT and HPSS, the floor. The mixture always is.
    limit
        Score only the first so many songs.
    n_jobs
        Songs scored at the same time, each in a process of its own; None chooses.
    save_estimates
        Keep the model's estimates as ``estimates/<song>/vocals.wav`` and ``accompaniment.wav``.
    separator
        'extraction', or 'nussl' for the specification's workaround, the slow reference.
    device
        'auto', 'cpu', 'cuda' or 'cuda:1' and so on.
    overwrite
        Take an output folder that holds another model's results; those are moved aside within it.
    progress
        Show a bar with the time left on stderr.
    show
        Print the report card on stdout.

    Returns
    -------
    Evaluation
        Summary, report card, songs' scores and the folder they stand in.

    Raises
    ------
    EvaluationError
        If an argument is unknown, songs are missing or damaged, or the folder holds another model's results.
    CheckpointError
        If the checkpoint is.
    """
    from vocal_extraction.checkpointing import load_checkpoint
    from vocal_extraction.device import choose_device

    _check("mask", mask, ("soft", "binary"))
    _check("separator", separator, ("extraction", "nussl"))
    path = Path(path_to_trained_model)
    accelerated = choose_device(device).type != "cpu"
    model = load_checkpoint(path)
    use = {"mask": mask, "separator": separator}
    settings = ModelSettings(path=path, sha256=model.sha256, device=device, **use)
    row = Row("model", {"sha256": model.sha256, **use}, ModelSeparator(settings))
    options = _Options(
        dataset_folder=dataset_folder,
        subset=subset,
        metrics=_families(metrics),
        oracles=oracles,
        baselines=baselines,
        limit=limit,
        n_jobs=n_jobs,
        overwrite=overwrite,
        progress=progress,
        show=show,
        save_estimates=save_estimates,
        on_accelerator=accelerated,
    )
    evaluated = {"kind": "model", "name": path.name, "path": str(path), "sha256": model.sha256, "settings": use}
    folder = _default_folder(path) if output_folder is None else Path(output_folder)
    songs = options.songs()
    return _evaluate(songs, [row] * len(songs), evaluated, model.signal, folder, options)


def evaluate_estimates(
    estimates_folder: PathLike,
    *,
    dataset_folder: PathLike = DATASET_FOLDER,
    subset: str = "test",
    output_folder: PathLike | None = None,
    metrics: Sequence[str] = tuple(FAMILIES),
    oracles: bool = False,
    baselines: bool = False,
    limit: int | None = None,
    n_jobs: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    show: bool = True,
) -> Evaluation:
    """Score estimates that any separator made: ``<estimates_folder>/<song>/vocals.wav``.

    Where there is an ``accompaniment.wav`` beside it, that is scored; else the mixture less the vocals is. Oracles use
    the specified STFT. All other parameters are those of `evaluate_model`, and so is what comes back; the default
    output folder is ``evaluation_results/estimates-<name of the folder>``.
    """
    options = _Options(
        dataset_folder=dataset_folder,
        subset=subset,
        metrics=_families(metrics),
        oracles=oracles,
        baselines=baselines,
        limit=limit,
        n_jobs=n_jobs,
        overwrite=overwrite,
        progress=progress,
        show=show,
    )
    path = Path(estimates_folder)
    songs = options.songs()
    estimates = find_estimates(path, songs, subset=subset)
    rows = [
        Row("estimates", {"sha256": one.sha256()}, functools.partial(read_estimate, estimates=one)) for one in estimates
    ]
    name = path.resolve().name
    evaluated: dict[str, Any] = {"kind": "estimates", "name": name, "path": str(path), "sha256": None, "settings": {}}
    folder = EVALUATION_FOLDER / f"estimates-{name}" if output_folder is None else Path(output_folder)
    return _evaluate(songs, rows, evaluated, SPECIFIED.signal, folder, options)


def _evaluate(
    songs: Sequence[Recording],
    first_rows: Sequence[Row],
    evaluated: dict[str, Any],
    signal: SignalSettings,
    folder: Path,
    options: _Options,
) -> Evaluation:
    """Score songs, then write everything that is made of their scores."""
    data = {"folder": str(options.dataset_folder), "subset": options.subset}
    remove_leftovers(folder)
    aside = results.claim_folder(folder, evaluated=evaluated, data=data, overwrite=options.overwrite)
    if aside is not None:
        print(f"Earlier results in {folder} were moved to {aside}.", file=sys.stderr)
    beside = _rows_beside(signal, oracles=options.oracles, baselines=options.baselines)
    jobs = [
        Job(song, (row, *beside), options.metrics, folder, evaluated, data, options.save_estimates)
        for song, row in zip(songs, first_rows, strict=True)
    ]
    done = run_jobs(jobs, n_jobs=options.n_jobs, on_accelerator=options.on_accelerator)
    bar = tqdm(done, total=len(jobs), unit="song", desc="evaluating", disable=not options.progress, file=sys.stderr)
    contents = sorted(bar, key=lambda content: content["song"])
    summary = _summary(contents, jobs, evaluated, data, options)
    card = report_card(summary)
    write_json(folder / results.SUMMARY, summary)
    results.write_scores_csv(folder / results.SCORES, contents, rows=list(summary["rows"]), metrics=summary["metrics"])
    write_text(folder / results.CARD, card)
    if "bsseval_v4" in options.metrics:
        for content in contents:
            results.write_museval_json(folder, content, row=jobs[0].rows[0].name, subset=options.subset)
    write_text(folder / results.PAGE, report_page(summary, contents, exhibits=choose_exhibits(jobs, contents)))
    if options.show:
        print(f"{card}\n{folder / results.PAGE}")
    return Evaluation(summary, card, folder, contents)


def _rows_beside(signal: SignalSettings, *, oracles: bool, baselines: bool) -> list[Row]:
    """Return the floor and the ceiling that are scored beside the model, at its STFT."""
    stft = {key: value for key, value in dataclasses.asdict(signal).items() if key != "sample_rate"}
    rows = [Row("mixture", {}, mixture_as_estimate)]
    if baselines:
        rows.append(Row("random_mask", stft, functools.partial(random_mask, signal=signal)))
        version = {"nussl": importlib.metadata.version("nussl")}
        learnt_nothing = [name for name in BASELINES if name != "random_mask"]
        rows += [Row(name, version, functools.partial(nussl_primitive, kind=name)) for name in learnt_nothing]
    if oracles:
        rows += [Row(name, stft, functools.partial(ideal_mask, kind=name, signal=signal)) for name in ORACLES]
    return rows


def _summary(
    contents: Sequence[dict[str, Any]],
    jobs: Sequence[Job],
    evaluated: dict[str, Any],
    data: dict[str, Any],
    options: _Options,
) -> dict[str, Any]:
    metrics = [name for family in options.metrics for name in FAMILIES[family]]
    packages = ("numpy", "scipy", "torch", "nussl", "museval")
    return {
        "schema": results.SUMMARY_SCHEMA,
        "schema_version": results.SCHEMA_VERSION,
        "evaluated": evaluated,
        "data": {**data, "duration_s": round(sum(job.song.duration_s for job in jobs), 3)},
        "metrics": metrics,
        "songs": [content["song"] for content in contents],
        "rows": aggregate(contents, rows=[row.name for row in jobs[0].rows], metrics=metrics),
        "software": {name: importlib.metadata.version(name) for name in packages},
    }


def _families(metrics: Sequence[str]) -> tuple[str, ...]:
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    for name in names:
        _check("metrics", name, tuple(FAMILIES))
    if not names:
        raise EvaluationError(f"No metrics were asked for. Choose of {', '.join(FAMILIES)}.")
    return tuple(name for name in FAMILIES if name in names)


def _check(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EvaluationError(f"Unknown {what}: {value!r}. Expected one of {', '.join(allowed)}.")


def _default_folder(model: Path) -> Path:
    """Return ``evaluation_results``, or a folder in it for a model that ships, so that menu 2 and 3 do not collide."""
    if model.resolve().parent != PRETRAINED_FOLDER.resolve():
        return EVALUATION_FOLDER
    return EVALUATION_FOLDER / f"pretrained-{label_of(model)}"


def label_of(model: Path) -> str:
    """Return a short name for a checkpoint.

    >>> label_of(Path("checkpoints/best.model.pth"))
    'best'
    """
    return model.name.removesuffix(".pth").removesuffix(".model") or "model"
