"""Files of several audio tracks, audio that begins after the picture, covers of all kinds, and broadcast wavs."""

import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from extraction_models import ConstantMask, loaded, music

from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.audio_files.encoding import StemWriter, choose_coding
from vocal_extraction.audio_files.probing import examine
from vocal_extraction.audio_files.tags import gather
from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.output_formats import FORMATS, Format
from vocal_extraction.settings import ExtractionSettings

RATE = 44_100
HISTORY = b"A=PCM,F=44100\r\nA=ANALOGUE,T=\xe9t\xe9s; 38 cm/s\r\n"  # one line a generation, as EBU R98 has it
TONES_HZ = {"eng": 300, "ger": 600, "fre": 900}

pytestmark = pytest.mark.usefixtures("one_thread")


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)], check=True, timeout=60)


def probed(path):
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", path]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


@pytest.fixture(scope="module")
def wav(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, music(0.5).T, RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """A picture and three tones as audio tracks, of which the second is the default."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    tones, languages = [], []
    for index, (language, frequency) in enumerate(TONES_HZ.items()):
        tones += ["-f", "lavfi", "-i", f"sine=f={frequency}:r={RATE}:d=1"]
        languages += [f"-metadata:s:a:{index}", f"language={language}"]
    picture = ["-f", "lavfi", "-i", "testsrc=s=32x32:r=10:d=1"]
    maps = [word for i in range(4) for word in ("-map", str(i))]
    marks = ["-disposition:a:0", "0", "-disposition:a:1", "default", "-metadata:s:a:1", "title=Music"]
    ffmpeg(*picture, *tones, *maps, *languages, *marks, "-c:a", "flac", path)
    return path


def frequency_of(facts) -> float:
    with SongReader(facts) as reader:
        samples = np.concatenate(list(reader.blocks()))[:, 0]
    return float(np.abs(np.fft.rfft(samples)).argmax() * reader.sample_rate / len(samples))


LANGUAGES = {None: "ger", "1": "eng", "3": "fre", "fre": "fre", "en": "eng", "GER": "ger", "de": "ger", "fra": "fre"}


@pytest.mark.parametrize("track, language", LANGUAGES.items())
def test_the_default_track_is_taken_or_the_one_that_is_asked_for(film, track, language):
    facts = examine(film, track=track)
    assert frequency_of(facts) == pytest.approx(TONES_HZ[language], abs=2)
    (note,) = facts.notes
    assert f"({language}" in note.split("was taken")[0]
    assert all(f"({other}" in note.split("others")[1] for other in set(TONES_HZ) - {language})


@pytest.mark.parametrize("track", ["4", "spa", "commentary"])
def test_a_track_that_is_not_there_is_refused_by_what_is(film, track):
    with pytest.raises(ExtractionError, match=r"only 1 \(eng\), 2 \(ger, Music\), 3 \(fre\)"):
        examine(film, track=track)


def test_without_a_default_the_first_track_is_taken(film, tmp_path):
    ffmpeg("-i", film, "-map", 0, "-c", "copy", "-disposition:a", "0", tmp_path / "film.mkv")
    assert frequency_of(examine(tmp_path / "film.mkv")) == pytest.approx(300, abs=2)


def test_an_m4a_of_several_tracks(film, tmp_path):
    ffmpeg("-i", film, "-map", "0:a", "-c:a", "aac", tmp_path / "songs.m4a")
    assert frequency_of(examine(tmp_path / "songs.m4a")) == pytest.approx(600, abs=2)
    assert frequency_of(examine(tmp_path / "songs.m4a", track="fr")) == pytest.approx(900, abs=2)


def test_one_track_needs_no_note(wav):
    assert examine(wav).notes == examine(wav, track="1").notes == ()


def test_extraction_takes_the_track_of_its_settings(film, tmp_path):
    model = loaded(ConstantMask(0.25))
    settings = ExtractionSettings(format="float", track="eng")
    outcome = extract_vocals(film, tmp_path / "out", model=model, settings=settings)
    assert any("track 1 (eng) was taken" in note for note in outcome.notes)
    again = extract_vocals(film, tmp_path / "out", model=model, settings=settings)
    assert again.outcome == "skipped"


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("offset_s", [0.5, 0.0])
def test_stems_begin_with_the_picture(wav, tmp_path, ending, offset_s):
    path = tmp_path / f"film.{ending}"
    picture = ["-f", "lavfi", "-i", "testsrc=s=32x32:r=10:d=2"]
    ffmpeg(*picture, "-itsoffset", offset_s, "-i", wav, "-map", 0, "-map", 1, "-c:a", "flac", "-strict", "-2", path)
    with SongReader(examine(path)) as reader:
        samples = np.concatenate(list(reader.blocks())).T
    n_offset = round(offset_s * RATE)
    np.testing.assert_array_equal(samples[:, n_offset:], soundfile.read(wav, dtype="float32")[0].T)
    assert not samples[:, :n_offset].any()
    assert [note for note in reader.notes if "0.500 s after the picture" in note] == reader.notes[: n_offset > 0]
    assert len(reader.notes) == (n_offset > 0)


def test_an_avi_begins_with_the_picture(wav, tmp_path):
    path = tmp_path / "film.avi"
    picture = ["-f", "lavfi", "-i", "testsrc=s=32x32:r=10:d=2"]
    ffmpeg(*picture, "-itsoffset", "0.8", "-i", wav, "-map", "0", "-map", "1", "-c:a", "mp3", path)
    facts = examine(path)
    assert facts.offset_s == pytest.approx(0.8, abs=1_152 / RATE)  # a frame
    with SongReader(facts) as reader:
        n_samples = sum(map(len, reader.blocks()))
    assert n_samples / RATE == pytest.approx(0.8 + 0.5, abs=3 * 1_152 / RATE)


def test_the_header_of_an_avi_says_when_its_pcm_begins(wav, tmp_path):
    path = tmp_path / "film.avi"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32:r=10:d=2", "-i", wav, "-map", "0", "-map", "1", "-c:a", "copy", path)
    assert examine(path).offset_s == 0
    data = bytearray(path.read_bytes())
    start = data.index(b"auds") + 28  # dwStart, in samples
    data[start : start + 4] = struct.pack("<I", RATE // 2)
    path.write_bytes(data)
    assert examine(path).offset_s == 0.5


@pytest.mark.parametrize("picture_s", [1, 3])
def test_a_wmv_counts_its_length_from_the_beginning_of_the_picture(wav, tmp_path, picture_s):
    picture = ["-f", "lavfi", "-i", f"testsrc=s=32x32:r=10:d={picture_s}"]
    coded = ["-map", 0, "-map", 1, "-c:v", "wmv2", "-c:a", "wmav2"]
    ffmpeg(*picture, "-itsoffset", 0.5, "-i", wav, *coded, tmp_path / "film.wmv")
    with SongReader(examine(tmp_path / "film.wmv")) as reader:
        n_samples = sum(map(len, reader.blocks()))
    assert n_samples == pytest.approx(1.0 * RATE, abs=4_096)
    assert len(reader.notes) == 1
    assert "after the picture" in reader.notes[0]


def write(kind: str, song: Path, path: Path):
    """Write a little silence with a song's tags and cover, and return what ffprobe finds, and the notes."""
    coding = choose_coding(ExtractionSettings(format=kind), sample_rate=RATE, n_channels=2, channel_layout=None)
    attachments = gather(examine(song), coding.format, folder=path.parent)
    with StemWriter(path, coding, attachments=attachments) as writer:
        writer.encode(np.zeros((5_000, 2), np.float32))
        writer.close()
    return probed(path), attachments.notes


@pytest.fixture(scope="module")
def songs_with_covers(wav, tmp_path_factory) -> dict[str, Path]:
    """Songs with a cover of each kind; one has its back cover first. ffmpeg 5 knows no webp: that file is made here."""
    folder = tmp_path_factory.mktemp("covers")
    color = ["-f", "lavfi", "-i", "color=blue:s=48x32"]
    kinds = ("png", "jpg", "bmp", "gif", "webp")
    ffmpeg(*color, *[word for kind in kinds for word in ("-frames:v", 1, folder / f"cover.{kind}")])
    songs = {}
    for kind in kinds[:4]:
        songs[kind] = folder / f"{kind}.mp3"
        ffmpeg("-i", wav, "-i", folder / f"cover.{kind}", "-map", 0, "-map", 1, "-c:v", "copy", songs[kind])
    picture = b"\0image/webp\0\3\0" + (folder / "cover.webp").read_bytes()
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    n_bytes = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    ffmpeg("-i", wav, "-id3v2_version", 0, folder / "bare.mp3")
    songs["webp"] = folder / "webp.mp3"
    songs["webp"].write_bytes(b"ID3\3\0\0" + n_bytes + frame + (folder / "bare.mp3").read_bytes())
    songs["back first"] = folder / "two.mp3"
    ffmpeg(*color, "-vf", "crop=16:16", "-frames:v", 1, folder / "back.png")
    pictures = ["-i", folder / "back.png", "-i", folder / "cover.png", "-map", 0, "-map", 1, "-map", 2, "-c:v", "copy"]
    types = ["-metadata:s:v:0", "comment=Cover (back)", "-metadata:s:v:1", "comment=Cover (front)"]
    ffmpeg("-i", wav, *pictures, *types, songs["back first"])
    return songs


@pytest.mark.parametrize(
    "kind, picture",
    [*(("flac", picture) for picture in ("png", "jpg", "bmp", "gif", "back first")), ("ogg", "gif"), ("mp3", "png")],
)
def test_every_cover_arrives_as_a_front_cover(songs_with_covers, tmp_path, kind, picture):
    found, notes = write(kind, songs_with_covers[picture], tmp_path / f"stem.{FORMATS[kind].extension}")
    (cover,) = [stream for stream in found["streams"] if stream["codec_type"] == "video"]
    assert (cover["width"], cover["height"]) == (48, 32)
    assert cover["codec_name"] == ("mjpeg" if picture == "jpg" else "png")
    assert kind == "m4a" or cover["tags"]["comment"] == "Cover (front)"
    left_out = ("of several pictures one was taken; left out: Cover (back)",)
    assert notes == (left_out if picture == "back first" else ())


def test_a_webp_cover_arrives_as_png_or_is_named_in_a_note(songs_with_covers, tmp_path):
    """Which of both depends on ffmpeg's age."""
    found, notes = write("flac", songs_with_covers["webp"], tmp_path / "stem.flac")
    covers = [stream["codec_name"] for stream in found["streams"] if stream["codec_type"] == "video"]
    assert (covers, len(notes)) in ((["png"], 0), ([], 1))
    assert all("image/webp" in note and "left out" in note for note in notes)


def id3(*pictures: tuple[int, bytes, bytes]) -> bytes:
    """Return a tag of ID3v2.3 with pictures: type, media type, content."""
    bodies = [b"\0" + media + b"\0" + bytes([kind]) + b"\0" + content for kind, media, content in pictures]
    frames = b"".join(b"APIC" + struct.pack(">IH", len(body), 0) + body for body in bodies)
    return b"ID3\3\0\0" + bytes(len(frames) >> shift & 127 for shift in (21, 14, 7, 0)) + frames


@pytest.mark.parametrize(
    "label, content", [("jpeg", "gif"), ("png", "gif"), ("png", "jpg"), ("jpeg", "bmp"), ("jpeg", "webp")]
)
@pytest.mark.parametrize("kind", ["flac", "ogg"])
def test_a_cover_with_another_kind_s_label_arrives(songs_with_covers, tmp_path, kind, label, content):
    """Music players write such files; ffmpeg made no stem at all of some of them."""
    folder, song = songs_with_covers["png"].parent, tmp_path / "song.mp3"
    picture = (3, f"image/{label}".encode(), (folder / f"cover.{content}").read_bytes())
    song.write_bytes(id3(picture) + (folder / "bare.mp3").read_bytes())
    found, notes = write(kind, song, tmp_path / f"stem.{kind}")
    (cover,) = [stream for stream in found["streams"] if stream["codec_type"] == "video"]
    assert (cover["codec_name"], cover["width"], cover["height"]) == ("png", 48, 32)
    assert notes == ()


def test_what_is_no_picture_is_left_out_with_a_note(songs_with_covers, tmp_path):
    song = tmp_path / "song.mp3"
    bare = (songs_with_covers["png"].parent / "bare.mp3").read_bytes()
    song.write_bytes(id3((3, b"image/jpeg", bytes(range(256)))) + bare)
    found, notes = write("flac", song, tmp_path / "stem.flac")
    assert [stream["codec_type"] for stream in found["streams"]] == ["audio"]
    assert "was left out" in notes[0]


@pytest.mark.parametrize(
    "pictures, named",
    [
        ([(4, b"image/png")], ("no picture is the front cover; Cover (back)",)),
        ([(3, b"image/x-bm"), (4, b"image/png")], ("(image/x-bm)", "no picture is the front cover; Cover (back)")),
        ([(4, b"image/png"), (0, b"image/png")], ("left out: Cover (back)",)),
    ],
)
def test_a_picture_that_is_no_front_cover_is_named(songs_with_covers, tmp_path, pictures, named):
    folder, song = songs_with_covers["png"].parent, tmp_path / "song.mp3"
    content = (folder / "cover.png").read_bytes()
    song.write_bytes(id3(*((*picture, content) for picture in pictures)) + (folder / "bare.mp3").read_bytes())
    _, notes = write("flac", song, tmp_path / "stem.flac")
    assert len(notes) == len(named)
    assert all(words in note for words, note in zip(named, notes, strict=True))


@pytest.mark.parametrize("kind, named", [(b"image/x-bm", "image/x-bm"), (b"", "of no type")])
def test_a_cover_of_an_unknown_or_no_type_is_named(songs_with_covers, tmp_path, kind, named):
    data, song = songs_with_covers["webp"].read_bytes(), tmp_path / "song.mp3"
    start = b"\0" + kind + b"\0\3"
    song.write_bytes(data.replace(b"\0image/webp\0\3\0", start.ljust(14, b"\0"), 1))
    _, notes = write("flac", song, tmp_path / "stem.flac")
    assert len(notes) == 1
    assert f"({named})" in notes[0]


def test_a_cover_that_cannot_be_decoded_is_left_out_with_a_note(songs_with_covers, tmp_path):
    data = songs_with_covers["bmp"].read_bytes()
    at = data.index(b"BM") + 14
    song = tmp_path / "song.mp3"
    song.write_bytes(data[:at] + bytes(40) + data[at + 40 :])
    found, notes = write("flac", song, tmp_path / "stem.flac")
    assert [stream["codec_type"] for stream in found["streams"]] == ["audio"]
    assert "bmp" in notes[0]
    assert "was left out" in notes[0]


def test_what_a_message_quotes_of_a_file_can_be_printed(wav, tmp_path):
    song, cover, kind = tmp_path / "song.mka", tmp_path / "cover", "image/xxxx"
    cover.write_bytes(b"no picture")
    attached = ["-attach", cover, "-metadata:s:t", f"mimetype={kind}", "-metadata:s:a:0", "title=yyyy"]
    command = ["ffmpeg", "-v", "error", "-i", wav, "-i", wav, "-map", "0", "-map", "1", *attached, song]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    song.write_bytes(song.read_bytes().replace(b"xxxx", b"\xe9\x1b[m").replace(b"yyyy", b"\xe9\x1b[m"))
    facts = examine(song)
    assert any("image/é [m" in note for note in facts.cover_notes)
    assert facts.notes[0].startswith("track 1 (é [m) was taken")


@pytest.fixture(scope="module")
def broadcast_wav(wav) -> Path:
    fields = b"Sc\xe8ne".ljust(256, b"\0") + b"Recorder".ljust(32, b"\0") + b"REF123".ljust(32, b"\0")
    fields += b"2024-05-06" + b"07:08:09" + struct.pack("<IIH", 123_456, 0, 1) + bytes(254) + HISTORY + b"\0"
    data = wav.read_bytes()
    chunk = b"bext" + struct.pack("<I", len(fields)) + fields
    path = wav.with_name("broadcast.wav")
    path.write_bytes(data[:4] + struct.pack("<I", len(data) + len(chunk) - 8) + data[8:12] + chunk + data[12:])
    return path


@pytest.mark.parametrize("kind", ["wav16", "float"])
def test_a_broadcast_wav_hands_its_fields_on_to_wavs(broadcast_wav, tmp_path, kind):
    write(kind, broadcast_wav, tmp_path / "stem.wav")
    data = (tmp_path / "stem.wav").read_bytes()
    size = struct.unpack("<I", data[data.index(b"bext") + 4 :][:4])[0]
    fields = data[data.index(b"bext") + 8 :][:size]
    texts = [part.rstrip(b"\0") for part in (fields[:256], fields[256:288], fields[288:320], fields[320:338])]
    assert texts == [b"Sc\xe8ne", b"Recorder", b"REF123", b"2024-05-0607:08:09"]
    assert struct.unpack("<Q", fields[338:346]) == (123_456,)
    assert fields[602:].rstrip(b"\0") == HISTORY
    assert soundfile.info(tmp_path / "stem.wav").frames == 5_000


def test_other_wavs_get_no_such_fields(wav, broadcast_wav, tmp_path):
    write("wav16", wav, tmp_path / "stem.wav")
    assert b"bext" not in (tmp_path / "stem.wav").read_bytes()
    found, _ = write("flac", broadcast_wav, tmp_path / "stem.flac")
    assert found["format"]["tags"]["comment"] == "Scène"


def test_a_row_adds_a_format(wav, tmp_path, monkeypatch):
    opus = Format("opus", ("libopus",), rates=(8_000, 12_000, 16_000, 24_000, 48_000), max_channels=8, cover="tag")
    monkeypatch.setitem(FORMATS, "opus", opus)
    settings = ExtractionSettings(format="opus", bitrate_kbps=96)
    outcome = extract_vocals(wav, tmp_path / "out", model=loaded(ConstantMask(0.25)), settings=settings)
    assert any("opus has no 44100 Hz: written at 48000 Hz" in note for note in outcome.notes)
    (stem,) = (tmp_path / "out").rglob("vocals.*")
    assert stem.suffix == ".opus"
    assert probed(stem)["streams"][0]["codec_name"] == "opus"
