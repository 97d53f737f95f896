"""The training loop, top to bottom: train, validate, keep the best, save, log, stop."""

import contextlib
import copy
import dataclasses
import functools
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vocal_extraction.atomic_files import remove_leftovers, sole_writer
from vocal_extraction.checkpointing import save_checkpoint
from vocal_extraction.device import choose_device
from vocal_extraction.errors import SettingsError
from vocal_extraction.settings import CHECKPOINT_FOLDER, DATASET_FOLDER, LARGEST_SEED, SPECIFIED, Preset
from vocal_extraction.training.errors import DataError, TrainingError
from vocal_extraction.training.journal import BEST_NAME, Row, set_aside, write_epoch
from vocal_extraction.training.losses import item_losses, negative_si_sdr
from vocal_extraction.training.material import gather_material
from vocal_extraction.training.mixtures import Batch, KeptBatch, ValidationSong, batches_of
from vocal_extraction.training.processes import Processes, device_of_rank, joined_processes
from vocal_extraction.training.resources import has_bfloat16, in_threads, resources
from vocal_extraction.training.state import Run

_N_REHEARSED = 2
_COMPILING_DEVICES = ("cuda",)


def train_model(
    maximum_number_of_mixtures: int | None = 1_000,
    *,
    preset: Preset = SPECIFIED,
    dataset_folder: str | Path = DATASET_FOLDER,
    checkpoint_folder: str | Path = CHECKPOINT_FOLDER,
    seed: int = 0,
    device: str = "auto",
    start_from: str | Path | None = None,
    resume: bool = False,
    n_epochs: int | None = None,
    n_workers: int | None = None,
    cache_bytes: int = 0,
    progress: bool = True,
) -> Path:
    """Train a network on mixtures of the prepared dataset.

    Parameters
    ----------
    maximum_number_of_mixtures
        Size of the fixed set of training mixtures. Presets that mix anew in every epoch have no such set.
    preset
        Network, mixing and recipe.
    dataset_folder
        Where ``train`` and ``valid`` were prepared.
    checkpoint_folder
        Gets ``best.model.pth`` and ``latest.model.pth``, ``training_state.pth``, ``history.jsonl``, ``loss.png`` and
        TensorBoard's events. What an earlier run left there is moved into ``earlier-1`` (2, ...) after the first epoch.
    seed
        The same seed on the same machine gives the same weights. From 0 to 2**64 - 1.
    device
        'auto', 'cpu', 'cuda', 'mps'.
    start_from
        A checkpoint of the same network whose weights to begin with, as for learning more songs.
    resume
        Continue from the last completed epoch of `checkpoint_folder`.
    n_epochs
        Another number of epochs than the preset's.
    n_workers
        Processes that mix; by default as the machine has cores to spare. The mixtures are the same; on a CPU the
        network has the threads that are left, which may change the last bits of its sums.
    cache_bytes
        Most bytes of rendered training mixtures to keep on disk, beside the dataset; for presets with a fixed set.
    progress
        Whether to show progress bars on stderr.

    Returns
    -------
    Path
        The checkpoint with the lowest validation loss.

    Raises
    ------
    TrainingError
        If a loss is not finite (the text names the mixture or the song), validation data is missing, a process that
        mixes was killed, there is no run to resume, or `start_from` is another network.
    CheckpointError
        If `start_from` cannot be read.
    DeviceError, SettingsError, RenderingError, StorageError
        If the device, a setting, the training data or the folder cannot be used.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise SettingsError(f"The seed is {seed}; expected 0 to {LARGEST_SEED}.")
    preset = _with_length(preset, maximum_number_of_mixtures, n_epochs)
    chosen = device_of_rank(choose_device(device))
    with (
        joined_processes(chosen, preset.training.batch_size) as processes,
        resources(chosen, n_workers) as n_workers_used,
        _own_random_numbers(chosen),
        _alone_in(Path(checkpoint_folder), processes),
    ):
        session = Session(
            Run(preset, seed=seed, device=chosen, rank=processes.rank),
            Path(dataset_folder),
            Path(checkpoint_folder),
            processes,
            n_workers=n_workers_used,
            cache_bytes=cache_bytes,
            progress=progress and processes.is_first,
        )
        if start_from is not None:
            session.run.begin_with(Path(start_from))
        if resume:
            session.run.load_state(session.folder)
        return session.train()


def _alone_in(folder: Path, processes: Processes) -> contextlib.AbstractContextManager[None]:
    """Refuse a folder in which another run is at work: the two would replace each other's checkpoints."""
    return sole_writer(folder, doing="training") if processes.is_first else contextlib.nullcontext()


def _own_random_numbers(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Put torch's random numbers back where they were before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _with_length(preset: Preset, n_mixtures: int | None, n_epochs: int | None) -> Preset:
    """Return the preset with another size of its fixed set and number of epochs, if it can be trained at all."""
    training = preset.training
    n_mixed = 2 if preset.mixing.channels == "stereo" else 1
    if n_mixed % preset.network.num_audio_channels:
        raise SettingsError(
            f"The network takes {preset.network.num_audio_channels} channels together, but mixtures have {n_mixed}. "
            "Set num_audio_channels to 1, or to 2 where the mixing's channels are 'stereo'."
        )
    if training.n_mixtures is not None:
        training = dataclasses.replace(training, n_mixtures=n_mixtures)
    if n_epochs is not None:
        training = dataclasses.replace(training, n_epochs=n_epochs)
    return dataclasses.replace(preset, training=training)


class Session:
    """One call of `train_model`: a run, its data and its folder."""

    def __init__(
        self,
        run: Run,
        dataset_folder: Path,
        folder: Path,
        processes: Processes,
        *,
        n_workers: int,
        cache_bytes: int,
        progress: bool,
    ) -> None:
        self.run, self.folder, self.processes, self.progress = run, folder, processes, progress
        self.preset, self.device = run.preset, run.device
        self.material = gather_material(run, dataset_folder, processes, n_workers=n_workers, cache_bytes=cache_bytes)
        self.trained: nn.Module = processes.wrap(run.network, self.device)
        if self.preset.training.compile_network and self.device.type in _COMPILING_DEVICES:
            self.trained = torch.compile(self.trained)  # type: ignore[assignment]

    def train(self) -> Path:
        """Run all epochs that are left; return the path of the best checkpoint."""
        run, training = self.run, self.preset.training
        if self.processes.is_first and self.folder.is_dir():
            remove_leftovers(self.folder)
        self.rehearse()
        for epoch in range(run.n_epochs_done + 1, training.n_epochs + 1):
            if self._has_stalled():
                self._say(f"stopped early: no better validation loss in {training.early_stopping_epochs} epochs")
                break
            started = time.monotonic()
            row = {"epoch": epoch, **self.train_epoch(epoch), "validation_loss": self.validate(run.result)}
            row["is_best"] = row["validation_loss"] < run.best_loss
            row["duration_s"] = round(time.monotonic() - started, 3)
            run.history.append(row)
            if self.processes.is_first:
                if run.n_epochs_done == 1:
                    self._set_aside()
                write_epoch(run, self.folder)
            self._tell(row)
        return self.folder / BEST_NAME

    def _set_aside(self) -> None:
        """Keep what an earlier run left, now that there is something to put in its place."""
        aside = set_aside(self.folder)
        if aside is not None:
            self._say(f"what an earlier run left in {self.folder} is now in {aside}")

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train on the batches of one epoch; return its figures."""
        self.material.order.epoch = epoch
        self.run.begin_epoch(epoch)
        total, n_items, waited_s, rate = 0.0, 0, 0.0, 0.0
        started = ready = time.monotonic()
        with self._bar(f"epoch {epoch}", len(self.material.order)) as bar:
            for batch in batches_of(self.material.training_loader):
                waited_s += time.monotonic() - ready
                rate = self.run.set_learning_rate()
                total += self.step(batch)
                n_items += len(batch["sources"])
                ready = time.monotonic()
                bar.set_postfix(loss=f"{total / n_items:.4f}", waiting=f"{waited_s / (ready - started):.0%}")
                bar.update(len(batch["sources"]))
        elapsed_s = time.monotonic() - started
        total_of_all, n_of_all = self.processes.sums(total, n_items)
        return {
            "train_loss": total_of_all / n_of_all,
            "learning_rate": rate,
            "mixtures_per_s": round(n_of_all / elapsed_s, 3),
            "data_wait_share": round(waited_s / elapsed_s, 4),
        }

    def step(self, batch: Batch) -> float:
        """Take one optimizer step; return the sum of the items' losses."""
        run, training = self.run, self.preset.training
        self.trained.train()
        run.optimizer.zero_grad(set_to_none=True)
        losses = self._losses(self.trained, batch)
        losses.mean().backward()
        if training.gradient_clip_norm is not None:
            nn.utils.clip_grad_norm_(run.network.parameters(), training.gradient_clip_norm)
        run.optimizer.step()
        if run.average is not None:
            run.average.update_parameters(run.network)
        run.n_steps += 1
        # Only here does a GPU have to be waited for. What a bad loss did to the weights is never saved.
        losses = losses.detach().cpu()
        self._check_finite(losses, batch["address"])
        return float(losses.sum())

    def _losses(self, network: nn.Module, batch: Batch) -> Tensor:
        sources = batch["sources"].to(self.device, non_blocking=True)
        with self._precision():
            return item_losses(network, sources, preset=self.preset)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.preset.training.mixed_precision and has_bfloat16(self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _check_finite(self, losses: Tensor, addresses: Tensor) -> None:
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            culprits = ", ".join(f"{index} of epoch {epoch}" for epoch, index in addresses[~finite].tolist())
            raise TrainingError(
                f"The loss is not finite at mixture {culprits} (seed {self.run.seed}). Look at its songs for NaN, or "
                "train with a lower learning rate or a gradient clip; the last checkpoint is kept."
            )

    def validate(self, network: nn.Module) -> float:
        """Return the mean validation loss: over the fixed mixtures, or minus the SI-SDR over the songs."""
        material, total, n_items = self.material, 0.0, 0
        losses = in_threads(
            functools.partial(self._validation_loss, network), material.validation_items(), device=self.device
        )
        network.eval()
        with self._bar("validation", material.n_validated) as bar:
            for loss, n_here in losses:
                total, n_items = total + loss, n_items + n_here
                bar.update(n_here)
        total_of_all, n_of_all = self.processes.sums(total, n_items)
        if not n_of_all:
            raise DataError("No validation song has vocals in every channel. Prepare other songs.")
        return total_of_all / n_of_all

    @torch.no_grad()
    def _validation_loss(self, network: nn.Module, item: Batch | KeptBatch | ValidationSong) -> tuple[float, int]:
        """Return the sum of the losses of a batch or a song, and of how many items it is."""
        if isinstance(item, KeptBatch):
            item = item.read()
        if not isinstance(item, ValidationSong):
            losses = self._losses(network, item).cpu()
            self._check_finite(losses, item["address"])
            return float(losses.sum()), len(losses)
        mixture, vocals = (audio.to(self.device) for audio in item.read())
        # Silent vocals have no SI-SDR; the evaluation leaves such a song out by name.
        if not bool(vocals.any(dim=-1).all()):
            return 0.0, 0
        with self._precision():
            loss = float(negative_si_sdr(network, mixture, vocals, preset=self.preset))
        if not math.isfinite(loss):
            raise TrainingError(f"The validation loss is not finite at {item.name!r}. Look at its stems for NaN.")
        return loss, 1

    def rehearse(self) -> None:
        """Try two batches of everything on a copy, so that a mistake shows in seconds and not after an epoch."""
        original, trained = self.run, self.trained
        with _own_random_numbers(self.device):
            self.run = copy.deepcopy(original)
            self.trained = self.run.network
            try:
                addresses = list(self.material.order)[: 2 * _N_REHEARSED]
                for i in range(0, len(addresses), _N_REHEARSED):
                    self.step(self.material.training_mixtures.batch(addresses[i : i + _N_REHEARSED]))
                self._rehearse_validation()
                if self.processes.is_first:
                    self._rehearse_saving()
            finally:
                self.run, self.trained = original, trained

    def _rehearse_validation(self) -> None:
        material, network = self.material, self.run.result.eval()
        addresses = material.validation_order.addresses[:_N_REHEARSED]
        if material.validation_mixtures and addresses:
            self._validation_loss(network, material.validation_mixtures.batch(addresses))
        for song in material.validation_songs[:_N_REHEARSED]:
            self._validation_loss(network, song)

    def _rehearse_saving(self) -> None:
        folder = self.folder / ".rehearsal"
        try:
            save_checkpoint(folder / BEST_NAME, self.run.result, preset=self.preset)
            self.run.save_state(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _has_stalled(self) -> bool:
        patience, history = self.preset.training.early_stopping_epochs, self.run.history
        if patience is None or len(history) < patience:
            return False
        return not any(row["is_best"] for row in history[-patience:])

    def _bar(self, what: str, n_items: int) -> "tqdm[Any]":
        return tqdm(total=n_items, desc=what, unit="mixture", disable=not self.progress, leave=False)

    def _tell(self, row: Row) -> None:
        """Say how the epoch went, and how long the rest will take if it goes on like this."""
        n_left = self.preset.training.n_epochs - row["epoch"]
        durations_s = [row["duration_s"] for row in self.run.history[-3:]]
        minutes_left = n_left * sum(durations_s) / len(durations_s) / 60
        self._say(
            f"epoch {row['epoch']} of {self.preset.training.n_epochs}: training loss {row['train_loss']:.4f}, "
            f"validation loss {row['validation_loss']:.4f}{' (best)' if row['is_best'] else ''}, "
            f"{row['mixtures_per_s']:.1f} mixtures/s, {row['data_wait_share']:.0%} of the time waiting for data"
            + (f", about {minutes_left:.0f} min left" if n_left else "")
        )

    def _say(self, text: str) -> None:
        if self.progress:
            tqdm.write(text, file=sys.stderr)
