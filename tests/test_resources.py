"""The short version of ``make stress ARGS=resources``: nothing piles up in a process that extracts and trains again."""

import tempfile
from pathlib import Path

import pytest
from job_inputs import inputs_of
from stress import resources


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a process holds is read from /proc")
def test_nothing_piles_up(tmp_path, tmp_path_factory):
    inputs = inputs_of("train", tmp_path_factory)
    assert resources.growth(tmp_path, inputs, n_songs=4, n_trainings=2) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a process holds is read from /proc")
def test_a_file_that_stays_open_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resources.held()
    with open(tmp_path / "a", "w"):
        assert resources.held().files == before.files + 1
