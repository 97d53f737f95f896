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

from vocal_extraction.reports.charts import Bar, Box, Dot, bar_chart, box_chart, decibels, dot_chart
from vocal_extraction.reports.pictures import HIGHEST_HZ, LOWEST_HZ, data_uri, peak_magnitude, spectrogram_png
from vocal_extraction.reports.players import clips
from vocal_extraction.reports.style import DARK, FONT, LIGHT, css_variables
from vocal_extraction.reports.tables import BSSEVAL_METRICS, COLUMNS, HEADLINES, headline, in_order, notes

VOCALS, ACCOMPANIMENT = "vocals", "bass+drums+other"

ROLES = {"evaluated": "model", "floor": "floor", "ceiling": "ceiling"}
"""The style sheet's class for each role of a row."""

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"

_COLUMN_HEADS = "".join(f"<th>{title.replace('+', '+<wbr>')}</th>" for title in COLUMNS.values())

DEFINITIONS = {
    "SI-SDR": "target over everything else, after the best rescaling of the reference",
    "SI-SIR": "target over what the other sources explain of the error",
    "SI-SAR": "target over what no source explains of the error",
    "SD-SDR": "as SI-SDR, but a wrong level costs",
    "SNR": "reference over the error, as it is",
    "SRR": "source to rescaled source: how much of the level is right (not a reverberation ratio)",
    "SI-SDRi": "SI-SDR less that of the mixture",
    "SD-SDRi": "SD-SDR less that of the mixture",
    "SNRi": "SNR less that of the mixture",
    "SDR": "BSSEval v4: reference over all distortion",
    "ISR": "BSSEval v4: reference over filtering distortion",
    "SIR": "BSSEval v4: target over interference",
    "SAR": "BSSEval v4: all that sources explain over artefacts",
}


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A song to be seen and heard."""

    rank: str
    """'best', 'median', 'worst'."""
    song: str
    metric: str
    value: float
    """Of the vocals, in dB."""
    sample_rate: int
    start_s: float
    """Where in the song the clips begin."""
    clips: Mapping[str, NDArray[np.float32]]
    """By title. Shape of each: (n_channels, n_samples)."""


def report_page(
    summary: Mapping[str, Any], songs: Sequence[Mapping[str, Any]], *, exhibits: Sequence[Exhibit] = ()
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    summary
        Content of ``summary.json``.
    songs
        Contents of the songs' files.
    exhibits
        Songs with spectrograms and players.
    """
    evaluated = summary["evaluated"]
    metric = main_metric(summary)
    body = [
        _header(summary, metric),
        _ladder(summary, metric),
        _metric_table(summary),
        _boxes(summary, songs),
        _per_song(summary, songs, metric),
        _exhibits(exhibits),
        _all_rows(summary),
        _notes(summary),
        _about(summary),
    ]
    return document(f"Evaluation of {_called(evaluated)}", body)


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


def main_metric(summary: Mapping[str, Any]) -> str:
    """Return the metric by which rows and songs are ranked: SI-SDR, or SDR where only BSSEval was computed."""
    return next(metric for metric in HEADLINES if metric in summary["metrics"])


def _value(row: Mapping[str, Any], metric: str, column: str = VOCALS) -> float | None:
    value: float | None = row["scores"][metric][column][HEADLINES[metric]]
    return value


def _header(summary: Mapping[str, Any], metric: str) -> str:
    evaluated, data = summary["evaluated"], summary["data"]
    n_songs = len(summary["songs"])
    lead = _lead(summary, metric)
    songs = f"{n_songs} song{'s' if n_songs != 1 else ''}"
    return (
        f'<header><p class="over">Evaluation of vocal extraction</p><h1>{escape(_called(evaluated))}</h1>'
        f'<p class="under">{songs}, {data["duration_s"] / 60:.1f} minutes, <code>{escape(data["folder"])}</code>, '
        f'{escape(data["subset"])}</p><p class="lead">{lead}.</p></header>'
    )


def _called(evaluated: Mapping[str, Any]) -> str:
    """Return what was evaluated, with its folder: the models that ship and those that one trains have the same name."""
    return "/".join(Path(evaluated["path"]).parts[-2:])


def _lead(summary: Mapping[str, Any], metric: str) -> str:
    """Return the finding in a sentence: how good, and compared to what."""
    rows = summary["rows"]
    value = _value(next(iter(rows.values())), metric)
    statistic = "median" if HEADLINES[metric] == "median" else "mean"
    parts = [f"The {statistic} {metric} of the vocals is <b>{decibels(value)} dB</b>"]
    others = {
        "mixture": "than the untouched mixture",
        "random_mask": "than a random mask",
        "ideal_ratio_mask": "than what an ideal ratio mask reaches at the same resolution",
    }
    for row, words in others.items():
        other = _value(rows[row], metric) if row in rows else None
        if value is not None and other is not None:
            parts.append(f"{decibels(abs(value - other))} dB {'better' if value >= other else 'worse'} {words}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 2 else ", ".join(parts)


def _ladder(summary: Mapping[str, Any], metric: str) -> str:
    """The headline: every row on one axis, from floor to ceiling."""
    rows = []
    for row in in_order(summary, metric):
        found = row["scores"][metric][VOCALS]
        spread = found["std"] if HEADLINES[metric] == "mean" else None
        rows.append(Dot(row["title"], ROLES[row["role"]], _value(row, metric), spread, note=f" ({found['n']})"))
    line = "The line is one standard deviation over songs; the" if HEADLINES[metric] == "mean" else "The"
    roles = {row["role"] for row in summary["rows"].values()}
    words = {
        "evaluated": "what was evaluated",
        "floor": "floor: nothing learnt",
        "ceiling": "ceiling: knows the answer",
    }
    key = "".join(f'<li class="{ROLES[r]}"><span>{text}</span></li>' for r, text in words.items() if r in roles)
    tables = "".join(_rows_table(summary, name) for name in HEADLINES if name in summary["metrics"])
    return (
        f"<section><h2>Between floor and ceiling</h2><p class='note'>{metric} of the vocals, {HEADLINES[metric]} over "
        f"songs. {line} number in brackets is how many songs stand behind it.</p>{dot_chart(rows, unit='dB')}"
        f'<ul class="key">{key}</ul>{tables}</section>'
    )


def _rows_table(summary: Mapping[str, Any], metric: str) -> str:
    head = f"<th>{metric}</th>{_COLUMN_HEADS}"
    body = "".join(
        f'<tr class="{ROLES[row["role"]] if row["role"] == "evaluated" else ""}"><th scope="row">'
        f"{escape(row['title'])}</th>"
        + "".join(_cell(row["scores"][metric][column], metric) for column in COLUMNS)
        + "</tr>"
        for row in in_order(summary, metric)
    )
    return _table(head, body)


def _cell(statistics: Mapping[str, Any], metric: str) -> str:
    number, _, rest = headline(statistics, metric).partition(" ")
    return f"<td>{escape(number.replace('-', chr(0x2212)))} <small>{escape(rest)}</small></td>"


def _table(head: str, body: str) -> str:
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _metric_table(summary: Mapping[str, Any]) -> str:
    first = next(iter(summary["rows"].values()))
    head = f"<th>Metric</th>{_COLUMN_HEADS}"
    body = "".join(
        f'<tr><th scope="row">{metric}</th>'
        + "".join(_cell(first["scores"][metric][column], metric) for column in COLUMNS)
        + "</tr>"
        for metric in summary["metrics"]
    )
    terms = "".join(f"<dt>{metric}</dt><dd>{DEFINITIONS[metric]}</dd>" for metric in summary["metrics"])
    return (
        f"<section><h2>All metrics</h2><p class='note'>Decibels, more is better. Mean ± standard deviation over songs "
        f"of the median over channels{_bsseval_words(summary)}; overall pools both sources.</p>{_table(head, body)}"
        f"<details><summary>What each of them measures</summary><dl>{terms}</dl></details></section>"
    )


def _bsseval_words(summary: Mapping[str, Any]) -> str:
    some = any(metric in BSSEVAL_METRICS for metric in summary["metrics"])
    return "; of BSSEval v4 the median over songs of the median over frames of a second" if some else ""


def _boxes(summary: Mapping[str, Any], songs: Sequence[Mapping[str, Any]]) -> str:
    """Box plots by metric and source; improvements only repeat the metrics they belong to."""
    row = next(iter(summary["rows"]))
    boxes = [
        Box(f"{metric}, {short}", role, values_of(songs, row, source, metric))
        for metric in summary["metrics"]
        if not metric.endswith("i") and metric != "SRR"
        for source, short, role in ((VOCALS, "vocals", "model"), (ACCOMPANIMENT, "rest", "accompaniment"))
    ]
    return (
        "<section class='boxes'><h2>Spread over the songs</h2><p class='note'>Quartiles and median; whiskers reach to "
        "the last song within one and a half boxes, the rest are rings. At the right the median and the number of "
        f"songs.</p>{box_chart(boxes, unit='dB')}<ul class='key'><li class='model'><span>vocals</span></li>"
        "<li class='accompaniment'><span>rest: bass, drums and other together</span></li></ul></section>"
    )


def values_of(songs: Sequence[Mapping[str, Any]], row: str, source: str, metric: str) -> list[float]:
    """Return the values that there are of one row, source and metric, song by song."""
    values = [song["rows"][row]["scores"][source][metric]["value"] for song in songs]
    return [value for value in values if value is not None]


def _per_song(summary: Mapping[str, Any], songs: Sequence[Mapping[str, Any]], metric: str) -> str:
    first = next(iter(summary["rows"]))
    marked = [name for name in ("mixture", "ideal_ratio_mask") if name in summary["rows"]]

    def value_of(song: Mapping[str, Any], row: str) -> float | None:
        value: float | None = song["rows"][row]["scores"][VOCALS][metric]["value"]
        return value

    def height(song: Mapping[str, Any]) -> float:
        value = value_of(song, first)
        return float("-inf") if value is None else value

    bars = []
    for song in sorted(songs, key=height, reverse=True):
        found = [(ROLES[summary["rows"][name]["role"]], value_of(song, name)) for name in marked]
        marks = tuple((role, value) for role, value in found if value is not None)
        bars.append(Bar(song["song"], "model", value_of(song, first), marks))
    words = {"mixture": "the mixture", "ideal_ratio_mask": "ideal ratio mask"}
    key = "".join(
        f'<li class="tick {ROLES[summary["rows"][name]["role"]]}"><span>{words[name]}</span></li>' for name in marked
    )
    return (
        f"<section><h2>Song by song</h2><p class='note'>{metric} of the vocals, the best first.</p>"
        f"{bar_chart(bars, unit='dB')}<ul class='key'>{key}</ul></section>"
    )


def _exhibits(exhibits: Sequence[Exhibit]) -> str:
    if not exhibits:
        return ""
    sounds = [(samples, exhibit.sample_rate) for exhibit in exhibits for samples in exhibit.clips.values()]
    # Coding sound and drawing spectrograms leave Python to the other threads.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        coded = pool.submit(clips, sounds)
        pictures = list(pool.map(_pictures, exhibits))
        audio = iter(coded.result())
    songs = "".join(_exhibit(*one, audio=audio) for one in zip(exhibits, pictures, strict=True))
    return (
        "<section><h2>To be seen and heard</h2><p class='note'>Spectrograms, brightest where the mixture is loudest. "
        f"The clips are coded as MP3; the scores are those of the uncoded estimates.</p>{songs}</section>"
    )


def _pictures(exhibit: Exhibit) -> list[bytes]:
    """Draw all clips of a song on the scale of the first, the mixture."""
    full_scale = peak_magnitude(next(iter(exhibit.clips.values())), exhibit.sample_rate)
    return [spectrogram_png(clip, exhibit.sample_rate, full_scale=full_scale) for clip in exhibit.clips.values()]


def _exhibit(exhibit: Exhibit, pictures: Sequence[bytes], *, audio: Iterator[tuple[bytes, str]]) -> str:
    figures = "".join(
        _figure(title, samples, picture, *next(audio), exhibit=exhibit)
        for (title, samples), picture in zip(exhibit.clips.items(), pictures, strict=True)
    )
    return (
        f'<article class="song"><h3>{escape(exhibit.rank.capitalize())}: {escape(exhibit.song)} '
        f"<small>{exhibit.metric} {decibels(exhibit.value)} dB</small></h3>"
        f'<div class="clips">{figures}</div></article>'
    )


def _figure(
    title: str, samples: NDArray[np.float32], picture: bytes, audio: bytes, kind: str, *, exhibit: Exhibit
) -> str:
    end_s = exhibit.start_s + samples.shape[1] / exhibit.sample_rate
    named = escape(f"{title} of {exhibit.song}", quote=True)
    highest_khz = min(HIGHEST_HZ, exhibit.sample_rate / 2) / 1000
    return (
        f'<figure><div class="picture"><img src="{data_uri(picture, "image/png")}" alt="Spectrogram: {named}">'
        f'<span class="high">{highest_khz:g} kHz</span>'
        f'<span class="low">{LOWEST_HZ:g} Hz, {exhibit.start_s:.1f} s</span>'
        f'<span class="end">{end_s:.1f} s</span></div><figcaption>{escape(title)}</figcaption>'
        f'<audio controls preload="metadata" src="{data_uri(audio, kind)}" aria-label="{named}"></audio></figure>'
    )


def _all_rows(summary: Mapping[str, Any]) -> str:
    """Every row with every metric, folded away."""
    parts = []
    for column, title in COLUMNS.items():
        head = "<th></th>" + "".join(f"<th>{metric}</th>" for metric in summary["metrics"])
        body = "".join(
            f'<tr><th scope="row">{escape(row["title"])}</th>'
            + "".join(_cell(row["scores"][metric][column], metric) for metric in summary["metrics"])
            + "</tr>"
            for row in in_order(summary, main_metric(summary))
        )
        parts.append(f"<details><summary>{escape(title)}</summary>{_table(head, body)}</details>")
    return f"<section><h2>Every row, every metric</h2>{''.join(parts)}</section>"


def _notes(summary: Mapping[str, Any]) -> str:
    found = notes(summary)
    if not found:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in found)
    return f"<section><h2>Left out and held back</h2><ul class='notes'>{items}</ul></section>"


def _about(summary: Mapping[str, Any]) -> str:
    evaluated = summary["evaluated"]
    facts = {"File" if evaluated["kind"] == "model" else "Folder": evaluated["path"]}
    facts |= {"SHA-256": evaluated["sha256"]} if evaluated["sha256"] else {}
    facts |= {key.capitalize(): str(value) for key, value in evaluated["settings"].items()}
    facts["Software"] = ", ".join(f"{name} {version}" for name, version in summary["software"].items())
    terms = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(text)}</code></dd>" for name, text in facts.items())
    return (
        "<section><h2>How this was measured</h2><p>Sources are the vocals and the sum of bass, drums and other. The "
        "mixture is the sum of the stems, the estimate of the rest is the mixture less the estimated vocals unless it "
        "was given. A silent reference leaves its source out, and the song is named; no other value is dropped. "
        f"Definitions and sources are in docs/evaluation.md.</p><dl>{terms}</dl></section>"
    )
