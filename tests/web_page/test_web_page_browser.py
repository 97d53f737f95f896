"""The web page in a real browser, against a server that the command line started.

Screenshots stay in $TEST_ARTEFACTS where that is set.
"""

import io
import itertools
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt")
pytest.importorskip("playwright", reason="Playwright is not installed, so the web page was not visited")

from playwright.sync_api import expect
from visiting import (
    LARGEST_MB,
    LONG_SONG_S,
    PATIENCE_S,
    RATE,
    SONG_S,
    card,
    check_the_joints,
    downloaded,
    give,
    move,
    separate,
    state,
    until,
)

from vocal_extraction.demo_songs import synthesize_song

AXE = Path(sys.prefix, "node_modules", "axe-core", "axe.min.js")


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
    with page.expect_download() as download:  # the vocals are still muted
        page.get_by_role("button", name="Download the mix as it sounds now").click()
    mix, accompaniment = (
        soundfile.read(io.BytesIO(content), dtype="int16")[0].astype(int)
        for content in (Path(download.value.path()).read_bytes(), extracted["song", "accompaniment"])
    )
    np.testing.assert_allclose(mix, accompaniment, atol=1)
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


def loop_and_stretch(page):
    """Select half a second by dragging, play it round and round, slower."""
    box = page.get_by_role("img", name="Waveform of the song").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.525, box["y"] + 20)
    page.mouse.up()
    expect(page.get_by_role("button", name="Remove the loop")).to_be_visible()
    assert page.evaluate("document.querySelector('.player').player.dragged") is None
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
            const { Stretcher } = await import("/stretcher.js");
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


def test_models_say_what_they_are_for_and_how_long_they_take(visit):
    """By a stand-in for the server's list: to measure all models takes long."""
    names = ("name", "sources", "vocals_db", "real_time_factor", "is_imported", "licence")
    rows = [
        ("studio", ["bass", "drums", "other", "vocals"], 5.05, 0.2, False, "private use"),
        ("spleeter-2stems", ["vocals", "accompaniment"], 5.86, 0.5, True, "MIT"),
        ("ensemble", ["bass", "drums", "other", "vocals"], 5.29, 1.0, False, "private use"),
        ("classic", ["vocals"], 2.49, 0.02, False, "private use"),
        ("mine", ["vocals"], None, 0.1, False, "not stated"),
    ]
    page = visit()
    page.route("**/api/models", lambda route: route.fulfill(json=[dict(zip(names, row, strict=True)) for row in rows]))
    page.reload()
    model = page.get_by_role("combobox", name="Model")
    expect(model.locator("option")).to_have_text(
        ["4 stems (studio), about 48 s", "Best vocals, imported (spleeter-2stems), about 2:00 min",
         "Best 4 stems (ensemble), about 4:00 min", "Quick (classic), about 5 s", "Vocals (mine), about 24 s"]
    )  # fmt: skip
    model.select_option("spleeter-2stems")
    expect(page.locator("#model-facts")).to_contain_text("Licence of the model: MIT.")
    assert page.get_by_role("combobox", name="Stems").locator("option").count() == 3


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
    leaving, page = visit(accept_errors=(404,)), visit()  # a picture may be asked for when its job is cancelled
    leaving.get_by_text("More options").click()
    leaving.get_by_role("combobox", name="Phase").select_option("griffin-lim")  # slow enough to be looked at
    for one in (leaving, page):
        give(one, songs["long"])
        one.get_by_role("progressbar").wait_for()
        one.locator("article[data-state=queued], article[data-state=working]").wait_for()
    expect(page.get_by_text("Waiting for 1 other song")).to_be_visible()
    leaving.locator(".player").wait_for()
    screenshot(leaving, "preview")
    waveform = leaving.get_by_role("img", name="Waveform of the song")
    waveform.click(position={"x": waveform.bounding_box()["width"] * 0.5, "y": 20})  # which scrolls to it, if need be
    # From a preview, unless a busy machine has the whole song by then.
    until(leaving, lambda seen: abs(seen["position"] - LONG_SONG_S / 2) < 2, "the place where one clicked")
    n_jobs = len(list(folder.glob("files/*/*/long.wav")))
    leaving.reload()
    for one in (leaving, page):
        one.get_by_role("button", name=re.compile("(Cancel|Remove) long")).click()
    expect(page.get_by_role("article")).to_have_count(0)
    deadline_s = time.monotonic() + PATIENCE_S
    while len(list(folder.glob("files/*/*/long.wav"))) > n_jobs - 2:
        assert time.monotonic() < deadline_s, "what was cancelled goes on"
        page.wait_for_timeout(100)
    separate(page, songs["other"])


def test_an_upload_shows_its_share_and_is_cancelled(visit, songs):
    page = visit()
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 20_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    give(page, songs["song"])
    page.locator("article[data-state=uploading] progress[value]").wait_for()
    assert 0 < page.locator("progress").evaluate("(bar) => bar.value") < 1
    page.get_by_role("button", name="Cancel song").click()
    expect(page.get_by_role("article")).to_have_count(0)
    assert page.request.get("/api/jobs").json() == []


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


def test_several_songs_are_a_list_of_folded_players(visit, songs):
    page = visit()
    page.get_by_role("link", name="Evaluation reports").click()
    give(page, songs["other"], songs["song"])  # of which one is shown, whichever page was open
    expect(page.locator("article[data-state=done]")).to_have_count(2)
    expect(page.locator(".player:visible")).to_have_count(0)
    card(page, "other").get_by_text("Player").click()
    card(page, "other").get_by_role("button", name="Play", exact=True).wait_for()


def test_a_time_that_is_none_is_said_before_anything_is_sent(visit, songs):
    page = visit()
    page.get_by_text("More options").click()
    page.get_by_label("Separate from").fill("soon")
    page.get_by_text("More options").click()
    give(page, songs["other"])
    assert page.get_by_label("Separate from").evaluate("(one) => one.matches(':invalid:focus')")
    expect(page.get_by_role("article")).to_have_count(0)


def test_a_region_is_separated_alone(visit, songs, extracted):
    page = visit()
    page.get_by_text("More options").click()
    page.get_by_label("Separate from").fill("0:01")
    separate(page, songs["other"])
    vocals, _ = soundfile.read(io.BytesIO(downloaded(page, "vocals")))
    assert not vocals[:RATE].any()
    assert vocals[RATE:].any()
    page.get_by_label("Separate from").fill("")
    box = page.get_by_role("img", name="Waveform of the song").bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.up()
    page.get_by_role("button", name="Separate this part alone").click()
    expect(page.locator("article[data-state=done] .player")).to_have_count(2)
    vocals, _ = soundfile.read(io.BytesIO(downloaded(page.locator("article").first, "vocals")))
    assert vocals[: RATE // 2].any()
    assert not vocals[round(1.1 * RATE) :].any()


def test_stems_stay_together_on_a_slow_network(visit, songs):
    """Chunks that come too late are a pause, for all stems the same."""
    page = visit()
    separate(page, songs["other"])
    slow = {"offline": False, "latency": 300, "downloadThroughput": 300_000, "uploadThroughput": 300_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    page.get_by_role("button", name="Play", exact=True).click()
    until(page, lambda seen: seen["position"] > 0.5 and min(seen["levels"]) > 0, "both stems sound")
    check_the_joints(page.evaluate("window.starts"))
    expect(page.locator(".complaint")).to_be_empty()


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed, so no obstacles were looked for: make test")
def test_axe_finds_no_obstacles(visit, songs):
    page = visit(bypass_csp=True)
    page.get_by_text("More options").click()
    separate(page, songs["other"])
    page.get_by_role("button", name="Solo vocals").click()
    page.add_script_tag(path=AXE)
    for scheme, tab in itertools.product(("light", "dark"), ("Separate", "Evaluation reports")):
        page.emulate_media(color_scheme=scheme)
        page.get_by_role("link", name=tab).click()
        page.locator("#songs" if tab == "Separate" else "#report-shown").wait_for()
        found = page.evaluate("axe.run({ iframes: false }).then(({ violations }) => violations)")
        seen = [(one["id"], [node["failureSummary"] for node in one["nodes"]]) for one in found]
        assert seen == [], (scheme, tab)


def test_reports_are_shown_as_they_are(visit, screenshot):
    page = visit()
    page.get_by_role("link", name="Evaluation reports").click()
    frame = page.frame_locator("#report-frame")
    expect(frame.get_by_role("heading", name="Scores of the run")).to_be_visible()
    expect(page.get_by_role("combobox", name="Report")).to_have_value("evaluation_results/run/report.html")
    assert page.locator("#report-frame").get_attribute("sandbox") == "allow-scripts"
    screenshot(page, "reports")


NAME_OF_FOCUS = """
    () => {
        const one = document.activeElement;
        const label = one.labels?.[0];
        if (!label || one.ariaLabel) return one.ariaLabel ?? one.textContent.trim();
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
    assert names.pop(2).startswith("Choose songs")
    assert names == ["Separate", "Evaluation reports", "Record", "Model", "Stems", "Format", "More options"]
    page.keyboard.press("Enter")
    names = press_tab(page, "Keep what a damaged file still plays")
    assert names[:-1] == ["Mask", "Phase", "Bit rate of MP3, Ogg, M4A", "Separate from", "to"]
    separate(page, songs["song"])
    page.get_by_role("button", name="Play", exact=True).focus()
    page.keyboard.press("Space")
    until(page, lambda seen: seen["position"] > 0.5, "the space bar plays")
    page.keyboard.press("Space")
    until(page, lambda seen: not seen["playing"], "the space bar pauses")
    fader_name = "Karaoke fader, from vocals to everything else"
    names = press_tab(page, "Download all as ZIP")
    lanes = [
        name
        for stem in ("vocals", "accompaniment")
        for name in (f"Solo {stem}", f"Mute {stem}", f"Volume of {stem}", f"Download {stem} (WAV, 3.5 MB)")
    ]
    assert names[:-1] == ["Position in the song", "Speed", fader_name, *lanes]
    fader = page.get_by_role("slider", name="Karaoke fader")
    fader.focus()
    page.keyboard.press("Home")
    expect(fader).to_have_attribute("aria-valuetext", "vocals 100 %, everything else 0 %")
    page.keyboard.press("ArrowRight")
    expect(fader).to_have_attribute("aria-valuetext", "vocals 100 %, everything else 5 %")
    page.keyboard.press("]")
    expect(page.get_by_role("button", name="Remove the loop")).to_have_text(re.compile("Loop 0:00–"))
    page.keyboard.press("Space")
    until(page, lambda seen: seen["playing"], "the space bar plays, on a slider too")


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
