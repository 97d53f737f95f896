"""What a user of the page does and sees, for the tests in a browser."""

import itertools
import time
from pathlib import Path

import pytest

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
PATIENCE_S = 180
"""For anything: the machine may be busy. Nothing waits longer than it must."""
RATE = 44_100
SONG_S, OTHER_SONG_S = 20.0, 2.0
"""The first plays on while the test looks at it."""
LONG_SONG_S, LONG_SONG_RATE = 120.0, 8_000
"""Long in the network, which takes every song at its own rate, and short on the way to the server."""
LARGEST_MB, LONGEST_MIN = 4, 5

NOTE_STARTS = """
    window.starts = [];
    const start = AudioBufferSourceNode.prototype.start;
    AudioBufferSourceNode.prototype.start = function (when) {
        const [rate, now] = [this.buffer.sampleRate, this.context.currentTime];
        window.starts.push([when * rate, this.buffer.length, now * rate]);
        start.call(this, when);
    };
"""
"""Writes down when, in samples, each chunk of audio is to sound, how long it is, and when that was said."""


def give(page, *songs):
    page.locator("#files").set_input_files(list(songs))


def card(page, name):
    return page.get_by_role("article", name=name)


def separate(page, song):
    """Go through with a song, to its player."""
    give(page, song)
    page.locator("article[data-state=done] .player").wait_for()


def downloaded(place, stem):
    """Return what a link of a page, or of a part of it, downloads."""
    page = getattr(place, "page", place)
    with page.expect_download() as download:
        place.get_by_role("link", name=f"Download {stem}").click()
    assert download.value.suggested_filename.endswith(f" - {stem}.wav")
    return Path(download.value.path()).read_bytes()


def state(page):
    """Return what the player does: where it is in seconds, and the levels that sound."""
    return page.locator(".player").first.evaluate(
        """({ player, dataset }) => ({
            position: player.now(),
            playing: dataset.state === "playing",
            track: [player.track.start_s, Math.round(player.track.durationS)],
            levels: player.lanes.map(({ bar }) => Number(bar.style.getPropertyValue("--level"))),
        })"""
    )


def until(page, condition, what):
    """Wait until the player's state fulfils a condition; return it."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition(seen := state(page)):
        assert time.monotonic() < deadline_s, f"{what}; the last that was seen: {seen}"
        page.wait_for_timeout(50)
    return seen


def move(slider, value):
    """Move a slider as a hand does: it tells while it moves."""
    slider.evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        value,
    )


def check_the_joints(starts):
    """Both stems of a chunk begin at one sample, and each chunk where the last one ends, unless it came too late."""
    vocals, accompaniment = starts[: len(starts) // 2 * 2 : 2], starts[1::2]
    assert [chunk[:2] for chunk in vocals] == [chunk[:2] for chunk in accompaniment]
    for (when, length, _), (following, _, now) in itertools.pairwise(vocals):
        # A thousandth of a sample: seconds are kept as 64-bit floats.
        assert following == pytest.approx(when + length, abs=1e-3) or now > when + length
