"""Song files in, stem files out: formats, lengths, rates, channels, levels, tags, and what is no good song."""

import base64
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from extraction_models import ConstantMask, loaded, music, tiny_model

from vocal_extraction.atomic_files import StorageError
from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.audio_files.encoding import choose_coding
from vocal_extraction.audio_files.ffmpeg import Ffmpeg, ProgramError
from vocal_extraction.audio_files.probing import examine
from vocal_extraction.errors import DamagedSongError, ExtractionCancelledError, ExtractionError
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.settings import ExtractionSettings

RATE = 44_100
CODECS = {
    "wav": ["-c:a", "pcm_s16le"],
    "flac": [],
    "mp3": [],
    "ogg": ["-c:a", "libvorbis"],
    "opus": [],
    "m4a": [],
    "aac": [],
    "aiff": [],
    "wma": [],
    "webm": [],
    "mp4": [],
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return loaded(ConstantMask(0.25))


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)], check=True, timeout=60)


def decoded(path) -> np.ndarray:
    """Decode with ffmpeg: (n_channels, n_samples)."""
    facts = json.loads(probed(path, "stream=channels"))["streams"]
    n_channels = next(stream["channels"] for stream in facts if "channels" in stream)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}", "-map", "0:a:0", "-f", "f32le", "pipe:1"]
    data = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return np.frombuffer(data, np.float32).reshape(-1, n_channels).T


def probed(path, entries) -> str:
    command = ["ffprobe", "-v", "error", "-show_entries", entries, "-of", "json", f"file:{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def song(tmp_path_factory) -> Path:
    """A second of stereo, 16 bits, whose highest sample is not full scale."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, music(1.013).T, RATE, subtype="PCM_16")
    return path


@pytest.fixture
def extract(tmp_path, model):
    """Extract a song to tmp_path/out and return the outcome."""

    def run(song, **options):
        options = {"settings": ExtractionSettings(**options.pop("settings", {})), "model": model} | options
        return extract_vocals(song, tmp_path / "out", **options)

    return run


@pytest.mark.parametrize("ending", CODECS)
def test_whatever_ffmpeg_reads(song, extract, tmp_path, ending):
    source = tmp_path / f"song.{ending}"
    picture = ["-f", "lavfi", "-i", "color=red:s=32x32:d=1", "-shortest"] if ending == "mp4" else []
    ffmpeg("-i", song, *picture, *CODECS[ending], source)
    outcome = extract(source, settings={"format": "float"})
    expected = decoded(source)
    vocals, rate = soundfile.read(outcome.stems["vocals"], always_2d=True, dtype="float32")
    accompaniment, _ = soundfile.read(outcome.stems["accompaniment"], always_2d=True, dtype="float32")
    assert vocals.T.shape == accompaniment.T.shape == expected.shape
    assert rate == (48_000 if ending in ("opus", "webm") else RATE)
    # Two 32-bit floats near 0.5 add up to half a unit in the last place.
    np.testing.assert_allclose((vocals + accompaniment).T, expected, atol=1e-7)
    np.testing.assert_allclose(vocals.T[:, 2_000:-2_000], 0.25 * expected[:, 2_000:-2_000], atol=2e-4)
    assert outcome.duration_s == pytest.approx(expected.shape[1] / rate)


@pytest.mark.parametrize(
    "name, sample_rate, n_channels",
    [("wav24", 8_000, 1), ("flac", 37_800, 2), ("wav24", 48_000, 6), ("flac", 192_000, 8), ("wav24", 44_100, 9)],
)
def test_lossless_formats_keep_rate_channels_and_length(tmp_path, extract, name, sample_rate, n_channels):
    source = tmp_path / "song.wav"
    soundfile.write(
        source, music(0.31, sample_rate=sample_rate, n_channels=n_channels).T, sample_rate, subtype="PCM_24"
    )
    outcome = extract(source, settings={"format": name})
    mixture, _ = soundfile.read(source, always_2d=True, dtype="int32")
    stems = [soundfile.read(path, always_2d=True, dtype="int32") for path in outcome.stems.values()]
    assert {rate for _, rate in stems} == {sample_rate}
    assert {soundfile.info(outcome.stems["vocals"]).subtype} == {"PCM_24"}
    assert outcome.scale == 1.0
    np.testing.assert_array_equal(stems[0][0] + stems[1][0], mixture)


def test_sixteen_bits_add_up_to_the_bit(song, extract):
    outcome = extract(song)
    mixture, vocals, accompaniment = (
        soundfile.read(path, dtype="int16")[0].astype(int) for path in (song, *outcome.stems.values())
    )
    assert soundfile.info(outcome.stems["vocals"]).subtype == "PCM_16"
    assert np.abs(vocals).max() > 1_000
    np.testing.assert_array_equal(vocals + accompaniment, mixture)


@pytest.mark.parametrize(
    "name, sample_rate, n_channels",
    [
        ("mp3", 44_100, 2),
        ("mp3", 96_000, 6),
        ("ogg", 96_000, 1),
        ("ogg", 11_025, 6),
        ("m4a", 44_100, 2),
        ("m4a", 8_000, 6),
    ],
)
def test_lossy_formats_come_as_near_as_they_can(tmp_path, extract, name, sample_rate, n_channels):
    source = tmp_path / "song.wav"
    mixture = music(0.5, sample_rate=sample_rate, n_channels=n_channels)
    soundfile.write(source, mixture.T, sample_rate, subtype="FLOAT")
    outcome = extract(source, settings={"format": name, "bitrate_kbps": 192})
    vocals = decoded(outcome.stems["vocals"])
    coded_rate = int(json.loads(probed(outcome.stems["vocals"], "stream=sample_rate"))["streams"][0]["sample_rate"])
    assert coded_rate == (48_000 if (name, sample_rate) == ("mp3", 96_000) else sample_rate)
    assert vocals.shape[0] == (2 if name == "mp3" and n_channels > 2 else n_channels)
    # Frames of 1024 samples for AAC; ffmpeg drops the first block that libvorbis codes. libsndfile reads all of it.
    assert abs(vocals.shape[1] - mixture.shape[1] * coded_rate / sample_rate) <= (1_024 if name == "m4a" else 128)
    notes = " ".join(outcome.notes)
    assert ("written at 48000 Hz" in notes) == (coded_rate != sample_rate)
    assert ("mixed down to 2" in notes) == (vocals.shape[0] != n_channels)
    assert ("1024 samples" in notes) == (name == "m4a")
    if name == "ogg":
        assert soundfile.info(outcome.stems["vocals"]).frames == mixture.shape[1]


@pytest.mark.parametrize("name, most", [("mp3", 8), ("ogg", 8), ("m4a", 8), ("flac", 8), ("wav16", 64)])
def test_more_channels_than_a_format_holds_are_refused(name, most):
    settings = ExtractionSettings(format=name)
    assert choose_coding(settings, sample_rate=RATE, n_channels=most, channel_layout=None).n_channels == most
    if name != "wav16":
        with pytest.raises(ExtractionError, match=r"at most\. Choose --format wav24"):
            choose_coding(settings, sample_rate=RATE, n_channels=most + 1, channel_layout=None)


@pytest.mark.parametrize("name", ["mp3", "ogg"])
def test_bit_rate_is_heeded(tmp_path, extract, name):
    source = tmp_path / "song.wav"
    soundfile.write(source, music(3.0).T, RATE)
    sizes = []
    for bitrate_kbps in (64, 256):
        options = {"format": name, "bitrate_kbps": bitrate_kbps, "overwrite": True}
        sizes.append(extract(source, settings=options).stems["vocals"].stat().st_size)
    assert sizes[1] > 1.5 * sizes[0]


@pytest.mark.parametrize("name, unit", [("wav16", 2**15), ("flac", 2**23), ("mp3", None)])
def test_what_would_clip_is_scaled_by_one_factor(tmp_path, name, unit):
    """A mask of -1 turns the vocals' sign, so that the accompaniment is twice as loud as the song."""
    source = tmp_path / "song.wav"
    mixture = (0.9 * np.sin(np.arange(RATE) / 20)).astype(np.float32)
    soundfile.write(source, mixture, RATE, subtype="FLOAT")
    settings = ExtractionSettings(format=name)
    outcome = extract_vocals(source, tmp_path / "out", model=loaded(ConstantMask(-1.0)), settings=settings)
    assert outcome.scale == pytest.approx(1 / 1.8, rel=1e-3)
    assert any("scaled by 0.555" in note for note in outcome.notes)
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert record["scale"] == outcome.scale
    vocals, accompaniment = decoded(outcome.stems["vocals"]), decoded(outcome.stems["accompaniment"])
    assert np.abs(accompaniment).max() == pytest.approx(1.0, abs=0.02)
    inner = slice(2_000, 40_000)
    tolerance = 0.02 if unit is None else 1 / unit
    np.testing.assert_allclose((vocals + accompaniment)[0, inner], outcome.scale * mixture[inner], atol=tolerance)


def test_full_scale_alone_is_no_reason_to_scale(tmp_path, extract):
    source = tmp_path / "song.wav"
    soundfile.write(source, np.array([-32_768, 32_767] * 5_000, np.int16), RATE)
    outcome = extract(source, model=loaded(ConstantMask(0.0)))
    assert outcome.scale == 1.0
    np.testing.assert_array_equal(
        soundfile.read(outcome.stems["accompaniment"], dtype="int16")[0], soundfile.read(source, dtype="int16")[0]
    )


def test_floats_are_never_scaled(tmp_path, extract):
    source = tmp_path / "song.wav"
    mixture = 30 * music(0.4)
    soundfile.write(source, mixture.T, RATE, subtype="FLOAT")
    outcome = extract(source, settings={"format": "float"})
    assert outcome.scale == 1.0
    np.testing.assert_allclose(soundfile.read(outcome.stems["vocals"], dtype="float32")[0].T, 0.25 * mixture, atol=1e-4)


def test_silence_gives_silent_stems_and_says_so(tmp_path):
    source = tmp_path / "song.wav"
    soundfile.write(source, np.zeros((RATE, 2)), RATE)
    outcome = extract_vocals(source, tmp_path / "out", model=tiny_model())
    assert not soundfile.read(outcome.stems["vocals"])[0].any()
    assert not soundfile.read(outcome.stems["accompaniment"])[0].any()
    assert any("silent" in note for note in outcome.notes)


@pytest.fixture(scope="module")
def song_with_cover(song, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cover")
    ffmpeg("-f", "lavfi", "-i", "color=blue:s=48x32", "-frames:v", 1, folder / "cover.png")
    path = folder / "song.mp3"
    tags = [
        "-metadata",
        "title=Ein=Tïtel; #1\\2",
        "-metadata",
        "artist=Someone",
        "-metadata",
        "REPLAYGAIN_TRACK_GAIN=-3 dB",
    ]
    ffmpeg("-i", song, "-i", folder / "cover.png", "-map", 0, "-map", 1, "-c:v", "copy", *tags, path)
    return path


@pytest.mark.parametrize("name", ["wav16", "flac", "mp3", "ogg", "m4a"])
def test_tags_and_cover_go_along(song_with_cover, extract, name):
    outcome = extract(song_with_cover, settings={"format": name})
    for path in outcome.stems.values():
        facts = json.loads(
            probed(path, "stream=codec_type,width,height:stream_tags:stream_disposition=attached_pic:format_tags")
        )
        tags = dict(facts["format"].get("tags", {}))
        for stream in facts["streams"]:
            tags |= stream.get("tags", {}) if stream["codec_type"] == "audio" else {}
        tags = {key.lower(): value for key, value in tags.items()}
        assert tags["title"] == "Ein=Tïtel; #1\\2"
        assert tags["artist"] == "Someone"
        assert not any("replaygain" in key for key in tags)
        covers = [(stream["width"], stream["height"]) for stream in facts["streams"] if stream["codec_type"] == "video"]
        assert covers == ([] if name == "wav16" else [(48, 32)])


def test_ogg_holds_the_picture_block(song_with_cover, extract):
    outcome = extract(song_with_cover, settings={"format": "ogg"})
    data = outcome.stems["vocals"].read_bytes()
    block = base64.b64decode(data.split(b"METADATA_BLOCK_PICTURE=")[1][:60])
    kind, length = struct.unpack(">II", block[:8])
    assert (kind, block[8 : 8 + length]) == (3, b"image/png")


def test_a_song_in_a_video_leaves_the_pictures_behind(tmp_path, song, extract):
    source = tmp_path / "film.mp4"
    ffmpeg("-i", song, "-f", "lavfi", "-i", "testsrc=s=64x64:d=1", source)
    outcome = extract(source, settings={"format": "m4a"})
    assert "video" not in probed(outcome.stems["vocals"], "stream=codec_type")


def test_wavs_leave_room_for_rf64(song, extract):
    """Past 4 GiB ffmpeg turns the reserved chunk into RF64's; sox, libsndfile and players skip it until then."""
    assert extract(song, settings={"format": "float"}).stems["vocals"].read_bytes()[12:16] == b"JUNK"


def truncated(path: Path, *, keep: float) -> Path:
    short = path.with_name(f"cut{path.suffix}")
    data = path.read_bytes()
    short.write_bytes(data[: int(len(data) * keep)])
    return short


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg", "aiff", "opus", "aac"])
def test_a_truncated_song_is_refused_or_kept_as_far_as_it_goes(tmp_path, song, extract, ending):
    source = tmp_path / f"song.{ending}"
    ffmpeg("-stream_loop", "4", "-i", song, *CODECS[ending], source)
    short = truncated(source, keep=0.61)
    with pytest.raises(DamagedSongError, match="--keep-partial") as refused:
        extract(short)
    assert str(short) in str(refused.value)
    assert not (tmp_path / "out" / "cut").exists(), "nothing remains of it"
    outcome = extract(short, settings={"keep_partial": True})
    assert 1.5 < outcome.duration_s < 4.5
    assert any("as far as it decodes" in note for note in outcome.notes)
    assert soundfile.info(outcome.stems["vocals"]).frames == pytest.approx(
        outcome.duration_s * soundfile.info(outcome.stems["vocals"]).samplerate
    )


def test_a_truncated_m4a_has_nothing_that_decodes(tmp_path, song, extract):
    ffmpeg("-i", song, tmp_path / "song.m4a")
    with pytest.raises(DamagedSongError, match="truncated"):
        extract(truncated(tmp_path / "song.m4a", keep=0.7))


@pytest.mark.parametrize("ending", ["mp3", "wma", "m4a"])
def test_padding_of_coders_passes_for_whole(tmp_path, song, ending):
    """At low rates the frames that encoders add last longest."""
    source = tmp_path / f"song.{ending}"
    ffmpeg("-i", song, "-ar", 8_000, "-ac", 1, source)
    with SongReader(examine(source)) as reader:
        assert sum(map(len, reader.blocks())) >= 0.9 * 8_000
        assert not reader.notes


def test_what_is_no_song_is_named_with_a_reason(tmp_path, song, extract):
    text, empty, picture, headed = (tmp_path / name for name in ("notes.txt", "empty.mp3", "picture.png", "headed.wav"))
    text.write_text("no song at all " * 100)
    empty.write_bytes(b"")
    ffmpeg("-f", "lavfi", "-i", "color=red:s=8x8", "-frames:v", 1, picture)
    soundfile.write(headed, np.zeros((0, 2)), RATE)
    cases = [
        (tmp_path / "missing.wav", "There is no file"),
        (tmp_path, "is a folder"),
        (text, "no audio"),
        (empty, "is empty"),
        (picture, "holds no audio, only video"),
        (headed, "length is zero|could not be decoded|no samples"),
    ]
    os.mkfifo(tmp_path / "pipe")
    cases.append((tmp_path / "pipe", "no regular file"))
    for path, reason in cases:
        with pytest.raises(ExtractionError, match=reason) as refused:
            extract(path)
        assert path.name in str(refused.value)
    assert not (tmp_path / "out" / "notes").exists()


def test_a_file_that_may_not_be_read(song, extract, monkeypatch):
    """Root may read all, so the answer of the system is put in its mouth."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ExtractionError, match="may not be read"):
        extract(song)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path, extract, value):
    source = tmp_path / "song.wav"
    samples = music(0.5)
    samples[0, RATE // 4] = value
    soundfile.write(source, samples.T, RATE, subtype="FLOAT")
    with pytest.raises(ExtractionError, match=r"at 0\.250 s"):
        extract(source)
    assert not (tmp_path / "out" / "song").exists()


def test_output_equal_to_input_is_refused(tmp_path, song, model):
    source = tmp_path / "song" / "vocals.wav"
    source.parent.mkdir()
    shutil.copy(song, source)
    before = source.read_bytes()
    settings = ExtractionSettings(
        output_template="{folder}/song/{stem}.{ext}".replace("song", "{song}"), overwrite=True
    )
    target = tmp_path / "vocals" / "vocals.wav"
    target.parent.mkdir()
    target.symlink_to(source)
    with pytest.raises(ExtractionError, match="would be replaced"):
        extract_vocals(source, tmp_path, model=model, settings=settings)
    assert source.read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path, song, model):
    blocker = tmp_path / "out"
    blocker.write_text("a file where the folder should be")
    with pytest.raises((StorageError, ExtractionError), match=r"Choose another|Cannot"):
        extract_vocals(song, blocker, model=model)
    assert blocker.read_text().startswith("a file")


def test_cancelling_leaves_nothing(tmp_path, song, model):
    reported = []
    with pytest.raises(ExtractionCancelledError):
        extract_vocals(
            song, tmp_path / "out", model=model, progress=lambda *state: reported.append(state), cancelled=lambda: True
        )
    assert reported == []
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_progress_tells_how_far_it_is(song, extract):
    reported = []
    extract(song, progress=lambda done_s, total_s: reported.append((done_s, total_s)))
    assert reported[-1] == (pytest.approx(1.013, abs=1e-3), pytest.approx(1.013, abs=1e-3))


def test_a_missing_ffmpeg_is_named(song, extract, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError, match=r"ffprobe was not found\. Install it"):
        extract(song)
    with pytest.raises(ProgramError, match=r"ffmpeg was not found\. Install it"):
        Ffmpeg(["-version"])
