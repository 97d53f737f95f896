"""The report of an evaluation as one self-contained page: nothing in it is loaded from anywhere, and it runs no script.

What comes in is the content of ``summary.json`` and of the songs' files, and clips as arrays. A song may be called
anything: every text is escaped, and the page's own policy forbids whatever an oversight would let in.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.reports.charts import MINUS, Bar, Box, Dot, bar_chart, box_chart, decibels, dot_chart
from vocal_extraction.reports.pictures import HIGHEST_HZ, LOWEST_HZ, data_uri, peak_magnitude, spectrogram_png
from vocal_extraction.reports.players import clips
from vocal_extraction.reports.style import DARK, FONT, LIGHT, css_variables
from vocal_extraction.reports.tables import (
    Summary,
    columns_of,
    facts_of,
    in_order,
    main_metric,
    notes,
    rankings,
    reported,
    value_of,
)

ROLES = {"evaluated": "model", "baseline": "baseline", "oracle": "oracle"}
"""The style sheet's class for each role of a row."""

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"

_COMPARED_IN_WORDS = {
    "mixture": "than the untouched mixture",
    "random_mask": "than a random mask",
    "ideal_ratio_mask": "than what an ideal ratio mask reaches at the same resolution",
}
_MARKED_IN_BARS = {"mixture": "the mixture", "ideal_ratio_mask": "ideal ratio mask"}


@dataclasses.dataclass(frozen=True)
class Example:
    """A song with spectrograms and players."""

    rank: str
    """'best', 'median', 'worst'."""
    song: str
    metric: str
    value: float
    """Of the main source."""
    sample_rate: int
    start_s: float
    """Where in the song the clips begin."""
    clips: Mapping[str, NDArray[np.float32]]
    """By title. Shape of each: (n_channels, n_samples)."""


def report_page(summary: Summary, songs: Sequence[Mapping[str, Any]], *, examples: Sequence[Example] = ()) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    summary
        Content of ``summary.json``.
    songs
        Contents of the songs' files.
    examples
        Songs with spectrograms and players.
    """
    metric = main_metric(summary)
    body = [
        _header(summary, metric),
        _systems(summary, metric),
        _metric_table(summary),
        _boxes(summary, songs),
        _per_song(summary, songs, metric),
        _examples(examples),
        _all_rows(summary),
        _notes(summary),
        _about(summary),
    ]
    return document(f"Evaluation of {summary['evaluated']['name']}", body)


def document(title: str, body: Sequence[str]) -> str:
    """Return a whole HTML document in the project's style, light and dark."""
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    colours = (
        f":root {{ {css_variables(LIGHT)} }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }} body {{ font-family: {FONT}; }}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{colours}\n{css}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, note: str, *content: str, kind: str = "") -> str:
    """Return a section of the page with a heading and a note below it; all are HTML."""
    text = f"<p class='note'>{note}</p>" if note else ""
    return f"<section{f' class={kind!r}' if kind else ''}><h2>{title}</h2>{text}{''.join(content)}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, emphasised: Sequence[int] = ()) -> str:
    """Return a table that scrolls sideways by itself; heads are text, cells HTML, the first of each row its name."""
    heads = "".join(f"<th>{escape(text).replace('+', '+<wbr>')}</th>" for text in head)
    body = "".join(
        f'<tr{" class=model" if i in emphasised else ""}><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def dots_of(summary: Summary, metric: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Dot]:
    """Return rows of a dot chart of the main source, each under a name."""
    is_mean = summary["definitions"][metric]["statistic"] == "mean"

    def dot(name: str, row: Mapping[str, Any]) -> Dot:
        found = row["scores"][metric][summary["sources"][0]]
        spread = found["std"] if is_mean else None
        return Dot(name, ROLES[row["role"]], value_of(summary, row, metric), spread, note=f" ({found['n']})")

    return [dot(*one) for one in rows]


def _key(items: Mapping[str, str], *, kind: str = "") -> str:
    entries = "".join(f'<li class="{kind} {role}"><span>{escape(text)}</span></li>' for role, text in items.items())
    return f"<ul class='key'>{entries}</ul>"


def _header(summary: Summary, metric: str) -> str:
    data, n_songs = summary["data"], len(summary["songs"])
    songs = f"{n_songs} song{'s' if n_songs != 1 else ''}"
    return (
        '<header><p class="over">Evaluation of music source separation</p>'
        f"<h1>{escape(summary['evaluated']['name'])}</h1>"
        f'<p class="under">{songs}, {data["duration_s"] / 60:.1f} minutes, <code>{escape(data["folder"])}</code>, '
        f"{escape(data['subset'])}. {escape(', '.join(facts_of(summary['made'])))}</p>"
        f'<p class="lead">{_lead(summary, metric)}.</p></header>'
    )


def _lead(summary: Summary, metric: str) -> str:
    """Return the result in a sentence: how good, and compared to what."""
    rows, definition = summary["rows"], summary["definitions"][metric]
    value, unit = value_of(summary, next(iter(rows.values())), metric), definition["unit"]
    source = escape(summary["sources"][0])
    parts = [
        f"The {definition['statistic']} {escape(metric)} of the {source} is <b>{decibels(value)} {escape(unit)}</b>"
    ]
    for row, words in _COMPARED_IN_WORDS.items():
        other = value_of(summary, rows[row], metric) if row in rows else None
        if value is not None and other is not None:
            better = (value >= other) == definition["more_is_better"]
            parts.append(f"{decibels(abs(value - other))} {escape(unit)} {'better' if better else 'worse'} {words}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 2 else ", ".join(parts)


def _systems(summary: Summary, metric: str) -> str:
    """The headline: every system on one axis."""
    definition, columns = summary["definitions"][metric], columns_of(summary)
    rows = dots_of(summary, metric, [(row["title"], row) for row in in_order(summary, metric)])
    line = "The line is one standard deviation over songs; the" if definition["statistic"] == "mean" else "The"
    words = {"evaluated": "evaluated", "baseline": "baseline: nothing learnt", "oracle": "oracle: knows the references"}
    roles = {row["role"] for row in summary["rows"].values()}
    tables = []
    for name in rankings(summary):
        found = in_order(summary, name)
        cells = [
            [escape(row["title"]), *(_cell(summary, row["scores"][name][c], name) for c in columns)] for row in found
        ]
        evaluated = [i for i, row in enumerate(found) if row["role"] == "evaluated"]
        tables.append(table([name, *columns.values()], cells, emphasised=evaluated))
    return section(
        "Beside baselines and oracles",
        f"{escape(metric)} of the {escape(summary['sources'][0])}, {definition['statistic']} over songs. {line} number "
        "in brackets is how many songs have a value.",
        dot_chart(rows, unit=definition["unit"]),
        _key({ROLES[role]: text for role, text in words.items() if role in roles}),
        *tables,
    )


def _cell(summary: Summary, statistics: Mapping[str, Any], metric: str) -> str:
    value, _, rest = reported(summary, statistics, metric).partition(" ")
    return f"{escape(value.replace('-', MINUS))} <small>{escape(rest)}</small>"


def _metric_table(summary: Summary) -> str:
    scores, columns = next(iter(summary["rows"].values()))["scores"], columns_of(summary)
    rows = [
        [escape(name), *(_cell(summary, scores[name][column], name) for column in columns)]
        for name in summary["metrics"]
    ]
    terms = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(one['definition'])}{_unit_words(one)}</dd>"
        for name, one in summary["definitions"].items()
    )
    return section(
        "All metrics",
        "Decibels where no other unit is given; more is better but for Leak. Mean ± standard deviation over songs of "
        "the median over channels; without ±, the median over songs (BSSEval v4: of the median over frames). "
        "Overall pools all sources.",
        table(["Metric", *columns.values()], rows),
        f"<details><summary>What each of them measures</summary><dl>{terms}</dl></details>",
    )


def _unit_words(definition: Mapping[str, Any]) -> str:
    return "" if definition["unit"] == "dB" else f" [{escape(definition['unit'] or 'no unit')}]"


def _boxes(summary: Summary, songs: Sequence[Mapping[str, Any]]) -> str:
    """Box plots by metric and source; improvements only repeat the metrics that they belong to."""
    row, (main, *others) = next(iter(summary["rows"])), summary["sources"]
    short = {main: main, **{name: "rest" if "+" in name else name for name in others}}
    metrics = [name for name, one in summary["definitions"].items() if one["unit"] == "dB" and not name.endswith("i")]
    boxes = [
        Box(
            f"{metric}, {short[source]}",
            "model" if source == main else "accompaniment",
            values_of(songs, row, source, metric),
        )
        for metric in metrics
        if metric != "SRR"
        for source in summary["sources"]
    ]
    if not boxes:
        return ""
    rest = (
        f"rest: {others[0].replace('+', ', ')} together" if len(others) == 1 and "+" in others[0] else "other sources"
    )
    return section(
        "Spread over the songs",
        "Quartiles and median; whiskers reach to the last song within one and a half boxes, the rest are rings. At the "
        "right the median and the number of songs.",
        box_chart(boxes, unit="dB"),
        _key({"model": main} | ({"accompaniment": rest} if others else {})),
        kind="boxes",
    )


def values_of(songs: Sequence[Mapping[str, Any]], row: str, source: str, metric: str) -> list[float]:
    """Return the values that there are of one row, source and metric, song by song."""
    values = [song["rows"][row]["scores"][source][metric]["value"] for song in songs]
    return [value for value in values if value is not None]


def _per_song(summary: Summary, songs: Sequence[Mapping[str, Any]], metric: str) -> str:
    first, source, definition = next(iter(summary["rows"])), summary["sources"][0], summary["definitions"][metric]
    marked = {name: words for name, words in _MARKED_IN_BARS.items() if name in summary["rows"]}
    classes = {name: ROLES[summary["rows"][name]["role"]] for name in marked}
    sign = 1 if definition["more_is_better"] else -1
    bars = []
    for song in songs:
        values = {name: song["rows"][name]["scores"][source][metric]["value"] for name in (first, *marked)}
        marks = tuple((classes[name], values[name]) for name in marked if values[name] is not None)
        bars.append(Bar(song["song"], "model", values[first], marks))
    bars.sort(key=lambda bar: float("-inf") if bar.value is None else sign * bar.value, reverse=True)
    return section(
        "Song by song",
        f"{escape(metric)} of the {escape(source)}, the best first.",
        bar_chart(bars, unit=definition["unit"]),
        _key({classes[name]: words for name, words in marked.items()}, kind="tick"),
    )


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    sounds = [(samples, example.sample_rate) for example in examples for samples in example.clips.values()]
    # Coding sound and drawing spectrograms leave Python to the other threads.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        coded = pool.submit(clips, sounds)
        pictures = list(pool.map(_pictures, examples))
        audio = iter(coded.result())
    songs = [_example(*one, audio=audio) for one in zip(examples, pictures, strict=True)]
    return section(
        "Examples",
        "Spectrograms, brightest where the mixture is loudest. The clips are coded as MP3; the scores are those of the "
        "uncoded estimates.",
        *songs,
    )


def _pictures(example: Example) -> list[bytes]:
    """Draw all clips of a song on the scale of the first, the mixture."""
    full_scale = peak_magnitude(next(iter(example.clips.values())), example.sample_rate)
    return [spectrogram_png(clip, example.sample_rate, full_scale=full_scale) for clip in example.clips.values()]


def _example(example: Example, pictures: Sequence[bytes], *, audio: Iterator[tuple[bytes, str]]) -> str:
    figures = "".join(
        _figure(title, samples, picture, *next(audio), example=example)
        for (title, samples), picture in zip(example.clips.items(), pictures, strict=True)
    )
    return (
        f'<article class="song"><h3>{escape(example.rank.capitalize())}: {escape(example.song)} '
        f"<small>{escape(example.metric)} {decibels(example.value)}</small></h3>"
        f'<div class="clips">{figures}</div></article>'
    )


def _figure(
    title: str, samples: NDArray[np.float32], picture: bytes, audio: bytes, kind: str, *, example: Example
) -> str:
    end_s = example.start_s + samples.shape[1] / example.sample_rate
    named = escape(f"{title} of {example.song}", quote=True)
    highest_khz = min(HIGHEST_HZ, example.sample_rate / 2) / 1000
    return (
        f'<figure><div class="picture"><img src="{data_uri(picture, "image/png")}" alt="Spectrogram: {named}">'
        f'<span class="high">{highest_khz:g} kHz</span>'
        f'<span class="low">{LOWEST_HZ:g} Hz, {example.start_s:.1f} s</span>'
        f'<span class="end">{end_s:.1f} s</span></div><figcaption>{escape(title)}</figcaption>'
        f'<audio controls preload="metadata" src="{data_uri(audio, kind)}" aria-label="{named}"></audio></figure>'
    )


def _all_rows(summary: Summary) -> str:
    """Every row with every metric, folded away."""
    parts = []
    for column, title in columns_of(summary).items():
        rows = [
            [escape(row["title"]), *(_cell(summary, row["scores"][name][column], name) for name in summary["metrics"])]
            for row in in_order(summary, main_metric(summary))
        ]
        found = table(["", *summary["metrics"]], rows)
        parts.append(f"<details><summary>{escape(title)}</summary>{found}</details>")
    return section("Every system, every metric", "", *parts)


def _notes(summary: Summary) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes(summary))
    return section("Notes", "", f"<ul class='notes'>{items}</ul>") if items else ""


def facts(evaluated: Mapping[str, Any]) -> dict[str, str]:
    """Return what a report says of a model or a folder of estimates, by name."""
    found = {"File" if evaluated["kind"] == "model" else "Folder": evaluated["path"]}
    found |= {"SHA-256": evaluated["sha256"]} if evaluated["sha256"] else {}
    return found | {key.capitalize(): str(value) for key, value in evaluated["settings"].items()}


def _about(summary: Summary) -> str:
    found = facts(summary["evaluated"])
    found["Computed"] = ", ".join(facts_of(summary["made"]))
    found["Software"] = ", ".join(f"{name} {version}" for name, version in summary["software"].items())
    terms = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(text)}</code></dd>" for name, text in found.items())
    return section(
        "How this was measured",
        "",
        "<p>Sources are those that the model and the songs share, and what they leave of the mixture. The mixture is "
        "the sum of the stems, the estimate of the rest is the mixture less the other estimates unless it was given. A "
        "silent reference leaves its source out, and the song is named; no other value is dropped. Definitions are in "
        f"docs/evaluation.md.</p><dl>{terms}</dl>",
    )
