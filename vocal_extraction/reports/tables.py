"""Plain text tables of ``summary.json`` and ``comparison.json``, in the specification's layout, which is Markdown's."""

from collections.abc import Mapping, Sequence
from typing import Any

Summary = Mapping[str, Any]

_TITLES = {
    "mean": "Mean ± standard deviation over songs of the median over channels",
    "median": "Median over songs (BSSEval v4: of the median over frames of 1 s)",
}
_REMARKS = {
    "SRR": "SRR is the source-to-rescaled-source ratio: how far the level is off.",
    "Leak": "Leak is the estimate's energy where the source is silent, beside the mixture's: less is better.",
}


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


def columns_of(summary: Summary) -> dict[str, str]:
    """Return the columns of all tables with their heads: overall, then the sources, the main one last.

    >>> columns_of({"sources": ["vocals", "bass+drums+other"]})
    {'overall': 'Overall', 'bass+drums+other': 'Bass+Drums+Other', 'vocals': 'Vocals'}
    """
    main, *others = summary["sources"]
    return {"overall": "Overall", **{name: name.title() for name in (*others, main)}}


def rankings(summary: Summary) -> list[str]:
    """Return the metrics by which systems are ranked; without any such, the first metric."""
    ranks = [name for name in summary["metrics"] if summary["definitions"][name]["ranks"]]
    return ranks or list(summary["metrics"][:1])


def main_metric(summary: Summary) -> str:
    """Return the metric by which songs are ranked: SI-SDR, or another where it was not computed."""
    return rankings(summary)[0]


def value_of(summary: Summary, row: Mapping[str, Any], metric: str) -> float | None:
    """Return what is reported of a metric for the main source."""
    statistics = row["scores"][metric][summary["sources"][0]]
    return statistics[summary["definitions"][metric]["statistic"]]


def number(value: float | None, unit: str = "dB", *, signed: bool = False) -> str:
    """Return a value as text: decibels to 0.01, others to three digits.

    >>> number(-1.0), number(3.0, signed=True), number(0.01234, ""), number(None)
    ('-1.00', '+3.00', '0.0123', '-')
    """
    if value is None:
        return "-"
    return f"{value:{'+' if signed else ''}{'z.2f' if unit == 'dB' else '.3g'}}"


def reported(summary: Summary, statistics: Mapping[str, Any], metric: str) -> str:
    """Return the reported statistic, with the standard deviation beside a mean, and in brackets how many values.

    >>> definitions = {"SNR": {"statistic": "mean", "unit": "dB"}, "SDR": {"statistic": "median", "unit": "dB"}}
    >>> found = {"mean": 1.08, "std": 2.814, "median": 1.5, "n": 24}
    >>> [reported({"definitions": definitions}, found, name) for name in definitions]
    ['1.08 ± 2.81 (24)', '1.50 (24)']
    """
    definition = summary["definitions"][metric]
    value, unit = statistics[definition["statistic"]], definition["unit"]
    has_spread = definition["statistic"] == "mean" and statistics["std"] is not None
    spread = f" ± {number(statistics['std'], unit)}" if has_spread else ""
    return f"{number(value, unit)}{spread} ({statistics['n']})"


def report_card(summary: Summary) -> str:
    """Return an evaluation's report as text: the specification's table, all systems by the ranking metrics, notes."""
    columns, definitions = columns_of(summary), summary["definitions"]
    evaluated = next(iter(summary["rows"].values()))["scores"]
    named = {
        name: name if one["unit"] in ("dB", "") else f"{name} [{one['unit']}]" for name, one in definitions.items()
    }
    parts = [_title(summary)]
    for statistic, title in _TITLES.items():
        names = [name for name in summary["metrics"] if definitions[name]["statistic"] == statistic]
        rows = [[named[name], *(reported(summary, evaluated[name][c], name) for c in columns)] for name in names]
        remarks = "".join(f"\n{text}" for name, text in _REMARKS.items() if name in names)
        if names:
            parts.append(f"{title}\n\n{text_table(['Metric', *columns.values()], rows)}{remarks}")
    for metric in rankings(summary):
        rows = [
            [row["title"], *(reported(summary, row["scores"][metric][c], metric) for c in columns)]
            for row in in_order(summary, metric)
        ]
        parts.append(f"{metric} beside baselines and oracles\n\n{text_table([metric, *columns.values()], rows)}")
    lines = [f"- {_cell(note)}" for note in notes(summary)]
    return "\n\n".join([*parts, *(["Notes\n\n" + "\n".join(lines)] if lines else [])]) + "\n"


def _title(summary: Summary) -> str:
    evaluated, data, n_songs = summary["evaluated"], summary["data"], len(summary["songs"])
    marks = [f"SHA-256 {evaluated['sha256'][:12]}"] if evaluated["sha256"] else []
    about = ", ".join([*marks, *(f"{key} {value}" for key, value in evaluated["settings"].items())])
    return (
        f"{evaluated['name']}{f' ({about})' if about else ''}\n"
        f"{n_songs} song{'s' if n_songs != 1 else ''} of {data['folder']}, {data['subset']}, "
        f"{data['duration_s'] / 60:.1f} minutes. In brackets the number of values behind each.\n"
        f"{', '.join(facts_of(summary['made']))}"
    )


def facts_of(made: Mapping[str, str]) -> list[str]:
    """Return when and with what scores were computed, as far as it is known."""
    words = {"date": "", "machine": "", "commit": "commit ", "preset": "preset ", "licence": "licence "}
    return [f"{word}{made[key]}" for key, word in words.items() if made.get(key)]


def rank(summary: Summary, row: Mapping[str, Any], metric: str) -> float:
    """Return by what a row is sorted: the better its value for the main source, the more; without one, the least."""
    value = value_of(summary, row, metric)
    sign = 1 if summary["definitions"][metric]["more_is_better"] else -1
    return float("-inf") if value is None else sign * value


def in_order(summary: Summary, metric: str) -> list[Mapping[str, Any]]:
    """Return the rows from the worst to the best."""
    return sorted(summary["rows"].values(), key=lambda row: rank(summary, row, metric))


def notes(summary: Summary) -> list[str]:
    """Return in sentences what was done to estimates, which songs a mean does without, and which values are clipped."""
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, list[str]]] = {}
    for row in summary["rows"].values():
        for metric, columns in row["scores"].items():
            for source in summary["sources"]:
                statements = {f"left out, since {why}": songs for why, songs in columns[source]["left_out"].items()}
                # Baselines and oracles are at the limit by nature: the mixture has no artefacts. It is said of all
                # systems only where they are compared.
                if columns[source]["at_limit"] and (row["role"] == "evaluated" or metric in rankings(summary)):
                    statements["clipped to ±100 dB (a perfect or a silent estimate)"] = columns[source]["at_limit"]
                for what, songs in statements.items():
                    found.setdefault((what, source, tuple(songs)), {}).setdefault(row["title"], []).append(metric)
    of_songs = [f"{song}: {note}" for song, texts in summary["notes"].items() for note in texts]
    return of_songs + [_sentence(summary, *key, rows) for key, rows in found.items()]


def _sentence(summary: Summary, what: str, source: str, songs: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    metrics = list(dict.fromkeys(metric for names in rows.values() for metric in names))
    of_metrics = "" if set(metrics) == set(summary["metrics"]) else f", {', '.join(metrics)}"
    of_rows = "" if len(rows) == len(summary["rows"]) else f", {', '.join(rows)}"
    return f"{source}{of_metrics}{of_rows}: {what}: {', '.join(map(_cell, songs))}"


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Return the report of a comparison as text, a table for each pair of models."""
    models = comparison["models"]
    definitions = next(iter(models.values()))["definitions"]
    licences = {name: one["made"].get("licence") for name, one in models.items()}
    titles = {name: f"{name} (licence: {licences[name]})" if licences[name] else name for name in models}
    head = ["Metric", "A", "B", "B - A", "95% interval", "B wins/loses/ties", "songs"]
    parts = []
    for pair in comparison["pairs"]:
        rows = []
        for source, metrics in pair["sources"].items():
            for metric, found in metrics.items():
                unit, low_high = definitions[metric]["unit"], found["interval"]
                cells = [number(found[f"mean_{one}"], unit) for one in ("first", "second")]
                cells.append(number(found["difference"], unit, signed=True))
                cells.append("-" if low_high is None else " to ".join(number(x, unit, signed=True) for x in low_high))
                cells += [f"{found['wins']}/{found['losses']}/{found['ties']}", str(found["n"])]
                rows.append([f"{metric}, {source}", *cells])
        parts.append(f"A = {titles[pair['first']]}\nB = {titles[pair['second']]}\n\n{text_table(head, rows)}")
    facts = facts_of({**next(iter(models.values()))["made"], "preset": "", "licence": ""})
    return "\n\n".join([", ".join(facts), *parts]) + "\n"
