"""The sources that are scored: those that a model and all songs share, and the rest."""

from pathlib import Path

import numpy as np
import pytest
from evaluation_songs import QUIET, SIGNAL, TINY, save_model, write, write_songs

from vocal_extraction.evaluation import METRICS, EvaluationError, Metric, evaluate_model
from vocal_extraction.evaluation.systems import Sources
from vocal_extraction.presets import Preset
from vocal_extraction.settings import NetworkSettings
from vocal_extraction.tracks import Track

pytestmark = pytest.mark.usefixtures("quick_evaluation")

FOUR = ("bass", "drums", "other", "vocals")


def track(*stems):
    return Track("song", {stem: (Path(f"{stem}.wav"),) for stem in stems}, 44_100, 2, 1_000)


@pytest.mark.parametrize(
    "model, tracks, expected",
    [
        (["vocals"], [track(*FOUR)], Sources(("vocals",), "bass+drums+other")),
        (["vocals"], [track("vocals", "accompaniment")], Sources(("vocals",), "bass+drums+other")),
        (["vocals"], [track(*FOUR), track("vocals", "accompaniment")], Sources(("vocals",), "bass+drums+other")),
        (["bass+drums+other", "vocals"], [track(*FOUR)], Sources(("vocals",), "bass+drums+other")),
        (["other", "vocals", "drums", "bass"], [track(*FOUR)], Sources(("vocals", "bass", "drums", "other"))),
        (["other", "vocals", "drums"], [track(*FOUR)], Sources(("vocals", "drums", "other"), "bass")),
        (FOUR, [track("vocals", "accompaniment")], Sources(("vocals",), "bass+drums+other")),
        (["drums"], [track(*FOUR)], Sources(("drums",), "bass+other+vocals")),
        (["vocals"], [track("accompaniment")], Sources(("vocals",), "bass+drums+other")),
        (["drums"], [track("vocals", "drums"), track("drums", "bass")], Sources(("drums",), "residual")),
    ],
)
def test_shared_sources(model, tracks, expected):
    assert Sources.shared(model, tracks) == expected


def test_nothing_in_common_is_an_error():
    with pytest.raises(EvaluationError, match="drums can be estimated, but 'song' has the stems vocals, accompaniment"):
        Sources.shared(["drums"], [track("vocals", "accompaniment")])


def test_a_source_that_a_song_does_not_have_is_silent(tmp_path):
    write(tmp_path / "song.wav", np.full((100, 2), 0.5, np.float32))
    song = Track("song", {"accompaniment": (tmp_path / "song.wav",)}, 8_000, 2, 100)
    read = Sources.shared(["vocals"], [song]).of(song).read(0, 10)
    assert not read[0].any()
    assert (read[1] == 0.5).all()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs") / "dataset")


@pytest.fixture(scope="module")
def four(dataset, tmp_path_factory):
    """An evaluation of a model that gives four sources in an order of its own."""
    folder = tmp_path_factory.mktemp("four")
    network = NetworkSettings(hidden_size=4, num_layers=1)
    preset = Preset("four", signal=SIGNAL, network=network, sources=("drums", "vocals", "other", "bass"))
    checkpoint = save_model(folder / "four.model.pth", preset=preset)
    options = {**QUIET, "metrics": None, "oracles": True, "save_estimates": True, "dataset_folder": dataset}
    return evaluate_model(checkpoint, output_folder=folder / "results", **options)


def test_four_sources_are_scored_and_reported(four):
    columns = ["overall", "bass", "drums", "other", "vocals"]
    assert list(four.summary["rows"]["model"]["scores"]["SI-SDR"]) == columns
    for source in columns[1:]:
        oracle, model = (four.summary["rows"][row]["scores"]["SI-SDR"][source] for row in ("ideal_ratio_mask", "model"))
        assert model["n"] == 2
        assert oracle["mean"] > model["mean"] + 3
    assert "| Overall |" in " ".join(four.report_card.split())
    assert all(f" {name.title()} |" in four.report_card for name in columns)
    page = (four.output_folder / "report.html").read_text(encoding="utf-8")
    assert "Drums as estimated" in page
    csv = (four.output_folder / "scores.csv").read_text(encoding="utf-8")
    assert "first song,model,drums,SI-SDR," in csv
    written = {path.stem for path in (four.output_folder / "estimates" / "first song").iterdir()}
    assert written == {"vocals", "bass", "drums", "other"}


def test_four_sources_are_written_for_museval(four):
    from vocal_extraction.compatibility import museval

    store = museval.EvalStore()
    store.add_eval_dir(four.output_folder / "museval")
    found = store.agg_frames_tracks_scores().unstack()
    ours = four.summary["rows"]["model"]["scores"]["SDR"]
    for source in ("vocals", "bass", "drums", "other"):
        assert found["SDR"][source] == pytest.approx(ours[source]["median"], abs=1e-4)


def test_a_model_without_vocals_is_scored(dataset, tmp_path):
    preset = Preset("drums", signal=SIGNAL, network=TINY.network, sources=("drums",))
    checkpoint = save_model(tmp_path / "drums.pth", preset=preset)
    found = evaluate_model(checkpoint, dataset_folder=dataset, output_folder=tmp_path / "out", baselines=True, **QUIET)
    assert found.summary["sources"] == ["drums", "bass+other+vocals"]
    assert found.summary["rows"]["model"]["scores"]["SI-SDR"]["drums"]["n"] == 2


def test_a_metric_of_ones_own_is_one_row(dataset, tmp_path, monkeypatch):
    def level(reference, estimate, *, mixture, sample_rate):
        assert reference.shape == estimate.shape == mixture.shape
        assert sample_rate == 8_000
        return [np.sqrt(np.mean(e**2) / np.mean(r**2)) for r, e in zip(reference, estimate, strict=True)]

    monkeypatch.setitem(METRICS, "level", Metric("level beside the reference", unit="times", function=level))
    checkpoint = save_model(tmp_path / "a.pth")
    options = {**QUIET, "dataset_folder": dataset, "output_folder": tmp_path / "out"}
    found = evaluate_model(checkpoint, **{**options, "metrics": ["scale", "level"]})
    assert found.summary["metrics"][-1] == "level"
    mixture = found.songs[0]["rows"]["mixture"]["scores"]["vocals"]["level"]
    assert len(mixture["channels"]) == 2
    assert mixture["value"] > 1
    assert "level [times]" in found.report_card
    assert "vocals,level," in (tmp_path / "out" / "scores.csv").read_text(encoding="utf-8")
    assert "level beside the reference [times]" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    alone = evaluate_model(checkpoint, **{**options, "metrics": "level"})
    assert alone.summary["metrics"] == ["level"]
