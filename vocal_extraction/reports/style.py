"""The colours and type that every chart and page of the project shares, light and dark.

All texts keep a contrast of at least 4.5 to 1 against their ground (WCAG 2.2, 1.4.3); a test computes it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours as ``#rrggbb``; few, each with one meaning."""

    ground: str  # the page
    panel: str  # a raised surface, as of a chart or a table's head
    ink: str  # text
    muted: str  # labels and notes
    rule: str  # lines that separate
    model: str  # the model under test and its vocals; validation in training plots
    accompaniment: str
    oracle: str  # ideal masks, and the best epoch in training plots
    baseline: str
    worse: str  # a difference to the wrong side


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


COLOURS = (
    f":root {{ color-scheme: light dark; {css_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }}\n"
)
"""Both palettes as a style sheet."""
