"""The report of a comparison as one self-contained page: which model is better, by how much, and in what interval."""

from collections.abc import Mapping
from html import escape
from typing import Any

from vocal_extraction.reports.charts import Bar, bar_chart, decibels, dot_chart
from vocal_extraction.reports.page import document, dots_of, facts, section, table
from vocal_extraction.reports.tables import facts_of, main_metric


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    comparison
        Content of ``comparison.json``.
    """
    labels = list(comparison["models"])
    first = comparison["models"][labels[0]]
    metric, source = main_metric(first), comparison["sources"][0]
    made = ", ".join(facts_of({**first["made"], "preset": ""}))
    body = [
        '<header><p class="over">Comparison of models, song by song</p>'
        f"<h1>{escape(' against '.join(labels))}</h1><p class='under'>{escape(made)}</p>"
        "</header>",
        _systems(comparison, metric),
        *(_pair(pair, metric, source, first["definitions"][metric]) for pair in comparison["pairs"]),
        _models(comparison),
    ]
    return document(" against ".join(labels), body)


def _systems(comparison: Mapping[str, Any], metric: str) -> str:
    first = next(iter(comparison["models"].values()))
    rows = [(label, summary["rows"]["model"]) for label, summary in comparison["models"].items()]
    rows += [(row["title"], row) for row in first["rows"].values() if row["role"] != "evaluated"]
    dots = sorted(dots_of(first, metric, rows), key=lambda row: float("-inf") if row.value is None else row.value)
    definition = first["definitions"][metric]
    return section(
        "Beside each other",
        f"{escape(metric)} of the {escape(first['sources'][0])}, {definition['statistic']} over songs (how many).",
        dot_chart(dots, unit=definition["unit"]),
    )


def _pair(pair: Mapping[str, Any], metric: str, source: str, definition: Mapping[str, Any]) -> str:
    found, unit = pair["sources"][source][metric], escape(definition["unit"])
    if found["interval"] is None:
        lead = "Too few songs for an interval"
    else:
        low, high = found["interval"]
        sure = "It does not include zero" if low > 0 or high < 0 else "It includes zero: the songs do not decide"
        lead = (
            f"The mean difference is <b>{decibels(found['difference'], signed=True)} {unit}</b>, its 95% interval "
            f"{decibels(low, signed=True)} to {decibels(high, signed=True)} {unit}. {sure}"
        )
    sign = 1 if definition["more_is_better"] else -1
    songs = sorted(found["songs"].items(), key=lambda item: -sign * item[1][2])
    bars = [Bar(song, "model" if sign * values[2] >= 0 else "worse", values[2]) for song, values in songs]
    return (
        f"<section><h2>{escape(pair['second'])} less {escape(pair['first'])}</h2><p class='lead'>{lead}.</p>"
        f"<p class='note'>{escape(metric)} of the {escape(source)} on {found['n']} songs: {found['wins']} better, "
        f"{found['losses']} worse, {found['ties']} equal.</p>"
        f"{bar_chart(bars, unit=definition['unit'], signed=True)}{_pair_table(pair)}</section>"
    )


def _pair_table(pair: Mapping[str, Any]) -> str:
    head = ["", "A", "B", "B − A", "95% interval", "B wins, loses, ties", "songs"]
    rows = [
        [
            escape(f"{metric}, {source}"),
            decibels(found["mean_first"]),
            decibels(found["mean_second"]),
            decibels(found["difference"], signed=True),
            " to ".join(decibels(x, signed=True) for x in found["interval"] or [None]),
            f"{found['wins']}, {found['losses']}, {found['ties']}",
            str(found["n"]),
        ]
        for source, metrics in pair["sources"].items()
        for metric, found in metrics.items()
    ]
    return (
        f"<details><summary>All metrics: A is {escape(pair['first'])}, B is {escape(pair['second'])}</summary>"
        f"{table(head, rows)}</details>"
    )


def _models(comparison: Mapping[str, Any]) -> str:
    terms = "".join(
        f"<dt>{escape(label)}</dt><dd><code>"
        + escape(", ".join(f"{key} {value}" for key, value in facts(summary["evaluated"]).items()))
        + "</code></dd>"
        for label, summary in comparison["models"].items()
    )
    return section(
        "How this was measured",
        "",
        "<p>The interval is the percentile bootstrap of the mean difference: songs are drawn again, with replacement, "
        f"10,000 times. Only songs for which both have a value are paired.</p><dl>{terms}</dl>",
    )
