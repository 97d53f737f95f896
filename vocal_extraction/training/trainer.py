"""The training loop, top to bottom: train, validate, keep the best, save, log, stop."""

import contextlib
import copy
import dataclasses
import functools
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vocal_extraction.atomic_files import remove_leftovers, sole_writer
from vocal_extraction.checkpointing import save_checkpoint
from vocal_extraction.device import choose_device
from vocal_extraction.errors import DataError, SettingsError, TrainingError
from vocal_extraction.presets import SPECIFIED, Preset, find_preset
from vocal_extraction.settings import CHECKPOINT_FOLDER, DATASET_FOLDER, LARGEST_SEED, converted
from vocal_extraction.tracks import TrackFolder, prepare_if_needed
from vocal_extraction.training.data_module import DataModule, ValidationSong, find_training_tracks, mixture_folder
from vocal_extraction.training.losses import estimate_sources, item_losses, si_sdr_db
from vocal_extraction.training.mixtures import Batch, worker_errors
from vocal_extraction.training.processes import Processes, device_of_rank, joined_processes
from vocal_extraction.training.resources import has_bfloat16, in_threads, resources
from vocal_extraction.training.run_folder import BEST_NAME, Example, Row, move_earlier_run, write_epoch
from vocal_extraction.training.state import TrainingState, song_marks

_N_CHECKED = 2
_COMPILING_DEVICES = ("cuda",)
_EXAMPLE_S = 10


def train_model(
    maximum_number_of_mixtures: int | None = 1_000,
    *,
    preset: Preset | str = SPECIFIED,
    dataset_folder: str | Path = DATASET_FOLDER,
    tracks: Sequence[str | Path | TrackFolder] | None = None,
    musdb_path: str | Path | None = None,
    checkpoint_folder: str | Path = CHECKPOINT_FOLDER,
    seed: int = 0,
    device: str = "auto",
    start_from: str | Path | None = None,
    resume: bool = False,
    changed_data: bool = False,
    n_epochs: int | None = None,
    n_batches: int | None = None,
    n_validation_mixtures: int | None = None,
    n_workers: int | None = None,
    cache_bytes: int = 0,
    progress: bool = True,
) -> Path:
    """Train a network on mixtures of songs; MUSDB18 is prepared first where there are none.

    Parameters
    ----------
    maximum_number_of_mixtures
        Size of the fixed set of mixtures. Presets that mix anew take no number, and 1000 for not having been given one.
    preset
        Network, mixing and recipe, and which sources are trained: a preset, its name, or a TOML file.
    dataset_folder
        Folder of the songs, in any layout of `track_layouts`; see `tracks.prepare_if_needed` for when it is filled.
    tracks
        Folders of songs to train on instead, each perhaps with a source and a weight: ``PATH[:SOURCE][=WEIGHT]``.
    musdb_path
        Where MUSDB18 lies; None takes the environment variable ``MUSDB_PATH``, or downloads the 7 s sample.
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
    changed_data
        Resume although songs were added, removed or replaced.
    n_epochs, n_batches, n_validation_mixtures
        Other numbers of epochs, of batches an epoch and of validation mixtures (0: whole songs) than the preset's.
    n_workers
        Processes that mix; on a CPU the network has the threads that are left, and other last bits of its sums.
    cache_bytes
        Most bytes of rendered training mixtures to keep on disk, beside the dataset; for presets with a fixed set.
    progress
        Whether to show progress on stderr: bars in a terminal, and one line an epoch.

    Returns
    -------
    Path
        The checkpoint with the lowest validation loss.

    Raises
    ------
    TrainingError
        If a loss is not finite (the text names the mixture or the song), validation data is missing, a process that
        mixes was killed, there is no run to resume, or `start_from` is another network.
    CheckpointError, DeviceError, PreparationError, SettingsError, StorageError, TrackError
        If `start_from`, the device, a setting, the songs or the folder cannot be used.
    """
    if not 0 <= converted(seed, int, "seed") <= LARGEST_SEED:
        raise SettingsError(f"The seed is {seed!r}; expected a whole number from 0 to {LARGEST_SEED}.")
    if (converted(n_workers, int | None, "n_workers") or 0) < 0:
        raise SettingsError(f"The number of workers is {n_workers}; expected 0 or more.")
    lengths = {"n_epochs": n_epochs, "batches_per_epoch": n_batches, "n_validation_mixtures": n_validation_mixtures}
    preset = _with_length(find_preset(preset), maximum_number_of_mixtures, **lengths)
    chosen, folder = device_of_rank(choose_device(device)), Path(checkpoint_folder)
    songs_of = functools.partial(find_training_tracks, tracks or [dataset_folder], preset)
    found = None
    if os.environ.get("RANK", "0") == "0":
        # The other processes wait in `joined_processes` until the first has prepared and converted the songs.
        if not tracks:
            prepare_if_needed(dataset_folder, musdb_path, progress=progress)
        found = songs_of(progress=progress)
    with (
        joined_processes(chosen, preset.training.batch_size) as processes,
        resources(chosen, n_workers) as n_workers_used,
        _own_random_numbers(chosen),
        sole_writer(folder, doing="training") if processes.is_first else contextlib.nullcontext(),
    ):
        state = TrainingState(preset, seed=seed, device=chosen, rank=processes.rank)
        found = found or songs_of()
        state.songs = song_marks(found)
        state.origin["tracks"] = [Path(str(each)).absolute().name for each in tracks or [dataset_folder]]
        if start_from is not None:
            state.start_from(Path(start_from))
        if resume:
            state.load(folder, changed_data=changed_data)
        data = DataModule(
            preset,
            seed,
            found,
            processes,
            device=chosen,
            n_workers=n_workers_used,
            cache_folder=mixture_folder((tracks or [dataset_folder])[0]),
            cache_bytes=cache_bytes,
            loader_seed=state.loader_seed,
        )
        trainer = Trainer(state, data, folder, processes, progress=progress and processes.is_first)
        with worker_errors():
            return trainer.fit()


def _own_random_numbers(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Put torch's random numbers back where they were before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _with_length(preset: Preset, n_mixtures: int | None, **numbers: int | None) -> Preset:
    """Return the preset with other numbers in its training settings, if it can be trained at all."""
    n_mixed = 2 if preset.mixing.channels == "stereo" else 1
    if n_mixed % preset.network.num_audio_channels:
        raise SettingsError(
            f"The network takes {preset.network.num_audio_channels} channels together, but mixtures have {n_mixed}. "
            "Set num_audio_channels to 1, or to 2 where the mixing's channels are 'stereo'."
        )
    changes: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
    if preset.training.n_mixtures is not None:
        changes["n_mixtures"] = n_mixtures
    elif n_mixtures not in (None, SPECIFIED.training.n_mixtures):
        raise SettingsError(
            f"Preset {preset.name!r} mixes anew in every epoch, got {n_mixtures} mixtures to draw from."
        )
    if changes.get("n_validation_mixtures") == 0:
        changes["n_validation_mixtures"] = None
    return dataclasses.replace(preset, training=dataclasses.replace(preset.training, **changes))


class Scores(NamedTuple):
    loss: float
    si_sdr_db: float | None


class Trainer:
    """One call of `train_model`: a training state, its data and its folder."""

    def __init__(
        self, state: TrainingState, data: DataModule, folder: Path, processes: Processes, *, progress: bool
    ) -> None:
        self.state, self.data, self.folder, self.processes, self.progress = state, data, folder, processes, progress
        self.preset, self.device = state.preset, state.device
        n_channels = self.preset.network.num_audio_channels
        self._estimate = functools.partial(estimate_sources, signal=self.preset.signal, n_network_channels=n_channels)
        self.model: nn.Module = processes.wrap(state.network, self.device)
        if self.preset.training.compile_network and self.device.type in _COMPILING_DEVICES:
            self.model = torch.compile(self.model)  # type: ignore[assignment]

    def fit(self) -> Path:
        """Run all epochs that are left; return the path of the best checkpoint."""
        state, training = self.state, self.preset.training
        if self.processes.is_first:
            remove_leftovers(self.folder)
        self.sanity_check()
        for epoch in range(state.n_epochs_done + 1, training.n_epochs + 1):
            if self._has_stalled():
                self._say(f"stopped early: no better validation loss in {training.early_stopping_epochs} epochs")
                break
            started = time.monotonic()
            self.data.sampler.epoch = epoch
            state.begin_epoch(epoch)
            row: Row = {"epoch": epoch, **self.train_epoch(self.data.training_loader, f"epoch {epoch}")}
            scores = self.validate(state.result)
            row |= {"validation_loss": scores.loss, "validation_si_sdr_db": scores.si_sdr_db}
            row["is_best"] = row["validation_loss"] < state.best_loss
            row["duration_s"] = round(time.monotonic() - started, 3)
            state.history.append(row)
            if self.processes.is_first:
                self._write(row)
            self._report(row)
        return self.folder / BEST_NAME

    def train_epoch(self, batches: Iterable[Batch], title: str = "") -> dict[str, float]:
        """Take one optimizer step a batch; return the figures of the epoch."""
        state, training = self.state, self.preset.training
        total, n_items, waited_s, rate = 0.0, 0, 0.0, 0.0
        started = ready = time.monotonic()
        self.model.train()
        with self._bar(title, len(self.data.sampler)) as bar:
            for batch in batches:
                waited_s += time.monotonic() - ready
                rate = state.set_learning_rate()
                state.optimizer.zero_grad(set_to_none=True)
                sources, known = (batch[name].to(self.device, non_blocking=True) for name in ("sources", "known"))
                with self._precision():
                    losses = item_losses(self.model, sources, preset=self.preset, known=known)
                losses.mean().backward()
                if training.gradient_clip_norm is not None:
                    nn.utils.clip_grad_norm_(state.network.parameters(), training.gradient_clip_norm)
                state.optimizer.step()
                if state.average is not None:
                    state.average.update_parameters(state.network)
                state.n_steps += 1
                # This waits for the GPU. Weights that a non-finite loss has changed are never saved.
                total += self._checked_sum(losses, batch["address"])
                n_items += len(losses)
                ready = time.monotonic()
                bar.set_postfix(loss=f"{total / n_items:.5g}", waiting=f"{waited_s / (ready - started):.0%}")
                bar.update(len(losses))
        elapsed_s = time.monotonic() - started
        total_of_all, n_of_all = self.processes.sums(total, n_items)
        return {
            "train_loss": total_of_all / n_of_all,
            "learning_rate": rate,
            "mixtures_per_s": round(n_of_all / elapsed_s, 3),
            "data_wait_share": round(waited_s / elapsed_s, 4),
        }

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.preset.training.mixed_precision and has_bfloat16(self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _checked_sum(self, losses: Tensor, addresses: Tensor) -> float:
        """Return the sum of the losses of a batch, all of which must be finite."""
        losses = losses.detach().cpu()
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            culprits = ", ".join(f"{index} of epoch {epoch}" for epoch, index in addresses[~finite].tolist())
            raise TrainingError(
                f"The loss is not finite at mixture {culprits} (seed {self.state.seed}). Look at its songs for NaN, or "
                "train with a lower learning rate or a gradient clip; the last checkpoint is kept."
            )
        return float(losses.sum())

    def validate(self, network: nn.Module) -> Scores:
        """Return the mean loss of the fixed mixtures (without any: minus SI-SDR), and the mean SI-SDR of the songs."""
        data, network = self.data, network.eval()
        loss = self._mean(self._mixture_loss, data.validation_batches(), network, len(data.validation_addresses))
        si_sdr_db = self._mean(self._song_si_sdr, data.validation_songs, network, len(data.validation_songs))
        if loss is not None:
            return Scores(loss, si_sdr_db)
        if si_sdr_db is not None:
            return Scores(-si_sdr_db, si_sdr_db)
        raise DataError(
            f"No validation song has {' or '.join(self.preset.sources)} in every channel. Prepare other songs."
        )

    def _mean(self, score: Any, items: Iterable[Any], network: nn.Module, n_items: int) -> float | None:
        """Return the mean of a score of items over all processes; None if there are no items."""
        total, n_scored = 0.0, 0.0
        scores = in_threads(functools.partial(score, network), items, device=self.device)
        with self._bar("validation", n_items) as bar:
            for subtotal, n_here in scores:
                total, n_scored = total + subtotal, n_scored + n_here
                bar.update(n_here)
        total, n_scored = self.processes.sums(total, n_scored)
        return total / n_scored if n_scored else None

    @torch.no_grad()
    def _mixture_loss(self, network: nn.Module, read_batch: Callable[[], Batch]) -> tuple[float, int]:
        """Return the sum of the losses of a batch, and how many items it has."""
        batch = read_batch()
        sources, known = (batch[name].to(self.device, non_blocking=True) for name in ("sources", "known"))
        with self._precision():
            losses = item_losses(network, sources, preset=self.preset, known=known)
        return self._checked_sum(losses, batch["address"]), len(losses)

    @torch.no_grad()
    def _song_si_sdr(self, network: nn.Module, song: ValidationSong) -> tuple[float, int]:
        """Return the mean SI-SDR over the song's sources and 1, or twice 0 if all of its sources are silent."""
        mixture, targets = (audio.to(self.device) for audio in song.read())
        sounding = targets.flatten(1).any(dim=1)
        if not bool(sounding.any()):  # a silent source has no SI-SDR; the evaluation leaves it out, too
            return 0.0, 0
        with self._precision():
            estimates = self._estimate(network, mixture)
        score = float(si_sdr_db(estimates[sounding], targets[sounding]).mean())
        if not math.isfinite(score):
            raise TrainingError(f"The SI-SDR is not finite at {song.name!r}. Train with a lower learning rate.")
        return score, 1

    def sanity_check(self) -> None:
        """Try two batches of everything on a copy, so that a mistake shows in seconds and not after an epoch."""
        data, original = self.data, (self.state, self.model)
        with _own_random_numbers(self.device):
            self.state = copy.deepcopy(self.state)
            self.model = self.state.network
            folder = self.folder / ".sanity-check"
            try:
                addresses = list(data.sampler)[: 2 * _N_CHECKED]
                pairs = [addresses[i : i + _N_CHECKED] for i in range(0, len(addresses), _N_CHECKED)]
                self.train_epoch(map(data.training_mixtures.batch, pairs), "sanity check")
                network = self.state.result.eval()
                if data.validation_mixtures and (addresses := data.validation_addresses[:_N_CHECKED]):
                    self._mixture_loss(network, functools.partial(data.validation_mixtures.batch, addresses))
                for song in data.validation_songs[:_N_CHECKED]:
                    self._song_si_sdr(network, song)
                if self.processes.is_first:
                    save_checkpoint(folder / BEST_NAME, self.state.result, preset=self.preset)
                    self.state.save(folder)
            finally:
                self.state, self.model = original
                if self.processes.is_first:
                    shutil.rmtree(folder, ignore_errors=True)

    def _write(self, row: Row) -> None:
        """Write what the epoch leaves; what an earlier run left is moved, now that there is something in its place."""
        if self.state.n_epochs_done == 1 and (earlier := move_earlier_run(self.folder)):
            self._say(f"what an earlier run left in {self.folder} is now in {earlier}")
        write_epoch(self.state, self.folder, self._example() if row["is_best"] else None)

    @torch.no_grad()
    def _example(self) -> Example | None:
        """Let the network separate some seconds from the middle of the first validation song."""
        if not self.data.validation_songs:
            return None
        mixture, targets = self.data.validation_songs[0].read()
        n_samples = _EXAMPLE_S * self.preset.signal.sample_rate
        start = max(mixture.shape[-1] - n_samples, 0) // 2
        mixture, target = (audio[:, start : start + n_samples] for audio in (mixture, targets[0]))
        estimates = self._estimate(self.state.result.eval(), mixture.to(self.device))
        return Example(mixture, target, estimates[0].cpu())

    def _has_stalled(self) -> bool:
        recent = self.state.history[-(self.preset.training.early_stopping_epochs or 0) :]
        return len(recent) == self.preset.training.early_stopping_epochs and not any(row["is_best"] for row in recent)

    def _bar(self, title: str, n_items: int) -> "tqdm[Any]":
        # None: no bar where stderr is no terminal, but the line of each epoch.
        return tqdm(total=n_items, desc=title, unit="mixture", disable=None if self.progress else True, leave=False)

    def _report(self, row: Row) -> None:
        """Print how the epoch went, and how long the rest will take if it goes on like this."""
        n_left = self.preset.training.n_epochs - row["epoch"]
        durations_s = [row["duration_s"] for row in self.state.history[-3:]]
        minutes_left = n_left * sum(durations_s) / len(durations_s) / 60
        si_sdr_db = row["validation_si_sdr_db"]
        self._say(
            f"epoch {row['epoch']} of {self.preset.training.n_epochs}: training loss {row['train_loss']:.5g}, "
            f"validation loss {row['validation_loss']:.5g}{' (best)' if row['is_best'] else ''}, "
            + (f"SI-SDR {si_sdr_db:.2f} dB, " if si_sdr_db is not None else "")
            + f"{row['mixtures_per_s']:.1f} mixtures/s, {row['data_wait_share']:.0%} of the time waiting for data"
            + (f", about {minutes_left:.0f} min left" if n_left else "")
        )

    def _say(self, text: str) -> None:
        if self.progress:
            tqdm.write(text, file=sys.stderr)
