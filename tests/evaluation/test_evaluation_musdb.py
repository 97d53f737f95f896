"""On the real songs: the floor and the ceiling stand where they were found to stand, so the protocol is the same."""

import functools
import statistics

import pytest

from vocal_extraction.evaluation.aggregate import aggregate
from vocal_extraction.evaluation.scoring import score_song
from vocal_extraction.evaluation.separators import ideal_mask, mixture_as_estimate
from vocal_extraction.evaluation.songs import find_songs
from vocal_extraction.musdb_preparation import prepare_musdb
from vocal_extraction.settings import SPECIFIED

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
    return find_songs(source / "dataset", subset="test")


def test_floor_and_ceiling_of_the_benchmark_songs(test_songs):
    rows = {"mixture": mixture_as_estimate}
    for kind in EXPECTED_DB:
        rows.setdefault(kind, functools.partial(ideal_mask, kind=kind, signal=SPECIFIED.signal))
    contents = [
        {"song": song.name, "rows": {row: {"scores": found} for row, found in scored.items()}}
        for song, scored in ((song, score_song(song, rows, families=("scale",))) for song in test_songs)
    ]
    assert len(contents) == N_SONGS
    summary = aggregate(contents, rows=list(rows), metrics=["SI-SDR", "SNR"])
    for row, expected in EXPECTED_DB.items():
        found = summary[row]["scores"]["SI-SDR"]["vocals"]
        assert found["n"] == N_SONGS
        assert found["mean"] == pytest.approx(expected, abs=0.05), row  # dB; the figures are given to 0.01
    # Vocals and the rest are mirror images in the mixture.
    mirrored = summary["mixture"]["scores"]["SI-SDR"]["bass+drums+other"]["mean"]
    assert mirrored == pytest.approx(4.10, abs=0.05)
    assert statistics.fmean([mirrored, summary["mixture"]["scores"]["SI-SDR"]["vocals"]["mean"]]) == pytest.approx(
        0, abs=0.05
    )
