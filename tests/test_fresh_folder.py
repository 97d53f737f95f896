"""The specification's calls in a fresh folder: what is missing is prepared, as by the commands."""

import shutil

import numpy as np
import pytest
import soundfile
from training_presets import tiny_preset

import main
from vocal_extraction.settings import STEMS

pytestmark = pytest.mark.usefixtures("quick_evaluation", "quick_training")

RATE = 44_100
OPTIONS = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def musdb(tmp_path_factory):
    """Three songs in the form of MUSDB18-HQ, one of which `musdb` validates on."""
    folder = tmp_path_factory.mktemp("musdb")
    random = np.random.default_rng(0)
    for song in ("train/A - Song", "train/Actions - One Minute Smile", "test/B - Song"):
        (folder / song).mkdir(parents=True)
        stems = {stem: 0.1 * random.standard_normal((RATE, 2)) for stem in STEMS}
        for name, audio in {**stems, "mixture": sum(stems.values())}.items():
            soundfile.write(folder / song / f"{name}.wav", audio, RATE)
    return folder


@pytest.fixture(params=["argument", "environment"])
def where(request, musdb, tmp_path, monkeypatch):
    """A fresh working directory; how it is said where MUSDB18 lies."""
    monkeypatch.chdir(tmp_path)
    if request.param == "argument":
        monkeypatch.delenv("MUSDB_PATH", raising=False)
        return {"musdb_path": musdb}
    monkeypatch.setenv("MUSDB_PATH", str(musdb))
    return {}


def test_training_prepares_what_is_missing(where, tmp_path):
    main.train_model(8, preset=tiny_preset(n_epochs=1), n_workers=0, **OPTIONS, **where)
    assert (tmp_path / "checkpoints/best.model.pth").is_file()
    assert (tmp_path / "dataset/valid/mixture/Actions - One Minute Smile.wav").is_file()


def test_evaluation_prepares_what_is_missing(where, tmp_path):
    from vocal_extraction.checkpointing import named_checkpoint

    options = {"metrics": "scale", "n_jobs": 1, "show": False}
    evaluation = main.evaluate_model(named_checkpoint("classic"), **options, **OPTIONS, **where)
    assert [song["song"] for song in evaluation.songs] == ["B - Song"]
    assert (tmp_path / "dataset/test/mixture/B - Song.wav").is_file()


def test_a_limited_evaluation_prepares_no_more_than_it_scores(musdb, tmp_path, monkeypatch):
    from vocal_extraction.checkpointing import named_checkpoint

    monkeypatch.chdir(tmp_path)
    musdb = shutil.copytree(musdb, tmp_path / "musdb")
    for song in ("A first song", "C - Song"):
        shutil.copytree(musdb / "test/B - Song", musdb / "test" / song)
    options = {"metrics": "scale", "n_jobs": 1, "show": False, "limit": 2, "musdb_path": musdb}
    evaluation = main.evaluate_model(named_checkpoint("classic"), **options, **OPTIONS)
    names = ["A first song", "B - Song"]
    assert [song["song"] for song in evaluation.songs] == names
    assert sorted(path.stem for path in (tmp_path / "dataset").glob("*/mixture/*.wav")) == names
    options = {"metrics": "scale", "n_jobs": 1, "show": False, "overwrite": True}
    monkeypatch.setenv("MUSDB_PATH", str(musdb))
    assert len(main.evaluate_model(named_checkpoint("classic"), **options, **OPTIONS).songs) == 3, "the rest follows"


def test_songs_of_ones_own_are_trained_on(tmp_path, monkeypatch):
    """Vocals and accompaniment are enough; nothing is downloaded into the folder, or written to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUSDB_PATH", raising=False)
    random = np.random.default_rng(0)
    for song in ("a", "b"):
        (tmp_path / "mine" / song).mkdir(parents=True)
        for stem, n_channels, n_samples in (("vocals", 1, RATE), ("accompaniment", 2, 2 * RATE)):
            audio = 0.1 * random.standard_normal((n_samples, n_channels))
            soundfile.write(tmp_path / "mine" / song / f"{stem}.flac", audio, RATE)
    before = sorted((tmp_path / "mine").rglob("*"))
    main.train_model(8, preset=tiny_preset(n_epochs=1), dataset_folder="mine", n_workers=0, **OPTIONS)
    assert sorted((tmp_path / "mine").rglob("*")) == before
    assert (tmp_path / "checkpoints/best.model.pth").is_file()
