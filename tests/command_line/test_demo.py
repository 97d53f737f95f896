"""``python main.py demo``, made as small as it can be."""

import dataclasses
import re
from pathlib import Path

import pytest

import main
from vocal_extraction.command_line import demo


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two songs to train on, one step, one song to extract; in a folder of its own."""
    training = dataclasses.replace(
        demo.DEMO.training, n_epochs=1, batches_per_epoch=1, batch_size=1, n_validation_mixtures=1
    )
    monkeypatch.setattr(demo, "DEMO", dataclasses.replace(demo.DEMO, training=training))
    monkeypatch.setattr(demo, "N_SONGS", {"n_train": 2, "n_valid": 1, "n_test": 1})
    monkeypatch.setattr(demo, "N_MIXTURES", 2)
    monkeypatch.setattr(demo, "SONG_S", 3.0)
    monkeypatch.setattr(demo, "LONGEST_SILENCE_S", 0.05)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("small", "quick_evaluation", "quick_training")
def test_demo_makes_all_that_it_names_and_can_be_repeated(capsys):
    earlier = Path("demo_output/checkpoints/best.model.pth")
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    assert main.main(["demo"]) == 0
    printed = capsys.readouterr()
    *_, table, places, advice = printed.out.strip().replace("|\n", "|\n\n").split("\n\n")
    places = dict(line.split(maxsplit=1) for line in places.splitlines())
    assert list(places) == ["songs", "checkpoint", "scores", "mixture", "vocals", "accompaniment"]
    assert all(Path(place).exists() and Path(place).is_relative_to("demo_output") for place in places.values())
    assert earlier.stat().st_size > 0
    assert printed.out.count("SI-SDR") == 1, "one table"
    assert "| the model just trained |" in printed.out
    assert "| best" not in printed.out
    assert advice.splitlines()[0].startswith(f"Listen to {places['vocals']}")
    assert advice.splitlines()[-1].endswith("vocal-extraction extract SONG.mp3")
    steps = [line for line in printed.err.splitlines() if "/5  " in line]
    assert [step[0] for step in steps] == list("12345")
    assert printed.err.count("done in ") == 5
    assert re.search(r"^     \d+ s$", printed.err, re.MULTILINE), "no long silence in a pipe"


def test_demo_is_the_specified_network_and_recipe_only_shorter():
    from vocal_extraction.presets import SPECIFIED

    assert demo.DEMO.signal == SPECIFIED.signal
    assert demo.DEMO.network == SPECIFIED.network
    assert demo.DEMO.mixing == SPECIFIED.mixing
    assert demo.DEMO.training.loss == SPECIFIED.training.loss
    assert demo.DEMO.training.n_epochs < SPECIFIED.training.n_epochs
