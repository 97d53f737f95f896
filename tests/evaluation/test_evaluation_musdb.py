"""On the real songs: mixture and ideal masks score what they were found to score, so the protocol is the same."""

import statistics

import pytest

from vocal_extraction.evaluation.metrics import choose_metrics
from vocal_extraction.evaluation.results import columns
from vocal_extraction.evaluation.scoring import score_song
from vocal_extraction.evaluation.systems import Sources, systems_beside
from vocal_extraction.musdb_preparation import prepare_musdb
from vocal_extraction.presets import SPECIFIED
from vocal_extraction.tracks import find_tracks

pytestmark = pytest.mark.usefixtures("one_thread")

N_SONGS = 24
"""The first of the test folder: those of the specification's benchmark table."""

EXPECTED_DB = {"mixture": -4.10, "ideal_ratio_mask": 7.15, "ideal_binary_mask": 7.74, "phase_sensitive_mask": 9.20}
"""Vocals SI-SDR at 512/128 on those songs."""


@pytest.fixture(scope="module")
def test_songs(musdb_path, tmp_path_factory):
    """Those songs, decoded; the train folder is left out, since it takes four times as long."""
    source = tmp_path_factory.mktemp("musdb")
    for folder in ("train", "test"):
        (source / folder).mkdir()
    for path in sorted((musdb_path / "test").iterdir())[:N_SONGS]:
        (source / "test" / path.name).symlink_to(path)
    prepare_musdb(source, source / "dataset", progress=False)
    return find_tracks(source / "dataset", subset="test")


def test_mixture_and_oracles_of_the_benchmark_songs(test_songs):
    sources = Sources.shared(["vocals"], test_songs)
    options = {"sources": sources, "metrics": choose_metrics("scale")}
    systems = systems_beside(SPECIFIED.signal, oracles=True, baselines=False)
    contents = [
        {"song": song.name, "rows": {row: {"scores": found} for row, found in scored.items()}}
        for song, scored in ((song, score_song(sources.of(song), systems, **options)) for song in test_songs)
    ]
    assert len(contents) == N_SONGS
    summary = {row: columns(contents, row, "SI-SDR", sources=sources.names) for row in systems}
    for row, expected in EXPECTED_DB.items():
        found = summary[row]["vocals"]
        assert found["n"] == N_SONGS
        assert found["mean"] == pytest.approx(expected, abs=0.05), row  # dB; the figures are given to 0.01
    # Vocals and the rest are mirror images in the mixture.
    mirrored = summary["mixture"]["bass+drums+other"]["mean"]
    assert mirrored == pytest.approx(4.10, abs=0.05)
    assert statistics.fmean([mirrored, summary["mixture"]["vocals"]["mean"]]) == pytest.approx(0, abs=0.05)
