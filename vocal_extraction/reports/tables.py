"""Plain text tables for the console and the report card, in the specification's layout.

They are Markdown tables too, so that they can be pasted where others read them. What comes in is the content of an
evaluation's ``summary.json`` or ``comparison.json``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {"overall": "Overall", "bass+drums+other": "Bass+Drums+Other", "vocals": "Vocals"}
"""Of the specification's table: column of the summary, and its head."""

BSSEVAL_METRICS = ("SDR", "ISR", "SIR", "SAR")
"""Metrics whose headline is the median over songs; of all others it is the mean and the standard deviation."""

HEADLINES = {"SI-SDR": "mean", "SDR": "median"}
"""The metric of each family by which rows are compared, and its statistic."""


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align cells under their heads: the first column to the left, numbers to the right.

    >>> print(text_table(["Metric", "Vocals"], [["SNR", "3.55"], ["SI-SDR", "-1.00"]]))
    | Metric | Vocals |
    |--------|-------:|
    | SNR    |   3.55 |
    | SI-SDR |  -1.00 |
    """
    safe = [[_cell(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in safe) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(safe[0]), rule, *(line(row) for row in safe[1:])])


def _cell(text: str) -> str:
    """Keep a cell on its line and in its column, whatever a song is called."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("|", "/")


def mean_and_spread(statistics: Mapping[str, Any]) -> str:
    """Return mean ± standard deviation and, in brackets, how many values are behind them.

    >>> mean_and_spread({"mean": 1.08, "std": 2.814, "n": 24})
    '1.08 ± 2.81 (24)'
    >>> mean_and_spread({"mean": None, "std": None, "n": 0})
    '- (0)'
    """
    if statistics["mean"] is None:
        return f"- ({statistics['n']})"
    spread = "" if statistics["std"] is None else f" ± {statistics['std']:.2f}"
    return f"{statistics['mean']:z.2f}{spread} ({statistics['n']})"


def median_and_count(statistics: Mapping[str, Any]) -> str:
    """Return the median and, in brackets, how many values are behind it."""
    median = statistics["median"]
    return f"{'-' if median is None else f'{median:z.2f}'} ({statistics['n']})"


def headline(statistics: Mapping[str, Any], metric: str) -> str:
    """Return what is reported of `metric`: the median over songs for BSSEval v4, else mean ± standard deviation."""
    return median_and_count(statistics) if metric in BSSEVAL_METRICS else mean_and_spread(statistics)


def report_card(summary: Mapping[str, Any]) -> str:
    """Return the report of an evaluation as text.

    Parameters
    ----------
    summary
        Content of ``summary.json``.

    Returns
    -------
    str
        The specification's table for what was evaluated, the rows beside it, and what is to be known of both.
    """
    evaluated = next(iter(summary["rows"].values()))
    parts = [_title(summary), _metric_table(evaluated["scores"], summary["metrics"])]
    parts += [_rows_table(summary, metric) for metric in HEADLINES if metric in summary["metrics"]]
    return "\n\n".join([*parts, *_notes(summary)]) + "\n"


def _title(summary: Mapping[str, Any]) -> str:
    evaluated, data = summary["evaluated"], summary["data"]
    settings = [f"{key} {value}" for key, value in evaluated["settings"].items()]
    mark = [f"SHA-256 {evaluated['sha256'][:12]}"] if evaluated["sha256"] else []
    about = ", ".join([*mark, *settings])
    n_songs = f"{len(summary['songs'])} song{'s' if len(summary['songs']) != 1 else ''}"
    return (
        f"{evaluated['path']}{f' ({about})' if about else ''}\n"
        f"{n_songs} of {data['folder']}, {data['subset']}, {data['duration_s'] / 60:.1f} minutes. Decibels; in "
        f"brackets the number of values behind each."
    )


def _metric_table(scores: Mapping[str, Any], metrics: Sequence[str]) -> str:
    families = {
        "Mean ± standard deviation over songs of the median over channels": [
            m for m in metrics if m not in BSSEVAL_METRICS
        ],
        "BSSEval v4: median over songs of the median over frames of 1 s": [m for m in metrics if m in BSSEVAL_METRICS],
    }
    tables = []
    for title, names in families.items():
        if names:
            rows = [[name, *(headline(scores[name][column], name) for column in COLUMNS)] for name in names]
            remark = "\nSRR is the source-to-rescaled-source ratio: how far the level is off." if "SRR" in names else ""
            tables.append(f"{title}\n\n{text_table(['Metric', *COLUMNS.values()], rows)}{remark}")
    return "\n\n".join(tables)


def _rows_table(summary: Mapping[str, Any], metric: str) -> str:
    rows = [
        [row["title"], *(headline(row["scores"][metric][column], metric) for column in COLUMNS)]
        for row in in_order(summary, metric)
    ]
    return f"{metric} beside the floor and the ceiling\n\n{text_table([metric, *COLUMNS.values()], rows)}"


def in_order(summary: Mapping[str, Any], metric: str) -> list[Mapping[str, Any]]:
    """Return the rows from the lowest to the highest vocals, by the metric's headline; rows without a value first."""

    def height(row: Mapping[str, Any]) -> float:
        value = row["scores"][metric]["vocals"][HEADLINES[metric]]
        return float("-inf") if value is None else float(value)

    return sorted(summary["rows"].values(), key=height)


def _notes(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"- {note}" for note in notes(summary)]
    return ["Left out and held back\n\n" + "\n".join(lines)] if lines else []


def notes(summary: Mapping[str, Any]) -> list[str]:
    """Return in sentences which songs some mean does without, and why, and which values are held at the limit."""
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, list[str]]] = {}
    for row in summary["rows"].values():
        for metric, columns in row["scores"].items():
            for source in ("vocals", "bass+drums+other"):
                statements = {f"left out, since {why}": songs for why, songs in columns[source]["left_out"].items()}
                # Floors and ceilings are at the limit by nature: the mixture has no artefacts. Where rows are compared,
                # it is said of all of them.
                if columns[source]["at_limit"] and (row["role"] == "evaluated" or metric in HEADLINES):
                    statements["held at ±100 dB (a perfect or a silent estimate)"] = columns[source]["at_limit"]
                for what, songs in statements.items():
                    found.setdefault((what, source, tuple(songs)), {}).setdefault(row["title"], []).append(metric)
    return [_sentence(summary, *key, rows) for key, rows in found.items()]


def _sentence(
    summary: Mapping[str, Any], what: str, source: str, songs: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> str:
    metrics = list(dict.fromkeys(metric for names in rows.values() for metric in names))
    of_metrics = "" if set(metrics) == set(summary["metrics"]) else f", {', '.join(metrics)}"
    of_rows = "" if len(rows) == len(summary["rows"]) else f", {', '.join(rows)}"
    return f"{source}{of_metrics}{of_rows}: {what}: {', '.join(map(_cell, songs))}"


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Return the report of a comparison as text, a table for each pair of models.

    Parameters
    ----------
    comparison
        Content of ``comparison.json``.
    """
    parts = []
    for pair in comparison["pairs"]:
        rows = [
            [
                f"{metric}, {source}",
                _number(found["mean_first"]),
                _number(found["mean_second"]),
                _number(found["difference"], signed=True),
                "-" if found["interval"] is None else f"{found['interval'][0]:+.2f} to {found['interval'][1]:+.2f}",
                f"{found['wins']}/{found['losses']}/{found['ties']}",
                str(found["n"]),
            ]
            for source, metrics in pair["sources"].items()
            for metric, found in metrics.items()
        ]
        head = ["Metric", "A", "B", "B - A", "95% interval", "B wins/loses/ties", "songs"]
        parts.append(f"A = {pair['first']}\nB = {pair['second']}\n\n{text_table(head, rows)}")
    return "\n\n".join(parts) + "\n"


def _number(value: float | None, *, signed: bool = False) -> str:
    return "-" if value is None else f"{value:+z.2f}" if signed else f"{value:z.2f}"
