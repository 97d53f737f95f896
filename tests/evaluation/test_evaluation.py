"""The entrances: what they write, what they do not do twice, what they refuse, and what they agree with."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from evaluation_songs import QUIET, save_model, songs_in, write_songs

from vocal_extraction.checkpointing import CheckpointError, named_checkpoint
from vocal_extraction.evaluation import (
    Evaluation,
    EvaluationError,
    compare_models,
    evaluate_estimates,
    evaluate_model,
    results,
    scoring,
)
from vocal_extraction.evaluation.results import song_file, validator
from vocal_extraction.evaluation.scale_metrics import SCALE_METRICS

pytestmark = pytest.mark.usefixtures("quick_evaluation")

SOURCES = ("vocals", "bass+drums+other")
EVERYTHING: dict[str, Any] = {**QUIET, "metrics": None, "oracles": True, "baselines": True, "save_estimates": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "best.model.pth")


@pytest.fixture(scope="module")
def short_songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs") / "dataset")


@pytest.fixture(scope="module")
def evaluated(checkpoint, short_songs, tmp_path_factory) -> Evaluation:
    """One evaluation with everything on; tests read its folder and never write there."""
    folder = tmp_path_factory.mktemp("evaluated") / "results"
    return evaluate_model(
        checkpoint,
        dataset_folder=short_songs,
        output_folder=folder,
        **EVERYTHING,
    )


@pytest.fixture
def results_folder(evaluated, tmp_path):
    """A copy to be written to."""
    return shutil.copytree(evaluated.output_folder, tmp_path / "results")


def contents_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_scored(monkeypatch):
    """Record (song, rows) of every call that scores something."""
    calls = []
    score = scoring.score_song
    monkeypatch.setattr(
        scoring,
        "score_song",
        lambda song, systems, **kw: calls.append((song.name, [*systems])) or score(song, systems, **kw),
    )
    return calls


def test_every_file_is_written(evaluated, short_songs):
    songs = [song.name for song in songs_in(short_songs)]
    names = {path.name for path in evaluated.output_folder.iterdir()}
    assert names >= {"summary.json", "scores.csv", "report_card.txt", "report.html", "museval", "estimates"}
    assert names >= {f"{song}.json" for song in songs}
    assert not [name for name in names if name.startswith(".")]


def test_json_keeps_to_its_schemas(evaluated):
    for song in evaluated.songs:
        content = json.loads(song_file(evaluated.output_folder, song["song"]).read_text(encoding="utf-8"))
        validator("song_scores").validate(content)
        assert content == song
    summary = json.loads((evaluated.output_folder / "summary.json").read_text(encoding="utf-8"))
    validator("summary").validate(summary)
    assert summary == evaluated.summary


@pytest.mark.parametrize(
    "break_it",
    [
        lambda song: song.pop("rows"),
        lambda song: song.update(schema_version=2),
        lambda song: song["rows"]["model"]["scores"]["vocals"]["SNR"].update(value=None),
        lambda song: song["rows"]["model"]["scores"]["vocals"]["SNR"].update(value="3 dB"),
        lambda song: song["data"].update(sha256="short"),
    ],
    ids=["no-rows", "version", "null-without-reason", "text", "hash"],
)
def test_schema_refuses_other_content(evaluated, break_it):
    content = json.loads(json.dumps(evaluated.songs[0]))
    break_it(content)
    assert not validator("song_scores").is_valid(content)


def test_summary_is_the_mean_over_songs_of_the_median_over_channels(evaluated):
    values = []
    for song in evaluated.songs:
        entry = song["rows"]["model"]["scores"]["vocals"]["SI-SDR"]
        assert entry["value"] == pytest.approx(np.median(entry["channels"]), abs=2e-6)
        values.append(entry["value"])
    found = evaluated.summary["rows"]["model"]["scores"]["SI-SDR"]["vocals"]
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert found["n"] == len(values) == 2
    overall = evaluated.summary["rows"]["model"]["scores"]["SI-SDR"]["overall"]
    assert overall["n"] == 4


def test_systems_stand_between_baselines_and_oracles(evaluated):
    """An ideal mask beats an untrained network, which does not beat the mixture by much."""
    vocals = {row: found["scores"]["SI-SDR"]["vocals"]["mean"] for row, found in evaluated.summary["rows"].items()}
    assert list(vocals) == [
        "model", "mixture", "random_mask", "repet_sim", "ft2d", "hpss",
        "ideal_binary_mask", "ideal_ratio_mask", "phase_sensitive_mask",
    ]  # fmt: skip
    assert vocals["phase_sensitive_mask"] > vocals["ideal_binary_mask"] > vocals["model"] + 3
    assert vocals["random_mask"] < vocals["ideal_ratio_mask"]
    mixture = evaluated.summary["rows"]["mixture"]["scores"]["SI-SDRi"]["vocals"]
    assert mixture["mean"] == pytest.approx(0.0, abs=1e-6)


def test_report_card_has_the_specifications_table(evaluated):
    card = (evaluated.output_folder / "report_card.txt").read_text(encoding="utf-8")
    assert card == evaluated.report_card
    assert "| Metric  |" in card
    assert "Overall | Bass+Drums+Other |" in card
    for metric in (*SCALE_METRICS, "SDR", "ISR", "SIR", "SAR"):
        assert f"| {metric} " in card
    assert "(2)" in card, "every mean prints its count"


def test_csv_has_a_line_for_every_score(evaluated):
    with (evaluated.output_folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(evaluated.summary["rows"]) * len(SOURCES) * len(evaluated.summary["metrics"])
    one = next(x for x in lines if x["row"] == "model" and x["source"] == "vocals" and x["metric"] == "SNR")
    song = next(song for song in evaluated.songs if song["song"] == one["song"])
    assert float(one["value"]) == song["rows"]["model"]["scores"]["vocals"]["SNR"]["value"]


def test_museval_reads_what_is_written_for_it(evaluated):
    from vocal_extraction.compatibility import museval

    store = museval.EvalStore()
    store.add_eval_dir(evaluated.output_folder / "museval")
    found = store.agg_frames_tracks_scores().unstack()
    ours = evaluated.summary["rows"]["model"]["scores"]
    for metric in ("SDR", "ISR", "SIR", "SAR"):
        for target, source in zip(("vocals", "accompaniment"), SOURCES, strict=True):
            assert found[metric][target] == pytest.approx(ours[metric][source]["median"], abs=1e-4)


def test_a_second_run_scores_nothing(results_folder, checkpoint, short_songs, monkeypatch, capsys):
    calls = count_scored(monkeypatch)
    before = contents_of(results_folder)
    options = {**EVERYTHING, "progress": True}
    evaluate_model(checkpoint, dataset_folder=short_songs, output_folder=results_folder, **options)
    assert calls == []
    assert contents_of(results_folder) == before
    shown = capsys.readouterr().err
    assert shown.startswith("evaluating: 2 of 2 songs in ")
    assert "\r" not in shown
    assert shown.count("\n") == 1


def test_results_of_the_first_version_are_read(results_folder, checkpoint, short_songs, monkeypatch):
    """They had whole paths, names of files for names of models, floors and ceilings, and no leakage."""
    for path in results_folder.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        content["evaluated"] |= {"path": "/home/someone/vocals/checkpoints/best.model.pth", "name": "best.model.pth"}
        if content["schema"] == results.SONG_SCHEMA:
            for row in content["rows"].values():
                for metrics in row["scores"].values():
                    del metrics["Leak"]
        else:
            content |= {"schema_version": 1}
            for row in content["rows"].values():
                row["role"] = {"baseline": "floor", "oracle": "ceiling"}.get(row["role"], "evaluated")
            for key in ("sources", "definitions", "notes", "made"):
                del content[key]
        path.write_text(json.dumps(content), encoding="utf-8")
    calls = count_scored(monkeypatch)
    (results_folder / "summary.json").write_text("[1, 2]")  # which is replaced, as all that is no summary
    options = {**EVERYTHING, "metrics": ("scale", "bsseval_v4")}
    found = evaluate_model(checkpoint, dataset_folder=short_songs, output_folder=results_folder, **options)
    assert calls == []
    validator("summary").validate(found.summary)
    assert not list(results_folder.glob("earlier-*"))


def test_reports_hold_no_local_paths(evaluated, checkpoint, short_songs):
    """Who reads a report learns nothing of the folders of whoever made it."""
    assert evaluated.summary["evaluated"]["name"] == f"tiny-{checkpoint.parent.name}"
    for name in ("report.html", "report_card.txt", "summary.json", "scores.csv"):
        content = (evaluated.output_folder / name).read_text(encoding="utf-8")
        assert str(evaluated.output_folder.parent.parent) not in content
        assert str(evaluated.output_folder.parent.parent.parent) not in content
        assert f"{short_songs.parent.name}/{short_songs.name}" not in content
    made = evaluated.summary["made"]
    assert made["preset"] == "tiny"
    for fact in (made["date"], made["machine"], f"preset {made['preset']}"):
        assert fact in evaluated.report_card


def test_only_what_is_missing_is_scored(checkpoint, short_songs, tmp_path, monkeypatch):
    calls = count_scored(monkeypatch)
    options = {"dataset_folder": short_songs, "output_folder": tmp_path, "limit": 1, **QUIET}
    evaluate_model(checkpoint, **options)
    evaluate_model(checkpoint, oracles=True, **options)
    evaluate_model(checkpoint, **{**options, "metrics": "bsseval_v4"})
    options["metrics"] = ("scale", "bsseval_v4")
    found = evaluate_model(checkpoint, oracles=False, **options)
    oracles = ["ideal_binary_mask", "ideal_ratio_mask", "phase_sensitive_mask"]
    assert [rows for _, rows in calls] == [["model", "mixture"], oracles, ["model", "mixture"]]
    assert found.summary["metrics"] == [*SCALE_METRICS, "SDR", "ISR", "SIR", "SAR"]


def test_changed_data_is_scored_again(checkpoint, short_songs, tmp_path, monkeypatch):
    dataset = shutil.copytree(short_songs / "test", tmp_path / "dataset" / "test").parent
    options = {"dataset_folder": dataset, "output_folder": tmp_path / "results", **QUIET}
    before = evaluate_model(checkpoint, **options)
    changed = before.summary["songs"][1]
    path = dataset / "test" / "foreground" / "bass" / f"{changed}.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    soundfile.write(path, 0.5 * samples, rate, subtype="FLOAT")
    calls = count_scored(monkeypatch)
    after = evaluate_model(checkpoint, **options)
    assert [song for song, _ in calls] == [changed]
    assert after.songs[0] == before.songs[0]
    assert after.songs[1]["rows"] != before.songs[1]["rows"]


def test_a_song_cut_short_is_scored_again(results_folder, checkpoint, short_songs, monkeypatch):
    path = sorted(results_folder.glob("*.json"))[0]
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:1_000], encoding="utf-8")
    calls = count_scored(monkeypatch)
    evaluate_model(checkpoint, dataset_folder=short_songs, output_folder=results_folder, limit=1, **QUIET)
    assert len(calls) == 1


def test_results_of_another_model_are_refused_untouched(results_folder, short_songs, tmp_path):
    other = save_model(tmp_path / "other.model.pth", seed=1)
    before = contents_of(results_folder)
    with pytest.raises(
        EvaluationError, match=r"holds results of .*best\.model\.pth.*other\.model\.pth.*another output"
    ):
        evaluate_model(other, dataset_folder=short_songs, output_folder=results_folder, **QUIET)
    assert contents_of(results_folder) == before


@pytest.mark.parametrize("other", [{"mask": "binary"}, {"subset": "valid"}], ids=["mask", "subset"])
def test_results_of_another_kind_are_refused(results_folder, checkpoint, short_songs, other):
    with pytest.raises(EvaluationError, match="Name another output folder"):
        evaluate_model(checkpoint, dataset_folder=short_songs, output_folder=results_folder, **other, **QUIET)


def test_overwriting_moves_the_other_models_results_away(results_folder, short_songs, tmp_path):
    other = save_model(tmp_path / "other.model.pth", seed=1)
    before = contents_of(results_folder)
    found = evaluate_model(other, dataset_folder=short_songs, output_folder=results_folder, overwrite=True, **QUIET)
    (earlier,) = results_folder.glob("earlier-*")
    assert contents_of(earlier) == before
    assert found.songs[0]["evaluated"]["name"] == "other"


def test_a_model_trained_further_is_scored_again_and_earlier_results_are_kept(short_songs, tmp_path, capsys):
    path, folder = tmp_path / "best.model.pth", tmp_path / "results"
    options = {"dataset_folder": short_songs, "output_folder": folder, "limit": 1, **QUIET}
    first = evaluate_model(save_model(path, seed=1), **options)
    before = contents_of(folder)
    second = evaluate_model(save_model(path, seed=2), **options)
    (earlier,) = folder.glob("earlier-*")
    assert contents_of(earlier) == before
    assert first.songs[0]["rows"]["model"] != second.songs[0]["rows"]["model"]
    assert "moved to" in capsys.readouterr().err


def test_a_copy_of_the_model_is_the_same_model(results_folder, checkpoint, short_songs, tmp_path, monkeypatch):
    calls = count_scored(monkeypatch)
    copy = shutil.copy(checkpoint, tmp_path / "copy.pth")
    evaluate_model(copy, dataset_folder=short_songs, output_folder=results_folder, **QUIET)
    assert calls == []


def test_a_file_of_somebody_elses_is_not_overwritten(checkpoint, short_songs, tmp_path):
    song = songs_in(short_songs, limit=1)[0].name
    (tmp_path / f"{song}.json").write_text('{"mine": true}')
    with pytest.raises(EvaluationError, match="is in the way"):
        evaluate_model(checkpoint, dataset_folder=short_songs, output_folder=tmp_path, limit=1, **QUIET)
    assert (tmp_path / f"{song}.json").read_text() == '{"mine": true}'


@pytest.mark.parametrize(
    "option, message",
    [
        ({"mask": "hard"}, "Unknown mask: 'hard'"),
        ({"metrics": ("pesq",)}, "Unknown metrics: 'pesq'"),
        ({"metrics": ()}, "No metrics were asked for"),
        ({"separator": "spleeter"}, "Unknown separator: 'spleeter'"),
        ({"n_jobs": 0}, "1 or more; got 0"),
    ],
)
def test_unknown_options_are_refused(checkpoint, short_songs, tmp_path, option, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate_model(checkpoint, dataset_folder=short_songs, output_folder=tmp_path, **{**QUIET, **option})
    assert list(tmp_path.iterdir()) == []


def test_saved_estimates_score_the_same(evaluated, short_songs, tmp_path):
    again = evaluate_estimates(
        evaluated.output_folder / "estimates",
        dataset_folder=short_songs,
        output_folder=tmp_path,
        **{**QUIET, "metrics": None},
    )
    for before, after in zip(evaluated.songs, again.songs, strict=True):
        for source in SOURCES:
            for metric, entry in before["rows"]["model"]["scores"][source].items():
                found = after["rows"]["estimates"]["scores"][source][metric]["value"]
                assert found == pytest.approx(entry["value"], abs=1e-4), (source, metric)


def test_estimates_that_change_are_scored_again(short_songs, tmp_path, monkeypatch):
    estimates = tmp_path / "estimates"
    songs = songs_in(short_songs)
    for song in songs:
        (estimates / song.name).mkdir(parents=True)
        vocals = song.read()[list(song.sources).index("vocals")]
        soundfile.write(estimates / song.name / "vocals.wav", vocals.T * 0.5, song.sample_rate)
    options = {"dataset_folder": short_songs, "output_folder": tmp_path / "results", **QUIET}
    first = evaluate_estimates(estimates, **options)
    # Half the reference, in 16 bits: right but for its level.
    vocals = first.songs[0]["rows"]["estimates"]["scores"]["vocals"]
    assert vocals["SNR"]["value"] == pytest.approx(20 * np.log10(2), abs=0.01)
    assert vocals["SI-SDR"]["value"] > 50
    noise = np.random.default_rng(0).standard_normal((songs[0].n_samples, songs[0].n_channels))
    soundfile.write(estimates / songs[0].name / "vocals.wav", 0.1 * noise, songs[0].sample_rate)
    calls = count_scored(monkeypatch)
    second = evaluate_estimates(estimates, **options)
    assert calls == [(songs[0].name, ["estimates"])]
    assert second.songs[0]["rows"]["estimates"]["scores"]["vocals"]["SI-SDR"]["value"] < -10


def test_a_comparison_pairs_songs(short_songs, checkpoint, tmp_path, capsys):
    other = save_model(tmp_path / "other.model.pth", seed=1)
    found = compare_models(
        [checkpoint, other],
        dataset_folder=short_songs,
        output_folder=tmp_path / "both",
        metrics="scale",
        progress=False,
        n_jobs=1,
    )
    (pair,), label = found["pairs"], f"tiny-{checkpoint.parent.name}"
    vocals = pair["sources"]["vocals"]["SI-SDR"]
    first, second = (found["models"][label]["rows"]["model"]["scores"] for label in (label, "other"))
    difference = second["SI-SDR"]["vocals"]["mean"] - first["SI-SDR"]["vocals"]["mean"]
    assert vocals["difference"] == pytest.approx(difference, abs=1e-5)
    assert vocals["wins"] + vocals["losses"] + vocals["ties"] == vocals["n"] == 2
    low, high = vocals["interval"]
    assert low <= vocals["difference"] <= high
    names = {path.name for path in (tmp_path / "both").iterdir()}
    assert names == {label, "other", "comparison.json", "comparison.txt", "comparison.html"}
    assert "95% interval" in capsys.readouterr().out
    assert ", commit " in (tmp_path / "both/comparison.txt").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("nothing", [None, 3])
def test_what_is_no_path_is_no_checkpoint(nothing):
    with pytest.raises(CheckpointError, match=f"Expected the path of a checkpoint.*got {nothing}"):
        evaluate_model(nothing)


def test_a_comparison_takes_two(checkpoint):
    with pytest.raises(EvaluationError, match=r"2-tiny.* is the same model"):
        compare_models([checkpoint, checkpoint])
    with pytest.raises(EvaluationError, match="two models or more; got 1"):
        compare_models([checkpoint])


def test_workers_find_the_same(evaluated, checkpoint, short_songs, tmp_path):
    options = {**EVERYTHING, "n_jobs": 2, "dataset_folder": short_songs, "output_folder": tmp_path}
    found = evaluate_model(checkpoint, **options)
    for one, expected in zip(found.songs, evaluated.songs, strict=True):
        assert one["data"] == expected["data"]
        for row in ("model", "repet_sim"):
            for source in SOURCES:
                for metric, entry in expected["rows"][row]["scores"][source].items():
                    value = one["rows"][row]["scores"][source][metric]["value"]
                    assert value == pytest.approx(entry["value"], abs=1e-4), (source, metric)


def test_the_default_folders_do_not_collide(short_songs, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {**QUIET, "dataset_folder": short_songs, "limit": 1}
    for model, folder in ((checkpoint, "."), (named_checkpoint("classic"), "pretrained-classic")):
        found = evaluate_model(model, **options)
        assert found.output_folder.as_posix() == str(Path("evaluation_results", folder))


def test_names_that_do_not_fit_get_a_file_of_their_own(tmp_path):
    long_a, long_b = "ä" * 120 + "a", "ä" * 120 + "b"
    files = {song_file(tmp_path, name).name for name in ("summary", "comparison", "a - b", long_a, long_b)}
    assert len(files) == 5
    assert "summary.json" not in files
    assert all(len(name.encode()) <= 220 for name in files)
    assert results.read_song(tmp_path / "nothing.json") is None
