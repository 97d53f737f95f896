"""The page's parts: limits, upload validation, samples for the players, the job queue, and how the server starts."""

import secrets
import subprocess
import threading
import time

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt")

from serving import PATIENCE_S

from vocal_extraction.audio_files import probing
from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.checkpointing import shipped_checkpoints
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, SettingsError
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.web_page import jobs
from vocal_extraction.web_page.jobs import JobQueue, Options, safe_name
from vocal_extraction.web_page.listening import Overview, overview, prepare_listening, streams_of
from vocal_extraction.web_page.uploads import Limits, RefusedError, Upload, validate_upload

RATE = 44_100
HOLDING_AUDIO = {
    "wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "aiff", "wma", "webm",
}  # fmt: skip
OPTIONS = Options("classic", ExtractionSettings())


@pytest.fixture
def open_queue(tmp_path):
    """Return a function that opens a queue with some limits."""
    return lambda **limits: JobQueue(tmp_path, Limits(**limits), shipped_checkpoints(), "cpu")


@pytest.fixture
def queue(open_queue):
    with open_queue(queue_length=2) as queue:
        yield queue


def upload(queue, name="a.wav", content=b"", *, duration_s=None):
    """Put a song where an upload would lie: bytes, or seconds of noise."""
    path = queue.root / secrets.token_hex(8) / name
    path.parent.mkdir()
    path.write_bytes(content)
    if duration_s is not None:
        noise = np.random.default_rng(3).normal(0, 3_000, (round(duration_s * RATE), 2)).astype(np.int16)
        soundfile.write(path, noise, RATE)
    return path


def wait(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def finished(queue, song, session="one"):
    job = queue.submit(session, song, OPTIONS)
    wait(lambda: job.is_over)
    return job


@pytest.mark.parametrize("bad", [{"upload_bytes": 0}, {"longest_s": float("inf")}, {"queue_length": -1}])
def test_limits_must_be_positive_numbers(bad):
    with pytest.raises(SettingsError, match=next(iter(bad))):
        Limits(**bad)


# Upload validation


@pytest.mark.parametrize("ending", sorted(HOLDING_AUDIO))
def test_every_kind_of_file_that_holds_audio_is_valid(tmp_path, ending):
    song = tmp_path / f"a.{ending}"
    source = ("-f", "lavfi", "-i", "sine=440:sample_rate=48000:duration=0.5")
    subprocess.run(["ffmpeg", "-v", "error", "-y", *source, "-ac", "2", "-strict", "-2", song], check=True)
    valid = validate_upload(song, Limits())
    assert (valid.sample_rate, valid.n_channels) == (48_000, 2)


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
def test_what_is_no_song_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RefusedError, match=f"^{name} "):
        validate_upload(tmp_path / name, Limits())


@pytest.mark.parametrize("name", ["list.m3u8", "list.wav", "list.mp3"])
def test_a_playlist_reads_no_other_file(tmp_path, name):
    """ffmpeg opens a playlist whatever its file is called, and with it any song on the machine."""
    secret = tmp_path / "secret.mp3"
    soundfile.write(secret, np.full(RATE, 0.1), RATE)
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(RefusedError, match="holds no audio"):
            validate_upload(tmp_path / name, Limits())


@pytest.mark.parametrize("streams", [[], [{"codec_type": "audio"}]])
def test_the_page_survives_what_ffprobe_may_say(tmp_path, monkeypatch, streams):
    monkeypatch.setattr(probing, "_ask_ffprobe", lambda *_: ({"streams": streams}, ""))
    (tmp_path / "a.mp3").write_bytes(b"x")
    with pytest.raises(RefusedError, match=r"holds no audio|does not say how many channels"):
        validate_upload(tmp_path / "a.mp3", Limits())


@pytest.mark.parametrize(
    "limits, reason",
    [
        ({"longest_s": 2.0}, r"too long.*At most 0.0333 minutes"),
        ({"decoded_bytes": 16 * RATE}, "of 2 channels at 44100"),
    ],
)
def test_a_song_that_says_it_is_too_long_is_refused(queue, limits, reason):
    """Many channels at a high rate count as length."""
    with pytest.raises(RefusedError, match=reason):
        validate_upload(upload(queue, duration_s=3.0), Limits(**limits))


# Samples for the players


def upload_of(sample_rate, n_channels):
    return Upload(sample_rate, n_channels, 60.0, "", 60.0)


def noise_stems(folder, *, n_channels=2, rate=RATE, ending="wav"):
    rng = np.random.default_rng(1)
    stems = {stem: folder / f"{stem}.{ending}" for stem in ("vocals", "drums", "other")}
    for path in stems.values():
        soundfile.write(path, rng.uniform(-0.5, 0.5, (rate // 2, n_channels)), rate)
    return stems


def test_stems_are_played_sample_for_sample(tmp_path):
    stems = noise_stems(tmp_path)
    track = prepare_listening(tmp_path / "track", streams_of(stems, stems), upload_of(RATE, 2), start_s=7.0)
    assert (track.stems, track.sample_rate, track.n_samples) == (tuple(stems), RATE, RATE // 2)
    assert track.as_json()["start_s"] == 7.0
    for stem, path in stems.items():
        written, _ = soundfile.read(path, dtype="int16")
        np.testing.assert_array_equal(np.fromfile(tmp_path / "track" / f"{stem}.pcm", "<i2").reshape(-1, 2), written)


@pytest.mark.parametrize("n_channels, rate, ending", [(1, 16_000, "flac"), (6, 48_000, "wav"), (2, 96_000, "wav")])
def test_what_is_played_is_stereo_at_a_rate_that_browsers_play(tmp_path, n_channels, rate, ending):
    stems = noise_stems(tmp_path, n_channels=n_channels, rate=rate, ending=ending)
    track = prepare_listening(tmp_path / "track", streams_of(stems, stems), upload_of(rate, n_channels))
    assert track.sample_rate == min(rate, 48_000)
    assert track.n_samples / track.sample_rate == pytest.approx(0.5, abs=0.001)  # resampling may round
    played = np.fromfile(tmp_path / "track" / "vocals.pcm", "<i2").reshape(-1, 2)
    if n_channels == 1:
        np.testing.assert_array_equal(played[:, 0], played[:, 1])
        written, _ = soundfile.read(stems["vocals"], dtype="int16")
        assert np.abs(played[:, 0].astype(int) - written).max() <= 1  # dither or rounding of one unit


@pytest.mark.parametrize("n_samples", [1, 100])
def test_the_shortest_and_the_most_silent_songs_are_drawn_and_played(tmp_path, n_samples):
    soundfile.write(tmp_path / "vocals.wav", np.zeros((n_samples, 2)), RATE)
    stems = {"vocals": tmp_path / "vocals.wav"}
    track = prepare_listening(tmp_path / "track", streams_of(stems, stems), upload_of(RATE, 2))
    assert track.n_samples == n_samples
    assert (tmp_path / "track" / "vocals.png").stat().st_size > 0
    assert set(overview(stems["vocals"], longest_s=10).peaks) <= {0}


def test_spectrograms_are_drawn_on_one_scale(tmp_path):
    from PIL import Image

    for stem, gain in (("vocals", 0.01), ("accompaniment", 0.5)):
        tone = gain * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
        soundfile.write(tmp_path / f"{stem}.wav", np.stack([tone, tone], 1), RATE)
    stems = {stem: tmp_path / f"{stem}.wav" for stem in ("vocals", "accompaniment")}
    prepare_listening(tmp_path, streams_of(stems, stems), upload_of(RATE, 2))
    brightest = {stem: np.asarray(Image.open(tmp_path / f"{stem}.png").convert("L")).max() for stem in stems}
    assert brightest["vocals"] < brightest["accompaniment"]


def test_stems_that_cannot_be_read_are_an_error_in_words(tmp_path):
    (tmp_path / "vocals.wav").write_bytes(b"nothing")
    with pytest.raises(ExtractionError, match="ffmpeg failed"):
        prepare_listening(tmp_path, {"vocals": (tmp_path / "vocals.wav", 0)}, upload_of(RATE, 2))


def test_the_waveform_shows_where_the_song_is_loud(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE) * np.linspace(0, 0.5, RATE)
    soundfile.write(tmp_path / "song.wav", tone, RATE)
    song = overview(tmp_path / "song.wav", longest_s=10)
    peaks = song.peaks
    assert song.duration_s == pytest.approx(1.0, abs=0.01)
    assert peaks[0] < 5 < peaks[len(peaks) // 2] < 95 < peaks[-1] <= 100


def test_tempo_and_key_are_found():
    """Two beats a second of an A minor chord are 120 BPM; silence and the shortest songs have neither."""
    pytest.importorskip("librosa")
    rate = 11_025
    time_s = np.arange(12 * rate) / rate
    beat = np.exp(-12 * (time_s % 0.5))
    chord = sum(np.sin(2 * np.pi * hz * time_s) for hz in (220.0, 261.63, 329.63))
    tempo_bpm, key = Overview((6_000 * beat * chord).astype(np.int16)).tempo_and_key()
    assert tempo_bpm == pytest.approx(120, abs=3)
    assert key == "A minor"
    for n_samples in (0, rate, 12 * rate):
        assert Overview(np.zeros(n_samples, np.int16)).tempo_and_key() == (None, None)


# The queue


@pytest.mark.parametrize("declared_s", [0, 1], ids=["says nothing", "says a second"])
def test_a_song_that_is_longer_than_it_says_is_stopped(open_queue, monkeypatch, declared_s):
    decoded_s, blocks = [], SongReader.blocks

    def counted(reader):
        for block in blocks(reader):
            decoded_s.append(block.shape[1] / reader.sample_rate)
            yield block

    monkeypatch.setattr(SongReader, "blocks", counted)
    with open_queue(longest_s=3.0) as queue:
        song = upload(queue, "a.flac")
        soundfile.write(song, np.random.default_rng(0).uniform(-0.1, 0.1, (30 * RATE, 2)), RATE)
        head = bytearray(song.read_bytes())
        head[21:26] = ((head[21] & 0xF0) << 32 | declared_s * RATE).to_bytes(5, "big")  # 36 bits count the samples
        song.write_bytes(head)
        job = finished(queue, song)
    assert job.error.startswith("a.flac is too long. At most 0.05 minutes are taken")
    assert 3.0 < sum(decoded_s) < 3.0 + 2 * max(decoded_s)
    assert not song.parent.exists()


class Gated:
    """A stand-in for `extract_vocals` that reports progress, and waits until it may go on or is cancelled."""

    def __init__(self):
        self.may_go_on = threading.Event()
        self.n_begun = 0
        self.n_cancelled = 0

    def __call__(self, song, folder, *, progress, cancelled, **_):
        if progress is not None:
            progress(30.0, 120.0)
        self.n_begun += 1
        while not self.may_go_on.wait(0.02):
            if cancelled():
                self.n_cancelled += 1
                raise ExtractionCancelledError
        raise RefusedError(f"{song}: as far as this test goes. See --keep-partial.")


@pytest.fixture
def gated(monkeypatch):
    gated = Gated()
    monkeypatch.setattr(jobs, "extract_vocals", gated)
    yield gated
    gated.may_go_on.set()


def test_the_state_tells_progress_and_what_is_left(queue, gated):
    job = queue.submit("one", upload(queue, duration_s=1.0), OPTIONS)
    wait(lambda: gated.n_begun)
    state = queue.state(job)
    assert (state["state"], state["stage"], state["done_s"], state["total_s"]) == ("working", "Separating", 30, 120)
    assert state["remaining_s"] >= 0


def test_messages_name_no_folder_of_the_server_and_options_as_the_page_does(queue, gated):
    gated.may_go_on.set()
    job = finished(queue, upload(queue, "my song.wav", duration_s=1.0))
    assert job.error.startswith("my song.wav: as far")
    assert "--" not in job.error


def test_the_queue_is_bounded_and_says_how_long_it_is(queue, gated):
    waiting = [queue.submit(session, upload(queue, duration_s=1.0), OPTIONS) for session in ("one", "two", "three")]
    assert [queue.state(job)["n_ahead"] for job in waiting] == [0, 1, 2]
    with pytest.raises(RefusedError, match="queue is full"):
        queue.new_song("four", "a.wav", 1)


def test_a_session_has_its_share_of_the_queue(open_queue, gated):
    with open_queue(jobs_per_session=1) as queue:
        job = queue.submit("one", upload(queue, duration_s=1.0), OPTIONS)
        queue.new_song("two", "a.wav", 1)
        with pytest.raises(RefusedError, match="Your other songs"):
            queue.new_song("one", "a.wav", 1)
        queue.remove(job)
        queue.new_song("one", "a.wav", 1)
        wait(lambda: job.is_over and not job.folder.exists())
        assert job.state == "cancelled"


def test_a_job_that_waits_is_cancelled_at_once(queue, gated):
    first, second = (queue.submit("one", upload(queue, duration_s=1.0), OPTIONS) for _ in range(2))
    queue.remove(second)
    assert second.state == "cancelled"
    assert not second.folder.exists()
    assert queue.find("one", second.id) is None
    assert queue.find("one", first.id) is first
    assert queue.find("two", first.id) is None


def test_closing_the_queue_cancels_its_jobs(open_queue, gated):
    with open_queue() as queue:
        job = queue.submit("one", upload(queue, duration_s=1.0), OPTIONS)
        wait(lambda: gated.n_begun)
    assert job.state == "cancelled"
    assert gated.n_cancelled == 1
    assert not job.folder.exists()


def test_a_long_song_has_a_preview_first_and_where_one_asks(queue, monkeypatch):
    monkeypatch.setattr(jobs, "PREVIEWS_S", (0.2, 0.5))
    monkeypatch.setattr(jobs, "_SHORTEST_PREVIEWED_S", 1.0)
    extract, may_go_on = jobs.extract_vocals, threading.Event()

    def slowly(song, folder, **options):
        if folder.name == "stems":
            may_go_on.wait(PATIENCE_S)
        return extract(song, folder, **options)

    monkeypatch.setattr(jobs, "extract_vocals", slowly)
    job = queue.submit("one", upload(queue, duration_s=4.0), OPTIONS)
    wait(lambda: len(job.previews) == 2)
    assert [(track.start_s, track.n_samples) for track in job.previews] == [(0, RATE // 5), (0, RATE // 2)]
    queue.request_preview(job, 1.0)  # given up for the next
    queue.request_preview(job, 2.0)
    wait(lambda: job.previews[-1].start_s == 2.0 and job.previews[-1].n_samples == RATE // 2)
    assert len(list(job.folder.glob("preview-*"))) == 2, "of earlier previews, one is kept, which may still be playing"
    may_go_on.set()
    wait(lambda: job.is_over)
    assert (job.previews[-1].stems, job.state, job.preview_error) == (job.track.stems, "done", None)


def test_a_preview_that_fails_does_not_fail_the_job(queue, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "_SHORTEST_PREVIEWED_S", 0.5)
    extract, errors, said = jobs.extract_vocals, [RefusedError("Nothing comes of this."), ValueError("a bug")], []

    def fail(song, folder, **options):
        if folder.name != "stems":
            raise errors.pop(0)
        job = next(iter(queue.jobs()))
        wait(lambda: not errors and "bug" in (job.preview_error or ""))
        said.append(job.preview_error)
        return extract(song, folder, **options)

    monkeypatch.setattr(jobs, "extract_vocals", fail)
    job = finished(queue, upload(queue, duration_s=1.0))
    assert (job.state, job.error) == ("done", None)
    assert said == [f"The preview failed: {jobs._BUG}"]
    assert "ValueError: a bug" in capsys.readouterr().err


def test_a_model_that_went_away_is_said(tmp_path):
    with JobQueue(tmp_path, Limits(), {"classic": tmp_path / "gone.pth"}, "cpu") as queue:
        assert "gone.pth" in finished(queue, upload(queue, duration_s=1.0)).error


def test_a_bug_is_called_a_bug(queue, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "prepare_listening", lambda *_, **__: 1 / 0)
    job = finished(queue, upload(queue, duration_s=1.0))
    assert job.error.startswith("This is a bug of the program")
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_full_disk_is_said_before_the_work(open_queue):
    with open_queue(storage_bytes=10**6) as queue:
        assert "disk is full" in finished(queue, upload(queue, duration_s=2.0)).error


def test_what_is_over_its_time_goes_away_by_itself(open_queue):
    with open_queue(lifetime_s=0.2) as queue:
        job = finished(queue, upload(queue, content=b"no song"))
        wait(lambda: queue.find("one", job.id) is None)
    assert not job.folder.exists()


@pytest.mark.parametrize(
    "name, safe",
    [("../../a.wav", "a.wav"), ("C:\\a b.mp3", "a b.mp3"), ("", "song"), ("..", "song"), ("a\0\nb.wav", "ab.wav"),
     ("ö" * 200 + ".wav", "ö" * 60 + ".wav"), (".hidden", "hidden")],
)  # fmt: skip
def test_an_upload_has_a_harmless_name(name, safe):
    assert safe_name(name) == safe


def test_the_time_that_a_model_takes_is_measured(queue):
    assert queue.metadata("classic").sources == ("vocals",)
    queue.models = {"classic": queue.models["classic"]}
    queue.measure_models()
    assert queue.real_time_factors["classic"] > 0


def test_four_stems_take_more_of_the_disk_than_two(tmp_path):
    valid = upload_of(RATE, 2)
    assert valid.stored_bytes(4) > 1.5 * valid.stored_bytes(2) > 20 * 60 * RATE * 2 * 4
