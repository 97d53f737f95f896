"""What a run leaves in its folder after every epoch, beside the state that a resumed run reads.

``latest.model.pth`` and ``best.model.pth``, the history as JSON lines and for TensorBoard, and a plot of it.
"""

import itertools
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from vocal_extraction.atomic_files import write_text
from vocal_extraction.checkpointing import save_checkpoint
from vocal_extraction.reports.training_plots import write_loss_plot
from vocal_extraction.settings import TRAINED_MODEL
from vocal_extraction.training.resources import git_commit
from vocal_extraction.training.state import STATE_NAME, Run

BEST_NAME = TRAINED_MODEL.name
LATEST_NAME = "latest.model.pth"
_HISTORY_NAME, _PLOT_NAME, _TENSORBOARD_NAME = "history.jsonl", "loss.png", "tensorboard"

Row = dict[str, Any]
"""One epoch's figures: 'epoch', 'train_loss', 'validation_loss', 'learning_rate', 'mixtures_per_s',
'data_wait_share', 'duration_s', 'is_best'."""

_PLOTTED = ("train_loss", "validation_loss", "learning_rate", "mixtures_per_s", "data_wait_share")


def write_epoch(run: Run, folder: Path) -> None:
    """Write all that the last completed epoch of `run` leaves in `folder`; its state comes last.

    A run that is killed in between finds the state of the epoch before, and repeats this one to the last bit.
    """
    row, facts = run.history[-1], _facts(run)
    save_checkpoint(folder / LATEST_NAME, run.result, preset=run.preset, **facts)
    if row["is_best"]:
        save_checkpoint(folder / BEST_NAME, run.result, preset=run.preset, **facts)
    write_text(folder / _HISTORY_NAME, "".join(json.dumps(row, allow_nan=False) + "\n" for row in run.history))
    write_loss_plot(run.history, folder / _PLOT_NAME)
    _write_tensorboard(row, folder / _TENSORBOARD_NAME)
    run.save_state(folder)


def set_aside(folder: Path) -> Path | None:
    """Move what an earlier run left in `folder` into a folder of its own; return that, None if there was nothing.

    A run that was killed while it wrote its first epoch left nothing that would not be written again.
    """
    was_killed_in_its_first_epoch = (folder / LATEST_NAME).exists() and not (folder / STATE_NAME).exists()
    # The state goes last, so that what was interrupted here can still be resumed.
    names = (BEST_NAME, LATEST_NAME, _HISTORY_NAME, _PLOT_NAME, _TENSORBOARD_NAME, STATE_NAME)
    found = [folder / name for name in names if (folder / name).exists()]
    if was_killed_in_its_first_epoch or not found:
        return None
    aside = next(path for path in (folder / f"earlier-{n}" for n in itertools.count(1)) if not path.exists())
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    return aside


def _facts(run: Run) -> dict[str, Any]:
    """Return where the weights come from, as `CheckpointMetadata.of_preset` takes it."""
    return {
        "seed": run.seed,
        "n_steps": run.n_steps,
        "training_s": round(sum(row["duration_s"] for row in run.history), 1),
        "git_commit": git_commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {run.device.type}, torch {torch.__version__}",
        "history": [(row["train_loss"], row["validation_loss"]) for row in run.history],
    }


def _write_tensorboard(row: Row, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    # What an earlier run left of this epoch and later ones is hidden.
    with SummaryWriter(str(folder), purge_step=row["epoch"]) as writer:
        for name in _PLOTTED:
            writer.add_scalar(name, row[name], row["epoch"])
