"""Decoding one song: its length and channels, damaged files, and a decoder that fails or hangs."""

import functools
import os
import stat
import threading

import numpy as np
import pytest
import soundfile
from musdb_forms import (
    SAMPLE_RATE,
    SONGS,
    VALID_SONG,
    assert_nothing_half_done,
    encode,
    one_song,
    read_song,
)

from vocal_extraction.musdb_preparation import (
    STREAMS,
    PreparationError,
    decoding,
    prepare_musdb,
    song_names,
    sources,
)

prepare = functools.partial(prepare_musdb, progress=False)


# ------------------------------------------------------------------------------------------- length and channels


def test_mixture_sets_the_length_of_all_stems(hq_folder, tmp_path):
    tone = np.full((1_000, 2), 0.25)
    long = np.tile(tone, (200, 1))
    source = one_song(
        hq_folder, tmp_path, mixture=(long[:150_000], SAMPLE_RATE), vocals=(tone, SAMPLE_RATE), bass=(long, SAMPLE_RATE)
    )
    prepare(source, tmp_path)
    song = read_song(tmp_path, "train", "Song")
    assert {len(samples) for samples in song.values()} == {150_000}
    np.testing.assert_array_equal(song["vocals"], np.concatenate((tone, np.zeros((149_000, 2)))))
    np.testing.assert_array_equal(song["bass"], long[:150_000])


def test_mixture_sets_the_length_in_stem_files_too(hq_folder, tmp_path):
    wavs = [hq_folder / "train" / VALID_SONG / f"{stream}.wav" for stream in STREAMS]
    soundfile.write(tmp_path / "short.wav", np.full((20_000, 2), 0.25), SAMPLE_RATE)
    soundfile.write(tmp_path / "long.wav", np.full((120_000, 2), 0.25), SAMPLE_RATE)
    encode([*wavs[:3], tmp_path / "long.wav", tmp_path / "short.wav"], tmp_path / "train" / "Song.stem.mp4")
    prepare(tmp_path, tmp_path)
    song = read_song(tmp_path, "train", "Song")
    assert len({len(samples) for samples in song.values()}) == 1
    assert len(song["mixture"]) == pytest.approx(1.7 * SAMPLE_RATE, abs=2_048)  # two AAC frames
    assert np.abs(song["vocals"][25_000:]).max() == 0
    assert song["other"][-10_000:].mean() == pytest.approx(0.25, abs=0.01)


def test_mono_goes_into_both_channels_at_its_own_level(hq_folder, tmp_path):
    mono = np.full(74_970, 0.25)
    prepare(one_song(hq_folder, tmp_path / "wav", vocals=(mono, SAMPLE_RATE)), tmp_path / "from-wav")
    wavs = [tmp_path / "wav" / "train" / "Song" / f"{stream}.wav" for stream in STREAMS]
    encode(wavs, tmp_path / "mp4" / "train" / "Song.stem.mp4")
    prepare(tmp_path / "mp4", tmp_path / "from-mp4")
    for folder in ("from-wav", "from-mp4"):
        vocals = read_song(tmp_path / folder, "train", "Song")["vocals"]
        np.testing.assert_array_equal(vocals[:, 0], vocals[:, 1])
        assert vocals[10_000:60_000].mean() == pytest.approx(0.25, abs=0.005)  # AAC is not exact


def test_samples_beyond_full_scale_are_kept(hq_folder, tmp_path):
    prepare(one_song(hq_folder, tmp_path, drums=(np.full((74_970, 2), -1.5), SAMPLE_RATE)), tmp_path)
    assert read_song(tmp_path, "train", "Song")["drums"].min() == -1.5


def test_songs_of_other_rates_are_resampled(hq_folder, tmp_path):
    tone = np.full((48_000, 2), 0.25)
    prepare(one_song(hq_folder, tmp_path, **dict.fromkeys(STREAMS, (tone, 48_000))), tmp_path)
    vocals = read_song(tmp_path, "train", "Song")["vocals"]
    assert len(vocals) == pytest.approx(SAMPLE_RATE, abs=100)
    np.testing.assert_allclose(vocals[1_000:-1_000], 0.25, atol=1e-3)


# ------------------------------------------------------------------------------------------------- damaged songs


def damaged_stem_file(stem_file, coded_folder, hq_folder, damage):
    whole = (coded_folder / "train" / f"{VALID_SONG}.stem.mp4").read_bytes()
    if damage == "three streams":
        encode([hq_folder / "train" / VALID_SONG / f"{stream}.wav" for stream in STREAMS[:3]], stem_file)
    else:
        stem_file.write_bytes(
            {
                "cut": whole[: len(whole) // 2],
                "playlist": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
            }[damage]
        )


@pytest.mark.parametrize(
    "damage, reason",
    [
        ("cut", "truncated or damaged"),
        ("playlist", "truncated or damaged"),
        ("three streams", "does not hold 5 audio streams"),
    ],
)
def test_damaged_stem_file_is_named_and_the_others_are_decoded(coded_folder, hq_folder, tmp_path, damage, reason):
    source = tmp_path / "source"
    (source / "train").mkdir(parents=True)
    (source / "test").symlink_to(coded_folder / "test")
    damaged_stem_file(source / "train" / "Bad - Song.stem.mp4", coded_folder, hq_folder, damage)
    with pytest.raises(PreparationError, match=rf"Bad - Song.stem.mp4 cannot be decoded: it .*{reason}"):
        prepare(source, tmp_path / "dataset")
    assert song_names("test", tmp_path / "dataset") == SONGS["test"]
    assert_nothing_half_done(tmp_path / "dataset")


def damaged_wav(wav, hq_folder, damage):
    vocals, _ = soundfile.read(hq_folder / "train" / VALID_SONG / "vocals.wav")
    if damage == "cut":
        soundfile.write(wav, vocals, SAMPLE_RATE)
        os.truncate(wav, wav.stat().st_size // 2)
    elif damage == "text":
        wav.write_text("not audio at all")
    elif damage == "not a number":
        vocals[500, 1] = np.nan
        soundfile.write(wav, vocals, SAMPLE_RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    "damage, complaint",
    [
        ("cut", r"vocals.wav is truncated: its header declares \d+ bytes, it has \d+"),
        ("text", "vocals.wav cannot be read"),
        ("not a number", "The song Song holds samples that are not numbers"),
    ],
)
def test_damaged_wav_is_named(hq_folder, tmp_path, damage, complaint):
    source = one_song(hq_folder, tmp_path / "source")
    vocals = source / "train" / "Song" / "vocals.wav"
    vocals.unlink()
    damaged_wav(vocals, hq_folder, damage)
    with pytest.raises(PreparationError, match=complaint):
        prepare(source, tmp_path / "dataset")
    assert_nothing_half_done(tmp_path / "dataset")


def test_empty_mixture_is_named(hq_folder, tmp_path):
    source = one_song(hq_folder, tmp_path / "source", mixture=(np.zeros((0, 2)), SAMPLE_RATE))
    with pytest.raises(PreparationError, match=r"The mixture of .*Song is empty|Song cannot be decoded"):
        prepare(source, tmp_path / "dataset")


# --------------------------------------------------------------------------------------------------------- ffmpeg


@pytest.fixture
def replace_ffmpeg(tmp_path, monkeypatch):
    """Return a function that puts a shell script in ffmpeg's place; None takes ffmpeg away."""

    def replace(script):
        folder = tmp_path / "programs"
        folder.mkdir()
        if script is not None:
            program = folder / "ffmpeg"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))

    return replace


def test_missing_ffmpeg_is_named_once(coded_folder, tmp_path, replace_ffmpeg):
    replace_ffmpeg(None)
    with pytest.raises(PreparationError, match=r"ffmpeg, which was not found on the PATH\. Install it"):
        prepare(coded_folder, tmp_path / "coded")


@pytest.mark.parametrize(
    "script, limit_s, complaint",
    [
        ("exec /bin/sleep 60", 0.2, r"ffmpeg stood still for 0\.2 s"),
        ("exit 3", 60.0, "it ended with status 3"),
        ("echo '[mov] Everything is wrong.' >&2; exit 1", 60.0, "ffmpeg says: Everything is wrong"),
        ("exit 0", 60.0, "is empty"),
    ],
)
def test_failing_ffmpeg_is_reported(coded_folder, tmp_path, monkeypatch, replace_ffmpeg, script, limit_s, complaint):
    replace_ffmpeg(script)
    monkeypatch.setattr("vocal_extraction.audio_files.ffmpeg.STANDSTILL_S", limit_s)
    with pytest.raises(PreparationError, match=complaint):
        prepare(coded_folder, tmp_path / "dataset")
    assert_nothing_half_done(tmp_path / "dataset")


def test_decoding_stops_when_it_is_told_to(coded_folder):
    stop = threading.Event()
    stop.set()
    song = sources.Song("A", "test", (coded_folder / "test" / "A.B. - C.D..stem.mp4",))
    with pytest.raises(PreparationError, match="A was not decoded, since the preparation was stopped"):
        list(decoding.song_blocks(song, stop))
