"""The colours and type that every chart and page of the project shares, light and dark.

Few colours, each with one meaning: model and vocals are teal, the accompaniment blue, a baseline grey, an oracle amber.
All texts keep a contrast of at least 4.5 to 1 against their ground (WCAG 2.2, 1.4.3); a test computes it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours as ``#rrggbb``."""

    ground: str
    """The page."""
    panel: str
    """A raised surface: a chart's or a table head's ground."""
    ink: str
    """Text."""
    muted: str
    """Labels and notes."""
    rule: str
    """Lines that separate."""
    model: str
    """The model under test and its vocals; validation in training plots."""
    accompaniment: str
    """The accompaniment."""
    oracle: str
    """Ideal masks, and the best epoch in training plots."""
    baseline: str
    """Baselines."""
    worse: str
    """A difference to the wrong side."""


LIGHT = Palette(
    ground="#fbfaf8",
    panel="#ffffff",
    ink="#1d2126",
    muted="#5f6670",
    rule="#dedbd5",
    model="#0b6e69",
    accompaniment="#47609c",
    oracle="#9a5b00",
    baseline="#6a717b",
    worse="#a8324a",
)

DARK = Palette(
    ground="#14171a",
    panel="#1b1f23",
    ink="#e9e7e3",
    muted="#a0a6ae",
    rule="#31363c",
    model="#57c2b8",
    accompaniment="#93abe6",
    oracle="#e0a95a",
    baseline="#98a0aa",
    worse="#ea8095",
)

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', sans-serif"
"""The reader's own interface font: nothing is fetched."""


def css_variables(palette: Palette) -> str:
    """Return `palette` as CSS custom properties.

    >>> css_variables(LIGHT).split(";")[0]
    '--ground: #fbfaf8'
    """
    return "; ".join(f"--{name}: {colour}" for name, colour in dataclasses.asdict(palette).items()) + ";"
