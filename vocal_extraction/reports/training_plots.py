"""The course of a training in one picture: losses with the best epoch marked, learning rate, and waiting for data."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.reports.style import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Epoch = Mapping[str, Any]
"""One row of the history: 'epoch' (counted from 1) and, each optional, 'train_loss', 'validation_loss',
'learning_rate', 'data_wait_share' (0 to 1), 'is_best'."""


def plot_training(history: Sequence[Epoch]) -> "Figure":
    """Draw losses, learning rate and waiting for data in three panels; missing and non-finite numbers leave a gap."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), dpi=110, facecolor=LIGHT.ground, layout="constrained")
    losses, rate, waiting = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    _draw(losses, history, "train_loss", colour=LIGHT.baseline, label="training")
    _draw(losses, history, "validation_loss", colour=LIGHT.model, label="validation")
    _mark_best(losses, history)
    _draw(rate, history, "learning_rate", colour=LIGHT.ink)
    _draw(waiting, history, "data_wait_share", colour=LIGHT.ink, factor=100.0)
    waiting.set_ylim(0, 100)
    waiting.set_xlabel("epoch", color=LIGHT.muted)
    for axes, title in ((losses, "loss"), (rate, "learning rate"), (waiting, "waiting for data, % of the time")):
        _dress(axes, title)
    if losses.get_legend_handles_labels()[0]:
        losses.legend(frameon=False, labelcolor=LIGHT.ink)
    return figure


def write_loss_plot(history: Sequence[Epoch], path: str | os.PathLike[str]) -> None:
    """Write `plot_training` to `path`, whole; its suffix chooses the format (png, svg, pdf)."""
    figure = plot_training(history)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png")


def _draw(
    axes: "Axes", history: Sequence[Epoch], key: str, *, colour: str, label: str | None = None, factor: float = 1.0
) -> None:
    values = factor * np.array([row.get(key) for row in history], float)
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values).all():
        return
    # A dot for each epoch while there are few; a single epoch has no line.
    style: dict[str, Any] = {"linewidth": 1.6, "marker": "o" if len(values) <= 40 else None, "markersize": 3.5}
    axes.plot([row["epoch"] for row in history], values, color=colour, label=label, **style)


def _mark_best(axes: "Axes", history: Sequence[Epoch]) -> None:
    """Mark the last epoch that was the best so far, which is the one that the best checkpoint holds."""
    best = [row for row in history if row.get("is_best")]
    epoch, loss = (best[-1]["epoch"], best[-1].get("validation_loss")) if best else (0, None)
    if loss is None or not math.isfinite(loss):
        return
    axes.axvline(epoch, color=LIGHT.oracle, linewidth=1, linestyle=(0, (4, 3)))
    ring: dict[str, Any] = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "markeredgecolor": LIGHT.oracle}
    axes.plot([epoch], [loss], **ring, markeredgewidth=1.6, linestyle="none", label=f"best: epoch {epoch}, {loss:.4g}")


def _dress(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor(LIGHT.panel)
    axes.set_title(title, loc="left", fontsize=10, color=LIGHT.ink)
    axes.tick_params(colors=LIGHT.muted, labelsize=8)
    axes.grid(axis="y", color=LIGHT.rule, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT.rule)
