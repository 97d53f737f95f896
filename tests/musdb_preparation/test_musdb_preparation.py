"""Preparation as a whole: layout, second runs, interruptions, bad sources; on made songs and a few real ones."""

import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from musdb_forms import (
    COUNTS,
    SAMPLE_RATE,
    SONGS,
    VALID_SONG,
    assert_nothing_half_done,
    contents,
    one_song,
    read_song,
)

from vocal_extraction import musdb_preparation
from vocal_extraction.atomic_files import StorageError
from vocal_extraction.musdb_preparation import (
    STREAMS,
    SUBSETS,
    PreparationError,
    prepare_musdb,
    prepared_length,
    song_names,
    song_paths,
    sources,
)
from vocal_extraction.settings import PROJECT_FOLDER, STEMS
from vocal_extraction.tracks import prepare_if_needed

N_SONGS = 6
prepare = functools.partial(prepare_musdb, progress=False)


# ------------------------------------------------------------------------------------------------------- layout


def test_hq_wavs_become_the_layout_sample_by_sample(hq_folder, tmp_path):
    assert prepare(hq_folder, tmp_path) == COUNTS
    assert song_names("valid", tmp_path) == [VALID_SONG]
    assert song_names("train", tmp_path) == sorted(SONGS["train"][1:])
    for subset in SUBSETS:
        assert list((tmp_path / subset / "background").iterdir()) == []
        assert sorted(folder.name for folder in (tmp_path / subset / "foreground").iterdir()) == list(STEMS)
    for stream, samples in read_song(tmp_path, "test", "A.B. - C.D.").items():
        original, _ = soundfile.read(hq_folder / "test" / "A.B. - C.D." / f"{stream}.wav")
        np.testing.assert_array_equal(samples, original)
    info = soundfile.info(tmp_path / "valid" / "foreground" / "vocals" / f"{VALID_SONG}.wav")
    assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 2, "FLOAT")


def assert_equal_to_musdb(source, dataset_folder):
    """Compare with what the `musdb` package decodes, which rounds to 16 bits and cuts at full scale."""
    import musdb

    for subset, which in {"train": ("train", "train"), "valid": ("train", "valid"), "test": ("test", None)}.items():
        tracks = musdb.DB(root=str(source), subsets=which[0], split=which[1]).tracks
        assert sorted(track.name for track in tracks) == song_names(subset, dataset_folder)
        for track in tracks:
            ours = np.stack(list(read_song(dataset_folder, subset, track.name).values()))
            clipped = np.clip(ours, -1, 1 - 2**-15)
            assert np.abs(clipped - track.stems).max() <= 0.5001 * 2**-15  # half a step of 16 bits


def test_stem_files_decode_to_what_musdb_decodes(coded_folder, tmp_path):
    for path in (f"train/{VALID_SONG}.stem.mp4", "test/A.B. - C.D..stem.mp4"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).symlink_to(coded_folder / path)
    assert prepare(tmp_path, tmp_path) == {"train": 0, "valid": 1, "test": 1}
    assert_equal_to_musdb(tmp_path, tmp_path)


def test_real_songs_decode_to_what_musdb_decodes(musdb_path, tmp_path):
    chosen = sorted((musdb_path / "test").glob("*.stem.mp4"))[:1]
    for path in chosen:
        link = tmp_path / "source" / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    assert prepare(tmp_path / "source", tmp_path / "dataset") == {"train": 0, "valid": 0, "test": 1}
    assert_equal_to_musdb(tmp_path / "source", tmp_path / "dataset")


def test_song_in_both_forms_is_taken_from_its_wavs(hq_folder, coded_folder, tmp_path):
    for folder in (hq_folder / "test", coded_folder / "test"):
        for entry in folder.iterdir():
            (tmp_path / "source" / "test" / entry.name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / "test" / entry.name).symlink_to(entry)
    assert prepare(tmp_path / "source", tmp_path / "dataset")["test"] == 1
    vocals = read_song(tmp_path / "dataset", "test", "A.B. - C.D.")["vocals"]
    np.testing.assert_array_equal(vocals, soundfile.read(hq_folder / "test" / "A.B. - C.D." / "vocals.wav")[0])


def test_source_may_have_a_folder_of_valid_songs(hq_folder, tmp_path, caplog):
    one_song(hq_folder, tmp_path / "source")
    assert prepare(tmp_path / "source", tmp_path / "dataset") == {"train": 1, "valid": 0, "test": 0}
    assert "there are no valid songs" in caplog.text
    (tmp_path / "source" / "train").rename(tmp_path / "source" / "valid")
    assert prepare(tmp_path / "source", tmp_path / "dataset") == {"train": 1, "valid": 1, "test": 0}


def test_hidden_files_are_no_songs(coded_folder, tmp_path):
    source = tmp_path / "source" / "test"
    source.mkdir(parents=True)
    (source / "A.stem.mp4").symlink_to(coded_folder / "test" / "A.B. - C.D..stem.mp4")
    (source / "._A.stem.mp4").write_bytes(b"what macOS leaves on other people's disks")
    (source / ".DS_Store").mkdir()
    (source / "README.md").write_text("not a song")
    assert prepare(tmp_path / "source", tmp_path / "dataset")["test"] == 1


# ------------------------------------------------------------------------------------------------- second run


def test_second_run_decodes_nothing(coded_folder, tmp_path, monkeypatch):
    prepare(coded_folder, tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(musdb_preparation, "song_blocks", lambda *_: pytest.fail("a song was decoded twice"))
    monkeypatch.setenv("PATH", "")  # nor is ffmpeg asked for
    assert prepare(coded_folder, tmp_path) == COUNTS
    assert contents(tmp_path) == before


def test_dataset_that_is_prepared_needs_no_source(hq_folder, tmp_path, monkeypatch):
    source = one_song(hq_folder, tmp_path / "source")
    prepare(source, tmp_path)
    source.rename(tmp_path / "unplugged")
    monkeypatch.setattr(musdb_preparation, "download_sample", lambda *_: pytest.fail("downloaded for nothing"))
    assert prepare(None, tmp_path) == {"train": 1, "valid": 0, "test": 0}


def test_what_is_missing_is_prepared_from_the_folder_that_was_named_before(hq_folder, tmp_path, monkeypatch):
    """After ``evaluate --limit 1 --musdb-path X``, a plain ``train`` must find its songs."""
    monkeypatch.setattr(musdb_preparation, "download_sample", lambda *_: pytest.fail("downloaded for nothing"))
    assert prepare(hq_folder, tmp_path / "dataset", subset="test", limit=1) == {"train": 0, "valid": 0, "test": 1}
    prepare_if_needed(tmp_path / "dataset")
    assert {subset: len(song_names(subset, tmp_path / "dataset")) for subset in SUBSETS} == COUNTS


def test_songs_that_left_the_source_stay(hq_folder, tmp_path):
    source = one_song(hq_folder, tmp_path / "source")
    prepare(source, tmp_path / "dataset")
    (source / "train" / "Song").rename(source / "train" / "Renamed")
    assert prepare(source, tmp_path / "dataset")["train"] == 2


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_song_that_lacks_a_file_is_decoded_again(hq_folder, tmp_path, damage):
    source = one_song(hq_folder, tmp_path / "source")
    prepare(source, tmp_path / "dataset")
    before = contents(tmp_path / "dataset")
    bass = song_paths(tmp_path / "dataset", "train", "Song")["bass"]
    if damage == "missing":
        bass.unlink()
        assert song_names("train", tmp_path / "dataset") == []
    else:
        os.truncate(bass, 5_000)
    assert prepare(source, tmp_path / "dataset")["train"] == 1
    assert contents(tmp_path / "dataset") == before


def test_full_songs_take_the_place_of_excerpts_of_the_same_name(hq_folder, tmp_path):
    excerpt = np.full((1_000, 2), 0.25)
    excerpts = one_song(hq_folder, tmp_path / "7s", **dict.fromkeys(STREAMS, (excerpt, SAMPLE_RATE)))
    prepare(excerpts, tmp_path / "dataset")
    assert prepared_length(tmp_path / "dataset", "train", "Song") == 1_000
    prepare(one_song(hq_folder, tmp_path / "full"), tmp_path / "dataset")
    assert prepared_length(tmp_path / "dataset", "train", "Song") == round(1.7 * SAMPLE_RATE)


@pytest.mark.parametrize("nonsense", ["{", '{"train/Song": "many"}'])
def test_unreadable_record_does_no_harm(hq_folder, tmp_path, nonsense):
    (tmp_path / "sources.json").write_text(nonsense)
    prepare(one_song(hq_folder, tmp_path), tmp_path)
    assert json.loads((tmp_path / "sources.json").read_text())["train/Song"] > 0


# ------------------------------------------------------------------------------------------------ interruptions


def start_preparation(source, dataset_folder):
    program = (
        "import sys\n"
        "from vocal_extraction.musdb_preparation import prepare_musdb\n"
        "prepare_musdb(*sys.argv[1:], n_workers=1, progress=False)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, source, dataset_folder], cwd=PROJECT_FOLDER, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def many_songs(coded_folder, tmp_path_factory):
    """Links to one stem file."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "test").mkdir()
    for number in range(N_SONGS):
        (folder / "test" / f"Song {number:02d}.stem.mp4").symlink_to(coded_folder / "test" / "A.B. - C.D..stem.mp4")
    return folder


def wait_for_songs(dataset_folder, process, n_songs):
    while len(song_names("test", dataset_folder)) < n_songs and process.poll() is None:
        time.sleep(0.01)


def test_song_that_was_being_replaced_when_everything_ended_is_decoded_again(hq_folder, tmp_path, monkeypatch):
    """Else its excerpt would pass for the full song, since both have the same name."""
    excerpt = np.full((1_000, 2), 0.25)
    excerpts = one_song(hq_folder, tmp_path / "7s", **dict.fromkeys(STREAMS, (excerpt, SAMPLE_RATE)))
    prepare(excerpts, tmp_path / "dataset")
    full = one_song(hq_folder, tmp_path / "full")
    record = tmp_path / "dataset" / "sources.json"
    with monkeypatch.context() as ended:
        ended.setattr(musdb_preparation, "song_blocks", lambda *_: iter(()))
        ended.setattr(musdb_preparation, "write_song", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(full, tmp_path / "dataset")
    assert json.loads(record.read_text())["train/Song"] == 0
    assert prepared_length(tmp_path / "dataset", "train", "Song") == 1_000
    prepare(full, tmp_path / "dataset")
    assert prepared_length(tmp_path / "dataset", "train", "Song") == round(1.7 * SAMPLE_RATE)


def killed(*_):
    raise KeyboardInterrupt


def test_interrupt_stops_at_once_and_the_next_run_does_the_rest(many_songs, tmp_path):
    """A folder given with --dataset is continued only if it says that a preparation made it."""
    with start_preparation(many_songs, tmp_path) as process:
        wait_for_songs(tmp_path, process, 1)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    assert complaints.strip().endswith("KeyboardInterrupt")
    assert_nothing_half_done(tmp_path)
    assert 0 < len(song_names("test", tmp_path)) < N_SONGS
    prepare_if_needed(tmp_path)
    assert len(song_names("test", tmp_path)) == N_SONGS


def test_two_processes_do_not_disturb_each_other(many_songs, tmp_path):
    with start_preparation(many_songs, tmp_path) as process:
        wait_for_songs(tmp_path, process, 1)
        assert prepare(many_songs, tmp_path)["test"] == N_SONGS
        assert process.communicate(timeout=120)[1] == ""
    assert_nothing_half_done(tmp_path)


def test_full_disk_is_one_sentence_and_keeps_what_is_whole(hq_folder, tmp_path, monkeypatch):
    def no_space(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match="The disk is full") as failure:
        prepare(hq_folder, tmp_path)
    assert "\n" not in str(failure.value)
    assert contents(tmp_path) == {}


def test_dataset_folder_that_cannot_be_made(hq_folder, tmp_path):
    (tmp_path / "dataset").write_text("a file where the folder should be")
    with pytest.raises(PreparationError, match=r"Cannot make the folder .* Choose another"):
        prepare(hq_folder, tmp_path / "dataset")


# --------------------------------------------------------------------------------------------------- bad sources


def test_local_folder_is_taken_from_the_environment(hq_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSDB_PATH", str(one_song(hq_folder, tmp_path / "source")))
    assert prepare(None, tmp_path / "dataset")["train"] == 1


def test_without_a_source_and_a_download_the_message_says_what_to_give(tmp_path):
    with pytest.raises(PreparationError, match=r"holds no prepared songs\. Set the environment variable MUSDB_PATH"):
        prepare(None, tmp_path, download=False)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (None, "does not exist"),
        ("file", "is a file, not a folder"),
        ("empty", "holds no songs in train or test"),
        ("the train folder itself", "holds no songs in train or test"),
        ("train is a file", "holds no songs in train or test"),
    ],
)
def test_folder_without_songs(coded_folder, tmp_path, content, complaint):
    source = tmp_path / "source"
    if content == "file":
        source.write_text("")
    elif content == "the train folder itself":
        source = coded_folder / "train"
    elif content is not None:
        source.mkdir()
    if content == "train is a file":
        (source / "train").write_text("")
    with pytest.raises(PreparationError, match=complaint) as failure:
        prepare(source, tmp_path / "dataset")
    assert "MUSDB_PATH" in str(failure.value)


def test_song_that_lacks_a_wav_is_named(hq_folder, tmp_path):
    source = one_song(hq_folder, tmp_path)
    (source / "train" / "Song" / "bass.wav").unlink()
    (source / "train" / "Song" / "drums.wav").unlink()
    with pytest.raises(PreparationError, match=r"Song lacks drums.wav, bass.wav"):
        prepare(source, tmp_path)


def test_file_that_vanished_is_named(tmp_path):
    with pytest.raises(PreparationError, match=r"gone.stem.mp4: No such file"):
        _ = sources.Song("gone", "test", (tmp_path / "gone.stem.mp4",)).n_bytes
