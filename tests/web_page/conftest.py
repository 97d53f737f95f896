"""A server that the command line started, a browser that visits it, and songs for it."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from visiting import (
    LARGEST_MB,
    LONG_SONG_RATE,
    LONG_SONG_S,
    LONGEST_MIN,
    NOTE_STARTS,
    OTHER_SONG_S,
    PATIENCE_S,
    QUIET,
    RATE,
    SONG_S,
)

from vocal_extraction.checkpointing import save_checkpoint
from vocal_extraction.demo_songs import synthesize_song
from vocal_extraction.networks import create_model
from vocal_extraction.presets import SPECIFIED

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import sys
from main import main
from vocal_extraction.web_page.jobs import JobQueue
JobQueue.measure_models = lambda queue: None  # of all models that ship: half a minute of what the tests wait for
sys.exit(main())
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("visit")


@pytest.fixture(scope="session")
def songs(folder):
    """Return the paths of three songs: one, another, and a long one."""
    paths = {name: folder / f"{name}.wav" for name in ("song", "other", "long")}
    for seed, (name, n_rounds) in enumerate({"song": SONG_S / OTHER_SONG_S, "other": 1}.items()):
        bars = sum(synthesize_song(seed, OTHER_SONG_S).values()).T
        soundfile.write(paths[name], np.tile(bars, (round(n_rounds), 1)), RATE, subtype="PCM_16")
    noise = np.random.default_rng(0).normal(0, 3_000, round(LONG_SONG_S * LONG_SONG_RATE)).astype(np.int16)
    soundfile.write(paths["long"], noise, LONG_SONG_RATE)
    return paths


@pytest.fixture(scope="session")
def model(folder):
    return save_checkpoint(folder / "untrained.pth", create_model(SPECIFIED), preset=SPECIFIED)


@pytest.fixture(scope="session")
def server(folder, model):
    """Serve the page as `main.py serve` does; return its address. SIGTERM must end it and leave nothing behind."""
    report = folder / "evaluation_results" / "run" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<!doctype html><title>Report</title><h1>Scores of the run</h1>")
    files = folder / "files"
    files.mkdir()
    bounds = ("--upload-mb", LARGEST_MB, "--longest", LONGEST_MIN)
    arguments = ("serve", "--port", free_port(), "--model", model, "--device", "cpu", "--no-browser", *bounds)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(files), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r"http://\S+", process.stdout.readline()).group()
        yield address
        assert process.poll() is None, "the server lives on, whatever was asked of it"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 143
        assert list(files.glob("vocal-extraction-page-*")) == []
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Return a function that opens the page in a new session; no request may leave this machine."""
    from playwright.sync_api import expect

    contexts, foreign, errors, accepted = [], [], [], set()

    def note(response):
        if response.status >= 400 and response.status not in accepted:
            errors.append(f"{response.status} {response.url}")

    def visit(*, accept_errors=(), **options):
        accepted.update(accept_errors)
        context = browser.new_context(base_url=server, **options)
        context.set_default_timeout(1_000 * PATIENCE_S)
        context.add_init_script(NOTE_STARTS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: foreign.append(request.url) if leaves(request.url, server) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("response", note)
        page.goto("/")
        page.locator("body[data-ready]").wait_for()
        return page

    expect.set_options(timeout=1_000 * PATIENCE_S)
    yield visit
    for context in contexts:
        context.close()
    assert foreign == []
    assert errors == []


def leaves(url, server):
    return not url.startswith((server, "data:", "blob:", "about:"))


@pytest.fixture
def screenshot(tmp_path):
    def screenshot(page, name):
        folder = Path(os.environ.get("TEST_ARTEFACTS", tmp_path))
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"web-page-{name}.png", full_page=True, animations="disabled")

    return screenshot


@pytest.fixture(scope="session")
def extracted(folder, songs, model):
    """Return what the command line makes of the songs: bytes by song and stem."""
    from main import main

    arguments = ("extract", songs["song"], songs["other"], "-o", folder / "alone", "--model", model, "--device", "cpu")
    assert main([*map(str, arguments)]) == 0
    return {
        (song, stem): (folder / "alone" / song / f"{stem}.wav").read_bytes()
        for song in ("song", "other")
        for stem in ("vocals", "accompaniment")
    }
