"""The training loop, top to bottom: train, validate, keep the best, save, log, stop."""

import contextlib
import copy
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from checkpoints import save_checkpoint
from data_augmentation import create_mix_closure
from files import remove_leftovers, write_text
from model import choose_device
from reports.training_plots import write_loss_plot
from settings import (
    CHECKPOINT_FOLDER,
    DATASET_FOLDER,
    SPECIFIED,
    Preset,
    VocalExtractionError,
)
from training.losses import item_losses, negative_si_sdr
from training.mixtures import (
    MixtureCache,
    Mixtures,
    Order,
    load_validation_songs,
    training_loader,
    validation_loader,
)
from training.processes import Processes, device_of_rank, joined_processes
from training.resources import git_commit, resources
from training.state import Run

_N_REHEARSED = 2
_UNBOUNDED = 2**62


class TrainingError(VocalExtractionError):
    """Training cannot go on; the text says why."""


def train_model(
    maximum_number_of_mixtures: int | None = 1_000,
    *,
    preset: Preset = SPECIFIED,
    dataset_folder: str | Path = DATASET_FOLDER,
    checkpoint_folder: str | Path = CHECKPOINT_FOLDER,
    seed: int = 0,
    device: str = "auto",
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
        TensorBoard's events.
    seed
        The same seed on the same machine gives the same weights.
    device
        'auto', 'cpu', 'cuda', 'mps'.
    resume
        Continue from the last completed epoch of `checkpoint_folder`.
    n_epochs
        Another number of epochs than the preset's.
    n_workers
        Processes that mix; by default as the machine has cores to spare. It changes nothing but the time.
    cache_bytes
        Most bytes of rendered training mixtures to keep on disk, beside the dataset.
    progress
        Whether to show progress bars on stderr.

    Returns
    -------
    Path
        The checkpoint with the lowest validation loss.

    Raises
    ------
    TrainingError
        If a loss is not finite; the text names the mixture.
    DeviceError, SettingsError, RenderingError, ResumeError, StorageError
        If the device, a setting, the data, the run to resume or the folder cannot be used.
    """
    training = preset.training
    if training.n_mixtures is not None:
        training = dataclasses.replace(training, n_mixtures=maximum_number_of_mixtures)
    training = dataclasses.replace(training, n_epochs=n_epochs or training.n_epochs)
    preset = dataclasses.replace(preset, training=training)
    chosen = device_of_rank(choose_device(device))
    with joined_processes(chosen, training.batch_size) as processes, resources(chosen, n_workers) as n_workers_used:
        session = Session(
            Run(preset, seed=seed, device=chosen),
            Path(dataset_folder),
            Path(checkpoint_folder),
            processes,
            n_workers=n_workers_used,
            cache_bytes=cache_bytes,
            progress=progress and processes.is_first,
        )
        if resume:
            session.run.load_state(session.folder)
        return session.train()


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
        self.dataset_folder = dataset_folder
        training, n_sources = self.preset.training, max(self.preset.network.num_sources, 2)
        pin_memory = self.device.type == "cuda"

        def mixtures(subset: str, folder: Path, largest_bytes: int) -> Mixtures:
            closure = create_mix_closure(
                dataset_folder,
                subset,
                mixing=self.preset.mixing,
                sample_rate=self.preset.signal.sample_rate,
                seed=run.seed,
            )
            cache = MixtureCache(folder, largest_bytes) if largest_bytes else None
            return Mixtures(closure, n_sources=n_sources, cache=cache)

        self.training_mixtures = mixtures("train", dataset_folder / "train" / "rendered", cache_bytes)
        self.order = Order(self.preset, seed=run.seed, rank=processes.rank, n_ranks=processes.n_ranks)
        self.loader = training_loader(self.training_mixtures, self.order, n_workers=n_workers, pin_memory=pin_memory)
        self.validation_songs: list[tuple[str, Tensor, Tensor]] = []
        self.validation_batches: DataLoader[Any] | list[Any] = []
        if training.n_validation_mixtures is None:
            self.validation_songs = load_validation_songs(dataset_folder)[processes.rank :: processes.n_ranks]
        else:
            self.validation_batches = validation_loader(
                mixtures("valid", dataset_folder / "valid" / "rendered", _UNBOUNDED),
                [(0, i) for i in range(training.n_validation_mixtures)][processes.rank :: processes.n_ranks],
                batch_size=training.batch_size,
                n_workers=n_workers,
                pin_memory=pin_memory,
            )
        self.trained: nn.Module = processes.wrap(run.network, self.device)
        if training.compile_network and self.device.type == "cuda":
            self.trained = torch.compile(self.trained)  # type: ignore[assignment]

    def train(self) -> Path:
        """Run all epochs that are left; return the path of the best checkpoint."""
        run, training = self.run, self.preset.training
        if self.processes.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
        if not run.history:
            self.rehearse()
        for epoch in range(run.n_epochs_done + 1, training.n_epochs + 1):
            started = time.monotonic()
            row = {"epoch": epoch, **self.train_epoch(epoch)}
            row["validation_loss"] = self.validate(run.result)
            row["is_best"] = row["validation_loss"] < run.best_loss
            row["duration_s"] = round(time.monotonic() - started, 3)
            run.history.append(row)
            if self.processes.is_first:
                self.save(row)
            self._say(
                f"epoch {epoch} of {training.n_epochs}: training loss {row['train_loss']:.4f}, validation loss "
                f"{row['validation_loss']:.4f}{' (best)' if row['is_best'] else ''}, {row['mixtures_per_s']:.1f} "
                f"mixtures/s, {row['data_wait_share']:.0%} of the time waiting for data"
            )
            if self._has_stalled():
                self._say(f"stopped early: no better validation loss in {training.early_stopping_epochs} epochs")
                break
        return self.folder / "best.model.pth"

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train on the batches of one epoch; return its figures."""
        self.order.epoch = epoch
        total, n_items, waited_s, rate = 0.0, 0, 0.0, 0.0
        started = ready = time.monotonic()
        bar = tqdm(self.loader, desc=f"epoch {epoch}", unit="batch", disable=not self.progress, leave=False)
        for batch in bar:
            waited_s += time.monotonic() - ready
            rate = self.run.set_learning_rate()
            total += self.step(batch)
            n_items += len(batch["sources"])
            ready = time.monotonic()
            bar.set_postfix(loss=f"{total / n_items:.4f}", wait=f"{waited_s / (ready - started):.0%}")
        elapsed_s = time.monotonic() - started
        return {
            "train_loss": self.processes.mean(total, n_items),
            "learning_rate": rate,
            "mixtures_per_s": round(n_items * self.processes.n_ranks / elapsed_s, 3),
            "data_wait_share": round(waited_s / elapsed_s, 4),
        }

    def step(self, batch: dict[str, Tensor]) -> float:
        """Take one optimizer step; return the sum of the items' losses."""
        run, training = self.run, self.preset.training
        self.trained.train()
        run.optimizer.zero_grad(set_to_none=True)
        losses = self._losses(self.trained, batch)
        self._check_finite(losses, batch["address"])
        losses.mean().backward()
        if training.gradient_clip_norm is not None:
            nn.utils.clip_grad_norm_(run.network.parameters(), training.gradient_clip_norm)
        run.optimizer.step()
        if run.average is not None:
            run.average.update_parameters(run.network)
        run.n_steps += 1
        return float(losses.detach().sum())

    def _losses(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        sources = batch["sources"].to(self.device, non_blocking=True)
        with self._precision():
            return item_losses(network, sources, preset=self.preset)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        wanted = self.preset.training.mixed_precision and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def _check_finite(self, losses: Tensor, addresses: Tensor) -> None:
        """Stop every process as soon as one has a loss that is not finite."""
        finite = torch.isfinite(losses.detach()).cpu()
        if self.processes.any(not bool(finite.all())):
            culprits = ", ".join(f"{index} of epoch {epoch}" for epoch, index in addresses[~finite].tolist())
            raise TrainingError(
                f"The loss is not finite at mixture {culprits or 'of another process'} (seed {self.run.seed}). "
                "Look at its songs for NaN, or train with a lower learning rate or a gradient clip; "
                "the last checkpoint is kept."
            )

    @torch.no_grad()
    def validate(self, network: nn.Module) -> float:
        """Return the mean validation loss: over the fixed mixtures, or minus the SI-SDR over the songs."""
        network.eval()
        total, n_items = 0.0, 0
        for batch in tqdm(self.validation_batches, desc="validation", disable=not self.progress, leave=False):
            total += float(self._losses(network, batch).sum())
            n_items += len(batch["sources"])
        for _, mixture, vocals in self.validation_songs:
            with self._precision():
                loss = negative_si_sdr(network, mixture.to(self.device), vocals.to(self.device), preset=self.preset)
            # A song without vocals has no SI-SDR; it is left out by name in the evaluation.
            if bool(torch.isfinite(loss)):
                total, n_items = total + float(loss), n_items + 1
        return self.processes.mean(total, n_items)

    def rehearse(self) -> None:
        """Try two batches of everything on a copy, so that a mistake shows in seconds and not after an epoch."""
        original, self.run, trained = self.run, copy.deepcopy(self.run), self.trained
        self.trained = self.run.network
        rng_state = torch.get_rng_state()
        try:
            addresses = list(self.order)[: _N_REHEARSED * 2]
            for pair in (addresses[:2], addresses[2:]):
                items = [self.training_mixtures[address] for address in pair]
                self.step({key: torch.stack([item[key] for item in items]) for key in items[0]})
            if self.validation_songs:
                songs, self.validation_songs = self.validation_songs, self.validation_songs[:_N_REHEARSED]
                self.validate(self.run.result)
                self.validation_songs = songs
            if self.processes.is_first:
                with tempfile.TemporaryDirectory(dir=self.folder, prefix=".rehearsal-") as folder:
                    save_checkpoint(Path(folder) / "model.pth", self.run.result, preset=self.preset, metadata={})
                    self.run.save_state(Path(folder))
        finally:
            self.run, self.trained = original, trained
            torch.set_rng_state(rng_state)

    def save(self, row: dict[str, Any]) -> None:
        """Write checkpoints and history; the state that a resumed run reads comes last."""
        metadata = self._metadata()
        save_checkpoint(self.folder / "latest.model.pth", self.run.result, preset=self.preset, metadata=metadata)
        if row["is_best"]:
            save_checkpoint(self.folder / "best.model.pth", self.run.result, preset=self.preset, metadata=metadata)
        history = self.run.history
        write_text(self.folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in history))
        write_loss_plot(history, self.folder / "loss.png")
        self._write_tensorboard(row)
        self.run.save_state(self.folder)

    def _metadata(self) -> dict[str, Any]:
        history, training = self.run.history, self.preset.training
        return {
            "seed": self.run.seed,
            "n_steps": self.run.n_steps,
            "training_s": round(sum(row["duration_s"] for row in history), 1),
            "git_commit": git_commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {self.device.type}, torch {torch.__version__}",
            "optimizer": {"name": "Adam", "params": {"lr": training.learning_rate}},
            "loss_dictionary": {training.loss: {"weight": 1.0}},
            "trainer.state_dict": {
                "epoch": len(history),
                "epoch_length": training.batches_per_epoch,
                "max_epochs": training.n_epochs,
                "output": {"loss": history[-1]["train_loss"]},
                "metrics": {"validation/loss": history[-1]["validation_loss"]},
                "seed": None,
            },
            "trainer.state.epoch_history": {
                "train/loss": [row["train_loss"] for row in history],
                "validation/loss": [row["validation_loss"] for row in history],
            },
        }

    def _write_tensorboard(self, row: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder / "tensorboard")) as writer:
            for name in ("train_loss", "validation_loss", "learning_rate", "mixtures_per_s", "data_wait_share"):
                writer.add_scalar(name, row[name], row["epoch"])

    def _has_stalled(self) -> bool:
        patience, history = self.preset.training.early_stopping_epochs, self.run.history
        return patience is not None and not any(row["is_best"] for row in history[-patience:])

    def _say(self, text: str) -> None:
        if self.progress:
            tqdm.write(text, file=sys.stderr)
