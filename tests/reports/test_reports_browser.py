"""The pages in a real browser: wide, narrow and dark. Screenshots stay in $TEST_ARTEFACTS where that is set."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_examples import SONGS, comparison, page

from vocal_extraction.reports.page import comparison_page
from vocal_extraction.reports.style import DARK, LIGHT

TIMEOUT_S = 180
PADDING_PX = 12
"""Less than the page keeps free at its right edge on a phone."""


@pytest.fixture
def run(chromium, tmp_path):
    """Return a function that runs the browser on a page with some options and returns its stdout."""

    def run(content, *options):
        path = tmp_path / "page.html"
        path.write_text(content, encoding="utf-8")
        quiet = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
        ]  # fmt: skip
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [chromium, *quiet, profile, *options, path.as_uri()]
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True).stdout.decode("utf-8")

    return run


@pytest.fixture
def screenshot(run, tmp_path):
    """Return a function that returns a screenshot as an array (height, width, 3)."""

    def screenshot(content, name, *, width, height=1_600, options=()):
        folder = Path(os.environ.get("TEST_ARTEFACTS", tmp_path))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        run(content, f"--window-size={width},{height}", f"--screenshot={path}", *options)
        return np.asarray(Image.open(path).convert("RGB")).astype(int)

    return screenshot


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def share_of(image, colour):
    """Return the share of pixels that have exactly this colour."""
    return float((image == rgb(colour)).all(axis=-1).mean())


def test_the_browser_shows_every_row_and_song(run):
    text = run(page(), "--dump-dom")
    for words in ("Beside baselines and oracles", "ideal ratio mask", "mixture as estimate", "1.08 dB", *SONGS[1:]):
        assert words in text
    assert "<script" not in text


@pytest.mark.parametrize(
    "name, width, options, palette",
    [
        ("report-phone", 390, (), LIGHT),
        ("report-dark", 1_200, ("--force-dark-mode",), DARK),
        ("comparison-desktop", 1_200, (), LIGHT),
    ],
)
def test_it_is_drawn_within_the_window(screenshot, name, width, options, palette):
    content = page() if name.startswith("report") else comparison_page(comparison())
    image = screenshot(content, name, width=width, options=options)
    assert image.shape[1] == width
    assert 0.4 < share_of(image, palette.ground) < 0.99, "neither blank nor another colour scheme"
    assert share_of(image, palette.model) > 1e-4, "marks of the model"
    assert share_of(image, palette.ink) > 1e-4, "text"
    edge = image[:, -PADDING_PX:]
    assert (edge == rgb(palette.ground)).all(), "nothing runs over the right edge"
