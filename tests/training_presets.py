"""A preset small enough to train in a second, and the figures of a run; shared by the tests of training."""

import dataclasses
import json

import torch

from vocal_extraction.settings import MixingSettings, NetworkSettings, Preset, SignalSettings, TrainingSettings


def tiny_preset(**changes) -> Preset:
    """Return a preset of 8 units and mixtures of half a second; `changes` are fields of any of its settings."""

    def changed(settings):
        names = {field.name for field in dataclasses.fields(settings)}
        return dataclasses.replace(settings, **{name: changes.pop(name) for name in names & changes.keys()})

    preset = Preset(
        "tiny",
        sources=changes.pop("sources", ("vocals",)),
        signal=changed(SignalSettings()),
        mixing=changed(MixingSettings(duration_s=0.5)),
        network=changed(NetworkSettings(hidden_size=8)),
        training=changed(
            TrainingSettings(n_epochs=2, batches_per_epoch=3, batch_size=2, n_mixtures=8, n_validation_mixtures=3)
        ),
    )
    assert not changes, f"no such settings: {changes}"
    return preset


def history_of(folder):
    """Read a run's history, without what the clock says."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    timed = ("mixtures_per_s", "data_wait_share", "duration_s")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def weights_of(folder, name="latest.model.pth"):
    """Read the weights of a checkpoint."""
    from vocal_extraction.checkpointing import read_checkpoint

    return read_checkpoint(folder / name)["state_dict"]


def assert_same_weights(one, other):
    """Two state dictionaries agree to the last bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
