"""Two models on the same songs: the difference song by song, and an interval of its mean.

The interval is the percentile bootstrap over songs (Efron and Tibshirani, "An introduction to the bootstrap", 1993,
chapter 13). Only songs for which both have a value are paired, and their number is given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vocal_extraction.atomic_files import write_json, write_text
from vocal_extraction.checkpointing import load_checkpoint
from vocal_extraction.evaluation.evaluate import PathLike, evaluate_model
from vocal_extraction.evaluation.metrics import EvaluationError
from vocal_extraction.evaluation.results import COMPARISON
from vocal_extraction.reports.page import comparison_page
from vocal_extraction.reports.tables import comparison_table
from vocal_extraction.settings import EVALUATION_FOLDER

N_RESAMPLES = 10_000
CONFIDENCE = 0.95


def compare_models(
    paths_to_trained_models: Sequence[PathLike], *, output_folder: PathLike | None = None, **options: Any
) -> dict[str, Any]:
    """Score two or more checkpoints and pair them, song by song, with the first.

    Each model's results go into a folder of its own in `output_folder`, by default
    ``evaluation_results/<first>-vs-<second>``, beside ``comparison.json``, whose content is returned,
    ``comparison.txt`` and ``comparison.html``. Options and errors are those of `evaluate_model`.
    """
    loaded = [load_checkpoint(path) for path in paths_to_trained_models]
    if len(loaded) < 2:
        raise EvaluationError(f"A comparison takes two models or more; got {len(loaded)}.")
    labels = _labels([model.name for model in loaded], [model.path for model in loaded])
    for i, model in enumerate(loaded):
        if model.sha256 in [each.sha256 for each in loaded[:i]]:
            raise EvaluationError(f"{labels[i]} is the same model as another of them. Name another to compare with.")
    folder = EVALUATION_FOLDER / "-vs-".join(labels) if output_folder is None else Path(output_folder)
    show = options.pop("show", True)
    found = {
        label: evaluate_model(model.path, output_folder=folder / label, show=False, **options)
        for model, label in zip(loaded, labels, strict=True)
    }
    first, *others = found.values()
    sources = [name for name in first.summary["sources"] if all(name in one.summary["sources"] for one in others)]
    definitions = first.summary["definitions"]
    pairs = [compare(first.songs, one.songs, sources=sources, definitions=definitions) for one in others]
    comparison = {
        "schema": "vocal-extraction/comparison",
        "schema_version": 2,
        "sources": sources,
        "models": {label: one.summary for label, one in found.items()},
        "pairs": [
            {"first": labels[0], "second": second, "sources": pair}
            for second, pair in zip(labels[1:], pairs, strict=True)
        ],
    }
    write_json(folder / COMPARISON, comparison)
    table = comparison_table(comparison)
    write_text(folder / "comparison.txt", table)
    write_text(folder / "comparison.html", comparison_page(comparison))
    if show:
        print(f"{table}\n{folder / 'comparison.html'}")
    return comparison


def compare(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    *,
    sources: Sequence[str],
    definitions: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Pair two models' scores, given as the contents of the songs' JSON files of each.

    Returns ``{source: {metric: {"songs": {name: [first, second, second - first]}, "mean_first", "mean_second",
    "difference", "interval", "wins", "losses", "ties", "n"}}}``; the wins are the second's.
    """
    others = {song["song"]: song for song in second}
    pairs = [(song, others[song["song"]]) for song in first if song["song"] in others]

    def paired(source: str, metric: str) -> dict[str, Any]:
        values = {
            one["song"]: [song["rows"]["model"]["scores"][source][metric]["value"] for song in (one, other)]
            for one, other in pairs
        }
        songs = {song: [a, b, round(b - a, 6)] for song, (a, b) in values.items() if a is not None and b is not None}
        return _summarised(songs, more_is_better=definitions[metric]["more_is_better"])

    return {source: {metric: paired(source, metric) for metric in definitions} for source in sources}


def _summarised(songs: Mapping[str, list[float]], *, more_is_better: bool) -> dict[str, Any]:
    table = np.array(list(songs.values())).reshape(-1, 3)
    means = [round(float(x), 6) for x in table.mean(axis=0)] if songs else [None] * 3
    interval = bootstrap_interval(table[:, 2])
    gain = table[:, 2] if more_is_better else -table[:, 2]
    return {
        "songs": songs,
        **dict(zip(("mean_first", "mean_second", "difference"), means, strict=True)),
        "interval": None if interval is None else [round(x, 6) for x in interval],
        **{name: int((np.sign(gain) == sign).sum()) for name, sign in (("wins", 1), ("losses", -1), ("ties", 0))},
        "n": len(songs),
    }


def bootstrap_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of the mean at `CONFIDENCE`; None for fewer than two values.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    draws = np.random.default_rng(0).integers(len(values), size=(N_RESAMPLES, len(values)))
    tails = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[draws].mean(axis=1), [tails, 1 - tails])
    return float(low), float(high)


def _labels(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return names that differ: those of the models, with their folders, or with numbers.

    >>> _labels(["mine", "mine"], [Path("a/mine.pth"), Path("b/mine.pth")])
    ['a-mine', 'b-mine']
    """
    by_folder = [f"{path.resolve().parent.name}-{name}" for name, path in zip(names, paths, strict=True)]
    by_number = [f"{i}-{name}" for i, name in enumerate(names, start=1)]
    return next(list(each) for each in (names, by_folder, by_number) if len(set(each)) == len(each))
