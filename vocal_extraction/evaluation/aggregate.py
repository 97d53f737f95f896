"""Many songs' scores to one number each, with the number of songs behind it and the names of those left out."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vocal_extraction.evaluation.separators import BASELINES, ORACLES, TITLES
from vocal_extraction.evaluation.songs import SOURCES
from vocal_extraction.settings import ACCOMPANIMENT

COLUMNS = ("overall", ACCOMPANIMENT, "vocals")
"""Of the specification's table; overall pools the values of both sources."""


def role_of(row: str) -> str:
    """Return 'ceiling' for what knows the references, 'floor' for what has learnt nothing, else 'evaluated'.

    >>> [role_of(row) for row in ("ideal_ratio_mask", "mixture", "model")]
    ['ceiling', 'floor', 'evaluated']
    """
    if row in ORACLES:
        return "ceiling"
    return "floor" if row == "mixture" or row in BASELINES else "evaluated"


def aggregate(songs: Sequence[Mapping[str, Any]], *, rows: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Summarise songs' scores.

    Parameters
    ----------
    songs
        Contents of songs' JSON files.
    rows, metrics
        What to summarise, in the order of the tables.

    Returns
    -------
    dict
        ``{row: {"title", "role", "scores": {metric: {column: statistics}}}}``; see `summary.schema.json`.
    """
    return {
        row: {
            "title": TITLES[row],
            "role": role_of(row),
            "scores": {metric: _columns(songs, row, metric) for metric in metrics},
        }
        for row in rows
    }


def _columns(songs: Sequence[Mapping[str, Any]], row: str, metric: str) -> dict[str, Any]:
    entries = {
        source: [(song["song"], song["rows"][row]["scores"][source][metric]) for song in songs] for source in SOURCES
    }
    pooled = [(f"{name} ({source})", entry) for source in SOURCES for name, entry in entries[source]]
    return {column: summarise(pooled if column == "overall" else entries[column]) for column in COLUMNS}


def summarise(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return mean, standard deviation (ddof 1), median and count of the values, and the names of the rest.

    >>> found = summarise([("a", {"value": 1.0}), ("b", {"value": 3.0}), ("c", {"value": None, "left_out": "silent"})])
    >>> found["mean"], found["n"], found["left_out"]
    (2.0, 2, {'silent': ['c']})
    """
    values: list[float] = []
    left_out: dict[str, list[str]] = {}
    at_limit: list[str] = []
    for name, entry in entries:
        if entry["value"] is None:
            left_out.setdefault(entry["left_out"], []).append(name)
            continue
        values.append(entry["value"])
        if entry.get("at_limit"):
            at_limit.append(name)
    return {
        "mean": round(statistics.fmean(values), 6) if values else None,
        "std": round(statistics.stdev(values), 6) if len(values) > 1 else None,
        "median": round(statistics.median(values), 6) if values else None,
        "n": len(values),
        "left_out": left_out,
        "at_limit": at_limit,
    }
