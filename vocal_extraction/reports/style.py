"""The colours and type that every chart and page of the project shares, light and dark.

All texts keep a contrast of at least 4.5 to 1 against their ground (WCAG 2.2, 1.4.3); a test computes it.
"""

from types import SimpleNamespace

_COLOURS = {  # few, each with one meaning: light and dark
    "ground": ("#fbfaf8", "#14171a"),  # the page
    "panel": ("#ffffff", "#1b1f23"),  # a raised surface, as of a chart or a table's head
    "ink": ("#1d2126", "#e9e7e3"),  # text
    "muted": ("#5f6670", "#a0a6ae"),  # labels and notes
    "rule": ("#dedbd5", "#31363c"),  # lines that separate
    "model": ("#0b6e69", "#57c2b8"),  # the model under test and its vocals; validation in training plots
    "accompaniment": ("#47609c", "#93abe6"),
    "oracle": ("#9a5b00", "#e0a95a"),  # ideal masks, and the best epoch in training plots
    "baseline": ("#6a717b", "#98a0aa"),
    "worse": ("#a8324a", "#ea8095"),  # a difference to the wrong side
}

LIGHT, DARK = (SimpleNamespace(**{name: pair[i] for name, pair in _COLOURS.items()}) for i in (0, 1))

# The reader's own interface font: nothing is fetched.
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', sans-serif"


def _css_variables(palette: SimpleNamespace) -> str:
    return "; ".join(f"--{name}: {colour}" for name, colour in vars(palette).items()) + ";"


COLOURS = (  # both palettes as a style sheet
    f":root {{ color-scheme: light dark; {_css_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_css_variables(DARK)} }} }}\n"
)
