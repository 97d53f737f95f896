"""Upload validation, and what is drawn and played of songs and stems."""

import subprocess

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt")


from vocal_extraction.audio_files import probing
from vocal_extraction.errors import ExtractionError
from vocal_extraction.web_page.listening import Overview, overview, prepare_listening, streams_of
from vocal_extraction.web_page.uploads import Limits, RefusedError, Upload, validate_upload

RATE = 44_100
HOLDING_AUDIO = {
    "wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "aiff", "wma", "webm",
}  # fmt: skip


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


def test_what_is_too_little_to_be_played_is_said(tmp_path):
    soundfile.write(tmp_path / "vocals.wav", np.zeros(6), 1)
    with pytest.raises(ExtractionError, match=r"too little to be played: the sample rate is 1 Hz"):
        prepare_listening(tmp_path, {"vocals": (tmp_path / "vocals.wav", 0)}, upload_of(1, 1))


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


def test_four_stems_take_more_of_the_disk_than_two():
    valid = upload_of(RATE, 2)
    assert valid.stored_bytes(4) > 1.5 * valid.stored_bytes(2) > 20 * 60 * RATE * 2 * 4
