"""A preset small enough to train in a second, its trainer, and the figures of a run; shared by tests of training."""

import dataclasses
import json
from pathlib import Path

import torch

from vocal_extraction.presets import Preset
from vocal_extraction.settings import MixingSettings, NetworkSettings, SignalSettings, TrainingSettings


def tiny_preset(**changes) -> Preset:
    """Return a preset of 8 units and mixtures of half a second; `changes` are fields of any of its settings."""

    def changed(settings):
        names = {field.name for field in dataclasses.fields(settings)}
        return dataclasses.replace(settings, **{name: changes.pop(name) for name in names & changes.keys()})

    preset = Preset(
        "tiny",
        signal=changed(SignalSettings()),
        mixing=changed(MixingSettings(duration_s=0.5)),
        network=changed(NetworkSettings(hidden_size=8)),
        training=changed(
            TrainingSettings(n_epochs=2, batches_per_epoch=3, batch_size=2, n_mixtures=8, n_validation_mixtures=3)
        ),
        sources=changes.pop("sources", ("vocals",)),
    )
    assert not changes, f"no such settings: {changes}"
    return preset


def trainer_of(preset, dataset, folder, *, seed=0, device="cpu", n_workers=0, cache_bytes=0, processes=None):
    """Return the trainer that `train_model` would make."""
    from vocal_extraction.training.data_module import DataModule, find_training_tracks
    from vocal_extraction.training.processes import Processes
    from vocal_extraction.training.state import TrainingState
    from vocal_extraction.training.trainer import Trainer

    processes = processes or Processes()
    data = DataModule(
        preset,
        seed,
        find_training_tracks([dataset], preset),
        processes,
        device=torch.device(device),
        n_workers=n_workers,
        cache_folder=dataset,
        cache_bytes=cache_bytes,
    )
    state = TrainingState(preset, seed=seed, device=torch.device("cpu"), rank=processes.rank)
    return Trainer(state, data, folder, processes, progress=False)


def history_of(folder):
    """Read a run's history, without what the clock says."""
    rows = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]
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
