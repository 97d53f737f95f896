"""Two models on the same songs: who won, by how much, and how wide the interval is."""

import numpy as np
import pytest

from vocal_extraction.evaluation.comparison import bootstrap_interval, compare


def scores(values):
    """Contents of songs' files with these vocals; None leaves the song's vocals out."""
    entries = {name: {"SI-SDR": {"value": value}} for name, value in values.items()}
    rest = {"SI-SDR": {"value": 0.0}}
    return [
        {"song": name, "rows": {"model": {"scores": {"vocals": entry, "bass+drums+other": rest}}}}
        for name, entry in entries.items()
    ]


def test_songs_are_paired_by_name_and_wins_are_the_seconds():
    first = scores({"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.0, "silent": None, "only in the first": 50.0})
    second = scores({"d": 0.0, "c": 2.0, "b": 4.0, "a": 4.0, "silent": 9.0})
    definitions = {"SI-SDR": {"more_is_better": True}}
    vocals = compare(first, second, sources=["vocals"], definitions=definitions)["vocals"]["SI-SDR"]
    assert vocals["songs"] == {"a": [1.0, 4.0, 3.0], "b": [2.0, 4.0, 2.0], "c": [3.0, 2.0, -1.0], "d": [0.0, 0.0, 0.0]}
    assert (vocals["mean_first"], vocals["mean_second"], vocals["difference"]) == (1.5, 2.5, 1.0)
    assert (vocals["wins"], vocals["losses"], vocals["ties"], vocals["n"]) == (2, 1, 1, 4)


def test_where_less_is_better_the_lower_wins():
    definitions = {"SI-SDR": {"more_is_better": False}}
    found = compare(scores({"a": 1.0}), scores({"a": -2.0}), sources=["vocals"], definitions=definitions)
    assert (found["vocals"]["SI-SDR"]["difference"], found["vocals"]["SI-SDR"]["wins"]) == (-3.0, 1)


def test_the_interval_covers_95_percent():
    """Of many songs the bootstrap's interval is the normal one, 1.96 standard errors to either side."""
    differences = np.random.default_rng(3).normal(0.5, 2.0, 400)
    low, high = bootstrap_interval(differences)
    standard_error = differences.std(ddof=1) / np.sqrt(len(differences))
    assert low == pytest.approx(differences.mean() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert high == pytest.approx(differences.mean() + 1.96 * standard_error, abs=0.1 * standard_error)
    assert bootstrap_interval(differences) == (low, high), "the same in every run"


@pytest.mark.parametrize("values", [[], [1.0]])
def test_too_few_songs_have_no_interval(values):
    assert bootstrap_interval(values) is None
