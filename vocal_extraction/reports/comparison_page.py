"""The report of a comparison as one self-contained page: who is better, by how much, and how sure that is."""

from collections.abc import Mapping
from html import escape
from typing import Any

from vocal_extraction.reports.charts import Bar, Dot, bar_chart, decibels, dot_chart
from vocal_extraction.reports.page import VOCALS, document, main_metric
from vocal_extraction.reports.tables import COLUMNS, HEADLINES


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    comparison
        Content of ``comparison.json``.
    """
    labels = list(comparison["models"])
    metric = main_metric(comparison["models"][labels[0]])
    body = [
        '<header><p class="over">Comparison of models, song by song</p>'
        f"<h1>{escape(' against '.join(labels))}</h1></header>",
        _ladder(comparison, metric),
        *(_pair(pair, metric) for pair in comparison["pairs"]),
        _models(comparison),
    ]
    return document(" against ".join(labels), body)


def _ladder(comparison: Mapping[str, Any], metric: str) -> str:
    rows = []
    for label, summary in comparison["models"].items():
        found = summary["rows"]["model"]["scores"][metric][VOCALS]
        spread = found["std"] if HEADLINES[metric] == "mean" else None
        rows.append(Dot(label, "model", found[HEADLINES[metric]], spread, note=f" ({found['n']})"))
    first = next(iter(comparison["models"].values()))
    for row in first["rows"].values():
        if row["role"] != "evaluated":
            found = row["scores"][metric][VOCALS]
            spread = found["std"] if HEADLINES[metric] == "mean" else None
            rows.append(Dot(row["title"], row["role"], found[HEADLINES[metric]], spread, note=f" ({found['n']})"))
    rows.sort(key=lambda row: float("-inf") if row.value is None else row.value)
    return (
        f"<section><h2>Beside each other</h2><p class='note'>{metric} of the vocals, {HEADLINES[metric]} over songs, "
        f"with the number of songs.</p>{dot_chart(rows, unit='dB')}</section>"
    )


def _pair(pair: Mapping[str, Any], metric: str) -> str:
    found = pair["sources"][VOCALS][metric]
    title = f"{pair['second']} less {pair['first']}"
    if found["interval"] is None:
        lead = "Too few songs for an interval"
    else:
        low, high = found["interval"]
        sure = "It does not include zero" if low > 0 or high < 0 else "It includes zero: the songs do not decide"
        lead = (
            f"The mean difference is <b>{decibels(found['difference'], signed=True)} dB</b>, its 95% interval "
            f"{decibels(low, signed=True)} to {decibels(high, signed=True)} dB. {sure}"
        )
    bars = [
        Bar(song, "model" if values[2] >= 0 else "worse", values[2])
        for song, values in sorted(found["songs"].items(), key=lambda item: -item[1][2])
    ]
    return (
        f"<section><h2>{escape(title)}</h2><p class='lead'>{lead}.</p><p class='note'>{metric} of the vocals on "
        f"{found['n']} songs: {found['wins']} better, {found['losses']} worse, {found['ties']} equal.</p>"
        f"{bar_chart(bars, unit='dB', signed=True)}{_pair_table(pair)}</section>"
    )


def _pair_table(pair: Mapping[str, Any]) -> str:
    head = "".join(
        f"<th>{text}</th>" for text in ("", "A", "B", "B − A", "95% interval", "B wins, loses, ties", "songs")
    )
    body = "".join(
        f'<tr><th scope="row">{metric}, {escape(COLUMNS[source].lower())}</th><td>{decibels(found["mean_first"])}</td>'
        f"<td>{decibels(found['mean_second'])}</td><td>{decibels(found['difference'], signed=True)}</td>"
        f"<td>{_interval(found['interval'])}</td><td>{found['wins']}, {found['losses']}, {found['ties']}</td>"
        f"<td>{found['n']}</td></tr>"
        for source, metrics in pair["sources"].items()
        for metric, found in metrics.items()
    )
    return (
        f"<details><summary>All metrics: A is {escape(pair['first'])}, B is {escape(pair['second'])}</summary>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        "</details>"
    )


def _interval(interval: list[float] | None) -> str:
    if interval is None:
        return "–"
    return f"{decibels(interval[0], signed=True)} to {decibels(interval[1], signed=True)}"


def _models(comparison: Mapping[str, Any]) -> str:
    terms = "".join(
        f"<dt>{escape(label)}</dt><dd><code>{escape(summary['evaluated']['path'])}, SHA-256 "
        f"{escape(str(summary['evaluated']['sha256']))}</code></dd>"
        for label, summary in comparison["models"].items()
    )
    return (
        "<section><h2>How this was measured</h2><p>The interval is the percentile bootstrap of the mean difference: "
        "the songs are drawn again, with replacement, ten thousand times. Only songs for which both have a value are "
        f"paired.</p><dl>{terms}</dl></section>"
    )
