"""The files of an evaluation: one JSON a song, a summary, a table for spreadsheets, museval's own JSON."""

import csv
import datetime
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocal_extraction.atomic_files import native_name, whole_file, write_json, write_text
from vocal_extraction.evaluation.bsseval_v4 import BSSEVAL_METRICS, FRAME_S
from vocal_extraction.evaluation.metrics import EvaluationError
from vocal_extraction.evaluation.scale_metrics import LIMIT_DB
from vocal_extraction.machine import git_commit
from vocal_extraction.settings import ACCOMPANIMENT

if TYPE_CHECKING:
    from vocal_extraction.evaluation.scoring import Job

SONG_SCHEMA, SONG_SCHEMA_VERSION = "vocal-extraction/song-scores", 1
SUMMARY, SCORES, CARD, PAGE = "summary.json", "scores.csv", "report_card.txt", "report.html"
COMPARISON, ESTIMATES_FOLDER, MUSEVAL_FOLDER = "comparison.json", "estimates", "museval"

_DEFINITION = ("definition", "unit", "more_is_better", "statistic", "ranks")
_SOFTWARE = ("numpy", "scipy", "torch", "nussl", "museval")
_SCHEMAS = Path(__file__).parent / "schemas"
Content = Mapping[str, Any]  # of a song's file


def shown_path(path: str | os.PathLike[str]) -> str:
    """Return a path as reports show it: below the working directory, else its name alone.

    >>> shown_path("/home/me/models/best.model.pth"), shown_path(Path.cwd() / "a" / "b" / "c")
    ('best.model.pth', 'a/b/c')
    """
    absolute = Path.cwd() / path
    if absolute.is_relative_to(Path.cwd()) and absolute != Path.cwd() and ".." not in absolute.parts:
        return absolute.relative_to(Path.cwd()).as_posix()
    return absolute.resolve().name


def song_file(folder: Path, song: str) -> Path:
    """Return the file of a song's scores: under its name, shortened where that is too long, changed where it is taken.

    >>> song_file(Path("results"), "A - B").as_posix(), song_file(Path("results"), "summary").as_posix()
    ('results/A - B.json', 'results/summary (song).json')
    """
    if f"{song}.json" in (SUMMARY, COMPARISON):
        song = f"{song} (song)"
    if len(content := song.encode(errors="surrogateescape")) > 200:
        song = f"{native_name(song, 190)}-{hashlib.sha256(content).hexdigest()[:8]}"
    return folder / f"{song}.json"


def read_song(path: Path) -> dict[str, Any] | None:
    """Return a song's scores, or None where `path` holds none of this version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if validator("song_scores").is_valid(content) else None


def write_song(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a song's scores; an `EvaluationError` says if something else is in the way."""
    path = song_file(folder, content["song"])
    if path.exists() and SONG_SCHEMA not in path.read_text(encoding="utf-8", errors="replace")[:200]:
        raise EvaluationError(f"{path} is in the way: it holds no scores. Move it, or name another output folder.")
    write_json(path, content)


@functools.cache
def validator(name: str) -> Any:
    """Return the validator of a schema of this package: 'song_scores' or 'summary'."""
    import jsonschema
    import referencing

    contents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in _SCHEMAS.glob("*.json")}
    resources = [(key, referencing.Resource.from_contents(value)) for key, value in contents.items()]
    registry: Any = referencing.Registry().with_resources(resources)
    return jsonschema.Draft202012Validator(contents[f"{name}.schema.json"], registry=registry)


def claim_folder(
    folder: Path, *, evaluated: Mapping[str, Any], data: Mapping[str, Any], overwrite: bool = False
) -> Path | None:
    """Check that `folder` may hold the results of `evaluated`; return where earlier ones were moved, if any were."""
    songs = [found for path in sorted(folder.glob("*.json")) if (found := read_song(path)) is not None]
    others = [found for found in songs if not _is_of(found, evaluated, data)]
    if not others:
        return None
    retrained = all(_is_of(found, {**evaluated, "sha256": None}, data) for found in others)
    first = others[0]
    if not (retrained or overwrite):
        raise EvaluationError(
            f"{folder} holds results of {_words(first['evaluated'], first['data'])}; these would be of "
            f"{_words(evaluated, data)}. Name another output folder, or overwrite (what is there is moved to a folder "
            "of its own)."
        )
    return _move_away(folder, first["evaluated"])


def _is_of(found: Content, evaluated: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Return whether scores are of the same model, in any folder, and data; without a checksum, by the path."""

    def marks(model: Mapping[str, Any], songs: Mapping[str, Any]) -> tuple[Any, ...]:
        identity = model["sha256"] if evaluated["sha256"] else (shown_path(model["path"]), model["name"])
        return model["kind"], model["settings"], identity, songs["subset"], shown_path(songs["folder"])

    return marks(found["evaluated"], found["data"]) == marks(evaluated, data)


def _words(evaluated: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    marks = [evaluated["sha256"][:8]] if evaluated["sha256"] else []
    marks += [f"{key} {value}" for key, value in evaluated["settings"].items()]
    about = f" ({', '.join(marks)})" if marks else ""
    return f"{evaluated['path']}{about} on {data['folder']}, {data['subset']}"


def _move_away(folder: Path, evaluated: Mapping[str, Any]) -> Path:
    mark = evaluated["sha256"] or hashlib.sha256(evaluated["path"].encode(errors="surrogateescape")).hexdigest()
    earlier = folder / f"earlier-{mark[:8]}"
    songs = [path for path in folder.glob("*.json") if read_song(path) is not None]
    named = [folder / name for name in (SUMMARY, SCORES, CARD, PAGE, MUSEVAL_FOLDER, ESTIMATES_FOLDER)]
    try:
        earlier.mkdir(exist_ok=True)
        # Songs last: they say whose results these are.
        for path in [*(path for path in named if path.exists()), *songs]:
            target, number = earlier / path.name, 2
            while target.exists():
                target, number = earlier / f"{path.stem}-{number}{path.suffix}", number + 1
            os.replace(path, target)
    except OSError as error:
        raise EvaluationError(
            f"Earlier results in {folder} cannot be moved to {earlier} ({error.strerror}). Name another output folder."
        ) from error
    return earlier


def write_scores_csv(path: Path, songs: Iterable[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Write one line a song, row (system), source and metric."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["song", "row", "source", "metric", "value", "unit", "left_out", "at_limit"])
    for song, row, source, name in itertools.product(songs, summary["rows"], summary["sources"], summary["metrics"]):
        entry, unit = song["rows"][row]["scores"][source][name], summary["definitions"][name]["unit"]
        limit = "yes" if entry.get("at_limit") else ""
        table.writerow([song["song"], row, source, name, entry["value"], unit, entry.get("left_out", ""), limit])
    write_text(path, text.getvalue())


def write_museval_json(folder: Path, songs: Iterable[Content], *, row: str) -> None:
    """Write a row's BSSEval frames as museval does, where museval's `EvalStore.add_eval_dir` looks for them."""
    from vocal_extraction.compatibility import museval

    for song in songs:
        store = museval.TrackStore(track_name=song["song"], win=FRAME_S, hop=FRAME_S)
        for source, entries in song["rows"][row]["scores"].items():
            finite = {  # museval keeps no infinite ratios: a frame clipped to the limit is NaN
                name: [float("nan") if x is None or abs(x) >= LIMIT_DB else x for x in entries[name].get("frames", [])]
                for name in BSSEVAL_METRICS
            }
            store.add_target(target_name="accompaniment" if source == ACCOMPANIMENT else source, values=finite)
        with whole_file(song_file(folder, song["song"])) as temporary:
            store.save(temporary)


def summarise_evaluation(contents: Sequence[Content], job: "Job", *, preset: str, licence: str) -> dict[str, Any]:
    """Return the content of ``summary.json`` of jobs such as this; an equal summary in their folder keeps its date."""
    data, metrics, sources = [content["data"] for content in contents], job.metrics, job.sources.names
    summary = {
        "schema": "vocal-extraction/summary",
        "schema_version": 2,
        "evaluated": contents[0]["evaluated"],
        "data": {
            "folder": data[0]["folder"],
            "subset": data[0]["subset"],
            "duration_s": round(sum(one["n_samples"] / one["sample_rate"] for one in data), 3),
        },
        "sources": list(sources),
        "metrics": list(metrics),
        "definitions": {
            name: {"family": metric.family or name, **{key: getattr(metric, key) for key in _DEFINITION}}
            for name, metric in metrics.items()
        },
        "songs": [content["song"] for content in contents],
        "notes": {content["song"]: content["notes"] for content in contents if "notes" in content},
        "rows": {
            name: {
                "title": system.title,
                "role": system.role,
                "scores": {metric: columns(contents, name, metric, sources=sources) for metric in metrics},
            }
            for name, system in job.systems.items()
        },
        "made": {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, "
            f"Python {platform.python_version()}",
            "commit": git_commit(),
            "preset": preset,
            "licence": licence,
        },
        "software": {name: importlib.metadata.version(name) for name in _SOFTWARE},
    }
    try:
        before = dict(json.loads((job.folder / SUMMARY).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return summary
    return before if {**summary, "made": None} == {**before, "made": None} else summary


def columns(contents: Sequence[Content], row: str, metric: str, *, sources: Sequence[str]) -> dict[str, Any]:
    """Summarise songs' scores: "overall", which pools all sources, then each source, the main one last."""
    by_source = {
        source: [(song["song"], song["rows"][row]["scores"][source][metric]) for song in contents] for source in sources
    }
    pooled = [(f"{song} ({source})", entry) for source, entries in by_source.items() for song, entry in entries]
    of_sources = {source: summarise(by_source[source]) for source in (*sources[1:], sources[0])}
    return {"overall": summarise(pooled), **of_sources}


def summarise(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return mean, standard deviation (ddof 1), median and count of the values, and the names of the rest.

    >>> found = summarise([("a", {"value": 1.0}), ("b", {"value": 3.0}), ("c", {"value": None, "left_out": "silent"})])
    >>> found["mean"], found["n"], found["left_out"]
    (2.0, 2, {'silent': ['c']})
    """
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
