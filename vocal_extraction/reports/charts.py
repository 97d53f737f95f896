"""Charts as rows of marks, placed in percent of the row's width; ``macros.html`` draws them."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Mark = tuple[str, float, float | None]  # class of the style sheet, beginning and width in percent of the row


class Row(NamedTuple):
    """A row of a chart; `role` is a class of the style sheet: model, baseline, oracle, accompaniment, worse."""

    name: str
    role: str
    marks: list[Mark]
    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Axis:
    low: float
    high: float
    ticks: tuple[float, ...]

    def percent(self, value: float) -> float:
        """Return where `value` lies on the axis, 0 to 100; beyond its ends, the end."""
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 2)

    def mark(self, kind: str, low: float, high: float | None = None) -> Mark:
        """Return a mark at one value, or from one to another."""
        left = self.percent(low)
        return kind, left, None if high is None else round(self.percent(high) - left, 2)

    def labels(self) -> list[tuple[float, str]]:
        digits = 0 if all(tick.is_integer() for tick in self.ticks) else 1
        return [(self.percent(tick), decibels(tick, digits=digits)) for tick in self.ticks]


class Chart(NamedTuple):
    """Rows over one another on one axis; `kind` is a class of the style sheet."""

    axis: Axis
    rows: list[Row]
    unit: str
    kind: str = ""


def axis_over(values: Iterable[float]) -> Axis:
    """Return an axis with round ticks that holds all finite values.

    >>> axis_over([-4.1, 11.7]).ticks
    (-5.0, 0.0, 5.0, 10.0, 15.0)
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-9:
        low, high = low - 1, high + 1
    rough = (high - low) / 6
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough - 1e-12)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Axis(first * step, last * step, tuple(float(i * step) for i in range(first, last + 1)))


def decibels(value: float | None, *, signed: bool = False, digits: int = 2) -> str:
    """Return a number with a true minus sign, or a dash for None.

    >>> decibels(-4.1), decibels(3.0, signed=True), decibels(None)
    ('−4.10', '+3.00', '–')
    """
    if value is None:
        return "–"
    return f"{value:{'+' if signed else ''}z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def dot_chart(dots: Sequence[tuple[str, str, float | None, float | None, str]], *, unit: str) -> Chart:
    """Return dots with a line to either side, of (name, role, value, standard deviation, note)."""
    spans = [None if value is None else (value - (std or 0), value + (std or 0)) for _, _, value, std, _ in dots]
    axis, rows = axis_over(end for span in spans if span for end in span), []
    for (name, role, value, std, note), span in zip(dots, spans, strict=True):
        marks = [] if value is None or span is None else [axis.mark("span", *span), axis.mark("dot", value)]
        rows.append(Row(name, role, marks, decibels(value), note if std is None else f" ± {std:.2f}{note}"))
    return Chart(axis, rows, unit)


def box_chart(boxes: Sequence[tuple[str, str, Sequence[float]]], *, unit: str) -> Chart:
    """Return Tukey's (1977) box plots of (name, role, values): whiskers to the last value within 1.5 box lengths."""
    axis, rows = axis_over(value for _, _, values in boxes for value in values), []
    for name, role, values in boxes:
        if not values:
            rows.append(Row(name, role, [], "", "no values"))
            continue
        low, median, high = (float(x) for x in np.percentile(values, [25, 50, 75]))
        reach = 1.5 * (high - low)
        within = [value for value in values if low - reach <= value <= high + reach]
        marks = [axis.mark("span", min(within), max(within)), axis.mark("box", low, high), axis.mark("median", median)]
        marks += [axis.mark("outlier", value) for value in values if value not in within]
        rows.append(Row(name, role, marks, decibels(median), f" ({len(values)})"))
    return Chart(axis, rows, unit)


Bar = tuple[str, str, float | None, Mapping[str, float]]  # name, role, value, and values of further marks by role


def bar_chart(bars: Sequence[Bar], *, unit: str, signed: bool = False) -> Chart:
    """Return bars from zero, with marks on the same axis."""
    values = [value for _, _, bar, marks in bars for value in (bar, *marks.values()) if value is not None]
    axis, rows = axis_over([*values, 0.0]), []
    for name, role, value, others in bars:
        marks = [] if value is None else [axis.mark("bar", *sorted((0.0, value)))]
        marks += [axis.mark(f"mark {of}", other) for of, other in others.items()]
        rows.append(Row(name, role, marks, decibels(value, signed=signed)))
    return Chart(axis, rows, unit, "bars")
