"""What a run listens to: training mixtures, validation mixtures or songs, and their order.

An item is addressed by (epoch, index), so that workers hold no state: whoever makes it, it is the same. An item is the
pair vocals and accompaniment (or all four stems); its mixture is their sum, made on the device.
"""

import dataclasses
import hashlib
import signal as signals
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data_augmentation import MixClosure
from files import whole_file
from musdb_preparation import mixture_path, song_names, stem_path
from settings import STEMS, Preset, VocalExtractionError

Address = tuple[int, int]
"""(epoch, index)."""


class DataError(VocalExtractionError):
    """Training data is missing or cannot be used."""


@dataclasses.dataclass(frozen=True)
class MixtureCache:
    """Rendered mixtures on disk, up to a bound.

    A file is named after everything that its content depends on, so that other settings or other songs never find it.
    """

    folder: Path
    largest_bytes: int

    def fetch(self, closure: MixClosure, address: Address, n_sources: int) -> Tensor:
        """Return the sources of a mixture from the disk, or make them and keep them while there is room."""
        path = self.folder / f"{_fingerprint(closure, n_sources)}-{address[0]}-{address[1]}.npy"
        if path.is_file():
            return torch.from_numpy(np.load(path, allow_pickle=False))
        sources = _make(closure, address, n_sources)
        if self.n_bytes() + sources.nbytes <= self.largest_bytes:
            with whole_file(path) as aside:
                np.save(aside, sources.numpy(), allow_pickle=False)
        return sources

    def n_bytes(self) -> int:
        """Count what the cache holds."""
        return sum(path.stat().st_size for path in self.folder.glob("*.npy"))


def _fingerprint(closure: MixClosure, n_sources: int) -> str:
    """Hash the settings of a closure and the names and sizes of its songs."""
    songs = sorted((closure.path / closure.subset / "foreground").rglob("*.wav"))
    facts = [
        repr((closure.subset, closure.mixing, closure.sample_rate, closure.seed, n_sources)),
        *(f"{song.parent.name}/{song.name}:{song.stat().st_size}" for song in songs),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _make(closure: MixClosure, address: Address, n_sources: int) -> Tensor:
    epoch, index = address
    _, _, _, stems = closure.mixture(index, epoch)
    audio = np.stack([stem[:, 0] for stem in stems])
    if n_sources < len(STEMS):
        vocals = audio[STEMS.index("vocals")]
        audio = np.stack([audio.sum(axis=0) - vocals, vocals])
    return torch.from_numpy(audio)


class Mixtures(Dataset[dict[str, Any]]):
    """Mixtures by address: ``{'sources': (n_sources, n_samples), 'address': (epoch, index)}``.

    `sources` are accompaniment and vocals, or all stems for a network of four sources.
    """

    def __init__(self, closure: MixClosure, *, n_sources: int, cache: MixtureCache | None = None) -> None:
        self.closure, self.n_sources, self.cache = closure, n_sources, cache

    def __getitem__(self, address: Address) -> dict[str, Any]:
        """Make or fetch one mixture."""
        if self.cache is None:
            sources = _make(self.closure, address, self.n_sources)
        else:
            sources = self.cache.fetch(self.closure, address, self.n_sources)
        return {"sources": sources, "address": torch.tensor(address)}


class Order(Sampler[Address]):
    """The addresses of an epoch's items that fall to one process."""

    def __init__(self, preset: Preset, *, seed: int, rank: int = 0, n_ranks: int = 1) -> None:
        self.training, self.seed, self.rank, self.n_ranks = preset.training, seed, rank, n_ranks
        self.epoch = 1

    def __len__(self) -> int:
        """Count the items of this process in one epoch."""
        return self.training.batches_per_epoch * (self.training.batch_size // self.n_ranks)

    def __iter__(self) -> Iterator[Address]:
        """Yield addresses: fresh ones, or drawn without repetition from the fixed set as far as it reaches."""
        n_items = self.training.batches_per_epoch * self.training.batch_size
        n_fixed = self.training.n_mixtures
        if n_fixed is None:
            addresses = [(self.epoch, index) for index in range(n_items)]
        else:
            generator = np.random.default_rng((self.seed, self.epoch))
            rounds = [generator.permutation(n_fixed) for _ in range(-(-n_items // n_fixed))]
            addresses = [(0, int(index)) for index in np.concatenate(rounds)[:n_items]]
        return iter(addresses[self.rank :: self.n_ranks])


def training_loader(mixtures: Mixtures, order: Order, *, n_workers: int, pin_memory: bool) -> DataLoader[Any]:
    """Return the loader of training batches; its workers live as long as it does."""
    return DataLoader(
        mixtures,
        batch_size=order.training.batch_size // order.n_ranks,
        sampler=order,
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
        prefetch_factor=4 if n_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_calm_worker if n_workers else None,
    )


def validation_loader(
    mixtures: Mixtures, addresses: Sequence[Address], *, batch_size: int, n_workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """Return the loader of the fixed validation mixtures, in order."""
    return DataLoader(
        mixtures,
        batch_size=batch_size,
        sampler=_Fixed(addresses),
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_calm_worker if n_workers else None,
    )


class _Fixed(Sampler[Address]):
    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses = addresses

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[Address]:
        return iter(self.addresses)


def _calm_worker(_: int) -> None:
    """Leave Ctrl-C to the main process, and the cores to the network."""
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    torch.set_num_threads(1)


def load_validation_songs(dataset_folder: Path) -> list[tuple[str, Tensor, Tensor]]:
    """Read the validation songs whole: (name, mixture, vocals), each (n_channels, n_samples).

    Raises
    ------
    DataError
        If there are none, or a stem does not fit its mixture.
    """
    songs = []
    for song in song_names("valid", dataset_folder):
        mixture, rate = soundfile.read(mixture_path(dataset_folder, "valid", song), dtype="float32", always_2d=True)
        vocals, vocals_rate = soundfile.read(
            stem_path(dataset_folder, "valid", "vocals", song), dtype="float32", always_2d=True
        )
        if mixture.shape != vocals.shape or rate != vocals_rate:
            raise DataError(f"Validation song {song!r}: mixture and vocals differ in length or rate. Prepare it again.")
        songs.append((song, torch.from_numpy(mixture.T.copy()), torch.from_numpy(vocals.T.copy())))
    if not songs:
        raise DataError(f"No validation songs in {dataset_folder / 'valid'}. Prepare the dataset first.")
    return songs
