"""Workers of a Ray cluster on this machine: an actor that dies is replaced; test_workers has what is done of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_songs import save_model, write_songs

from vocal_extraction.errors import ExtractionError

pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import functools, json, sys
from pathlib import Path
from test_workers import Shout
from vocal_extraction.extraction.ray_workers import RayWorker, join_cluster
from vocal_extraction.extraction.workers import Tries, do_all

join_cluster(None)
results = {}
hire = functools.partial(RayWorker, Shout(Path(sys.argv[1])))
tries = Tries(None)
do_all(["unlucky", "a"], hire, n_workers=1, tries=tries, name=str, done=results.__setitem__)
print(json.dumps({word: str(result) for word, result in results.items()}))
"""


def run(tmp_path, *command):
    search = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    environment = os.environ | {"PYTHONPATH": search, "HOME": str(tmp_path), "RAY_DEDUP_LOGS": "0"}
    environment["RAY_TMPDIR"] = "/tmp"  # noqa: S108 - Ray's sockets lie there, whose names may not be long
    command = [sys.executable, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_song_whose_actor_dies_is_done_by_another_and_so_is_the_rest(tmp_path):
    assert run(tmp_path, "-c", PROGRAM, str(tmp_path)) == {"a": "A", "unlucky": "UNLUCKY"}


def test_an_evaluation_by_actors(tmp_path):
    model, songs = save_model(tmp_path / "model.pth"), write_songs(tmp_path / "songs")
    own = ["--dataset", songs, "--model", model, "-o", tmp_path / "out", "--metrics", "scale", "--json"]
    summary = run(tmp_path, ROOT / "main.py", "evaluate", "--engine", "ray", "--jobs", "1", *own)
    assert summary["songs"] == ["first song", "second song"]


def test_a_cluster_that_is_not_there(monkeypatch, tmp_path):
    from vocal_extraction.extraction import ray_workers

    def nobody(**options):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray_workers.ray, "init", nobody)
    with pytest.raises(ExtractionError, match="No Ray cluster answers at auto"):
        ray_workers.join_cluster("auto")
