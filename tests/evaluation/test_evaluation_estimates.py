"""Other people's estimates: found for each song, checked, cut or padded by a little; and songs read in blocks."""

import subprocess

import numpy as np
import pytest
from evaluation_songs import QUIET, RATE, songs_in, write

from vocal_extraction.errors import SettingsError
from vocal_extraction.evaluation import EvaluationError, evaluate_estimates, scoring
from vocal_extraction.evaluation.estimates import find_estimates
from vocal_extraction.evaluation.systems import Excerpt, Sources

pytestmark = pytest.mark.usefixtures("quick_evaluation")

SOURCES = ("vocals", "bass+drums+other")


def constant(value, *, n_samples=1_000, n_channels=2):
    return np.full((n_samples, n_channels), value, np.float32)


@pytest.fixture
def own_stems(tmp_path):
    """One song as vocals and accompaniment, one as four stems, of constant samples."""
    for stem, value in {"vocals": 0.1, "accompaniment": 0.2}.items():
        write(tmp_path / "songs" / "two files" / f"{stem}.wav", constant(value))
    for stem, value in {"vocals": 0.1, "bass": 0.2, "drums": 0.3, "other": 0.4}.items():
        write(tmp_path / "songs" / "four files" / f"{stem}.flac", constant(value)[:, :1])
    return tmp_path / "songs"


def by_name(folder, subset="test"):
    return sorted(songs_in(folder), key=lambda song: song.name)


def test_estimates_are_found_for_each_song(own_stems, tmp_path):
    songs = by_name(own_stems)
    write(tmp_path / "estimates" / "test" / "two files" / "vocals.wav", constant(0.1))
    write(tmp_path / "estimates" / "test" / "two files" / "accompaniment.wav", constant(0.1))
    write(tmp_path / "estimates" / "test" / "four files" / "vocals.wav", constant(0.1, n_channels=1))
    sources, (four, two) = find_estimates(tmp_path / "estimates", songs, subset="test")
    assert sources.names == SOURCES
    assert tuple(four.files) == SOURCES[:1]
    assert tuple(two.files) == SOURCES


@pytest.mark.parametrize("name", ["Vocals.WAV", "VOCALS.flac", "vocals.mp3", "vocals.M4A", "vocals.w64"])
def test_names_are_compared_without_case_and_any_audio_is_taken(own_stems, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # what is no wav or flac is converted below it
    (song,) = by_name(own_stems)[1:]
    tone = 0.1 * np.sin(0.3 * np.arange(1_000, dtype=np.float32))[:, None].repeat(2, axis=1)
    write(tmp_path / "tone.wav", tone)
    path = tmp_path / "estimates" / "two files" / name
    path.parent.mkdir(parents=True)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "tone.wav", path], check=True, timeout=60)
    sources, (found,) = find_estimates(tmp_path / "estimates", [song], subset="test")
    references = np.zeros((2, 2, 1_000), np.float32)
    np.testing.assert_allclose(found(Excerpt("two files", 0, RATE, references, sources))[0], tone.T, atol=0.03)


def test_two_estimates_of_one_source_are_refused(own_stems, tmp_path):
    for name in ("vocals.wav", "Vocals.flac"):
        write(tmp_path / "estimates" / "two files" / name, constant(0.1))
    with pytest.raises(EvaluationError, match=r"both estimates of vocals\. Keep one"):
        find_estimates(tmp_path / "estimates", by_name(own_stems)[1:], subset="test")


def test_a_folder_is_no_estimate(own_stems, tmp_path):
    write(tmp_path / "estimates" / "two files" / "vocals.wav", constant(0.1))
    (tmp_path / "estimates" / "two files" / "vocals.mp3").mkdir()
    _, (found,) = find_estimates(tmp_path / "estimates", by_name(own_stems)[1:], subset="test")
    assert found.files["vocals"][0].name == "vocals.wav"


def test_missing_estimates_are_counted_and_named(own_stems, tmp_path):
    songs = by_name(own_stems)
    write(tmp_path / "estimates" / "two files" / "vocals.wav", constant(0.1))
    with pytest.raises(EvaluationError, match="1 of 2 songs, 'four files' first"):
        find_estimates(tmp_path / "estimates", songs, subset="test")


@pytest.mark.parametrize(
    "samples, rate",
    [(constant(0.1, n_samples=599), RATE), (constant(0.1, n_channels=1), RATE), (constant(0.1), RATE + 50)],
    ids=["length", "channels", "rate"],
)
def test_estimates_that_do_not_match_their_song(own_stems, tmp_path, samples, rate):
    songs = by_name(own_stems)[1:]
    write(tmp_path / "estimates" / "two files" / "vocals.wav", samples, rate)
    with pytest.raises(EvaluationError, match="An estimate must match its mixture"):
        find_estimates(tmp_path / "estimates", songs, subset="test")


def test_estimates_of_four_sources_are_scored_as_such(own_stems, tmp_path):
    songs = by_name(own_stems)[:1]
    for stem in ("vocals", "bass", "drums", "other"):
        write(tmp_path / "estimates" / "four files" / f"{stem}.wav", constant(0.1, n_channels=1))
    sources, _ = find_estimates(tmp_path / "estimates", songs, subset="test")
    assert sources == Sources(("vocals", "bass", "drums", "other"))
    (tmp_path / "estimates" / "four files" / "drums.wav").unlink()
    sources, (found,) = find_estimates(tmp_path / "estimates", songs, subset="test")
    assert sources == Sources(("vocals", "bass", "other"), "drums")
    excerpt = Excerpt("four files", 0, RATE, sources.of(songs[0]).read(0, 10), sources)
    np.testing.assert_allclose(found(excerpt)[:, 0, 0], [0.1, 0.1, 0.1, 0.7], atol=1e-6)


@pytest.mark.parametrize("more, words", [(399, "longer than the song and was cut"), (-399, "shorter than the song")])
def test_estimates_a_little_longer_or_shorter_are_cut_or_padded(own_stems, tmp_path, capsys, more, words):
    """50 ms are 400 samples: as far as that is, the rest of the song counts, and the report says so."""
    (two,) = by_name(own_stems)[1:]
    noise = np.random.default_rng(0).standard_normal((two.n_samples + 400, 2)).astype(np.float32)
    write(own_stems / "two files" / "vocals.wav", 0.1 * noise[:1_000])
    write(tmp_path / "estimates" / "two files" / "vocals.wav", 0.1 * noise[: 1_000 + more])
    options = {**QUIET, "dataset_folder": own_stems, "output_folder": tmp_path / "out"}
    write(tmp_path / "estimates" / "four files" / "vocals.wav", constant(0.1, n_channels=1))
    found = evaluate_estimates(tmp_path / "estimates", **options)
    entry = found.songs[1]["rows"]["estimates"]["scores"]["vocals"]["SI-SDR"]
    if more > 0:
        assert entry["value"] == 100.0
    else:
        assert entry["value"] == pytest.approx(10 * np.log10(601 / 399), abs=0.5)  # dB: so much of it is there
    assert f"two files: vocals.wav is 399 samples (49.9 ms) {words}" in found.report_card
    assert words in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert words in capsys.readouterr().err
    assert found.summary["notes"].keys() == {"two files"}


def test_blocks_cover_a_long_song_once(monkeypatch, tmp_path):
    monkeypatch.setattr(scoring, "GRID_SAMPLES", 512)
    monkeypatch.setattr(scoring, "BLOCK_SAMPLES", 3 * 512)
    monkeypatch.setattr(scoring, "CONTEXT_SAMPLES", 512)
    n_samples = 7 * 512 + 100
    ramp = np.linspace(0, 1, n_samples, dtype=np.float32)
    for stem in ("vocals", "accompaniment"):
        write(tmp_path / "songs" / "ramp" / f"{stem}.wav", ramp[:, None])
    sources = Sources(("vocals",), "bass+drums+other")
    song = sources.of(songs_in(tmp_path / "songs")[0])
    found = list(scoring.excerpts(song, sources))
    np.testing.assert_array_equal(np.concatenate([one.references[0, 0, part] for one, part in found]), ramp)
    longest = max(one.references.shape[-1] for one, _ in found)
    assert longest <= scoring.BLOCK_SAMPLES + 2 * scoring.CONTEXT_SAMPLES, "no more is in memory, however long a song"
    assert all(one.start % scoring.GRID_SAMPLES == 0 for one, _ in found)


def test_blocks_lie_on_the_grid():
    assert scoring.BLOCK_SAMPLES % scoring.GRID_SAMPLES == scoring.CONTEXT_SAMPLES % scoring.GRID_SAMPLES == 0


@pytest.mark.parametrize("option", ["limit", "n_jobs"])
def test_numbers_of_songs_that_are_none_are_refused(tmp_path, option):
    with pytest.raises(SettingsError, match=f"{option} is '4'; expected int"):
        evaluate_estimates(tmp_path, **{option: "4"})
