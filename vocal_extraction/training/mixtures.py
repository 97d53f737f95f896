"""What a run listens to: training mixtures, validation mixtures or songs, and their order.

An item is addressed by (epoch, index), so that workers hold no state: whoever makes it, it is the same. An item is the
pair accompaniment and vocals (or all four stems); its mixture is their sum, made on the device.
"""

import dataclasses
import signal as signals
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vocal_extraction.data_augmentation import MixClosure
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.musdb_preparation import mixture_path, song_names, stem_path
from vocal_extraction.settings import Preset
from vocal_extraction.training.errors import DataError, TrainingError
from vocal_extraction.training.rendered import Address, RenderedSet, render_sources

Batch = dict[str, Tensor]
"""'sources' (n_batch, n_sources, n_channels, n_samples), vocals last, and 'address' (n_batch, 2)."""

_REMEDY = "Prepare the dataset: python main.py prepare."


class Mixtures(Dataset[Batch]):
    """Mixtures by address, made anew or fetched from a set that is kept."""

    def __init__(self, closure: MixClosure, *, n_sources: int, kept: RenderedSet | None = None) -> None:
        self.closure, self.n_sources, self.kept = closure, n_sources, kept

    def __getitem__(self, address: Address) -> Batch:
        """Make or fetch one mixture."""
        if self.kept is not None:
            sources = self.kept.fetch(address)
        else:
            sources = render_sources(self.closure, address, self.n_sources)
        return {"sources": sources, "address": torch.tensor(address)}

    def batch(self, addresses: Sequence[Address]) -> Batch:
        """Stack mixtures as a loader would, in this process."""
        items = [self[address] for address in addresses]
        return {key: torch.stack([item[key] for item in items]) for key in items[0]}


class Order(Sampler[Address]):
    """The addresses of an epoch's items that fall to one process."""

    def __init__(self, preset: Preset, *, seed: int, rank: int = 0, n_ranks: int = 1) -> None:
        self.training, self.seed, self.rank, self.n_ranks = preset.training, seed, rank, n_ranks
        self.epoch = 1

    def __len__(self) -> int:
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


class Fixed(Sampler[Address]):
    """The first mixtures by index, in order: those of one process."""

    def __init__(self, n_mixtures: int, *, rank: int = 0, n_ranks: int = 1) -> None:
        self.addresses = [(0, index) for index in range(n_mixtures)][rank::n_ranks]

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[Address]:
        return iter(self.addresses)


def loader_of(
    mixtures: Mixtures, order: Sampler[Address], *, batch_size: int, n_workers: int, pin_memory: bool, seed: int
) -> DataLoader[Batch]:
    """Return a loader of batches; its workers live as long as it does, and prepare a few batches ahead."""
    return DataLoader(
        mixtures,
        batch_size=batch_size,
        sampler=order,
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
        prefetch_factor=4 if n_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_calm_worker if n_workers else None,
        # Forked, a worker notices when its parent is killed. Behind a server, as later Pythons have it by default, its
        # parent would be that server, and it would live for ever.
        multiprocessing_context="fork" if n_workers and sys.platform.startswith("linux") else None,
        # A generator of its own, since a loader draws a number whenever its workers start: neither their count nor a
        # stop and a resumption in between may move the random numbers of the network.
        generator=torch.Generator().manual_seed(seed),
    )


def _calm_worker(_: int) -> None:
    """Leave Ctrl-C to the main process, and the cores to the network."""
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    torch.set_num_threads(1)


def batches_of(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Yield a loader's batches; what went wrong in a worker is told in one sentence.

    Raises
    ------
    TrainingError
        If a worker was killed.
    VocalExtractionError
        Whatever a worker raised.
    """
    try:
        yield from loader
    except VocalExtractionError as error:
        # torch hands over the worker's whole traceback as text; its last line is what was said.
        *_, last_line = str(error).strip().splitlines()
        sentence = last_line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
        raise type(error)(sentence) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"A process that mixes was killed ({' '.join(str(error).split())[:160]}); perhaps memory ran out. "
            "Train with --resume, and fewer --workers if it happens again."
        ) from error


@dataclasses.dataclass(frozen=True)
class KeptBatch:
    """A batch of mixtures that are kept on disk, read when its turn comes."""

    mixtures: Mixtures
    addresses: Sequence[Address]

    def read(self) -> Batch:
        """Return the batch."""
        return self.mixtures.batch(self.addresses)


@dataclasses.dataclass(frozen=True)
class ValidationSong:
    """A song to validate on, read when its turn comes: whole albums need not fit into memory."""

    name: str
    mixture_path: Path
    vocals_path: Path

    def read(self) -> tuple[Tensor, Tensor]:
        """Return mixture and vocals, each (n_channels, n_samples)."""
        both = []
        for path in (self.mixture_path, self.vocals_path):
            try:
                samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, OSError) as error:
                raise DataError(f"Cannot read {path} ({error}). {_REMEDY}") from error
            both.append(torch.from_numpy(samples.T.copy()))
        return both[0], both[1]


def validation_songs(dataset_folder: Path, *, sample_rate: int) -> list[ValidationSong]:
    """Name the validation songs.

    Raises
    ------
    DataError
        If there are none, one cannot be read, vocals do not fit their mixture, or the sample rate is another.
    """
    songs = [
        ValidationSong(
            song, mixture_path(dataset_folder, "valid", song), stem_path(dataset_folder, "valid", "vocals", song)
        )
        for song in song_names("valid", dataset_folder)
    ]
    if not songs:
        raise DataError(f"No validation songs in {dataset_folder / 'valid'}. {_REMEDY}")
    for song in songs:
        try:
            mixture, vocals = (soundfile.info(str(path)) for path in (song.mixture_path, song.vocals_path))
        except (soundfile.LibsndfileError, OSError) as error:
            raise DataError(f"Cannot read validation song {song.name!r} ({error}). {_REMEDY}") from error
        shapes = {(sound.frames, sound.channels, sound.samplerate) for sound in (mixture, vocals)}
        if len(shapes) > 1:
            raise DataError(f"Validation song {song.name!r}: mixture and vocals differ in length or rate. {_REMEDY}")
        if mixture.samplerate != sample_rate:
            raise DataError(
                f"Validation song {song.name!r} has {mixture.samplerate} Hz, expected {sample_rate}. {_REMEDY}"
            )
    return songs
