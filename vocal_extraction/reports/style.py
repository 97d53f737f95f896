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


def contrast(colour: str, ground: str) -> float:
    """Return the contrast ratio of two ``#rrggbb`` colours, 1 to 21 (WCAG 2.2, "contrast ratio").

    >>> round(contrast("#000000", "#ffffff"), 3)
    21.0
    """
    brighter, darker = sorted((_luminance(colour), _luminance(ground)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2, "relative luminance")."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
