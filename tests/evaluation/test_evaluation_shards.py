"""Large data sets: shards that score into one folder, songs from a list, and workers that others do not wait for."""

import numpy as np
import pytest
import soundfile
from evaluation_songs import QUIET, save_model, write_songs

from vocal_extraction.command_line.parser import parse
from vocal_extraction.evaluation import EvaluationError, evaluate_estimates, evaluate_model
from vocal_extraction.extraction.shards import Shard
from vocal_extraction.track_layouts import TrackError

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


def songs_apart(folder):
    """Write songs of stems, each a folder, and the list of these folders; return the list."""
    names = ["a", "b", "c"]
    for seed, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for stem in ("vocals", "accompaniment"):
            samples = np.random.default_rng([seed, len(stem)]).normal(0, 0.1, (8_000, 2))
            soundfile.write(folder / name / f"{stem}.wav", samples, 8_000, subtype="FLOAT")
    (folder / "list.txt").write_text("".join(f"{folder / name}\n" for name in names))
    return folder / "list.txt"


def scores_of(evaluation):
    return {song["song"]: song["rows"] for song in evaluation.songs}


def test_processes_score_what_threads_do_and_a_song_that_fails_keeps_no_other_from_it(tmp_path, capsys):
    songs, model = songs_apart(tmp_path / "songs"), save_model(tmp_path / "model.pth")
    options = QUIET | {"list_path": songs, "n_jobs": 2}
    reference = evaluate_model(model, output_folder=tmp_path / "threads", **options)
    assert [*scores_of(reference)] == ["a", "b", "c"]
    whole = (tmp_path / "songs" / "b" / "vocals.wav").read_bytes()
    soundfile.write(tmp_path / "songs" / "b" / "vocals.wav", np.full((8_000, 2), np.nan), 8_000, subtype="FLOAT")
    options |= {"engine": "processes", "output_folder": tmp_path / "processes", "price_per_core_hour": 0.04}
    with pytest.raises(EvaluationError, match=r"2 songs done .* 1 failed .1: .*holds NaN.* cost 0.00 .* goes on"):
        evaluate_model(model, **options)
    assert sorted(path.name for path in (tmp_path / "processes").iterdir()) == ["a.json", "c.json"]
    (tmp_path / "songs" / "b" / "vocals.wav").write_bytes(whole)
    assert scores_of(evaluate_model(model, **options | {"progress": True})) == scores_of(reference)
    assert "3 songs done" in capsys.readouterr().err
    assert (tmp_path / "processes" / "summary.json").exists()


def test_processes_score_estimates_too(tmp_path):
    options = QUIET | {"list_path": songs_apart(tmp_path / "songs"), "output_folder": tmp_path / "out"}
    options |= {"engine": "processes"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".in-hand").write_text('{"b": 3}')  # as if it had killed its worker three times
    with pytest.raises(EvaluationError, match=r"2 songs done.*1 failed .*died N times.*--overwrite tries it again"):
        evaluate_estimates(tmp_path / "songs", **options)
    found = evaluate_estimates(tmp_path / "songs", **options, overwrite=True)
    values = [rows["estimates"]["scores"]["vocals"]["SI-SDR"] for rows in scores_of(found).values()]
    assert [value.get("at_limit") for value in values] == [True] * 3, "they are the references themselves"


@pytest.mark.parametrize("content, sentence", [("", "names no folders"), ("s3://bucket/song\n", "is an address, but")])
def test_lists_without_folders(content, sentence, tmp_path):
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises((EvaluationError, TrackError), match=sentence):
        evaluate_model(save_model(tmp_path / "model.pth"), list_path=tmp_path / "list.txt", **QUIET)


def test_songs_of_one_name_are_refused(tmp_path):
    songs = songs_apart(tmp_path / "songs")
    songs_apart(tmp_path / "more")
    with pytest.raises(EvaluationError, match="2 songs are named 'a'"):
        evaluate_model(save_model(tmp_path / "model.pth"), tracks=[tmp_path / "more" / "a"], list_path=songs, **QUIET)


@pytest.mark.parametrize("options", [["--address", "auto"], ["--price-per-core-hour", "0.04"], ["--gpu-share", "1"]])
def test_what_belongs_to_an_engine_is_refused_without(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(["evaluate", *options])
    assert "belong to --engine" in capsys.readouterr().err
