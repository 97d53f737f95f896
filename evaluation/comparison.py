"""Two models on the same songs: the difference song by song, and how sure one can be of its mean.

The interval is the percentile bootstrap over songs (Efron and Tibshirani, "An introduction to the bootstrap", 1993,
chapter 13): songs are drawn again with replacement, since it is other songs that one wants to know about. Only songs
that both have a value for are paired, and their number is given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.songs import SOURCES

N_RESAMPLES = 10_000
CONFIDENCE = 0.95


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, row: str, metrics: Sequence[str]
) -> dict[str, Any]:
    """Pair two models' scores.

    Parameters
    ----------
    first, second
        Contents of the songs' JSON files of each.
    row
        Which row is compared.
    metrics
        Names.

    Returns
    -------
    dict
        ``{source: {metric: {"songs": {name: [first, second, second - first]}, "mean_first", "mean_second",
        "difference", "interval", "wins", "losses", "ties", "n"}}}``; the wins are the second's. The difference's
        interval covers `CONFIDENCE`; it is None for fewer than two songs.
    """
    others = {song["song"]: song for song in second}
    pairs = [(song, others[song["song"]]) for song in first if song["song"] in others]
    return {
        source: {metric: _paired(pairs, row=row, source=source, metric=metric) for metric in metrics}
        for source in SOURCES
    }


def _paired(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], *, row: str, source: str, metric: str
) -> dict[str, Any]:
    songs: dict[str, list[float]] = {}
    for pair in pairs:
        a, b = (song["rows"][row]["scores"][source][metric]["value"] for song in pair)
        if a is not None and b is not None:
            songs[pair[0]["song"]] = [a, b, round(b - a, 6)]
    table = np.array(list(songs.values())).reshape(-1, 3)
    means = [round(float(x), 6) for x in table.mean(axis=0)] if songs else [None] * 3
    difference = table[:, 2]
    interval = bootstrap_interval(difference)
    return {
        "songs": songs,
        "mean_first": means[0],
        "mean_second": means[1],
        "difference": means[2],
        "interval": None if interval is None else [round(x, 6) for x in interval],
        "wins": int((difference > 0).sum()),
        "losses": int((difference < 0).sum()),
        "ties": int((difference == 0).sum()),
        "n": len(songs),
    }


def bootstrap_interval(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of the mean at `CONFIDENCE`; None for fewer than two values.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(values), size=(N_RESAMPLES, len(values)))
    tails = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[draws].mean(axis=1), [tails, 1 - tails])
    return float(low), float(high)
