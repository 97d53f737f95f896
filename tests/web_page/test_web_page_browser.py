"""The web page in a real browser, against a server that the command line started.

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

pytest.importorskip("starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt")
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
"""Writes down when, in samples, each chunk of audio is to sound, how long it is, and when that was said."""


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
    """Serve the page as `main.py serve` does; return its address. SIGTERM must end it and leave nothing behind."""
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


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Return a function that opens the page in a new session; no request may leave this machine."""
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


def give(page, *songs):
    page.locator("#files").set_input_files(list(songs))


def card(page, name):
    return page.get_by_role("article", name=name)


def separate(page, song):
    """Go through with a song, to its player."""
    give(page, song)
    page.locator("article[data-state=done] .player").wait_for()


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
    """Return what the player does: where it is in seconds, and the levels that sound."""
    return page.locator(".player").first.evaluate(
        """({ player, dataset }) => ({
            position: player.now(),
            playing: dataset.state === "playing",
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


def test_a_song_comes_out_as_the_command_line_makes_it(visit, songs, extracted, screenshot):
    page = visit(viewport={"width": 1280, "height": 900})
    screenshot(page, "start")
    give(page, songs["song"])
    page.get_by_role("progressbar").wait_for()
    screenshot(page, "progress")
    page.locator("article[data-state=done]").wait_for()
    expect(page.get_by_role("status")).to_have_text("song: Done.")
    for stem in ("vocals", "accompaniment"):
        assert downloaded(page, stem) == extracted["song", stem]
    pictures = page.get_by_role("img", name=re.compile("Spectrogram of "))
    expect(pictures).to_have_count(2)
    assert pictures.evaluate_all("images => images.every((image) => image.complete && image.naturalWidth === 480)")
    play_and_fade(page, screenshot)
    loop_and_stretch(page)
    page.reload()
    page.locator("article[data-state=done] .player").wait_for()
    assert downloaded(page, "vocals") == extracted["song", "vocals"]


def play_and_fade(page, screenshot):
    """Play, fade, solo, mute, seek and pause: all stems are one."""
    page.get_by_role("button", name="Play", exact=True).click()
    until(page, lambda seen: seen["position"] > 0.2 and min(seen["levels"]) > 0, "both stems sound")
    screenshot(page, "result")
    deadline_s = time.monotonic() + PATIENCE_S
    while len(starts := page.evaluate("window.starts")) < 6:
        assert time.monotonic() < deadline_s
    check_the_joints(starts)
    fader = page.get_by_role("slider", name="Karaoke fader")
    move(fader, 100)
    seen = until(page, lambda seen: seen["levels"][0] == 0 < seen["levels"][1], "the vocals have gone")
    assert seen["playing"], "the fader acts while it plays"
    expect(fader).to_have_attribute("aria-valuetext", "vocals 0 %, everything else 100 %")
    move(fader, 0)
    page.get_by_role("button", name="Solo vocals").click()
    seen = until(page, lambda seen: seen["levels"][1] == 0 < seen["levels"][0], "the accompaniment has gone")
    assert seen["playing"], "changing over does not interrupt"
    page.get_by_role("button", name="Solo vocals").click()
    page.get_by_role("button", name="Mute vocals").click()
    until(page, lambda seen: seen["levels"][0] == 0 < seen["levels"][1], "what is not muted sounds")
    move(page.get_by_role("slider", name="Position in the song"), 12.0)
    until(page, lambda seen: seen["position"] >= 12.0, "it goes on from where it was moved to")
    page.get_by_role("button", name="Pause", exact=True).click()
    assert not state(page)["playing"]
    position = state(page)["position"]
    page.wait_for_timeout(300)
    assert state(page)["position"] == position
    box = page.get_by_role("img", name="Spectrogram of vocals").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 30)
    assert state(page)["position"] == pytest.approx(SONG_S / 4, abs=0.1)
    move(page.get_by_role("slider", name="Position in the song"), SONG_S - 0.5)
    page.get_by_role("button", name="Play", exact=True).click()
    until(page, lambda seen: not seen["playing"] and seen["position"] == 0, "it stops at the end and rewinds")


def check_the_joints(starts):
    """Both stems of a chunk begin at one sample, and each chunk where the last one ends, unless it came too late."""
    vocals, accompaniment = starts[: len(starts) // 2 * 2 : 2], starts[1::2]
    assert [chunk[:2] for chunk in vocals] == [chunk[:2] for chunk in accompaniment]
    for (when, length, _), (following, _, now) in itertools.pairwise(vocals):
        # A thousandth of a sample: seconds are kept as 64-bit floats.
        assert following == pytest.approx(when + length, abs=1e-3) or now > when + length


def loop_and_stretch(page):
    """Select half a second by dragging, play it round and round, slower."""
    box = page.get_by_role("img", name="Waveform of the song").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.525, box["y"] + 20)
    page.mouse.up()
    expect(page.get_by_role("button", name="Remove the loop")).to_be_visible()
    page.get_by_role("combobox", name="Speed").select_option("0.5")
    page.evaluate("window.starts = []")
    page.get_by_role("button", name="Play", exact=True).click()
    deadline_s = time.monotonic() + PATIENCE_S
    while len(starts := page.evaluate("window.starts")) < 6:
        assert time.monotonic() < deadline_s
    assert {length for _, length, _ in starts} == {round(RATE / 50) * 50}, "half a second takes a whole one"
    seen = until(page, lambda seen: seen["position"] > SONG_S / 2, "it plays within the loop")
    assert SONG_S / 2 <= seen["position"] <= SONG_S * 0.53
    page.get_by_role("button", name="Pause", exact=True).click()


def test_stretching_keeps_pitch_and_changes_length(visit):
    """440 Hz at half speed is 440 Hz for twice as long."""
    measured = visit().evaluate(
        """async () => {
            const { Stretcher } = await import("/static/player.js");
            const [rate, speed] = [44100, 0.5];
            const stretcher = new Stretcher(speed, rate);
            const n = stretcher.round(rate);
            const tone = new Float32Array(Math.ceil(n) + 2 * stretcher.margin + 1)
                .map((_, i) => Math.sin((2 * Math.PI * 440 * (i - stretcher.margin)) / rate));
            const [[left]] = stretcher.process([[tone, tone]], 0, n);
            let crossings = 0;
            for (let i = 1; i < left.length; i++) crossings += left[i - 1] < 0 && left[i] >= 0;
            return { n, length: left.length, hz: crossings / (left.length / rate), highest: Math.max(...left) };
        }"""
    )
    assert measured["length"] == 2 * measured["n"]
    assert measured["hz"] == pytest.approx(440, abs=2)
    assert measured["highest"] == pytest.approx(1, abs=0.02)


def test_two_sessions_at_once_do_not_mix(visit, songs, extracted):
    one, other = visit(), visit()
    for page, song in ((one, "song"), (other, "other")):
        give(page, songs[song])
    for page, song in ((one, "song"), (other, "other")):
        page.locator("article[data-state=done] .player").wait_for()
        assert downloaded(page, "vocals") == extracted[song, "vocals"]
        assert page.get_by_role("article").count() == 1
    address = one.get_by_role("link", name="Download vocals").get_attribute("href")
    assert one.request.get(address).status == 200
    assert other.request.get(address).status == 404


def test_hostile_files_get_a_sentence_and_the_server_lives_on(visit, songs, folder, screenshot):
    page = visit(accept_errors=(413,))
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
        "large.wav": (b"x" * (LARGEST_MB * 2**20 + 1), "too large: at most 4 MB"),
    }
    give(page, *({"name": name, "mimeType": "audio/wav", "buffer": content} for name, (content, _) in hostile.items()))
    for name, (_, reason) in hostile.items():
        expect(card(page, Path(name).stem).locator(".failure")).to_contain_text(reason)
    screenshot(page, "error")
    page.get_by_role("button", name="Remove words").click()
    expect(page.get_by_role("article")).to_have_count(len(hostile) - 1)
    separate(page, songs["other"])


def test_cancelling_ends_the_work_and_leaving_does_not(visit, songs, folder, screenshot):
    leaving, page = visit(), visit()
    for one in (leaving, page):
        give(one, songs["long"])
        one.get_by_role("progressbar").wait_for()
        one.locator("article[data-state=queued], article[data-state=working]").wait_for()
    expect(page.get_by_text("Waiting for 1 other song")).to_be_visible()
    leaving.locator(".player").wait_for()
    screenshot(leaving, "preview")
    n_jobs = len(list(folder.glob("files/*/*/long.wav")))
    leaving.reload()
    leaving.get_by_role("button", name="Cancel long").click()
    page.get_by_role("button", name="Cancel long").click()
    expect(page.get_by_role("article")).to_have_count(0)
    deadline_s = time.monotonic() + PATIENCE_S
    while len(list(folder.glob("files/*/*/long.wav"))) > n_jobs - 2:
        assert time.monotonic() < deadline_s, "what was cancelled goes on"
        page.wait_for_timeout(100)
    separate(page, songs["other"])


def test_a_folder_is_dropped_onto_the_page(visit, songs):
    """The browser's own files stand in for those of a drop, which no script can make."""
    page = visit()
    page.evaluate(
        """async (bytes) => {
            const entry = (file) => ({ isFile: true, file: (resolve) => resolve(file) });
            const song = new File([new Uint8Array(bytes)], "dropped.wav", { type: "audio/wav" });
            const notes = new File(["x"], "notes.txt", { type: "text/plain" });
            const inner = [[entry(song), entry(notes)], []];
            const reader = { readEntries: (resolve) => resolve(inner.shift()) };
            const folder = { isFile: false, createReader: () => reader };
            const drop = new Event("drop");
            drop.dataTransfer = { items: [{ webkitGetAsEntry: () => folder }] };
            document.dispatchEvent(drop);
        }""",
        list(songs["other"].read_bytes()),
    )
    card(page, "dropped").locator(".player").wait_for()
    expect(page.get_by_role("article")).to_have_count(1)


def test_a_recording_is_taken_as_a_song_is(visit):
    page = visit(permissions=["microphone"])
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.wait_for_timeout(1_500)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("group", name=re.compile("Player for Recording"))).to_be_visible()


def test_reports_are_shown_as_they_are(visit, screenshot):
    page = visit()
    page.get_by_role("tab", name="Evaluation reports").click()
    frame = page.frame_locator("#report-frame")
    expect(frame.get_by_role("heading", name="Scores of the run")).to_be_visible()
    expect(page.get_by_role("combobox", name="Report")).to_have_value("evaluation_results/run/report.html")
    assert page.locator("#report-frame").get_attribute("sandbox") == "allow-scripts"
    screenshot(page, "reports")


NAME_OF_FOCUS = """
    () => {
        const one = document.activeElement;
        const label = one.labels?.[0];
        if (!label) return one.getAttribute("aria-label") ?? one.textContent.trim();
        const own = [...label.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
        return own.map((node) => node.data).join("").trim() || label.innerText;
    }
"""


def press_tab(page, until_name):
    """Press Tab until something of that name has the focus; return the names on the way, each with its focus shown."""
    names = []
    while not names or names[-1] != until_name:
        assert len(names) < 40, names
        page.keyboard.press("Tab")
        names.append(page.evaluate(NAME_OF_FOCUS))
        if names[-1] in ("Pause", "Karaoke fader, from vocals to everything else", "Solo vocals"):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    return names


def test_everything_is_reached_and_done_with_the_keyboard(visit, songs):
    page = visit()
    names = press_tab(page, "More options")
    assert names.pop(1).startswith("Choose songs")
    assert names == ["Separate", "Model", "Stems", "Format", "Record", "More options"]
    page.keyboard.press("Enter")
    names = press_tab(page, "Keep what a damaged file still plays")
    assert names[:-1] == ["Mask", "Phase", "Bit rate of MP3, Ogg, M4A", "Separate from", "to"]
    separate(page, songs["song"])
    page.get_by_role("button", name="Play", exact=True).focus()
    page.keyboard.press("Space")
    until(page, lambda seen: seen["playing"], "the space bar plays")
    fader_name = "Karaoke fader, from vocals to everything else"
    names = press_tab(page, "Download all as ZIP")
    lanes = [
        name
        for stem in ("vocals", "accompaniment")
        for name in (f"Solo {stem}", f"Mute {stem}", f"Volume of {stem}", f"Download {stem} (WAV, 3.5 MB)")
    ]
    assert names[:-1] == ["Position in the song", "Speed, at the same pitch", fader_name, *lanes]
    fader = page.get_by_role("slider", name="Karaoke fader")
    fader.focus()
    page.keyboard.press("Home")
    expect(fader).to_have_attribute("aria-valuetext", "vocals 100 %, everything else 0 %")
    page.keyboard.press("ArrowRight")
    expect(fader).to_have_attribute("aria-valuetext", "vocals 100 %, everything else 5 %")
    page.keyboard.press("Space")
    until(page, lambda seen: not seen["playing"], "the space bar pauses, on a slider too")


def test_it_fits_a_phone_and_the_dark(visit, songs, screenshot):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    separate(page, songs["other"])
    screenshot(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
    boxes = [page.locator(place).first.bounding_box() for place in ("#drop", ".play", ".download")]
    assert all(box["height"] >= 20 and box["x"] >= 0 for box in boxes)
    for lane in page.locator(".lane .head").all():
        inside = lane.locator("h3, button, input, .download")
        boxes = inside.evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().toJSON())")
        for one, other in itertools.combinations(boxes, 2):
            apart = one["right"] <= other["left"] or other["right"] <= one["left"]
            assert apart or one["bottom"] <= other["top"] or other["bottom"] <= one["top"], "nothing lies on another"
    assert luminance(page) > 600
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="dark")
    screenshot(page, "dark")
    assert luminance(page) < 150


def luminance(page):
    """Return the sum of the ground's red, green and blue."""
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", ground)[:3]))
