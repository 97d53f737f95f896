"""The short version of ``make stress``, and whether it would notice a loss."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from job_inputs import inputs_of
from stress import kills, victims
from stress.victims import JOBS, Job


@pytest.fixture(scope="module", autouse=True)
def _server():
    kills.prepare_server()


@pytest.mark.parametrize("name", ["prepare", "train", "extract"])
def test_a_job_that_is_killed_loses_nothing(name, tmp_path, tmp_path_factory):
    """`make stress` kills evaluate, too, and extract in two processes, each of which takes long to begin."""
    inputs, job = inputs_of(name, tmp_path_factory), JOBS[name]
    if name == "extract":
        job = dataclasses.replace(job, run=functools.partial(victims.extract, n_jobs=1))
    tally = kills.kill_job(job, n_kills=1, seed=1, folder=tmp_path, inputs=inputs)
    assert tally.n_kills == 1
    assert tally.n_ends >= 1
    assert tally.losses == []


def _careless(inputs, results):
    """Write slowly under a final name, and append to what an earlier run left."""
    import time

    with open(results / "result.json", "a") as file:
        file.write("[")
        file.flush()
        time.sleep(0.5)
        file.write("]")


def test_half_a_file_is_noticed(tmp_path):
    careless = Job("careless", Path.mkdir, _careless, ("*.json",))
    tally = kills.kill_job(careless, n_kills=2, seed=0, folder=tmp_path)
    assert "half written: result.json" in tally.losses
    assert "differs: result.json" in tally.losses


def test_what_is_whole_is_told_from_what_is_not(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1_000), 8_000)
    np.save(tmp_path / "a.npy", np.zeros(1_000))
    (tmp_path / "a.json").write_text(json.dumps({"a": list(range(100))}))
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ')
    (tmp_path / "a.html").write_text("<html></html>\n")
    (tmp_path / ".partial-1-0-a.json").write_text("{")
    assert kills.half_written(tmp_path) == []
    for path in tmp_path.glob("a.*"):
        path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "a.jsonl").write_text('{"a": \n{"a": 1}\n')
    assert kills.half_written(tmp_path) == ["a.html", "a.json", "a.jsonl", "a.npy", "a.wav"]


def test_songs_that_fail_or_have_two_places_are_noticed(tmp_path):
    lines = [
        {"file": "a", "outcome": "done", "source": "/a", "stems": {"vocals": "a/vocals.wav"}, "reason": None},
        {"file": "a", "outcome": "done", "source": "/a", "stems": {"vocals": "a (2)/vocals.wav"}, "reason": None},
        {"file": "b", "outcome": "failed", "source": "/b", "stems": {}, "reason": "It broke."},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert len(kills._lost_or_doubled(JOBS["extract"], tmp_path)) == 2
