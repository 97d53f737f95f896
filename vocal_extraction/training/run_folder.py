"""What a run writes after every epoch: checkpoints, history (JSON lines, TensorBoard, a plot) and its state."""

import dataclasses
import itertools
import json
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vocal_extraction.atomic_files import write_text
from vocal_extraction.checkpointing import save_checkpoint
from vocal_extraction.machine import git_commit
from vocal_extraction.presets import Preset
from vocal_extraction.reports.training_plots import write_loss_plot
from vocal_extraction.settings import TRAINED_MODEL
from vocal_extraction.spectrogram import magnitude, stft
from vocal_extraction.training.state import STATE_NAME, TrainingState

BEST_NAME = TRAINED_MODEL.name
LATEST_NAME = "latest.model.pth"
_HISTORY_NAME, _PLOT_NAME, _TENSORBOARD_NAME = "history.jsonl", "loss.png", "tensorboard"

Row = dict[str, Any]
"""One epoch's figures: 'epoch', 'train_loss', 'validation_loss', 'validation_si_sdr_db', 'learning_rate',
'mixtures_per_s', 'data_wait_share', 'duration_s', 'is_best'."""

_PLOTTED = (
    "train_loss", "validation_loss", "validation_si_sdr_db", "learning_rate", "mixtures_per_s", "data_wait_share",
)  # fmt: skip
_DYNAMIC_RANGE_DB = 80.0


class Example(NamedTuple):
    """What the network makes of a validation song; each (n_channels, n_samples)."""

    mixture: Tensor
    target: Tensor
    estimate: Tensor


def write_epoch(state: TrainingState, folder: Path, example: Example | None = None) -> None:
    """Write all files of the last completed epoch; the state, from which a killed run goes on, last."""
    row = state.history[-1]
    facts: dict[str, Any] = {
        "seed": state.seed,
        "n_steps": state.n_steps,
        "training_s": round(sum(row["duration_s"] for row in state.history), 1),
        "git_commit": git_commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {state.device.type}, torch {torch.__version__}",
        "history": [(row["train_loss"], row["validation_loss"]) for row in state.history],
    }
    save_checkpoint(folder / LATEST_NAME, state.result, preset=state.preset, **facts)
    if row["is_best"]:
        save_checkpoint(folder / BEST_NAME, state.result, preset=state.preset, **facts)
    write_text(folder / _HISTORY_NAME, "".join(json.dumps(row, allow_nan=False) + "\n" for row in state.history))
    write_loss_plot(state.history, folder / _PLOT_NAME)
    _write_tensorboard(row, folder / _TENSORBOARD_NAME, state, example)
    state.save(folder)


def move_earlier_run(folder: Path) -> Path | None:
    """Move what an earlier run left in `folder`, but not one killed in its first epoch, aside; return where to."""
    was_killed_in_its_first_epoch = (folder / LATEST_NAME).exists() and not (folder / STATE_NAME).exists()
    # The state goes last, so that what was interrupted here can still be resumed.
    names = (BEST_NAME, LATEST_NAME, _HISTORY_NAME, _PLOT_NAME, _TENSORBOARD_NAME, STATE_NAME)
    found = [folder / name for name in names if (folder / name).exists()]
    if was_killed_in_its_first_epoch or not found:
        return None
    earlier = next(path for path in (folder / f"earlier-{n}" for n in itertools.count(1)) if not path.exists())
    earlier.mkdir()
    for path in found:
        path.rename(earlier / path.name)
    return earlier


def _write_tensorboard(row: Row, folder: Path, state: TrainingState, example: Example | None) -> None:
    from torch.utils.tensorboard import SummaryWriter

    epoch, preset = row["epoch"], state.preset
    with SummaryWriter(str(folder), purge_step=epoch) as writer:  # this and later epochs of an earlier run are hidden
        for name in _PLOTTED:
            if row.get(name) is not None:
                writer.add_scalar(name, row[name], epoch)
        if epoch == 1:
            settings = json.dumps(state.origin | dataclasses.asdict(preset), indent=4)
            writer.add_text("settings", "".join(f"    {line}\n" for line in settings.splitlines()), epoch)
        if example is not None:
            for name, audio in example._asdict().items():
                if epoch == 1 or name == "estimate":
                    writer.add_audio(name, audio.mean(dim=0, keepdim=True), epoch, preset.signal.sample_rate)
                    writer.add_image(name, _picture(audio, preset), epoch, dataformats="HW")


def _picture(audio: Tensor, preset: Preset) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the spectrogram of (n_channels, n_samples) as grey levels (n_bins, n_frames), low frequencies below."""
    level_db = 20 * magnitude(stft(audio.mean(dim=0), signal=preset.signal)).clamp_min(1e-9).log10()
    grey = ((level_db - level_db.max()) / _DYNAMIC_RANGE_DB + 1).clamp(0, 1) * 255
    return np.asarray(grey.T.flip(0).to(torch.uint8))
