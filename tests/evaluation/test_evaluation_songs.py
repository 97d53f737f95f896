"""Songs and estimates on the disk: every layout is found, every defect is named before anything is scored."""

import numpy as np
import pytest
import soundfile

from vocal_extraction.evaluation.separators import BLOCK_SAMPLES
from vocal_extraction.evaluation.songs import SOURCES, EvaluationError, find_estimates, find_songs

RATE = 8_000


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else "PCM_24")


def constant(value, *, n_samples=100, n_channels=2):
    return np.full((n_samples, n_channels), value, np.float32)


@pytest.fixture
def own_stems(tmp_path):
    """One song as vocals and accompaniment, one as four stems, of constant samples."""
    for stem, value in {"vocals": 0.1, "accompaniment": 0.2}.items():
        write(tmp_path / "songs" / "two files" / f"{stem}.wav", constant(value))
    for stem, value in {"vocals": 0.1, "bass": 0.2, "drums": 0.3, "other": 0.4}.items():
        write(tmp_path / "songs" / "four files" / f"{stem}.flac", constant(value)[:, :1])
    return tmp_path / "songs"


def test_stems_of_ones_own(own_stems):
    four, two = find_songs(own_stems, subset="test")
    assert (four.name, four.n_channels, four.n_samples, four.sample_rate) == ("four files", 1, 100, RATE)
    assert tuple(two.files) == SOURCES
    np.testing.assert_allclose(two.read(10, 20)[:, 0, 0], [0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(four.read(10, 20)[:, 0, 0], [0.1, 0.9], atol=1e-6)  # bass + drums + other
    assert four.read(10, 20).shape == (2, 1, 10)


def test_stems_below_a_subset_as_in_musdb18_hq(own_stems):
    own_stems.rename(own_stems.parent / "test")
    assert len(find_songs(own_stems.parent, subset="test")) == 2


def test_prepared_songs(demo_dataset):
    songs = find_songs(demo_dataset, subset="test")
    assert len(songs) == 2
    assert all(song.duration_s == pytest.approx(7.0, abs=0.01) for song in songs)
    assert find_songs(demo_dataset, subset="test", limit=1) == songs[:1]


def test_a_prepared_song_that_lacks_a_stem_is_named(tmp_path):
    for stem in ("vocals", "bass", "drums"):
        write(tmp_path / "test" / "foreground" / stem / "half a song.wav", constant(0.1))
    with pytest.raises(EvaluationError, match="'half a song' lacks other"):
        find_songs(tmp_path, subset="test")


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_no_songs(tmp_path, folder):
    with pytest.raises(EvaluationError, match="No songs of the 'test' subset"):
        find_songs(tmp_path / folder, subset="test")


def test_a_limit_of_nothing(own_stems):
    with pytest.raises(EvaluationError, match="1 or more; got 0"):
        find_songs(own_stems, subset="test", limit=0)


@pytest.mark.parametrize(
    "samples, rate",
    [(constant(0.1, n_samples=99), RATE), (constant(0.1, n_channels=1), RATE), (constant(0.1), RATE + 50)],
    ids=["length", "channels", "rate"],
)
def test_stems_that_differ(own_stems, samples, rate):
    write(own_stems / "two files" / "vocals.wav", samples, rate)
    with pytest.raises(EvaluationError, match="The stems of 'two files' differ"):
        find_songs(own_stems, subset="test")


def test_a_stem_that_is_no_audio(own_stems):
    (own_stems / "two files" / "vocals.wav").write_text("no audio")
    with pytest.raises(EvaluationError, match=r"vocals\.wav is no audio file"):
        find_songs(own_stems, subset="test")


def test_a_stem_without_samples(own_stems):
    for stem in ("vocals", "accompaniment"):
        write(own_stems / "two files" / f"{stem}.wav", constant(0.1, n_samples=0))
    with pytest.raises(EvaluationError, match="holds no samples"):
        find_songs(own_stems, subset="test")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(own_stems, value):
    samples = constant(0.1)
    samples[50] = value
    write(own_stems / "two files" / "vocals.wav", samples)
    _, song = find_songs(own_stems, subset="test")
    assert np.isfinite(song.read(0, 50)).all()
    with pytest.raises(EvaluationError, match="NaN or infinite samples between 40 and 60"):
        song.read(40, 60)


def test_a_file_that_became_shorter(own_stems):
    _, song = find_songs(own_stems, subset="test")
    write(own_stems / "two files" / "vocals.wav", constant(0.1, n_samples=30))
    with pytest.raises(EvaluationError, match="ends after 30 samples"):
        song.read(20, 50)


def test_a_file_that_vanished(own_stems):
    _, song = find_songs(own_stems, subset="test")
    (own_stems / "two files" / "vocals.wav").unlink()
    with pytest.raises(EvaluationError, match="cannot be read"):
        song.read(0, 10)


def test_the_hash_tells_changed_data(own_stems):
    _, song = find_songs(own_stems, subset="test")
    before = song.sha256()
    assert before == song.sha256()
    write(own_stems / "two files" / "vocals.wav", constant(0.15))
    assert before != song.sha256()


def test_estimates_are_found_for_each_song(own_stems, tmp_path):
    songs = find_songs(own_stems, subset="test")
    write(tmp_path / "estimates" / "test" / "two files" / "vocals.wav", constant(0.1))
    write(tmp_path / "estimates" / "test" / "two files" / "accompaniment.wav", constant(0.1))
    write(tmp_path / "estimates" / "test" / "four files" / "vocals.wav", constant(0.1, n_channels=1))
    four, two = find_estimates(tmp_path / "estimates", songs, subset="test")
    assert tuple(four.files) == SOURCES[:1]
    assert tuple(two.files) == SOURCES


def test_missing_estimates_are_counted_and_named(own_stems, tmp_path):
    songs = find_songs(own_stems, subset="test")
    write(tmp_path / "estimates" / "two files" / "vocals.wav", constant(0.1))
    with pytest.raises(EvaluationError, match="1 of 2 songs, 'four files' first"):
        find_estimates(tmp_path / "estimates", songs, subset="test")


@pytest.mark.parametrize(
    "samples, rate",
    [(constant(0.1, n_samples=99), RATE), (constant(0.1, n_channels=1), RATE), (constant(0.1), RATE + 50)],
    ids=["length", "channels", "rate"],
)
def test_estimates_that_do_not_match_their_song(own_stems, tmp_path, samples, rate):
    songs = find_songs(own_stems, subset="test")[1:]
    write(tmp_path / "estimates" / "two files" / "vocals.wav", samples, rate)
    with pytest.raises(EvaluationError, match="An estimate must match its mixture"):
        find_estimates(tmp_path / "estimates", songs, subset="test")


def test_blocks_cover_a_long_song_once(monkeypatch, tmp_path):
    from vocal_extraction.evaluation import scoring

    monkeypatch.setattr(scoring, "BLOCK_SAMPLES", 3 * scoring.GRID_SAMPLES)
    monkeypatch.setattr(scoring, "CONTEXT_SAMPLES", scoring.GRID_SAMPLES)
    n_samples = 7 * scoring.GRID_SAMPLES + 100
    ramp = np.linspace(0, 1, n_samples, dtype=np.float32)
    for stem in ("vocals", "accompaniment"):
        write(tmp_path / "songs" / "ramp" / f"{stem}.wav", ramp[:, None])
    song = find_songs(tmp_path / "songs", subset="test")[0]
    kept = [excerpt.references[0, 0, part] for excerpt, part in scoring.excerpts(song)]
    np.testing.assert_array_equal(np.concatenate(kept), ramp)
    longest = max(excerpt.references.shape[-1] for excerpt, _ in scoring.excerpts(song))
    assert longest <= scoring.BLOCK_SAMPLES + 2 * scoring.CONTEXT_SAMPLES, "no more is in memory, however long a song"
    assert all(excerpt.start % scoring.GRID_SAMPLES == 0 for excerpt, _ in scoring.excerpts(song))
    assert BLOCK_SAMPLES % scoring.GRID_SAMPLES == 0
