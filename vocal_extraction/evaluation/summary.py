"""Many songs' scores to one number each, with the number of songs behind it and the names of those left out."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vocal_extraction.evaluation.results import SUMMARY, SUMMARY_SCHEMA, SUMMARY_SCHEMA_VERSION
from vocal_extraction.evaluation.scoring import Job
from vocal_extraction.evaluation.systems import System
from vocal_extraction.training.resources import git_commit

Content = Mapping[str, Any]
"""Of a song's file."""

_DEFINITION = ("definition", "unit", "more_is_better", "statistic", "ranks")
_SOFTWARE = ("numpy", "scipy", "torch", "nussl", "museval")


def summarise_evaluation(
    contents: Sequence[Content], jobs: Sequence[Job], *, preset: str, folder: Path
) -> dict[str, Any]:
    """Return the content of ``summary.json``; an equal summary in `folder` keeps its date."""
    job = jobs[0]
    duration_s = sum(each.track.duration_s for each in jobs)
    summary = {
        "schema": SUMMARY_SCHEMA,
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "evaluated": dict(job.evaluated),
        "data": {**job.data, "duration_s": round(duration_s, 3)},
        "sources": list(job.sources.names),
        "metrics": list(job.metrics),
        "definitions": {
            name: {"family": metric.family or name, **{key: getattr(metric, key) for key in _DEFINITION}}
            for name, metric in job.metrics.items()
        },
        "songs": [content["song"] for content in contents],
        "notes": {content["song"]: content["notes"] for content in contents if "notes" in content},
        "rows": aggregate(contents, systems=job.systems, sources=job.sources.names, metrics=list(job.metrics)),
        "made": {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, "
            f"Python {platform.python_version()}",
            "commit": git_commit(),
            "preset": preset,
        },
        "software": {name: importlib.metadata.version(name) for name in _SOFTWARE},
    }
    try:
        before = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return summary
    return before if {**summary, "made": None} == {**before, "made": None} else summary


def aggregate(
    contents: Sequence[Content], *, systems: Mapping[str, System], sources: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """Summarise songs' scores: ``{system: {"title", "role", "scores": {metric: {column: statistics}}}}``.

    Columns are "overall", which pools the values of all sources, and the sources, the main one last.
    """

    def columns(system: str, metric: str) -> dict[str, Any]:
        entries = {
            source: [(song["song"], song["rows"][system]["scores"][source][metric]) for song in contents]
            for source in sources
        }
        pooled = [(f"{name} ({source})", entry) for source in sources for name, entry in entries[source]]
        of_sources = {source: summarise(entries[source]) for source in (*sources[1:], sources[0])}
        return {"overall": summarise(pooled), **of_sources}

    return {
        name: {"title": system.title, "role": system.role, "scores": {one: columns(name, one) for one in metrics}}
        for name, system in systems.items()
    }


def summarise(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return mean, standard deviation (ddof 1), median and count of the values, and the names of the rest.

    >>> found = summarise([("a", {"value": 1.0}), ("b", {"value": 3.0}), ("c", {"value": None, "left_out": "silent"})])
    >>> found["mean"], found["n"], found["left_out"]
    (2.0, 2, {'silent': ['c']})
    """
    entries = list(entries)
    values = [entry["value"] for _, entry in entries if entry["value"] is not None]
    left_out: dict[str, list[str]] = {}
    for name, entry in entries:
        if entry["value"] is None:
            left_out.setdefault(entry["left_out"], []).append(name)
    return {
        "mean": round(statistics.fmean(values), 6) if values else None,
        "std": round(statistics.stdev(values), 6) if len(values) > 1 else None,
        "median": round(statistics.median(values), 6) if values else None,
        "n": len(values),
        "left_out": left_out,
        "at_limit": [name for name, entry in entries if entry.get("at_limit")],
    }
