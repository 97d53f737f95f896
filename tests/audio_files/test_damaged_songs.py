"""Songs that are damaged, joined or followed by something else: whole or truncated, and where sound is missing."""

import functools
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from extraction_models import ConstantMask, loaded, music

from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.audio_files.ffmpeg import message_lines
from vocal_extraction.audio_files.integrity import Gap, fill_gaps
from vocal_extraction.audio_files.probing import examine
from vocal_extraction.audio_files.stem_conversion import convert_stems
from vocal_extraction.errors import DamagedSongError, SongTooLongError
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.separation.disk_array import DiskArray

RATE = 44_100
DURATION_S = 4.0
CODECS = {
    "wav": ["-c:a", "pcm_s16le"],
    "flac": [],
    "mp3": ["-b:a", "128k"],
    "ogg": ["-c:a", "libvorbis"],
    "opus": [],
    "aac": [],
    "ac3": [],
    "m4a": [],
    "webm": ["-c:a", "libopus"],
    "wv": [],
    "wma": [],
    "tta": [],
    "caf": ["-c:a", "pcm_s16le"],
    "avi": ["-c:a", "libmp3lame"],
    "w64": ["-c:a", "pcm_s16le"],
    "dts": ["-c:a", "dca", "-strict", "-2"],
    "thd": ["-c:a", "truehd", "-strict", "-2"],
    "voc": [],
    "ts": ["-c:a", "mp2"],
    "mpg": ["-c:a", "mp2"],
}


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> dict[str, Path]:
    """One song in many formats, all coded by one ffmpeg, and two mp3s that do not declare their length."""
    folder = tmp_path_factory.mktemp("songs")
    soundfile.write(folder / "song.wav", music(DURATION_S).T, RATE, subtype="PCM_16")
    coded = {ending: folder / f"song.{ending}" for ending in CODECS if ending != "wav"}
    outputs = [word for ending, path in coded.items() for word in (*CODECS[ending], path)]
    endless = ["-b:a", "128k", "-write_xing", "0", folder / "endless.mp3"]
    variable = ["-q:a", "5", "-write_xing", "0", folder / "variable.mp3"]
    others = ["-c:a", "alac", folder / "alac.caf", "-c:a", "libmp3lame", "-b:a", "128k", folder / "mp3.wav"]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", folder / "song.wav", *outputs, *endless, *variable, *others]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    named = {name: folder / f"{name}.mp3" for name in ("endless", "variable")}
    return {**coded, **named, "wav": folder / "song.wav", "alac": folder / "alac.caf", "riff": folder / "mp3.wav"}


def changed(song, tmp_path, change) -> Path:
    path = tmp_path / f"changed{song.suffix}"
    path.write_bytes(change(song.read_bytes()))
    return path


def zeroed(data, *, n_bytes=500):
    middle = len(data) // 2
    return data[:middle] + bytes(n_bytes) + data[middle + n_bytes :]


def read(path, **options):
    """Return a song with its gaps filled, (n_samples, n_channels), and its notes."""
    with SongReader(examine(path), **options) as reader, DiskArray((reader.n_channels,)) as song:
        for block in reader.blocks():
            song.append(block)
        fill_gaps(song, reader.gaps)
        return np.array(song[0 : len(song)]), reader.notes


@pytest.fixture(scope="module")
def undamaged(songs):
    """A function that returns what `read` does of an undamaged song, each read once."""
    return functools.cache(lambda ending: read(songs[ending]))


@pytest.mark.parametrize("ending", [*CODECS, "endless", "variable", "alac", "riff"])
def test_an_undamaged_song_has_no_notes(undamaged, ending):
    assert undamaged(ending)[1] == []


def test_frames_of_an_aac_that_ffmpeg_passes_over_without_a_word_leave_silence(songs, undamaged, tmp_path):
    whole, _ = undamaged("aac")
    data, starts = songs["aac"].read_bytes(), [0]
    while starts[-1] < len(data):  # ISO/IEC 13818-7: the length of a frame is in its header
        third, fourth, fifth = data[starts[-1] + 3 : starts[-1] + 6]
        starts.append(starts[-1] + ((third & 3) << 11 | fourth << 3 | fifth >> 5))
    first, last = starts[80], starts[82]
    path = changed(songs["aac"], tmp_path, lambda data: data[:first] + bytes(last - first) + data[last:])
    samples, notes = read(path)
    assert len(samples) == len(whole)
    rest, expected = samples[90 * 1_024 :], whole[90 * 1_024 :]  # the same but for noise, which the decoder draws
    assert np.var(rest - expected) < 0.2 * np.var(expected) < np.var(np.roll(rest, 2_048, axis=0) - expected)
    assert "46 ms at" in notes[0]


def test_an_aac_of_one_frame_that_begins_within_another_is_taken(songs, tmp_path):
    """ffprobe gives none of its frames a time."""
    samples, _ = read(changed(songs["aac"], tmp_path, lambda data: data[data.rindex(b"\xff\xf1") - 50 :]))
    assert len(samples) == 1_024


@pytest.mark.parametrize("ending, sign", [("endless", "its last frame is not whole"), ("w64", "its header declares")])
def test_a_frame_that_is_cut_is_seen_without_a_declared_length(songs, tmp_path, ending, sign):
    with pytest.raises(DamagedSongError, match=sign):
        read(changed(songs[ending], tmp_path, lambda data: data[:-100]))


@pytest.mark.parametrize("ending", ["mp3", "endless", "flac", "ogg", "opus", "aac", "ac3", "webm"])
def test_files_that_were_joined_are_taken_together(songs, undamaged, tmp_path, ending):
    once, _ = undamaged(ending)
    twice, notes = read(changed(songs[ending], tmp_path, lambda data: data + data))
    assert len(twice) == pytest.approx(2 * len(once), abs=2 * 1_152 + 1_105)
    assert not any("sound is missing" in note for note in notes)


ZEROS, ID3V1 = bytes(100_000), b"TAG" + b"x" * 125


@pytest.mark.parametrize(
    "ending, junk",
    [(ending, ZEROS) for ending in ("mp3", "endless", "flac", "ogg", "opus", "aac", "webm", "m4a", "wv", "wav")]
    + [(ending, junk) for ending in ("mp3", "endless", "flac", "aac") for junk in (ID3V1, b"\0")],
)
def test_what_follows_a_song_does_not_make_it_damaged(songs, undamaged, tmp_path, ending, junk):
    whole, _ = undamaged(ending)
    followed, notes = read(changed(songs[ending], tmp_path, lambda data: data + junk))
    assert len(whole) - 1_600 <= len(followed) <= len(whole) + 1_152 + 1_105
    assert not any("sound is missing" in note or "Error" in note or "file:" in note for note in notes)


def test_an_ape_tag_behind_an_mp3_is_no_damage(songs, tmp_path):
    item = struct.pack("<II", 4, 0) + b"Title\0Song"
    footer = b"APETAGEX" + struct.pack("<IIII", 2_000, len(item) + 32, 1, 0) + bytes(8)
    _, notes = read(changed(songs["mp3"], tmp_path, lambda data: data + item + footer))
    assert not any("sound is missing" in note or "truncated" in note for note in notes)


@pytest.mark.parametrize(
    "ending",
    ["mp3", "endless", "variable", "flac", "ogg", "opus", "aac", "ac3", "m4a", "avi", "wv", "dts", "riff", "thd", "ts"],
)
def test_what_follows_a_gap_keeps_its_place(songs, undamaged, tmp_path, ending):
    whole, _ = undamaged(ending)
    damaged, notes = read(changed(songs[ending], tmp_path, zeroed))
    (note,) = notes
    assert note.startswith("damaged, but decoded to its end: silence stands where sound is missing: ")
    assert " ms at " in note
    n = min(len(whole), len(damaged))
    guessed = {"aac": 2_048, "thd": 80}  # of these without a container, the number of frames, two of which are so long
    assert n >= len(whole) - guessed.get(ending, 10)
    last = slice(n - 20_000, n - 5_000)
    if ending not in guessed:  # decoders of aac and ac3 add noise of their own
        difference = damaged[last] - whole[last]
        assert np.square(difference).mean() < 0.03 * np.square(whole[last]).mean()


@pytest.mark.parametrize("codec", ["libmp3lame", "pcm_s16le"])
def test_chunks_of_a_film_that_only_the_index_of_an_avi_knows_leave_silence(songs, tmp_path, codec):
    """Zeros over the headers of chunks, which ffmpeg passes over without a word; chunks that have moved are there."""
    film = tmp_path / "film.avi"
    inputs = ["-f", "lavfi", "-i", f"testsrc=s=32x32:r=10:d={DURATION_S}", "-i", songs["wav"]]
    command = ["ffmpeg", "-v", "error", *inputs, "-map", "0", "-map", "1", "-c:a", codec, film]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    whole, notes = read(film)
    assert notes == []
    damaged, (note,) = read(changed(film, tmp_path, lambda data: zeroed(data, n_bytes=20_000)))
    assert note.startswith("damaged, but decoded to its end")
    assert len(damaged) == len(whole)
    np.testing.assert_allclose(damaged[-20_000:], whole[-20_000:], atol=1e-3)
    moved, _ = read(
        changed(film, tmp_path, lambda data: data[: len(data) // 2] + bytes(3_000) + data[len(data) // 2 :])
    )
    assert abs(len(moved) - len(whole)) <= 4_096


def test_the_note_says_where_sound_is_missing_and_how_much(songs, tmp_path):
    """Zeros over two frames of an mp3."""
    _, (note,) = read(changed(songs["mp3"], tmp_path, zeroed))
    place_s = float(note.split(" ms at ")[1].split(" s")[0])
    assert place_s == pytest.approx(DURATION_S / 2, abs=0.1)
    assert float(note.split("missing: ")[1].split(" ms")[0]) in (52, 78)
    assert "Header missing" in note


def test_frames_that_were_taken_out_are_counted_by_what_the_mp3_declares(songs, undamaged, tmp_path):
    whole, _ = undamaged("mp3")
    shorter = changed(songs["mp3"], tmp_path, lambda data: data[: len(data) // 2] + data[len(data) // 2 + 5_000 :])
    damaged, notes = read(shorter)
    assert "missing" in notes[0]
    assert len(whole) <= len(damaged) <= len(whole) + 1_152
    np.testing.assert_allclose(damaged[120_000:160_000], whole[120_000:160_000], atol=1e-3)


def test_what_was_put_between_frames_leaves_no_more_silence_than_frames_are_missing(songs, undamaged, tmp_path):
    whole, _ = undamaged("mp3")
    junk = np.random.default_rng(0).bytes(3_000)
    damaged, notes = read(changed(songs["mp3"], tmp_path, lambda data: data[:30_000] + junk + data[30_000:]))
    assert "missing" in notes[0]
    np.testing.assert_allclose(damaged[120_000:160_000], whole[120_000:160_000], atol=1e-3)


def test_a_tta_whose_frame_has_another_checksum_gets_a_note(songs, tmp_path):
    (note,) = read(changed(songs["tta"], tmp_path, zeroed))[1]
    assert "not all in the file can be read" in note


def test_a_flac_is_compared_with_its_checksum(songs, tmp_path):
    wrong_sum = changed(songs["flac"], tmp_path, lambda data: data[:26] + bytes(15) + b"\1" + data[42:])
    _, (note,) = read(wrong_sum)
    assert "MD5" in note
    no_sum = changed(songs["flac"], tmp_path, lambda data: data[:26] + bytes(16) + data[42:])
    assert read(no_sum)[1] == []


def test_a_frame_of_a_flac_whose_own_checksum_is_wrong_is_named(songs, tmp_path):
    """ffmpeg complains of the frame, and decodes it all the same."""
    turned = lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]  # noqa: E731
    assert "MD5" in read(changed(songs["flac"], tmp_path, turned))[1][-1]


def test_frames_of_vorbis_whose_times_are_late_for_a_moment_are_no_gaps(tmp_path):
    """Those of drum hits, which are shorter."""
    hits = music(DURATION_S) * 0.01
    hits[:, 20_000::17_011] = 0.9
    soundfile.write(tmp_path / "song.wav", hits.T, RATE)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "song.wav", "-c:a", "libvorbis", tmp_path / "song.ogg"]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    followed = changed(tmp_path / "song.ogg", tmp_path, lambda data: data + ZEROS)
    (note,) = read(followed)[1]
    assert note.startswith("decoded to its end, though not all in the file can be read (ffmpeg: ")


def test_a_last_page_that_is_not_whole_shows_where_an_ogg_was_cut(songs, tmp_path):
    for ending in ("ogg", "opus"):
        with pytest.raises(DamagedSongError, match="its last page is missing"):
            read(changed(songs[ending], tmp_path, lambda data: data[:-1]))


@pytest.mark.parametrize("subtype, n_channels", [("PCM_S8", 1), ("PCM_24", 2), ("PCM_16", 6)])
def test_checksums_of_all_kinds_of_flac_are_right(tmp_path, subtype, n_channels):
    path = tmp_path / "song.flac"
    soundfile.write(path, music(0.3, n_channels=n_channels).T, RATE, subtype=subtype)
    tagged = tmp_path / "tagged.flac"
    tagged.write_bytes(b"ID3\4\0\0\0\0\0\4" + bytes(4) + path.read_bytes())
    assert read(path)[1] == read(tagged)[1] == []
    data = bytearray(path.read_bytes())
    data[41] ^= 1
    path.write_bytes(data)
    assert "MD5" in read(path)[1][0]


ENDINGS = sorted(CODECS.keys() - {"opus", "m4a", "dts", "ts", "mpg"} | {"riff"})


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_last_frame_that_is_not_whole_shows_where_a_song_was_cut(songs, tmp_path, ending):
    cut = changed(songs[ending], tmp_path, lambda data: data[: int(len(data) * 0.605)])
    with pytest.raises(DamagedSongError, match="--keep-partial"):
        read(cut)
    song, notes = read(cut, keep_partial=True)
    assert 0.5 * DURATION_S * RATE <= len(song) < 0.75 * 48_000 * DURATION_S
    assert "as far as it decodes" in notes[0]


@pytest.mark.parametrize("ending", ["ts", "mpg"])
def test_a_stream_that_is_cut_within_a_packet_gets_a_note(songs, tmp_path, ending):
    """Recordings of broadcasts begin and end anywhere, so they are not refused; ffmpeg only warns."""
    (note,) = read(changed(songs[ending], tmp_path, lambda data: data[: int(len(data) * 0.605)]))[1]
    assert note.startswith("decoded to its end, though not all in the file can be read (ffmpeg: P")


def test_of_warnings_those_of_damage_count():
    """The first file has a TrueHD frame that is wrong and has no error, the second is a wav from a pipe, and whole."""
    damaged = "[truehd @ 0x5] [warning] Lossless check failed - expected 30, calculated ae."
    whole = "[wav @ 0x5] [warning] Packet corrupt (stream = 0, dts = NOPTS)."
    assert message_lines(f"{whole}\n{damaged}\n") == ["Lossless check failed - expected 30, calculated ae."]


def test_an_mp3_without_a_declared_length_is_cut_off_where_its_last_frame_is_not_whole(songs, tmp_path):
    """The decoder notices where the bytes that are missing make a difference."""

    def is_refused(n_bytes):
        try:
            read(changed(songs["endless"], tmp_path, lambda data: data[:-n_bytes]))
        except DamagedSongError:
            return True
        return False

    assert any(is_refused(n_bytes) for n_bytes in range(250, 410, 20))


def test_wavs_with_odd_chunks_and_with_more_behind_the_samples_are_whole(songs, undamaged, tmp_path):
    def with_chunks(data):
        odd = b"junk" + struct.pack("<I", 3) + b"abc\0"
        data = data[:12] + odd + data[12:] + b"LIST" + struct.pack("<I", 4) + b"adtl"
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]

    whole, _ = undamaged("wav")
    for change in (with_chunks, lambda data: data + os.urandom(3_333)):
        song, notes = read(changed(songs["wav"], tmp_path, change))
        np.testing.assert_array_equal(song, whole)
        assert notes == []


def test_stems_of_a_damaged_song_are_as_long_as_the_song(songs, tmp_path):
    damaged = changed(songs["flac"], tmp_path, zeroed)
    outcome = extract_vocals(damaged, tmp_path / "out", model=loaded(ConstantMask(0.25)))
    assert outcome.duration_s == pytest.approx(DURATION_S)
    assert any("sound is missing" in note for note in outcome.notes)
    with pytest.raises(SongTooLongError):
        extract_vocals(damaged, tmp_path / "short", model=loaded(ConstantMask(0.25)), longest_s=DURATION_S - 0.01)


def test_a_stem_with_a_gap_is_refused(songs, tmp_path):
    """Songs of one's own for training; the stems would no longer fit together."""
    damaged = changed(songs["mp3"], tmp_path, zeroed)
    with pytest.raises(DamagedSongError, match=r"changed\.mp3 is damaged, but .* sound is missing"):
        convert_stems([songs["flac"], damaged], [tmp_path / "a.wav", tmp_path / "b.wav"])
    assert [path.name for path in tmp_path.iterdir()] == ["changed.mp3"]


@pytest.mark.parametrize("n_samples", [10, 200_000])
def test_gaps_are_filled_from_the_last_to_the_first(n_samples):
    samples = np.arange(1, n_samples + 1, dtype=np.float32)[:, None]
    with DiskArray((1,)) as song:
        song.append(samples)
        fill_gaps(song, [Gap(2, 3), Gap(5, 100_000), Gap(n_samples, 1)])
        zeros = np.zeros((100_000, 1), np.float32)
        expected = [samples[:2], zeros[:3], samples[2:5], zeros, samples[5:], zeros[:1]]
        np.testing.assert_array_equal(song[0 : len(song)], np.concatenate(expected))


@pytest.fixture(scope="module")
def film(songs, tmp_path_factory) -> Path:
    """A film of H.264, whose decoder says much of damage, and of the song."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    picture = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=4"]
    command = ["ffmpeg", "-nostdin", "-v", "error", *picture, "-i", songs["wav"], "-c:v", "libx264", path]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    return path


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_damage_to_a_picture_is_none_to_its_sound(film, tmp_path, ending):
    path = tmp_path / f"noise.{ending}"
    options = ["-c", "copy"] if ending == "mkv" else ["-c:v", "copy", "-c:a", "aac"]
    noise = ["-bsf:v", "noise=amount=20", path]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", film, *options, *noise]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    assert read(path)[1] == []


def test_a_packet_that_is_lost_from_a_picture_is_no_note(film, tmp_path):
    path = tmp_path / "film.ts"
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", film, "-c:v", "mpeg2video", "-c:a", "aac", path]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    pictures = [i for i, packet in enumerate(packets) if packet[1] & 0x1F == 1 and packet[2] == 0]  # PID 256
    lost = set(pictures[50::100])
    path.write_bytes(b"".join(packet for i, packet in enumerate(packets) if i not in lost))
    messages = subprocess.run(["ffmpeg", "-v", "warning", "-i", path, "-f", "null", "-"], capture_output=True).stderr
    assert b"Packet corrupt (stream = 0" in messages
    assert read(path)[1] == []


def test_pcm_in_a_film_of_mpeg_has_no_exact_length(songs, tmp_path):
    path = tmp_path / "dvd.vob"
    picture = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=5"]
    sound = ["-c:a", "pcm_s16be", "-ar", "48000", "-c:v", "mpeg2video", path]
    command = ["ffmpeg", "-nostdin", "-v", "quiet", *picture, "-i", songs["wav"], *sound]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    assert read(path)[1] == []


def test_a_message_is_counted_by_its_first_line():
    warning = "[h264 @ 0x5] [warning] Could not find parameters\nConsider increasing the value\n"
    assert message_lines(f"{warning}[mp3 @ 0x5] [error] Header\nmissing\n") == ["Header", "missing"]
    assert message_lines("the end of a warning\n[h264 @ 0x5] [error] no frame!\n", others=["h264"]) == []


def test_what_is_behind_a_flac_whose_checksum_is_right_is_no_damage(songs, tmp_path):
    assert read(changed(songs["flac"], tmp_path, lambda data: data + ID3V1))[1] == []
