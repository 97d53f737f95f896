"""Charts as plain HTML: every mark is placed in percent of its track, so that they fit a phone with readable text.

There is no script in them and no picture; a screen reader reads each row's name and value, and its marks are hidden
from it. All texts are escaped here.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

MINUS = "\N{MINUS SIGN}"


@dataclasses.dataclass(frozen=True)
class Axis:
    """A range of decibels with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def percent(self, value: float) -> float:
        """Return where `value` lies on the axis, 0 to 100; beyond its ends, the end."""
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 2)


def axis_over(values: Iterable[float], *, around: float | None = None) -> Axis:
    """Return an axis with round ticks that holds all finite values, and `around` where that is given.

    >>> axis_over([-4.1, 11.7]).ticks
    (-5.0, 0.0, 5.0, 10.0, 15.0)
    """
    finite = [value for value in values if math.isfinite(value)] + ([] if around is None else [around])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 1, high + 1
    step = _round_step((high - low) / 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Axis(first * step, last * step, tuple(float(i * step) for i in range(first, last + 1)))


def _round_step(rough: float) -> float:
    """Return the next of 1, 2, 5, 10, 20 and so on."""
    magnitude = 10 ** math.floor(math.log10(rough))
    return float(next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough - 1e-12))


def decibels(value: float | None, *, signed: bool = False, digits: int = 2) -> str:
    """Return a number with a true minus sign, or a dash for None.

    >>> decibels(-4.1), decibels(3.0, signed=True), decibels(None)
    ('−4.10', '+3.00', '–')
    """
    if value is None:
        return "–"
    return f"{value:{'+' if signed else ''}z.{digits}f}".replace("-", MINUS)


@dataclasses.dataclass(frozen=True)
class Dot:
    """A row of a dot chart: a mean and how far the values spread."""

    name: str
    role: str
    """A class of the style sheet: model, baseline, oracle, accompaniment."""
    value: float | None
    spread: float | None
    note: str = ""


def dot_chart(rows: Sequence[Dot], *, unit: str) -> str:
    """Return rows of dots with their standard deviation as a line on one axis."""
    values = [row.value for row in rows if row.value is not None]
    spread = [row.value + sign * (row.spread or 0) for row in rows if row.value is not None for sign in (-1, 1)]
    axis = axis_over([*values, *spread])
    body = [_dot_row(row, axis) for row in rows]
    return _chart(body, axis, unit=unit)


def _dot_row(row: Dot, axis: Axis) -> str:
    marks = ""
    if row.value is not None:
        low, high = (axis.percent(row.value + sign * (row.spread or 0)) for sign in (-1, 1))
        marks = f'<i class="span" style="left:{low}%;width:{high - low:.2f}%"></i>'
        marks += f'<i class="dot" style="left:{axis.percent(row.value)}%"></i>'
    spread = f" ± {row.spread:.2f}" if row.spread is not None else ""
    return _row(row.name, marks, f"<b>{decibels(row.value)}</b>{spread}{escape(row.note)}", row.role)


@dataclasses.dataclass(frozen=True)
class Box:
    """A row of a box plot."""

    name: str
    role: str
    values: Sequence[float]


def box_chart(rows: Sequence[Box], *, unit: str) -> str:
    """Return box plots (Tukey 1977): quartiles, median, whiskers to the last value within 1.5 box lengths, the rest as
    dots."""
    axis = axis_over(value for row in rows for value in row.values)
    return _chart([_box_row(row, axis) for row in rows], axis, unit=unit)


def _box_row(row: Box, axis: Axis) -> str:
    if not row.values:
        return _row(row.name, "", "no values", row.role)
    low, median, high = (float(x) for x in np.percentile(row.values, [25, 50, 75]))
    reach = 1.5 * (high - low)
    within = [value for value in row.values if low - reach <= value <= high + reach]
    left, right = axis.percent(min(within)), axis.percent(max(within))
    box_left, box_right = axis.percent(low), axis.percent(high)
    marks = f'<i class="span" style="left:{left}%;width:{right - left:.2f}%"></i>'
    marks += f'<i class="box" style="left:{box_left}%;width:{box_right - box_left:.2f}%"></i>'
    marks += f'<i class="median" style="left:{axis.percent(median)}%"></i>'
    marks += "".join(
        f'<i class="outlier" style="left:{axis.percent(value)}%"></i>' for value in row.values if value not in within
    )
    return _row(row.name, marks, f"<b>{decibels(median)}</b> ({len(row.values)})", row.role)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A row of a bar chart, with marks for what else is to be seen there."""

    name: str
    role: str
    value: float | None
    marks: tuple[tuple[str, float], ...] = ()
    """Role and value of each mark."""


def bar_chart(rows: Sequence[Bar], *, unit: str, signed: bool = False) -> str:
    """Return bars from zero, with marks on the same axis."""
    values = [value for row in rows for value in (row.value, *(mark for _, mark in row.marks)) if value is not None]
    axis = axis_over(values, around=0.0)
    return _chart([_bar_row(row, axis, signed=signed) for row in rows], axis, unit=unit, kind="bars")


def _bar_row(row: Bar, axis: Axis, *, signed: bool) -> str:
    marks = ""
    if row.value is not None:
        left, right = sorted((axis.percent(0.0), axis.percent(row.value)))
        marks = f'<i class="bar" style="left:{left}%;width:{right - left:.2f}%"></i>'
    marks += "".join(f'<i class="mark {role}" style="left:{axis.percent(value)}%"></i>' for role, value in row.marks)
    return _row(row.name, marks, f"<b>{decibels(row.value, signed=signed)}</b>", row.role)


def _row(name: str, marks: str, value: str, role: str) -> str:
    return (
        f'<li class="{escape(role)}"><span class="name">{escape(name)}</span>'
        f'<span class="track" aria-hidden="true">{marks}</span><span class="value">{value}</span></li>'
    )


def _chart(body: Sequence[str], axis: Axis, *, unit: str, kind: str = "") -> str:
    """Put rows over one another, with gridlines behind them and the ticks' numbers below."""
    zero = [f' class="zero" style="left:{axis.percent(0.0)}%"' if axis.low <= 0 <= axis.high else ""]
    lines = "".join(
        f'<i{zero[0] if tick == 0 and zero[0] else f""" style="left:{axis.percent(tick)}%" """.rstrip()}></i>'
        for tick in axis.ticks
    )
    digits = 0 if all(float(tick).is_integer() for tick in axis.ticks) else 1
    labels = "".join(
        f'<span style="left:{axis.percent(tick)}%">{decibels(tick, digits=digits)}</span>' for tick in axis.ticks
    )
    return (
        f'<div class="chart {kind}"><div class="grid" aria-hidden="true"><span class="lines">{lines}</span></div>'
        f"<ol>{''.join(body)}</ol>"
        f'<div class="ticks" aria-hidden="true"><span class="labels">{labels}</span>'
        f'<span class="unit">{escape(unit)}</span></div></div>'
    )
