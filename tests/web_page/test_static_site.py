"""The page as a static site: songs are separated in the browser, as the command line does it, and nothing leaves it."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import json
import lzma
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnx", reason="onnx is not installed, so nothing was exported")

pytest.importorskip("playwright", reason="Playwright is not installed, so the site was not visited")

from playwright.sync_api import expect
from visiting import PATIENCE_S, RATE, card, downloaded, give, move, separate, until

from vocal_extraction.atomic_files import StorageError
from vocal_extraction.checkpointing import named_checkpoint, save_checkpoint
from vocal_extraction.demo_songs import synthesize_song
from vocal_extraction.exporting import ExportError, export_model
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.networks import create_model
from vocal_extraction.presets import SPECIFIED
from vocal_extraction.settings import NetworkSettings, SignalSettings
from vocal_extraction.web_page import static_site
from vocal_extraction.web_page.static_site import export_site

LOUDEST_DIFFERENCE_DB = -60


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Return networks of two channels together: forwards only with a lookahead, and without layers over time."""
    folder = tmp_path_factory.mktemp("untrained")
    size = {"num_audio_channels": 2, "hidden_size": 8}
    networks = {
        "ahead": NetworkSettings(kind="BandSplitMaskInference", **size, bidirectional=False, lookahead=5),
        "unet": NetworkSettings(kind="UNetMaskInference", **size, num_input_features=256),
    }
    signal = SignalSettings(window_length=1024, hop_length=256, stereo="mid-side", input_level_db=-24.0)
    presets = {name: dataclasses.replace(SPECIFIED, signal=signal, network=networks[name]) for name in networks}
    return {name: save_checkpoint(folder / f"{name}.pth", create_model(of), preset=of) for name, of in presets.items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory, untrained):
    return export_site(["classic", "studio", *untrained.values()], tmp_path_factory.mktemp("www") / "site")


@contextlib.contextmanager
def served(site):
    """Serve a site as `python -m http.server` does."""
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def address(site):
    with served(site) as address:
        yield address


@pytest.fixture
def page(browser, address):
    with visited(browser, address) as page:
        yield page


@contextlib.contextmanager
def visited(browser, address):
    """Open the site in a new profile; no request may leave its origin, and no script may fail."""
    context = browser.new_context()
    context.set_default_timeout(1_000 * PATIENCE_S)
    page, asked, errors = context.new_page(), [], []
    context.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    yield page
    context.close()
    assert errors == []
    assert f"{address}models/0/model.json" in asked, "requests of the worker are seen as well"
    assert [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))] == []


@pytest.fixture(scope="module")
def real_song(tmp_path_factory, musdb_path):
    """Return 4 s of a song of MUSDB18, as a wav."""
    import stempeg

    file = sorted(Path(musdb_path).rglob("*.stem.mp4"))[0]
    samples, rate = stempeg.read_stems(str(file), stem_id=0, duration=4)
    path = tmp_path_factory.mktemp("real") / "real.wav"
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def synthesised(path, kind, duration_s=5.0):
    stems = synthesize_song(7, duration_s)
    song = sum(stems.values()).T
    if "apart" in kind:  # a voice on one side and its band on the other: two items
        song = np.stack([stems["vocals"][0], stems["drums"][0]], axis=1)
    if "loud" in kind:
        song = 3.0 * song / np.abs(song).max()
    if "quiet" in kind:
        song = 0.1 * song
    soundfile.write(path, song[:, 0] if "mono" in kind else song, RATE, subtype="FLOAT")
    return path


def differs_db(path, content):
    expected, _ = soundfile.read(path)
    found, _ = soundfile.read(content)
    assert found.shape == expected.shape
    return 10 * np.log10(((found - expected) ** 2).sum() / (expected**2).sum())


def save(page, stem, folder):
    path = folder / f"{stem}.wav"
    path.write_bytes(downloaded(page, stem))
    return path


def test_songs_come_out_as_from_the_command_line(page, tmp_path):
    """Loud songs do not fit 16 bits and are scaled; two channels with little in common are taken by themselves."""
    for kind in ("quiet mono", "loud apart"):
        compare(page, synthesised(tmp_path / f"{kind}.wav", kind), tmp_path)


@pytest.mark.parametrize("name, duration_s", [("ahead", 5.0), ("unet", 11.0)])
def test_networks_of_two_channels(page, tmp_path, untrained, name, duration_s):
    """One waits for some frames; the other has no layers over time and is run on chunks, here three."""
    page.get_by_label("Model").select_option(name)
    for kind in ("stereo", "apart"):
        song = synthesised(tmp_path / f"{kind}.wav", kind, duration_s)
        compare(page, song, tmp_path, model=untrained[name])


def test_a_real_song_comes_out_as_from_the_command_line(page, real_song, tmp_path):
    compare(page, real_song, tmp_path)


def test_weights_of_8_bits(browser, tmp_path, monkeypatch):
    """What they resolve depends on what else is in a chunk, so chunks are those of the command line."""
    checked = []
    monkeypatch.setattr("vocal_extraction.exporting.checking.checked", lambda *_, **how: checked.append(how))
    site = export_site(["classic"], tmp_path / "site", int8=True, tracks="songs")
    assert checked == [{"int8": True, "tracks": "songs"}]
    assert json.loads((site / "models" / "0" / "model.json").read_text())["precision"] == "int8"
    model = export_model("classic", tmp_path / "model.onnx", int8=True, check=False)
    with served(site) as address, visited(browser, address) as page:
        compare(page, synthesised(tmp_path / "song.wav", "stereo", 7.0), tmp_path, model=model)


def compare(page, song, folder, *, model=None):
    extract_vocals(song, folder / "alone", model=model or named_checkpoint("classic"), device="cpu")
    separate(page, song)
    for stem in ("vocals", "accompaniment"):
        expected = folder / "alone" / song.stem / f"{stem}.wav"
        assert differs_db(expected, save(page, stem, folder)) < LOUDEST_DIFFERENCE_DB, song.stem
    page.get_by_role("button", name=f"Remove {song.stem}").click()
    expect(page.get_by_role("article")).to_have_count(0)


def test_four_stems_add_up_play_and_outlive_the_page(page, tmp_path, screenshot):
    song = synthesised(tmp_path / "song.wav", "stereo")
    extract_vocals(song, tmp_path / "alone", stems=["all"], model=named_checkpoint("studio"), device="cpu")
    page.get_by_label("Model").select_option("studio")
    separate(page, song)
    stems = {stem: save(page, stem, tmp_path) for stem in ("vocals", "drums", "bass", "other")}
    for stem, path in stems.items():
        assert differs_db(tmp_path / "alone" / "song" / f"{stem}.wav", path) < LOUDEST_DIFFERENCE_DB
    total = sum(soundfile.read(path, dtype="int16")[0].astype(int) for path in stems.values())
    mixture, _ = soundfile.read(song)
    np.testing.assert_allclose(total, mixture * 2**15, atol=0.51)  # rounded once
    page.get_by_role("button", name="Play", exact=True).click()
    until(page, lambda seen: seen["position"] > 0.2 and min(seen["levels"]) > 0, "all stems sound")
    page.get_by_role("button", name="Pause", exact=True).click()
    for stem in ("bass", "drums", "other"):
        move(page.get_by_role("slider", name=f"Volume of {stem}"), 0)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the mix as it sounds now").click()
    mix, vocals = (soundfile.read(path, dtype="int16")[0] for path in (download.value.path(), stems["vocals"]))
    np.testing.assert_array_equal(mix, vocals)
    screenshot(page, "site")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    screenshot(page, "site-phone-dark")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
    page.reload()
    page.locator("article[data-state=done] .player").wait_for()
    assert save(page, "vocals", tmp_path).read_bytes() == stems["vocals"].read_bytes()
    page.get_by_role("button", name="Remove song").click()
    expect(page.get_by_role("article")).to_have_count(0)
    page.reload()
    page.locator("body[data-ready]").wait_for()
    expect(page.get_by_role("article")).to_have_count(0)


def test_it_works_without_a_network_once_it_was_loaded(page, tmp_path):
    page.evaluate("navigator.serviceWorker.ready")
    page.reload()  # now the service worker answers
    page.context.set_offline(True)
    page.reload()
    separate(page, synthesised(tmp_path / "song.wav", "stereo"))
    assert "it never leaves this machine" in page.get_by_role("banner").inner_text()


def test_cancelling_leaves_nothing_and_bad_files_get_a_sentence(page, tmp_path):
    long = tmp_path / "long.wav"
    soundfile.write(long, np.random.default_rng(0).normal(0, 0.1, (30 * RATE, 2)), RATE)
    (tmp_path / "words.mp3").write_bytes(b"No song, just words. " * 99)
    give(page, long, tmp_path / "words.mp3")
    card(page, "long").locator(".status", has_text="Separating").wait_for()
    page.get_by_role("button", name="Cancel long").click()
    card(page, "words").locator(".failure", has_text="words.mp3 holds no audio").wait_for()
    separate(page, synthesised(tmp_path / "song.wav", "stereo"))
    names = """async () => {
        const root = await (await navigator.storage.getDirectory()).getDirectoryHandle("vocal-extraction");
        return Array.fromAsync(root.keys());
    }"""
    assert len(page.evaluate(names)) == 1, "nothing of what was cancelled or failed stays"


def test_a_browser_without_storage_for_files_says_so(page):
    page.add_init_script("delete Navigator.prototype.storage")
    page.reload()
    assert page.get_by_text("keeps no files").text_content().startswith("This browser")


def test_a_site_replaces_sites_only(site, tmp_path):
    with pytest.raises(StorageError, match="there already"):
        export_site(["classic"], site)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="something else"):
        export_site(["classic"], tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    files = json.loads(re.search(r'\["\w{16}", (\[.*?\])\]', (site / "sw.js").read_text())[1])
    assert {"index.html", "models/1/model.json", "onnxruntime/ort-wasm-simd-threaded.wasm"} < set(files)
    assert all((site / file).exists() for file in files)


def test_the_runtime_is_the_published_one():
    folder = Path(static_site.__file__).with_name("onnxruntime")
    published = re.findall(r"`([\w.-]+)` \| `(\w{64})`", (folder / "README.md").read_text())
    assert len(published) == 2
    for name, sha256 in published:
        file = folder / name
        content = file.read_bytes() if file.exists() else lzma.decompress((folder / f"{name}.xz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == sha256


def test_what_a_browser_cannot_run_is_refused(tmp_path):
    signal = dataclasses.replace(SPECIFIED.signal, window_length=480, hop_length=120)
    preset = dataclasses.replace(SPECIFIED, signal=signal)
    path = save_checkpoint(tmp_path / "odd.pth", create_model(preset), preset=preset)
    with pytest.raises(ExportError, match="power of two"):
        export_site([path], tmp_path / "site")
    assert not (tmp_path / "site").exists()
