"""The state of a training run: weights, optimizer, moving average, history and random state.

After every epoch it is written to one file, from which a run that was killed goes on, to the last bit.
"""

import dataclasses
import io
import json
import math
import pickle
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vocal_extraction.atomic_files import write_bytes
from vocal_extraction.checkpointing import CheckpointError, read_checkpoint, source_names
from vocal_extraction.checkpointing.archive import packed, reason_of, records_of
from vocal_extraction.errors import ResumeError, TrainingError
from vocal_extraction.networks import create_model
from vocal_extraction.presets import Preset
from vocal_extraction.tracks import Track

STATE_NAME = "training_state.pth"
WARM_UP_SHARE = 0.02  # share of a cosine schedule's steps in which the learning rate rises


class TrainingState:
    """A network in training, and everything that changes meanwhile."""

    def __init__(self, preset: Preset, *, seed: int, device: torch.device, rank: int = 0) -> None:
        torch.manual_seed(seed)
        self.preset, self.seed, self.device, self.rank = preset, seed, device, rank
        self.network: nn.Module = create_model(preset).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=preset.training.learning_rate)
        decay = preset.training.weight_average_decay
        self.average = (
            None if decay is None else AveragedModel(self.network, multi_avg_fn=_average(decay), use_buffers=True)
        )
        self.history: list[dict[str, Any]] = []
        self.n_steps = 0
        self.songs: dict[str, int] = {}  # checksums of songs by name and length, which a resumed run must share
        self.origin: dict[str, Any] = {"seed": seed, "device": str(device)}  # for TensorBoard, beside the preset
        self.loader_seed = int(torch.empty((), dtype=torch.int64).random_())

    @property
    def n_epochs_done(self) -> int:
        return len(self.history)

    @property
    def best_loss(self) -> float:
        """Lowest validation loss so far; infinite before the first."""
        return min((row["validation_loss"] for row in self.history), default=math.inf)

    @property
    def result(self) -> nn.Module:
        """The network that is validated and saved: the moving average where there is one."""
        return self.network if self.average is None else self.average.module

    def begin_epoch(self, epoch: int) -> None:
        """Give every process but the first random numbers of its own, which depend on seed, epoch and rank alone."""
        if self.rank:
            torch.manual_seed(int(np.random.SeedSequence((self.seed, epoch, self.rank)).generate_state(1)[0]))

    def set_learning_rate(self) -> float:
        """Set the optimizer's learning rate to the schedule's for the next step, and return it."""
        training = self.preset.training
        rate = training.learning_rate
        if training.learning_rate_schedule == "cosine":
            n_all = training.n_epochs * training.batches_per_epoch
            n_rise = max(int(WARM_UP_SHARE * n_all), 1)
            progress = min(max(self.n_steps - n_rise, 0) / max(n_all - n_rise, 1), 1.0)
            rate *= min((self.n_steps + 1) / n_rise, 1.0) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def start_from(self, path: Path) -> None:
        """Begin with the weights of a checkpoint; a TrainingError says that it is of another network."""
        weights = read_checkpoint(path)["state_dict"]
        self.origin["start_from"] = path.name
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise TrainingError(
                f"{path} is another network than that of preset {self.preset.name!r}, so training cannot start from it."
            ) from error
        if self.average is not None:
            self.average.module.load_state_dict(weights)

    def save(self, folder: Path) -> None:
        content = {
            "fingerprint": _fingerprint(self.preset, self.seed),
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": json.dumps(self.history),
            "songs": json.dumps(self.songs),
            "n_steps": self.n_steps,
            "random_state": torch.get_rng_state(),
            "cuda_random_state": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        # Not to the file itself: torch reports a full disk as an error of its own.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(folder / STATE_NAME, buffer.getbuffer())

    def load(self, folder: Path, *, changed_data: bool = False) -> None:
        """Continue where `save` stopped, if `changed_data` with other songs; a ResumeError says why it cannot."""
        path = folder / STATE_NAME
        if not path.is_file():
            raise ResumeError(f"Nothing to resume: {path} does not exist. Start without --resume.")
        try:
            records = records_of(path.read_bytes(), name=str(path))
            content = torch.load(packed(records), map_location="cpu", weights_only=True)
        except (CheckpointError, OSError, pickle.UnpicklingError) as error:
            raise ResumeError(
                f"{path} cannot be resumed from ({reason_of(error)}). Start again without --resume."
            ) from error
        if _settings_of(content["fingerprint"]) != _settings_of(_fingerprint(self.preset, self.seed)):
            raise ResumeError(f"{path} belongs to a run of other settings or another seed. Resume with those.")
        if not changed_data:
            self._check_songs(json.loads(content.get("songs", "{}")))
        self.network.load_state_dict(content["network"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.history = json.loads(content["history"])
        self.n_steps = int(content["n_steps"])
        torch.set_rng_state(content["random_state"])
        if content["cuda_random_state"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_random_state"], self.device)

    def _check_songs(self, before: dict[str, int]) -> None:
        added, removed = sorted({*self.songs} - {*before}), sorted({*before} - {*self.songs})
        replaced = sorted(name for name in self.songs.keys() & before if before[name] != self.songs[name])
        if before and (added or removed or replaced):
            changes = (("added", added), ("removed", removed), ("replaced", replaced))
            what = " and ".join(f"{len(names)} {verb} (as {names[0]})" for verb, names in changes if names)
            raise ResumeError(
                f"The songs are not those that this run began with: {what}. Losses before and after would "
                "not compare. Put them back, or go on with --resume --changed-data."
            )


def song_marks(songs: Mapping[str, Sequence[Track]]) -> dict[str, int]:
    """Return a checksum of a second from the middle of each song, by subset, name and length."""

    def mark(song: Track) -> int:
        start = max(song.n_samples - song.sample_rate, 0) // 2
        return zlib.crc32(song.read(start, min(start + song.sample_rate, song.n_samples)).tobytes())

    return {f"{subset}/{one.name} ({one.n_samples})": mark(one) for subset in songs for one in songs[subset]}


def _average(decay: float) -> Any:
    """Return the function that averages weights and BatchNorm's statistics, but not its counters, which are integers.

    The decay starts low and rises to `decay`: with a constant one, the average of BatchNorm's statistics, the first of
    which are near zero, was still off by a third after 500 steps.
    """

    @torch.no_grad()
    def average(averaged: list[torch.Tensor], current: list[torch.Tensor], n_averaged: Any) -> None:
        n = int(n_averaged)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)

    return average


def _settings_of(fingerprint: str) -> Any:
    """Return what `_fingerprint` named; before version 2, a preset had a number of sources only."""
    facts, seed = json.loads(fingerprint)
    n_sources = facts["network"].pop("num_sources", None)
    return {"sources": list(source_names(n_sources)) if n_sources else None, **facts}, seed


def _fingerprint(preset: Preset, seed: int) -> str:
    """Name the settings that a continued run must share; only its length may change."""
    facts = dataclasses.asdict(preset)
    del facts["training"]["n_epochs"]
    return json.dumps([facts, seed], sort_keys=True)
