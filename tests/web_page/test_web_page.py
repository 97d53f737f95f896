"""The web page's parts without a browser: folders, gate, intake, line, players' stream, and Gradio behind the gate."""

import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("gradio", reason="Gradio is not installed, so the web page was not tested: make serve installs it")

from vocal_extraction.audio_files import probing
from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.checkpointing import CheckpointError, load_checkpoint, save_checkpoint
from vocal_extraction.demo_songs import synthesize_song
from vocal_extraction.errors import ExtractionCancelledError, SettingsError
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.networks import create_model
from vocal_extraction.separation.estimation import Estimator
from vocal_extraction.separation.separation import taped_bytes
from vocal_extraction.settings import SPECIFIED, ExtractionSettings
from vocal_extraction.web_page import jobs, markup
from vocal_extraction.web_page.intake import RefusedError, admit
from vocal_extraction.web_page.jobs import Order, Workshop
from vocal_extraction.web_page.layout import _in_words_of_the_page
from vocal_extraction.web_page.limits import USUAL_LIMITS, Limits
from vocal_extraction.web_page.listening import ListeningError, prepare_listening
from vocal_extraction.web_page.visitors import Visitors, new_token, visitors_folder

RATE = 44_100
STEREO = {"sample_rate": RATE, "n_channels": 2}
HOLDING_AUDIO = {
    "wav", "flac", "mp3", "mp2", "ogg", "opus", "m4a", "aac", "aiff", "wma", "webm", "mkv", "mp4", "ac3", "au", "caf",
}  # fmt: skip
ONE, OTHER = new_token(), new_token()


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory) -> Path:
    return save_checkpoint(
        tmp_path_factory.mktemp("model") / "untrained.pth", create_model(SPECIFIED), preset=SPECIFIED
    )


@pytest.fixture
def visitors(tmp_path):
    root = tmp_path / "visitors"
    root.mkdir()
    return Visitors(root, USUAL_LIMITS)


def uploaded(visitors, token, name, content=b"", *, duration_s=None):
    """Put a song where an upload would lie: bytes, or seconds of a synthesised one."""
    path = visitors.uploads(token) / "0123" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if duration_s is not None:
        soundfile.write(path, sum(synthesize_song(3, duration_s).values()).T, RATE, subtype="PCM_16")
    return path


def aged(path, age_s):
    """Make a file or folder as old as that."""
    changed_s = time.time() - age_s
    os.utime(path, (changed_s, changed_s))
    return path


# Limits


@pytest.mark.parametrize("bad", [{"upload_bytes": 0}, {"longest_s": float("inf")}, {"queue_length": -1}])
def test_limits_must_be_positive_numbers(bad):
    with pytest.raises(SettingsError, match=next(iter(bad))):
        Limits(**bad)


# Visitors


def test_a_visitor_owns_what_is_below_his_folder_and_nothing_else(visitors, tmp_path):
    own, foreign = uploaded(visitors, ONE, "a.wav"), uploaded(visitors, OTHER, "a.wav")
    assert visitors.owns(ONE, own)
    assert not visitors.owns(ONE, foreign)
    assert not visitors.owns(ONE, "/etc/passwd")
    assert not visitors.owns(ONE, own.parent / ".." / ".." / ".." / foreign.relative_to(visitors.root))
    assert not visitors.owns(ONE, "a\0b")
    (own.parent / "link.wav").symlink_to(foreign)
    assert not visitors.owns(ONE, own.parent / "link.wav")


def test_a_result_is_found_by_its_visitor_alone(visitors):
    with visitors.working_folder(ONE) as folder:
        (folder / "vocals.wav").write_bytes(b"x")
        result = visitors.keep(ONE, folder)
    found = visitors.result_file(ONE, result, "vocals.wav")
    assert found is not None
    assert found.read_bytes() == b"x"
    assert visitors.result_file(OTHER, result, "vocals.wav") is None
    for name in ("accompaniment.wav", "../../uploads", "..", "", "vocals.wav\0"):
        assert visitors.result_file(ONE, result, name) is None


def test_a_working_folder_goes_away_unless_it_is_kept(visitors):
    with visitors.working_folder(ONE) as folder:
        (folder / "half.wav").write_bytes(b"x")
    assert not folder.exists()


def test_what_is_older_than_its_time_is_removed(visitors):
    old, young = uploaded(visitors, ONE, "a.wav").parent, uploaded(visitors, OTHER, "a.wav").parent
    aged(old, USUAL_LIMITS.lifetime_s + 5)
    stray = aged(uploaded(visitors, OTHER, "b.wav").rename(visitors.root / "tmpabc"), USUAL_LIMITS.lifetime_s + 5)
    assert visitors.remove_expired() == 2
    assert not old.exists()
    assert not stray.exists()
    assert young.exists()


def test_a_result_lives_an_hour_from_its_end_and_work_is_never_removed(visitors):
    with visitors.working_folder(ONE) as folder:
        aged(folder, 10 * USUAL_LIMITS.lifetime_s)
        assert visitors.remove_expired() == 0
        result = visitors.keep(ONE, folder)
    assert visitors.remove_expired(time.time() + USUAL_LIMITS.lifetime_s - 5) == 0
    assert visitors.remove_expired(time.time() + USUAL_LIMITS.lifetime_s + 5) == 1
    assert not (visitors.folder(ONE) / "results" / result).exists()


def test_room_is_bounded(tmp_path):
    visitors = Visitors(tmp_path, Limits(storage_bytes=1_000))
    uploaded(visitors, ONE, "a.wav", b"x" * 600)
    assert visitors.has_room_for(100)
    assert not visitors.has_room_for(10_000)


def test_the_folder_of_all_visitors_is_private_and_goes_away(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    abandoned = tmp_path / "vocal-extraction-page-killed"
    abandoned.mkdir()
    (abandoned / "in-use").touch()
    with visitors_folder() as root:
        assert root.stat().st_mode & 0o077 == 0
        assert not abandoned.exists()
        with visitors_folder():
            assert root.exists(), "a server that runs keeps its folder when another starts"
    assert not root.exists()


# What is shown


def test_what_a_visitor_could_have_chosen_is_escaped(tmp_path):
    evil = '<img src=x onerror="alert(1)">'
    listening = prepare_listening_of_noise(tmp_path)
    result = markup.Result("/results/r", evil, {"vocals": ("vocals.wav", 10)}, listening, 3_600.0, (evil,))
    for shown in (
        markup.players(result),
        markup.failure(evil),
        markup.note(evil),
        markup.progress(markup.Step(evil)),
        markup.report_frame(evil, evil),
    ):
        assert "<img src=x" not in shown
        assert 'onerror="alert' not in shown


def test_progress_tells_share_and_remaining_time():
    shown = markup.progress(markup.Step("Separating", done_s=45, total_s=180, elapsed_s=9))
    assert 'aria-valuenow="25"' in shown
    assert "0:45 of 3:00" in shown
    assert "27 s left" in shown
    assert "5.0 times as fast" in shown


@pytest.mark.parametrize("step", [markup.Step("Waiting"), markup.Step("Separating", done_s=3, elapsed_s=1)])
def test_progress_promises_nothing_that_nobody_knows(step):
    shown = markup.progress(step)
    assert "aria-valuenow" not in shown
    assert "left" not in shown


def test_messages_name_no_folder_of_the_server_and_options_as_the_page_does():
    text = "/srv/x/1a/uploads/2b/my song.mp3 is damaged. Take what decodes with --keep-partial."
    said = _in_words_of_the_page(text, Path("/srv/x"))
    assert said.startswith("my song.mp3 is damaged")
    assert "--" not in said


def test_notes_on_the_files_are_sentences(tmp_path):
    listening = prepare_listening_of_noise(tmp_path)
    result = markup.Result("/results/r", "Song", {}, listening, 600.0, ("both stems are scaled by 0.9",))
    shown = markup.players(result)
    assert "<p>Both stems are scaled by 0.9.</p>" in shown
    assert "removed after 10 minutes" in shown


# Intake


def test_a_song_is_admitted_with_its_rate(tmp_path, visitors):
    song = uploaded(visitors, ONE, "a.wav", duration_s=1.0)
    assert admit(song, USUAL_LIMITS).sample_rate == RATE


@pytest.mark.parametrize("ending", sorted(HOLDING_AUDIO))
def test_every_kind_of_file_that_holds_audio_is_admitted(visitors, ending):
    song = uploaded(visitors, ONE, f"a.{ending}")
    source = ("-f", "lavfi", "-i", "sine=440:sample_rate=48000:duration=0.5")
    subprocess.run(["ffmpeg", "-v", "error", "-y", *source, "-ac", "2", "-strict", "-2", song], check=True)
    admission = admit(song, USUAL_LIMITS)
    assert (admission.sample_rate, admission.n_channels) == (48_000, 2)


@pytest.mark.parametrize(
    "name, content",
    [
        ("empty.wav", b""),
        ("text.mp3", b"No song, just words. " * 200),
        ("page.ogg", b"<html><script>alert(1)</script></html>" * 50),
        ("noise.m4a", np.random.default_rng(0).bytes(5_000)),
        ("header.wav", b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00"),
    ],
)
def test_what_is_no_song_is_refused_by_name(visitors, name, content):
    with pytest.raises(RefusedError, match=f"^{name} "):
        admit(uploaded(visitors, ONE, name, content), USUAL_LIMITS)


@pytest.mark.parametrize("name", ["list.m3u8", "list.wav", "list.mp3"])
def test_a_playlist_reads_no_other_file(visitors, tmp_path, name):
    """ffmpeg opens a playlist whatever its file is called, and with it any song on the machine."""
    secret = tmp_path / "secret.mp3"
    soundfile.write(secret, synthesize_song(1, 1.0)["vocals"].T, RATE)
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
    ):
        with pytest.raises(RefusedError, match="holds no audio"):
            admit(uploaded(visitors, ONE, name, text.encode()), USUAL_LIMITS)


@pytest.mark.parametrize("stream", [{}, {"codec_type": "audio"}])
def test_the_page_survives_what_ffprobe_may_say(visitors, monkeypatch, stream):
    monkeypatch.setattr(probing, "_ask_ffprobe", lambda *_: ({"streams": [stream]}, ""))
    with pytest.raises(RefusedError, match=r"holds no audio|does not say how many channels"):
        admit(uploaded(visitors, ONE, "a.mp3", b"x"), USUAL_LIMITS)


def test_a_song_that_says_it_is_too_long_is_refused(visitors):
    song = uploaded(visitors, ONE, "a.wav", duration_s=3.0)
    with pytest.raises(RefusedError, match=r"too long.*At most 0.0333 minutes"):
        admit(song, Limits(longest_s=2.0))


def test_many_channels_at_a_high_rate_are_long_too(visitors):
    song = uploaded(visitors, ONE, "a.wav", duration_s=3.0)
    with pytest.raises(RefusedError, match="of 2 channels at 44100 Hz"):
        admit(song, Limits(decoded_bytes=2 * 2 * RATE * 4))


# The stream that the players hear


def prepare_listening_of_noise(folder, *, n_channels=2, rate=RATE, ending="wav"):
    rng = np.random.default_rng(1)
    for stem in ("vocals", "accompaniment"):
        signal = rng.uniform(-0.5, 0.5, (rate // 2, n_channels))
        soundfile.write(folder / f"{stem}.{ending}", signal, rate)
    stems = (folder / f"{stem}.{ending}" for stem in ("vocals", "accompaniment"))
    return prepare_listening(folder, *stems, sample_rate=rate, n_channels=n_channels)


def test_the_stream_holds_both_stems_sample_for_sample(tmp_path):
    listening = prepare_listening_of_noise(tmp_path)
    assert (listening.sample_rate, listening.n_frames, listening.duration_s) == (RATE, RATE // 2, 0.5)
    heard = np.fromfile(tmp_path / "listen.pcm", "<i2").reshape(-1, 4)
    for stem, columns in (("vocals", slice(0, 2)), ("accompaniment", slice(2, 4))):
        written, _ = soundfile.read(tmp_path / f"{stem}.wav", dtype="int16")
        np.testing.assert_array_equal(heard[:, columns], written)


@pytest.mark.parametrize("n_channels, rate, ending", [(1, 16_000, "flac"), (6, 48_000, "wav"), (2, 96_000, "wav")])
def test_the_stream_is_stereo_at_a_rate_that_browsers_play(tmp_path, n_channels, rate, ending):
    listening = prepare_listening_of_noise(tmp_path, n_channels=n_channels, rate=rate, ending=ending)
    assert listening.sample_rate == min(rate, 48_000)
    assert listening.duration_s == pytest.approx(0.5, abs=0.001)  # half a second was written; resampling may round
    heard = np.fromfile(tmp_path / "listen.pcm", "<i2").reshape(-1, 4)
    if n_channels == 1:
        np.testing.assert_array_equal(heard[:, 0], heard[:, 1])
        written, _ = soundfile.read(tmp_path / "vocals.flac", dtype="int16")
        assert np.abs(heard[:, 0].astype(int) - written).max() <= 1  # dither or rounding of one unit


@pytest.mark.parametrize("n_samples", [1, 100])
def test_the_shortest_and_the_most_silent_songs_are_drawn_and_heard(tmp_path, n_samples):
    for stem in ("vocals", "accompaniment"):
        soundfile.write(tmp_path / f"{stem}.wav", np.zeros((n_samples, 2)), RATE)
    listening = prepare_listening(tmp_path, tmp_path / "vocals.wav", tmp_path / "accompaniment.wav", **STEREO)
    assert listening.n_frames == n_samples
    assert (tmp_path / "mixture.png").stat().st_size > 0


def test_the_pictures_are_drawn_on_one_scale(tmp_path):
    from PIL import Image

    for stem, gain in (("vocals", 0.01), ("accompaniment", 0.5)):
        tone = gain * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
        soundfile.write(tmp_path / f"{stem}.wav", np.stack([tone, tone], 1), RATE)
    prepare_listening(tmp_path, tmp_path / "vocals.wav", tmp_path / "accompaniment.wav", **STEREO)
    brightest = {
        stem: np.asarray(Image.open(tmp_path / f"{stem}.png").convert("L")).max()
        for stem in ("mixture", "vocals", "accompaniment")
    }
    assert brightest["vocals"] < brightest["accompaniment"] <= brightest["mixture"]


def test_stems_that_cannot_be_read_are_an_error_in_words(tmp_path):
    for stem in ("vocals", "accompaniment"):
        (tmp_path / f"{stem}.wav").write_bytes(b"nothing")
    with pytest.raises(ListeningError, match="cannot be played"):
        prepare_listening(tmp_path, tmp_path / "vocals.wav", tmp_path / "accompaniment.wav", **STEREO)


# The workshop


@pytest.fixture
def workshop(visitors):
    with Workshop(visitors, Limits(queue_length=2), "cpu") as workshop:
        yield workshop


def ordered(visitors, song, model, token=ONE, tab="tab", **settings):
    return Order(token, tab, song, song.stem, model, ExtractionSettings(**settings))


def done(workshop, order):
    job = workshop.start(order)
    steps = list(job.steps(workshop.n_ahead))
    return job.result(), steps


def test_a_song_goes_through_as_extraction_alone_would_take_it(workshop, visitors, untrained_model, tmp_path):
    song = uploaded(visitors, ONE, "A song.wav", duration_s=2.0)
    result, _ = done(workshop, ordered(visitors, song, untrained_model, format="flac", mask="binary"))
    settings = ExtractionSettings(format="flac", mask="binary")
    alone = extract_vocals(song, tmp_path / "alone", settings=settings, model=untrained_model, device="cpu")
    assert result.song == "A song"
    assert result.listening.n_frames == 2 * RATE
    for stem, path in (("vocals", alone.stems["vocals"]), ("accompaniment", alone.stems["accompaniment"])):
        name, n_bytes = result.stems[stem]
        served = visitors.result_file(ONE, result.address.removeprefix("/results/"), name)
        assert served.read_bytes() == path.read_bytes()
        assert n_bytes == path.stat().st_size
    assert list((visitors.folder(ONE) / "working").iterdir()) == []


def test_steps_tell_the_progress_of_the_extraction(visitors, monkeypatch, untrained_model):
    """Progress is extraction's own: a stand-in calls back, and the page shows what it said."""
    told, shown = threading.Event(), threading.Event()

    def slow(song, folder, *, progress, **_):
        progress(30.0, 120.0)
        told.set()
        assert shown.wait(60)
        raise ExtractionCancelledError

    monkeypatch.setattr(jobs, "extract_vocals", slow)
    song = uploaded(visitors, ONE, "a.wav", duration_s=1.0)
    with Workshop(visitors, USUAL_LIMITS, "cpu") as workshop:
        job = workshop.start(ordered(visitors, song, untrained_model))
        assert told.wait(60)
        step = next(job.steps(workshop.n_ahead))
        shown.set()
        assert (step.stage, step.share) == ("Separating", 0.25)
        assert step.remaining_s > 0


@pytest.mark.parametrize("declared_s", [0, 1], ids=["says nothing", "says a second"])
def test_a_song_that_is_longer_than_it_says_is_stopped(visitors, monkeypatch, untrained_model, declared_s):
    """Extracted in earnest: the network hears the whole song first, and its progress is a share of the work."""
    decoded_s, blocks = [], SongReader.blocks

    def counted(reader):
        for block in blocks(reader):
            decoded_s.append(block.shape[1] / reader.sample_rate)
            yield block

    monkeypatch.setattr(SongReader, "blocks", counted)
    song = uploaded(visitors, ONE, "a.flac")
    soundfile.write(song, np.random.default_rng(0).uniform(-0.1, 0.1, (30 * RATE, 2)), RATE)
    head = bytearray(song.read_bytes())
    head[21:26] = ((head[21] & 0xF0) << 32 | declared_s * RATE).to_bytes(5, "big")  # 36 bits count the samples
    song.write_bytes(head)
    with (
        Workshop(visitors, Limits(longest_s=3.0), "cpu") as workshop,
        pytest.raises(RefusedError, match=r"^a.flac is too long. At most 0.05 minutes are taken"),
    ):
        done(workshop, ordered(visitors, song, untrained_model))
    assert 3.0 < sum(decoded_s) < 3.0 + 2 * max(decoded_s)
    assert list((visitors.folder(ONE) / "working").iterdir()) == []


class Gated:
    """A stand-in for `extract_vocals` that waits until it may go on, or is cancelled."""

    def __init__(self):
        self.may_go_on = threading.Event()
        self.n_begun = 0
        self.n_cancelled = 0

    def __call__(self, song, folder, *, cancelled, **_):
        self.n_begun += 1
        while not self.may_go_on.wait(0.02):
            if cancelled():
                self.n_cancelled += 1
                raise ExtractionCancelledError
        raise RefusedError("as far as this test goes")


@pytest.fixture
def gated(monkeypatch):
    gated = Gated()
    monkeypatch.setattr(jobs, "extract_vocals", gated)
    yield gated
    gated.may_go_on.set()


def test_the_line_is_bounded_and_says_how_long_it_is(workshop, visitors, gated, untrained_model):
    tokens = [new_token() for _ in range(4)]
    orders = [
        ordered(visitors, uploaded(visitors, token, "a.wav", duration_s=1.0), untrained_model, token)
        for token in tokens
    ]
    waiting = [workshop.start(order) for order in orders[:3]]
    assert [workshop.n_ahead(job) for job in waiting] == [0, 1, 2]
    assert next(waiting[2].steps(workshop.n_ahead)).stage == "Waiting for 2 other songs"
    assert next(waiting[1].steps(workshop.n_ahead)).stage == "Waiting for 1 other song"
    with pytest.raises(RefusedError, match="2 songs are waiting already"):
        workshop.start(orders[3])


def test_a_visitor_has_his_share_of_the_line(visitors, gated, untrained_model):
    song = uploaded(visitors, ONE, "a.wav", duration_s=1.0)
    with Workshop(visitors, Limits(songs_per_visitor=1), "cpu") as workshop:
        job = workshop.start(ordered(visitors, song, untrained_model))
        with pytest.raises(RefusedError, match="Your other songs"):
            workshop.start(ordered(visitors, song, untrained_model))
        job.stop()
        assert not workshop.start(ordered(visitors, song, untrained_model)).is_stopped()


def test_stopping_ends_the_tab_that_asked_and_no_other(workshop, visitors, gated, untrained_model):
    song = uploaded(visitors, ONE, "a.wav", duration_s=1.0)
    first, second = (workshop.start(ordered(visitors, song, untrained_model, tab=tab)) for tab in ("one", "two"))
    workshop.stop(ONE, "two")
    with pytest.raises(ExtractionCancelledError):
        list(second.steps(workshop.n_ahead))
    assert not first.is_stopped()
    workshop.stop(ONE, "one")
    with pytest.raises(ExtractionCancelledError):
        list(first.steps(workshop.n_ahead))


def test_closing_the_workshop_stops_what_it_does(visitors, gated, untrained_model):
    song = uploaded(visitors, ONE, "a.wav", duration_s=1.0)
    with Workshop(visitors, USUAL_LIMITS, "cpu") as workshop:
        job = workshop.start(ordered(visitors, song, untrained_model))
        while not gated.n_begun:
            time.sleep(0.01)
    assert job.is_over
    assert gated.n_cancelled == 1
    assert list((visitors.folder(ONE) / "working").iterdir()) == []


def test_what_is_not_the_visitors_or_not_there_any_more_is_refused(workshop, visitors, untrained_model):
    foreign = uploaded(visitors, OTHER, "a.wav", duration_s=1.0)
    gone = visitors.uploads(ONE) / "0123" / "gone.wav"
    for song in (foreign, gone, Path("/etc/passwd")):
        with pytest.raises(RefusedError, match="upload it again"):
            done(workshop, ordered(visitors, song, untrained_model))


def test_a_model_that_went_away_is_said(workshop, visitors, tmp_path):
    song = uploaded(visitors, ONE, "a.wav", duration_s=1.0)
    with pytest.raises(CheckpointError):
        done(workshop, ordered(visitors, song, tmp_path / "gone.pth"))


def test_a_full_disk_is_said_before_the_work_and_tapes_are_counted(visitors, monkeypatch, workshop, untrained_model):
    asked = []
    monkeypatch.setattr(visitors, "has_room_for", asked.append)
    with pytest.raises(RefusedError, match="disk is full"):
        done(workshop, ordered(visitors, uploaded(visitors, ONE, "a.wav", duration_s=2.0), untrained_model))
    estimator = Estimator(load_checkpoint(untrained_model), ExtractionSettings())
    decoded, taped = 2 * 4 * RATE, taped_bytes(estimator, sample_rate=RATE, n_channels=2)
    assert taped > decoded
    assert asked == [round(2.0 * (5 * decoded + taped))]
