"""Songs that a careless mean would swallow: silence, perfection, failure. All are named, and none spoils the rest."""

import json
import re

import numpy as np
import pytest
from evaluation_songs import QUIET, RATE, songs_in, write

from vocal_extraction.evaluation import SYSTEMS, EvaluationError, System, evaluate_estimates
from vocal_extraction.evaluation.evaluate import loudest_clip
from vocal_extraction.evaluation.metrics import choose_metrics
from vocal_extraction.evaluation.results import read_song, song_file
from vocal_extraction.evaluation.systems import Sources

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def write_songs(folder):
    """Four songs of noise, one without vocals; estimates of them: good, silent, perfect, and of the silent vocals."""
    rng = np.random.default_rng(0)
    for name in ("good estimate", "no vocals", "perfect estimate", "silent estimate"):
        vocals, rest = rng.standard_normal((2, 2, 2 * RATE)).astype(np.float32) * 0.1
        if name == "no vocals":
            vocals[:] = 0
        write(folder / "songs" / name / "vocals.wav", vocals.T)
        write(folder / "songs" / name / "accompaniment.wav", rest.T)
        estimate = {"silent estimate": 0 * vocals, "perfect estimate": vocals}.get(name, vocals + 0.1 * rest)
        write(folder / "estimates" / name / "vocals.wav", estimate.T)
    return folder


@pytest.fixture
def songs(tmp_path):
    return write_songs(tmp_path)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    songs = write_songs(tmp_path_factory.mktemp("silence"))
    return evaluate_estimates(
        songs / "estimates", dataset_folder=songs / "songs", output_folder=songs / "results",
        **{**QUIET, "metrics": None},
    )  # fmt: skip


def statistics_of(found, metric, source, row="estimates"):
    return found.summary["rows"][row]["scores"][metric][source]


def test_a_silent_reference_leaves_out_its_source_and_not_its_song(found):
    for row in ("estimates", "mixture"):
        vocals = statistics_of(found, "SI-SDR", "vocals", row)
        assert vocals["left_out"] == {"the reference is silent": ["no vocals"]}
        assert vocals["n"] == 3
        assert statistics_of(found, "SNR", "bass+drums+other", row)["n"] == 4


def test_bsseval_leaves_out_the_same_source(found):
    vocals = statistics_of(found, "SDR", "vocals")
    assert vocals["left_out"]["the reference is silent"] == ["no vocals"]
    rest = statistics_of(found, "SIR", "bass+drums+other")
    assert rest["left_out"]["no other source sounds"] == ["no vocals"]
    assert statistics_of(found, "SDR", "bass+drums+other")["n"] >= 2


def test_silent_and_perfect_estimates_are_stated_and_flagged(found):
    vocals = statistics_of(found, "SI-SDR", "vocals")
    assert vocals["at_limit"] == ["perfect estimate", "silent estimate"]
    values = {song["song"]: song["rows"]["estimates"]["scores"]["vocals"]["SI-SDR"]["value"] for song in found.songs}
    assert values["perfect estimate"] == 100.0
    assert values["silent estimate"] == -100.0
    assert values["good estimate"] == pytest.approx(20.0, abs=0.2)
    assert values["no vocals"] is None
    silent = statistics_of(found, "SDR", "vocals")
    reason = "there is no frame in which all references and estimates sound"
    assert silent["left_out"][reason] == ["silent estimate"]


def test_no_number_is_nan_and_every_count_is_printed(found):
    def walk(content):
        for value in content.values() if isinstance(content, dict) else content:
            if isinstance(value, (dict, list)):
                yield from walk(value)
            else:
                yield value

    numbers = [value for value in walk(found.summary) if isinstance(value, float)]
    assert np.isfinite(numbers).all()
    folder = found.output_folder
    for path in folder.glob("*.json"):
        assert not re.search(r"NaN|Infinity", json.dumps(json.loads(path.read_text(encoding="utf-8")))), path
    for line in found.report_card.splitlines():
        if re.match(r"\| (SI-|SD-|SNR|SRR|SDR|ISR|SIR|SAR)", line) and "Overall" not in line:
            assert len(re.findall(r"\(\d+\)", line)) == 3, line


def test_the_report_names_them(found):
    notes = found.report_card[found.report_card.index("Notes") :]
    assert "the reference is silent: no vocals" in notes
    assert "clipped to ±100 dB (a perfect or a silent estimate): perfect estimate, silent estimate" in notes
    # Without vocals the mixture is the rest: its row has a mean of 3 songs near 0 dB and one of 100 dB.
    assert "bass+drums+other, SI-SDR, SDR, mixture as estimate: clipped to ±100 dB" in notes
    assert "silent estimate" in (found.output_folder / "report.html").read_text(encoding="utf-8")


def test_the_best_the_median_and_the_worst_song_are_examples(found):
    page = (found.output_folder / "report.html").read_text(encoding="utf-8")
    songs = re.findall(r'<article class="song"><h3>(\w+: [\w ]+?) <small>', page)
    assert songs == ["Best: perfect estimate", "Median: good estimate", "Worst: silent estimate"]
    for song in re.findall(r'<article class="song">.*?</article>', page, flags=re.DOTALL):
        titles = re.findall(r"<figcaption>(.*?)</figcaption>", song)
        assert titles == ["Mixture", "Vocals as estimated", "Vocals as recorded", "The rest as estimated"]
        assert song.count("data:image/png;base64,") == song.count("data:audio/mpeg;base64,") == 4


def test_of_a_long_song_the_stretch_with_the_most_vocals_is_shown(tmp_path):
    vocals = np.full((1, 30 * RATE), 0.01, np.float32)
    vocals[:, 12 * RATE : 22 * RATE] = 0.1
    for name in ("vocals", "accompaniment"):
        write(tmp_path / "song" / f"{name}.wav", vocals.T)
    (song,) = songs_in(tmp_path)
    assert loudest_clip(Sources(("vocals",)).of(song)) == (12 * RATE, 22 * RATE)


def test_estimates_that_are_not_finite_stop_the_run_with_their_name(songs):
    bad = np.full((2, 2 * RATE), np.nan, np.float32)
    write(songs / "estimates" / "good estimate" / "vocals.wav", bad.T)
    with pytest.raises(EvaluationError, match=r"good estimate.*NaN or infinite"):
        evaluate_estimates(
            songs / "estimates", dataset_folder=songs / "songs", output_folder=songs / "results", **QUIET
        )
    assert list((songs / "results").glob("*.html")) == []


@pytest.mark.parametrize("trouble", [ValueError("no peaks above threshold"), None], ids=["raises", "gives-nan"])
def test_a_baseline_that_fails_is_named_and_the_rest_is_scored(songs, monkeypatch, trouble):
    def fail(excerpt, *, signal):
        if trouble:
            raise trouble
        return np.full_like(excerpt.references, np.nan)

    quick = {name: system for name, system in SYSTEMS.items() if name not in ("ft2d", "hpss")}
    quick["repet_sim"] = System("REPET-SIM", "baseline", fail, may_fail=True)
    monkeypatch.setattr("vocal_extraction.evaluation.systems.SYSTEMS", quick)  # the table's order is left as it is
    found = evaluate_estimates(
        songs / "estimates", dataset_folder=songs / "songs", output_folder=songs / "results", baselines=True,
        limit=1, **QUIET,
    )  # fmt: skip
    left_out = statistics_of(found, "SI-SDR", "vocals", "repet_sim")["left_out"]
    (reason,) = left_out
    assert left_out[reason] == ["good estimate"]
    assert "no peaks above threshold" in reason or "NaN" in reason
    assert statistics_of(found, "SI-SDR", "vocals")["n"] == 1
    assert statistics_of(found, "SI-SDR", "vocals", "random_mask")["n"] == 1


def test_an_oracle_that_fails_stops_the_evaluation(songs, monkeypatch):
    def fail(excerpt, *, signal):
        raise ValueError("a bug")

    monkeypatch.setitem(SYSTEMS, "mine", System("mine", "oracle", fail))
    with pytest.raises(ValueError, match="a bug"):
        evaluate_estimates(
            songs / "estimates", dataset_folder=songs / "songs", output_folder=songs / "results", oracles=True, **QUIET
        )


def test_leakage_is_what_an_estimate_has_where_the_source_is_silent(found, tmp_path):
    """Vocals in the second half; the estimate has a tenth of the rest everywhere: -20 dB in the first half."""
    rng = np.random.default_rng(0)
    vocals, rest = rng.standard_normal((2, 2 * RATE, 2)).astype(np.float32) * 0.1
    vocals[:RATE] = 0
    write(tmp_path / "songs" / "song" / "vocals.wav", vocals)
    write(tmp_path / "songs" / "song" / "accompaniment.wav", rest)
    write(tmp_path / "estimates" / "song" / "vocals.wav", vocals + 0.1 * rest)
    options = {**QUIET, "metrics": "leakage", "dataset_folder": tmp_path / "songs", "output_folder": tmp_path / "out"}
    leak = evaluate_estimates(tmp_path / "estimates", **options).songs[0]["rows"]
    assert leak["estimates"]["scores"]["vocals"]["Leak"]["value"] == pytest.approx(-20.0, abs=1e-3)
    assert leak["mixture"]["scores"]["vocals"]["Leak"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert leak["mixture"]["scores"]["bass+drums+other"]["Leak"]["left_out"].startswith("the source is never silent")
    # A song without vocals: all that is estimated leaks. It has no SI-SDR, but it has this.
    values = {song["song"]: song["rows"]["estimates"]["scores"]["vocals"]["Leak"] for song in found.songs}
    assert values["no vocals"]["value"] == pytest.approx(-20.0, abs=1e-3)
    assert values["good estimate"]["value"] is None


def test_scores_of_other_settings_are_not_kept(found, songs, monkeypatch):
    before = found.songs[0]["rows"]["mixture"]
    changed = {**SYSTEMS, "mixture": System("mixture", "baseline", SYSTEMS["mixture"].estimate, depends_on="stft")}
    monkeypatch.setattr("vocal_extraction.evaluation.systems.SYSTEMS", changed)
    options = {**QUIET, "dataset_folder": songs / "songs", "output_folder": songs / "results", "limit": 1}
    evaluate_estimates(songs / "estimates", **options)
    after = read_song(song_file(songs / "results", found.songs[0]["song"]))["rows"]["mixture"]
    assert (before["settings"], after["settings"]["window_length"]) == ({}, 512)
    assert after["scores"]["vocals"].keys() == choose_metrics("scale").keys()
