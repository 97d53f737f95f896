"""The reports of an evaluation and of a comparison as self-contained pages that load nothing and run no script.

The templates beside this file escape every text, and the page's content security policy forbids scripts.
"""

import concurrent.futures
import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from vocal_extraction.output_formats import FORMATS
from vocal_extraction.reports import tables
from vocal_extraction.reports.charts import Bar, Chart, bar_chart, box_chart, decibels, dot_chart
from vocal_extraction.reports.pictures import HIGHEST_HZ, LOWEST_HZ, data_uri, peak_magnitude, spectrogram_png
from vocal_extraction.reports.style import COLOURS, FONT
from vocal_extraction.reports.tables import Summary, facts_of, in_order, main_metric, rank, value_of

ROLES = {"evaluated": "model", "baseline": "baseline", "oracle": "oracle"}  # the style sheet's class for each role

_COMPARED_IN_WORDS = {
    "mixture": "than the untouched mixture",
    "random_mask": "than a random mask",
    "ideal_ratio_mask": "than what an ideal ratio mask reaches at the same resolution",
}
_MARKED_IN_BARS = {"mixture": "the mixture", "ideal_ratio_mask": "ideal ratio mask"}


@dataclasses.dataclass(frozen=True)
class Example:
    rank: str  # 'best', 'median' or 'worst'
    song: str
    metric: str
    value: float  # of the main source
    sample_rate: int
    start_s: float  # where in the song the clips begin
    clips: Mapping[str, NDArray[np.float32]]  # (n_channels, n_samples) by title


def report_page(summary: Summary, songs: Sequence[Mapping[str, Any]], *, examples: Sequence[Example] = ()) -> str:
    """Return the page of an evaluation as HTML, from the contents of ``summary.json`` and of the songs' files."""
    metric, rows = main_metric(summary), summary["rows"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        drawn = list(zip(examples, pool.map(_figures, examples), strict=True))
    marked = {name: words for name, words in _MARKED_IN_BARS.items() if name in rows}
    return _template("evaluation.html").render(
        title=f"Evaluation of {summary['evaluated']['name']}",
        summary=summary,
        metric=metric,
        compared=_compared(summary, metric),
        dots=_dots(summary, metric, [(row["title"], row) for row in in_order(summary, metric)]),
        **_boxes(summary, songs),
        bars=_bars(summary, songs, metric, marked),
        marked={ROLES[rows[name]["role"]]: words for name, words in marked.items()},
        examples=drawn,
        facts=_facts(summary),
    )


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """Return the page of a comparison as HTML, from the content of ``comparison.json``."""
    models = comparison["models"]
    first = next(iter(models.values()))
    metric, source = main_metric(first), comparison["sources"][0]
    rows = [(label, summary["rows"]["model"]) for label, summary in models.items()]
    rows += [(row["title"], row) for row in first["rows"].values() if row["role"] != "evaluated"]
    rows.sort(key=lambda row: rank(first, row[1], metric))
    return _template("comparison.html").render(
        title=" against ".join(models),
        first=first,
        metric=metric,
        source=source,
        made=", ".join(facts_of({**first["made"], "preset": "", "licence": ""})),
        dots=_dots(first, metric, rows),
        pairs=[(pair, _differences(pair["sources"][source][metric], first, metric)) for pair in comparison["pairs"]],
        models={label: _facts(summary) for label, summary in models.items()},
    )


@functools.cache
def _template(name: str) -> Any:
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["decibels"] = decibels
    for function in ("columns_of", "facts_of", "in_order", "notes", "rankings", "reported", "value_of"):
        found.globals[function] = getattr(tables, function)
    found.globals["colours"] = f"{COLOURS}body {{ font-family: {FONT}; }}"
    return found.get_template(name)


def _facts(summary: Summary) -> dict[str, str]:
    """Return what a report says of a model or a folder of estimates, by name."""
    evaluated, licence = summary["evaluated"], summary["made"].get("licence")
    found = {"File" if evaluated["kind"] == "model" else "Folder": evaluated["path"]}
    found |= {"SHA-256": evaluated["sha256"]} if evaluated["sha256"] else {}
    found |= {"Licence": licence} if licence else {}
    return found | {key.capitalize(): str(value) for key, value in evaluated["settings"].items()}


def _compared(summary: Summary, metric: str) -> list[str]:
    """Return in words how far what was evaluated is from the systems of `_COMPARED_IN_WORDS`."""
    rows, definition, found = summary["rows"], summary["definitions"][metric], []
    value = value_of(summary, next(iter(rows.values())), metric)
    for name, words in _COMPARED_IN_WORDS.items():
        other = value_of(summary, rows[name], metric) if name in rows else None
        if value is not None and other is not None:
            how = "better" if (value >= other) == definition["more_is_better"] else "worse"
            found.append(f"{decibels(abs(value - other))} {definition['unit']} {how} {words}")
    return found


def _dots(summary: Summary, metric: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Chart:
    """Chart the main source of some rows, each under a name."""
    definition, dots = summary["definitions"][metric], []
    for name, row in rows:
        found = row["scores"][metric][summary["sources"][0]]
        spread = found["std"] if definition["statistic"] == "mean" else None
        dots.append((name, ROLES[row["role"]], found[definition["statistic"]], spread, f" ({found['n']})"))
    return dot_chart(dots, unit=definition["unit"])


def _boxes(summary: Summary, songs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Chart values by metric and source, without improvements, which are the metrics less a constant of each song."""
    row, (main, *others) = next(iter(summary["rows"])), summary["sources"]
    boxes = []
    for metric, definition in summary["definitions"].items():
        if definition["unit"] != "dB" or metric.endswith("i") or metric == "SRR":
            continue
        for source in summary["sources"]:
            values = [song["rows"][row]["scores"][source][metric]["value"] for song in songs]
            name = f"{metric}, {'rest' if source != main and '+' in source else source}"
            role = "model" if source == main else "accompaniment"
            boxes.append((name, role, [value for value in values if value is not None]))
    is_rest = len(others) == 1 and "+" in others[0]
    rest = f"rest: {others[0].replace('+', ', ')} together" if is_rest else "other sources"
    return {
        "boxes": box_chart(boxes, unit="dB"),
        "box_key": {"model": main} | ({"accompaniment": rest} if others else {}),
    }


def _bars(summary: Summary, songs: Sequence[Mapping[str, Any]], metric: str, marked: Mapping[str, str]) -> Chart:
    """Chart the main source song by song, the best first, with the systems in `marked` as marks."""
    rows, source, definition = summary["rows"], summary["sources"][0], summary["definitions"][metric]
    bars: list[Bar] = []
    for song in songs:
        values = {name: row["scores"][source][metric]["value"] for name, row in song["rows"].items() if name in rows}
        marks = {ROLES[rows[name]["role"]]: values[name] for name in marked if values[name] is not None}
        bars.append((song["song"], "model", values[next(iter(rows))], marks))
    sign = 1 if definition["more_is_better"] else -1
    bars.sort(key=lambda bar: float("-inf") if bar[2] is None else sign * bar[2], reverse=True)
    return bar_chart(bars, unit=definition["unit"])


def _differences(found: Mapping[str, Any], summary: Summary, metric: str) -> Chart:
    """Chart the differences of a pair of models song by song, the largest gain first."""
    definition = summary["definitions"][metric]
    sign = 1 if definition["more_is_better"] else -1
    songs = sorted(found["songs"].items(), key=lambda item: -sign * item[1][2])
    bars: list[Bar] = [(song, "model" if sign * values[2] >= 0 else "worse", values[2], {}) for song, values in songs]
    return bar_chart(bars, unit=definition["unit"], signed=True)


def _figures(example: Example) -> list[dict[str, str]]:
    """Return for each clip its spectrogram, on the scale of the first, the mixture; its sound, and the texts."""
    rate = example.sample_rate
    full_scale = peak_magnitude(next(iter(example.clips.values())), rate)
    return [
        {
            "title": title,
            "picture": data_uri(spectrogram_png(clip, rate, full_scale=full_scale), "image/png"),
            "audio": data_uri(*coded(clip, rate)),
            "high": f"{min(HIGHEST_HZ, rate / 2) / 1000:g} kHz",
            "low": f"{LOWEST_HZ:g} Hz, {example.start_s:.1f} s",
            "end": f"{example.start_s + clip.shape[1] / rate:.1f} s",
        }
        for title, clip in example.clips.items()
    ]


def coded(samples: NDArray[np.float32], rate: int) -> tuple[bytes, str]:
    """Code the first two channels of a clip as MP3, or wav where MP3 lacks the rate; return its MIME type, too."""
    written, stereo = io.BytesIO(), np.clip(samples[:2].T, -1.0, 1.0)
    if rate in (FORMATS["mp3"].rates or ()):
        soundfile.write(written, stereo, rate, "MPEG_LAYER_III", format="MP3", compression_level=0.6)
        return written.getvalue(), "audio/mpeg"
    soundfile.write(written, stereo, rate, "PCM_16", format="WAV")
    return written.getvalue(), "audio/wav"
