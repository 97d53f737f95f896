"""The web page as its visitors meet it: a real browser against a server that the command line started.

Screenshots stay in $TEST_ARTEFACTS where that is set.
"""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("gradio", reason="Gradio is not installed, so the web page was not visited: make serve installs it")
pytest.importorskip("playwright", reason="Playwright is not installed, so the web page was not visited")

from playwright.sync_api import expect, sync_playwright

from main import main
from vocal_extraction.checkpointing import save_checkpoint
from vocal_extraction.demo_songs import synthesize_song
from vocal_extraction.networks import create_model
from vocal_extraction.settings import SPECIFIED

ROOT = Path(__file__).resolve().parents[2]
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
LONG_SONG_S, LONG_SONG_RATE = 240.0, 8_000
"""Long in the network, which hears every song at its own rate, and short on the way to the server."""
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
"""Writes down when, in samples, each piece of audio is to sound, how long it is, and when that was said."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("visit")


@pytest.fixture(scope="module")
def songs(folder):
    """Return the paths of three songs: one, another, and a long one."""
    paths = {name: folder / f"{name}.wav" for name in ("song", "other", "long")}
    for seed, (name, n_rounds) in enumerate({"song": SONG_S / OTHER_SONG_S, "other": 1}.items()):
        bars = sum(synthesize_song(seed, OTHER_SONG_S).values()).T
        soundfile.write(paths[name], np.tile(bars, (round(n_rounds), 1)), RATE, subtype="PCM_16")
    noise = np.random.default_rng(0).normal(0, 3_000, round(LONG_SONG_S * LONG_SONG_RATE)).astype(np.int16)
    soundfile.write(paths["long"], noise, LONG_SONG_RATE)
    return paths


@pytest.fixture(scope="module")
def model(folder):
    return save_checkpoint(folder / "untrained.pth", create_model(SPECIFIED), preset=SPECIFIED)


@pytest.fixture(scope="module")
def server(folder, model):
    """Serve the page as `main.py serve` does; return its address. Ctrl-C must end it and leave nothing behind."""
    report = folder / "evaluation_results" / "run" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<!doctype html><title>Report</title><h1>Scores of the run</h1>")
    files = folder / "files"
    files.mkdir()
    bounds = ("--upload-mb", LARGEST_MB, "--longest", LONGEST_MIN)
    arguments = ("serve", "--port", free_port(), "--model", model, "--device", "cpu", "--no-browser", *bounds)
    process = subprocess.Popen(
        [sys.executable, ROOT / "main.py", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(files)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r"http://\S+", process.stdout.readline()).group()
        yield address
        assert process.poll() is None, "the server lives on, whatever its visitors did"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert list(files.glob("vocal-extraction-page-*")) == []
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Return a function that opens the page as a new visitor; no request may leave this machine."""
    contexts, foreign, faults = [], [], []

    def refused(response):
        if response.status >= 400:
            faults.append(f"{response.status} {response.url}")

    def visit(**options):
        context = browser.new_context(base_url=server, **options)
        context.set_default_timeout(1_000 * PATIENCE_S)
        context.add_init_script(NOTE_STARTS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: foreign.append(request.url) if leaves(request.url, server) else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("response", refused)
        page.goto("/")
        page.locator("#go").wait_for()
        return page

    expect.set_options(timeout=1_000 * PATIENCE_S)
    yield visit
    for context in contexts:
        context.close()
    assert foreign == []
    assert faults == []


def leaves(url, server):
    return not url.startswith((server, "data:", "blob:", "about:"))


@pytest.fixture
def screenshot(tmp_path):
    def screenshot(page, name):
        folder = Path(os.environ.get("TEST_ARTEFACTS", tmp_path))
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"web-page-{name}.png", full_page=True, animations="disabled")

    return screenshot


def give(page, song):
    """Choose a file, and wait until it has arrived."""
    page.locator("#song input[type=file]").set_input_files(song)
    name = song["name"] if isinstance(song, dict) else song.name
    page.locator("#song").get_by_text(re.compile(re.escape(Path(name).stem[:8]))).first.wait_for()


def take_away_the_song(page):
    page.locator("#song").get_by_role("button", name=re.compile("clear|remove", re.IGNORECASE)).first.click()


def extract(page, song):
    """Go through with a song, to its players."""
    give(page, song)
    page.get_by_role("button", name="Extract vocals").click()
    page.locator("song-players").wait_for()


def downloaded(page, stem):
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Download {stem}").click()
    assert download.value.suggested_filename.endswith(f" - {stem}.wav")
    return Path(download.value.path()).read_bytes()


@pytest.fixture(scope="module")
def extracted(folder, songs, model):
    """Return what the command line makes of the songs: bytes by song and stem."""
    arguments = ("extract", songs["song"], songs["other"], "-o", folder / "alone", "--model", model, "--device", "cpu")
    assert main([*map(str, arguments)]) == 0
    return {
        (song, stem): (folder / "alone" / song / f"{stem}.wav").read_bytes()
        for song in ("song", "other")
        for stem in ("vocals", "accompaniment")
    }


def state(page):
    """Return what the players do: where they are in seconds, and the levels that are heard."""
    return page.locator("song-players").evaluate(
        """(players) => ({
            position: players.now(),
            playing: players.dataset.state === "playing",
            levels: [...players.querySelectorAll(".level")].map((bar) => Number(bar.style.getPropertyValue("--level"))),
        })"""
    )


def until(page, condition, what):
    """Wait until the players' state fulfils a condition; return it."""
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


def test_a_song_comes_out_as_the_command_line_makes_it(visit, songs, extracted, screenshot):
    page = visit(viewport={"width": 1280, "height": 900})
    screenshot(page, "start")
    give(page, songs["song"])
    page.get_by_role("button", name="Extract vocals").click()
    page.get_by_role("progressbar").wait_for()
    screenshot(page, "progress")
    page.locator("song-players").wait_for()
    expect(page.get_by_role("status").filter(has_text="Done.")).to_have_count(1)
    for stem in ("vocals", "accompaniment"):
        assert downloaded(page, stem) == extracted["song", stem]
    pictures = page.get_by_role("img", name=re.compile("Spectrogram of the "))
    expect(pictures).to_have_count(3)
    assert pictures.evaluate_all("images => images.every((image) => image.complete && image.naturalWidth === 480)")
    play_and_fade(page, screenshot)


def play_and_fade(page, screenshot):
    """Play, fade, change over, seek and pause: all players are one."""
    page.get_by_role("button", name="Play", exact=True).click()
    seen = until(page, lambda seen: seen["position"] > 0.2 and min(seen["levels"]) > 0, "both stems are heard")
    screenshot(page, "result")
    page.wait_for_function("window.starts.length >= 6")
    check_the_joints(page.evaluate("window.starts"))
    fader = page.get_by_role("slider", name="Karaoke fader")
    move(fader, 100)
    seen = until(page, lambda seen: seen["levels"][0] == 0 < seen["levels"][1], "the vocals have gone")
    assert seen["playing"], "the fader acts while it plays"
    expect(fader).to_have_attribute("aria-valuetext", "vocals 0 %, accompaniment 100 %")
    page.get_by_role("button", name="Play vocals").click()
    seen = until(page, lambda seen: seen["levels"][1] == 0 < seen["levels"][0], "the accompaniment has gone")
    assert seen["playing"], "changing over does not interrupt"
    move(page.get_by_role("slider", name="Position in the song"), 12.0)
    until(page, lambda seen: seen["position"] >= 12.0, "it goes on from where it was moved to")
    page.get_by_role("button", name="Pause vocals").click()
    assert not state(page)["playing"]
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    position = state(page)["position"]
    page.wait_for_timeout(300)
    assert state(page)["position"] == position
    move(page.get_by_role("slider", name="Position in the song"), SONG_S - 0.5)
    page.get_by_role("button", name="Play mixture").click()
    until(page, lambda seen: not seen["playing"] and seen["position"] == 0, "it stops at the end and rewinds")


def check_the_joints(starts):
    """Both stems of a piece begin at one sample, and each piece where the last one ends, unless it came too late."""
    vocals, accompaniment = starts[: len(starts) // 2 * 2 : 2], starts[1::2]
    assert [piece[:2] for piece in vocals] == [piece[:2] for piece in accompaniment]
    for (when, length, _), (following, _, now) in itertools.pairwise(vocals):
        # A thousandth of a sample: seconds are kept as 64-bit floats.
        assert following == pytest.approx(when + length, abs=1e-3) or now > when + length


def test_two_visitors_at_once_do_not_mix(visit, songs, extracted):
    one, other = visit(), visit()
    for page, song in ((one, "song"), (other, "other")):
        give(page, songs[song])
        page.get_by_role("button", name="Extract vocals").click()
    for page, song in ((one, "song"), (other, "other")):
        page.locator("song-players").wait_for()
        assert downloaded(page, "vocals") == extracted[song, "vocals"]
    address = one.locator("song-players").get_attribute("data-listen")
    assert one.request.get(address).status == 200
    assert other.request.get(address).status == 404
    upload = one.locator("#song a").first.get_attribute("href")
    assert one.request.get(upload).status == 200
    assert other.request.get(upload).status == 404


def test_hostile_files_get_a_sentence_and_the_server_lives_on(visit, songs, folder, screenshot):
    page = visit()
    secret = folder / "secret.mp3"
    soundfile.write(secret, synthesize_song(5, 2.0)["vocals"].T, RATE)
    bomb = folder / "bomb.flac"
    with soundfile.SoundFile(bomb, "w", 8_000, 1, format="FLAC") as file:
        for _ in range(10):
            file.write(np.zeros(8_000 * 60, np.int16))
    hostile = {
        "empty.wav": (b"", "empty"),
        "words.mp3": (b"No song, just words. " * 300, "holds no audio"),
        "bomb.flac": (bomb.read_bytes(), "too long"),
        "list.wav": (f"#EXTM3U\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n".encode(), "holds no audio"),
        "../../../<img src=x onerror=alert(1)>.wav": (b"RIFFnothing", "holds no audio"),
    }
    for name, (content, reason) in hostile.items():
        give(page, {"name": name, "mimeType": "audio/wav", "buffer": content})
        page.get_by_role("button", name="Extract vocals").click()
        expect(page.get_by_role("alert").filter(has_text=reason)).to_be_visible()
        if name == "words.mp3":
            screenshot(page, "error")
        expect(page.get_by_role("button", name="Extract vocals")).to_be_enabled()
        take_away_the_song(page)
    too_large = {"name": "large.wav", "mimeType": "audio/wav", "buffer": b"x" * (LARGEST_MB * 2**20 + 1)}
    page.locator("#song input[type=file]").set_input_files(too_large)
    expect(page.get_by_text("exceed the maximum allowed size").first).to_be_visible()
    page.reload()
    extract(page, songs["other"])


def test_cancelling_and_leaving_both_end_the_work(visit, songs, folder):
    def stored(kind):
        return list(folder.glob(f"files/*/*/{kind}/*"))

    n_results = len(stored("results"))
    leaving, page = visit(), visit()
    for one in (leaving, page):
        give(one, songs["long"])
    for one in (leaving, page):
        one.get_by_role("button", name="Extract vocals").click()
        one.get_by_role("progressbar").wait_for()
    expect(page.get_by_role("status").filter(has_text="Waiting for 1 other song")).to_have_count(1)
    leaving.close()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status").filter(has_text="Stopped. Nothing was kept.")).to_have_count(1)
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    deadline_s = time.monotonic() + PATIENCE_S
    while stored("working"):
        assert time.monotonic() < deadline_s, "what was cancelled goes on"
        page.wait_for_timeout(100)
    assert len(stored("results")) == n_results
    take_away_the_song(page)
    extract(page, songs["other"])


def test_a_recording_is_taken_as_a_song_is(visit):
    page = visit(permissions=["microphone"])
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.wait_for_timeout(1_500)
    with page.expect_response(re.compile("/upload")), page.expect_response(re.compile("/run/")):
        page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Extract vocals").click()
    expect(page.get_by_role("group", name="Players for Recording")).to_be_visible()


def test_reports_are_shown_as_they_are(visit, screenshot):
    page = visit()
    page.get_by_role("tab", name="Evaluation reports").click()
    frame = page.frame_locator("#report-frame iframe")
    expect(frame.get_by_role("heading", name="Scores of the run")).to_be_visible()
    expect(page.get_by_role("combobox", name="Report")).to_have_value("run/report.html")
    assert page.locator("#report-frame iframe").get_attribute("sandbox") == "allow-scripts"
    screenshot(page, "reports")


NAME_OF_FOCUS = """
    () => {
        const one = document.activeElement;
        return one.getAttribute("aria-label") ?? (one.labels?.[0] ?? one).textContent.trim();
    }
"""


def press_tab(page, until_name):
    """Press Tab until something of that name has the focus; return the names on the way, each with its focus shown."""
    names = []
    while not names or names[-1] != until_name:
        assert len(names) < 40, names
        page.keyboard.press("Tab")
        names.append(page.evaluate(NAME_OF_FOCUS))
        if names[-1] in ("Extract vocals", "Pause", "Karaoke fader, from vocals to accompaniment"):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    return names


def test_everything_is_reached_and_done_with_the_keyboard(visit, songs):
    page = visit()
    give(page, songs["song"])
    names = press_tab(page, "Extract vocals")
    soft = "Soft: every sound is shared out"
    wanted = ["Record", "Preset or model", soft, "Format", "Take a damaged song as far as it plays", "Extract vocals"]
    assert [name for name in names if name in wanted] == wanted
    page.keyboard.press("Enter")
    page.locator("song-players").wait_for()
    page.get_by_role("button", name="Play", exact=True).focus()
    page.keyboard.press("Space")
    until(page, lambda seen: seen["playing"], "the space bar plays")
    fader_name = "Karaoke fader, from vocals to accompaniment"
    names = press_tab(page, "Download accompaniment (WAV, 3.5 MB)")
    players = ["Pause mixture", "Play vocals", "Download vocals (WAV, 3.5 MB)", "Play accompaniment"]
    assert names[:-1] == ["Position in the song", fader_name, *players]
    fader = page.get_by_role("slider", name="Karaoke fader")
    fader.focus()
    page.keyboard.press("Home")
    expect(fader).to_have_attribute("aria-valuetext", "vocals 100 %, accompaniment 0 %")
    page.keyboard.press("ArrowRight")
    expect(fader).to_have_attribute("aria-valuetext", "vocals 100 %, accompaniment 5 %")
    page.keyboard.press("Space")
    until(page, lambda seen: not seen["playing"], "the space bar pauses, on a slider too")


def test_it_fits_a_phone_and_the_dark(visit, songs, screenshot):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    extract(page, songs["other"])
    screenshot(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
    boxes = [page.locator(place).first.bounding_box() for place in ("#go", "song-players .play", ".download")]
    assert all(box["height"] >= 20 and box["x"] >= 0 for box in boxes)
    names = page.locator("song-players h3").evaluate_all("(names) => names.map((name) => name.getBoundingClientRect())")
    links = page.locator("song-players .download").evaluate_all(
        "(all) => all.map((one) => one.getBoundingClientRect())"
    )
    for title, link in zip(names[1:], links, strict=True):
        assert link["left"] >= title["right"] or link["top"] >= title["bottom"], "nothing lies on anything else"
    assert luminance(page) > 600
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.body.classList.contains('dark')")
    screenshot(page, "dark")
    assert luminance(page) < 150


def luminance(page):
    """Return the sum of the ground's red, green and blue."""
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", ground)[:3]))
