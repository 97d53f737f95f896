"""Songs with stems are found in every layout, split, converted where they have to be, and read."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vocal_extraction import tracks
from vocal_extraction.evaluation.systems import Sources
from vocal_extraction.track_layouts import LAYOUTS, Layout
from vocal_extraction.tracks import Track, TrackError, TrackFolder, find_tracks, prepare_if_needed, stems_of

RATE = 8_000


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Conversions go below the working directory."""
    monkeypatch.chdir(tmp_path)


def write(path, *, n_samples=800, n_channels=1, rate=RATE, level=0.25):
    """Write a constant, which survives decoding and resampling."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((n_samples, n_channels), level), rate)
    return path


def write_songs(folder, names, stems=("vocals", "accompaniment")):
    for name in names:
        for stem in stems:
            write(folder / name / f"{stem}.wav")


def names_of(folder, subset="test"):
    return [track.name for track in find_tracks(folder, subset=subset)]


def test_prepared_songs_are_found_by_subset(demo_dataset):
    by_subset = {subset: find_tracks(demo_dataset, subset=subset) for subset in ("train", "valid", "test")}
    assert [len(found) for found in by_subset.values()] == [3, 2, 2]
    track = by_subset["train"][0]
    assert list(track.sources) == ["bass", "drums", "other", "vocals"]
    assert (track.sample_rate, track.n_channels, track.duration_s) == (44_100, 2, 7.0)
    expected = soundfile.read(demo_dataset / "train/foreground/drums" / f"{track.name}.wav", dtype="float32")[0]
    assert np.array_equal(track.read(100, 500)[1], expected[100:500].T)


def test_a_subset_that_is_missing_beside_others_is_named_with_where_its_songs_go(tmp_path):
    """As where ``prepare_dataset`` wrote two: to prepare MUSDB18 there would be no remedy."""
    for subset in ("train", "test"):
        write(tmp_path / subset / "foreground/vocals/a.wav")
    with pytest.raises(TrackError, match=r"only of test, train\. Put some into a folder valid") as raised:
        find_tracks(tmp_path, subset="valid")
    assert "MUSDB18" not in str(raised.value)


def test_prepared_song_without_a_stem_is_named(tmp_path):
    for song in "ab":
        write(tmp_path / "test/foreground/vocals" / f"{song}.wav")
    write(tmp_path / "test/foreground/bass/a.wav")
    with pytest.raises(TrackError, match=r"'b' in .*test lacks bass"):
        find_tracks(tmp_path, subset="test")


@pytest.mark.parametrize("folder", ["mine", "test"])
def test_own_songs_are_found_at_any_depth(tmp_path, folder):
    write_songs(tmp_path / folder, ["a", "group/b"])
    write(tmp_path / folder / "group/b/guitar.wav")
    found = find_tracks(tmp_path, subset="test")
    assert [track.name.removeprefix("mine - ") for track in found] == ["a", "group - b"]
    assert list(found[1].sources) == ["accompaniment", "guitar", "vocals"]


def test_links_are_followed_and_loops_are_not(tmp_path):
    write_songs(tmp_path / "elsewhere", ["linked"])
    write_songs(tmp_path / "songs", ["there"])
    (tmp_path / "songs/album").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "songs/there/loop").symlink_to(tmp_path / "songs")
    assert names_of(tmp_path / "songs") == ["album - linked", "there"]


def test_songs_of_folders_of_subsets_keep_their_subset(tmp_path):
    write_songs(tmp_path, ["train/a", "valid/b", "test/c"])
    assert [names_of(tmp_path, subset) for subset in ("train", "valid", "test")] == [["a"], ["b"], ["c"]]


def test_songs_that_musdb_validates_on_are_valid(tmp_path):
    write_songs(tmp_path, ["train/Actions - One Minute Smile", "train/A", "test/B"], stems=("vocals", "other"))
    assert names_of(tmp_path, "valid") == ["Actions - One Minute Smile"]
    assert names_of(tmp_path, "train") == ["A"]


def test_songs_without_a_split_are_split_by_their_names(tmp_path):
    write_songs(tmp_path / "songs", [f"song {n}" for n in range(24)])
    valid, train = names_of("songs", "valid"), names_of("songs", "train")
    assert 1 <= len(valid) <= 8
    assert sorted(valid + train) == names_of("songs")
    write_songs(tmp_path / "songs", ["another"])
    assert set(valid) <= set(names_of("songs", "valid")), "a song never changes sides when others come"
    assert set(train) <= set(names_of("songs", "train"))


@pytest.mark.parametrize("pattern", ["{0}/{1}", "{0} - {1}", "{0}_1_{1}"], ids=["sub-folder", "artist", "singer"])
def test_eight_singers_or_more_are_split_whole(tmp_path, pattern):
    write_songs(tmp_path / "songs", [pattern.format(singer, n) for singer in "abcdefghi" for n in range(2)])
    valid, train = ({name[0] for name in names_of("songs", subset)} for subset in ("valid", "train"))
    assert valid | train == set("abcdefghi")
    assert valid & train == set()
    assert 1 <= len(valid) <= 3


def test_songs_of_a_few_folders_are_split_song_by_song(tmp_path):
    write_songs(tmp_path / "songs", [f"{folder}/{n}" for folder in "ab" for n in range(8)])
    assert {name[0] for name in names_of("songs", "train")} == set("ab")


def test_songs_for_training_are_not_scored_beside_those_for_testing(tmp_path):
    write_songs(tmp_path, ["train/a", "train/b", "test/c"])
    assert names_of(tmp_path, "test") == ["c"]
    assert sorted(names_of(tmp_path, "train") + names_of(tmp_path, "valid")) == ["a", "b"]


def test_two_songs_are_one_for_training_and_one_for_validation(tmp_path):
    write_songs(tmp_path / "songs", ["a", "b"])
    assert len(names_of("songs", "train")) == len(names_of("songs", "valid")) == 1


@pytest.mark.parametrize("folder, source", [("vocals_only", "vocals"), ("instrumentals", "accompaniment")])
def test_folders_of_one_source_are_known_by_name(tmp_path, folder, source):
    write(tmp_path / folder / "a.wav")
    write(tmp_path / folder / "group/b.wav")
    found = find_tracks(folder, subset="test")
    assert [(track.name, list(track.sources)) for track in found] == [("a", [source]), ("group - b", [source])]


def test_source_and_weight_are_typed_behind_the_folder(tmp_path):
    write(tmp_path / "voices" / "a.wav")
    write_songs(tmp_path / "a=b:c", ["song"])
    (voice, song) = find_tracks(["voices:vocals=0.5", "a=b:c=3"], subset="test")
    assert (list(voice.sources), voice.weight, song.weight) == (["vocals"], 0.5, 3.0)
    with pytest.raises(TrackError, match="'x' in 'voices=x' is no weight"):
        TrackFolder.parse("voices=x")


def test_stems_of_other_formats_rates_and_lengths_are_converted_once(tmp_path):
    write(tmp_path / "songs/a/Vocals.flac", n_samples=4_000)
    write(tmp_path / "songs/a/drums.aiff", n_samples=16_000, n_channels=2, rate=2 * RATE)
    write(tmp_path / "songs/a/other.ogg", n_samples=4_000)
    (track,) = find_tracks("songs", subset="test", sample_rate=RATE)
    assert (track.sample_rate, track.n_channels, track.n_samples) == (RATE, 2, 8_000)
    drums, other, vocals = track.read()
    assert np.allclose(other[:, 500:3_000], 0.25, atol=0.02)
    assert np.allclose(drums[:, 1_000:7_000], 0.25, atol=0.01)
    assert np.allclose(vocals[:, 100:3_900], 0.25, atol=1e-4)
    assert np.allclose(vocals[:, 4_000:], 0), "the shorter stem ends in silence"
    wav = track.sources["drums"][0]
    written = wav.stat().st_ctime_ns
    assert wav.is_relative_to("dataset/converted")
    assert find_tracks("songs", subset="test", sample_rate=RATE) == [track]
    assert wav.stat().st_ctime_ns == written
    (native,) = find_tracks("songs", subset="test")
    assert (native.sample_rate, native.n_samples) == (2 * RATE, 16_000)
    assert find_tracks("songs", subset="test", sample_rate=RATE) == [track], "each rate has a place of its own"
    os.utime(tmp_path / "songs/a/drums.aiff", ns=(0, 0))
    find_tracks("songs", subset="test", sample_rate=RATE)
    assert wav.stat().st_ctime_ns > written


@pytest.mark.parametrize("endings", [("flac", "ogg"), ("wav", "aiff"), ("flac", "mp3")])
def test_of_two_files_of_a_stem_the_one_whose_ending_is_listed_first_is_taken(tmp_path, endings):
    """An mp3 was taken in place of the FLAC beside it."""
    write_songs(tmp_path / "songs", ["a"], stems=("accompaniment",))
    for ending in endings:
        write(tmp_path / f"songs/a/vocals.{ending}")
    ((_, _, files),) = LAYOUTS["songs"].songs(tmp_path / "songs")
    assert files["vocals"].suffix == f".{endings[0]}"


def test_no_copy_is_made_of_stems_that_fit(tmp_path):
    write_songs(tmp_path / "songs", ["a"])
    write(tmp_path / "songs/a/vocals.wav", n_channels=2)
    (track,) = find_tracks("songs", subset="test")
    assert track.read(0, 10).shape == (2, 2, 10)
    assert not (tmp_path / "dataset").exists()


def test_users_add_a_layout(tmp_path, monkeypatch):
    write(tmp_path / "mine/take 1 voice.wav")
    write(tmp_path / "mine/take 1 band.wav")

    def songs(folder):
        for voice in folder.glob("* voice.wav"):
            band = voice.with_name(voice.name.replace("voice", "band"))
            yield None, voice.name.removesuffix(" voice.wav"), {"vocals": voice, "accompaniment": band}

    monkeypatch.setitem(LAYOUTS, "takes", Layout(lambda folder: any(folder.glob("* voice.wav")), songs))
    assert names_of("mine") == ["take 1"]


def test_accompaniment_is_all_but_the_vocals():
    four = ("bass", "drums", "other", "vocals")
    assert stems_of("accompaniment", four) == stems_of("bass+drums+other", four) == ("bass", "drums", "other")
    assert stems_of("bass+drums+other", ("accompaniment", "vocals")) == ("accompaniment",)
    assert stems_of("accompaniment", ("guitar", "vocals")) == ("guitar",)
    assert stems_of("bass+drums", four) == ("bass", "drums")
    assert stems_of("drums", ("accompaniment", "vocals")) == stems_of("accompaniment", ("vocals",)) == ()


def test_sources_are_chosen_and_added_up(demo_dataset):
    track = find_tracks(demo_dataset, subset="test")[0]
    chosen = Sources(("vocals",), "bass+drums+other").of(track)
    assert list(chosen.sources) == ["vocals", "bass+drums+other"]
    everything = track.read(0, 100)
    assert np.allclose(chosen.read(0, 100)[1], everything[:3].sum(axis=0))
    assert chosen.sha256() != track.sha256()


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda folder: None, "There is no folder"),
        (lambda folder: folder.mkdir(), "No songs of the 'test' subset in songs.*accompaniment.wav"),
        (lambda folder: (folder / "a").mkdir(parents=True) or (folder / "a/vocals.wav").touch(), "is no audio file"),
        (lambda folder: write(folder / "a/vocals.wav", n_samples=0), "holds no samples"),
        (lambda folder: write_songs(folder, "a", ("vocals", "mixture")), "Export the accompaniment, too"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, make, complaint):
    make(tmp_path / "songs")
    with pytest.raises(TrackError, match=complaint):
        find_tracks("songs", subset="test")


def test_a_subset_is_told_from_its_data_set(demo_dataset):
    with pytest.raises(TrackError, match=f"one subset of a data set. Name the data set itself: {demo_dataset}$"):
        find_tracks(demo_dataset / "test", subset="test")


def test_unknown_subset_and_limit_are_named():
    with pytest.raises(TrackError, match="no subset 'training'; there are train, valid, test"):
        find_tracks("songs", subset="training")
    with pytest.raises(TrackError, match="1 or more; got 0"):
        find_tracks("songs", subset="test", limit=0)


def test_samples_that_are_no_numbers_are_named(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(10, np.nan), RATE, "FLOAT")
    track = Track("a", {"vocals": (path,)}, RATE, 1, 10)
    with pytest.raises(TrackError, match="holds NaN or infinite samples between 2 and 5"):
        track.read(2, 5)
    with pytest.raises(TrackError, match="ends after 10 samples"):
        track.read(5, 12)
    path.unlink()
    for read in (track.read, track.sha256):
        with pytest.raises(TrackError, match=r"a\.wav cannot be read"):
            read()


# ------------------------------------------------------------------------------------------ preparing what is missing
@pytest.fixture
def prepared(monkeypatch):
    """Calls of `prepare_musdb`, which does nothing here."""
    calls = []
    monkeypatch.setattr(tracks, "prepare_musdb", lambda *arguments, **_: calls.append(arguments))
    return calls


@pytest.mark.parametrize("folder", ["dataset", "elsewhere"])
def test_a_folder_that_is_empty_or_not_there_is_prepared(prepared, tmp_path, folder):
    prepare_if_needed(folder)
    (tmp_path / folder).mkdir()
    prepare_if_needed(folder)
    assert prepared == [(None, Path(folder))] * 2


def test_songs_of_ones_own_are_taken_as_they_are_or_joined_when_asked(prepared, demo_dataset):
    prepare_if_needed(demo_dataset)
    assert prepared == []
    prepare_if_needed(demo_dataset, "musdb")
    assert prepared == [("musdb", demo_dataset)]


@pytest.mark.parametrize("file", ["song/vocals.wav", "test/song/vocals.wav", "train/song.stem.mp4"])
@pytest.mark.parametrize("folder", ["dataset", "mine"])
def test_nothing_is_added_to_songs_that_no_preparation_made(prepared, tmp_path, folder, file):
    (tmp_path / folder / file).parent.mkdir(parents=True)
    (tmp_path / folder / file).touch()
    prepare_if_needed(folder)
    assert prepared == []


def test_nothing_is_added_to_other_things(prepared, tmp_path):
    (tmp_path / "mine/song").mkdir(parents=True)
    (tmp_path / "mine/song/voice.wav").touch()
    with pytest.raises(TrackError, match="No songs in mine"):
        prepare_if_needed("mine")
    assert prepared == []


def test_an_interrupted_preparation_is_continued(prepared, tmp_path):
    (tmp_path / "sources.json").write_text("{}")
    prepare_if_needed(tmp_path)
    assert prepared == [(None, tmp_path)]
