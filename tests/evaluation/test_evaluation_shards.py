"""Shards of an evaluation: each scores its songs into one folder, and a run without a shard sums up."""

import pytest
from evaluation_songs import QUIET, save_model, write_songs

from vocal_extraction.evaluation import evaluate_model
from vocal_extraction.extraction.shards import Shard

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def test_shards_score_each_song_once_and_a_run_without_sums_up(tmp_path):
    songs, model = write_songs(tmp_path / "songs"), save_model(tmp_path / "model.pth")
    n_shards = next(n for n in range(3, 100) if Shard(0, n).has("first song"))
    options = QUIET | {"dataset_folder": songs, "output_folder": tmp_path / "out"}
    found = {}
    for index in range(n_shards):
        part = evaluate_model(model, shard=f"{index}/{n_shards}", **options)
        found[index] = [song["song"] for song in part.songs]
    assert sorted(song for songs in found.values() for song in songs) == ["first song", "second song"]
    assert "first song" in found[0]
    assert not (tmp_path / "out" / "summary.json").exists()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*song*.json")}
    assert len(written) == 2
    assert evaluate_model(model, **options).summary["songs"] == ["first song", "second song"]
    assert {path: path.stat().st_mtime_ns for path in written} == written, "scored once"
