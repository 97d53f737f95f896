"""The dataset of mixtures, its sampler and loader; an item depends on its address, (epoch, index), and on no state."""

import contextlib
import os
import signal as signals
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from vocal_extraction.data_augmentation import MixClosure
from vocal_extraction.errors import TrainingError, VocalExtractionError
from vocal_extraction.presets import Preset
from vocal_extraction.training.mixture_cache import UNKNOWN, Address, MixtureCache, render_mixture

Batch = dict[str, Tensor]
"""'sources' (n_batch, 1 + n_sources, n_channels, n_samples), the residual first; 'known' (n_batch, n_sources), whether
a target is known (others are silent in 'sources'); 'address' (n_batch, 2)."""

_LONGEST_SOCKET_FOLDER = 70
"""Bytes of a folder's name that leave room for a socket in it: Linux allows 107 in all."""


class MixtureDataset(Dataset[Batch]):
    """Mixtures by address, made anew or fetched from a cache."""

    def __init__(self, closure: MixClosure, sources: tuple[str, ...], *, cache: MixtureCache | None = None) -> None:
        self.closure, self.sources, self.cache = closure, sources, cache

    def __getitem__(self, address: Address) -> Batch:
        if self.cache is not None:
            sources = self.cache.fetch(address)
        else:
            sources = torch.from_numpy(render_mixture(self.closure, address, self.sources))
        known = sources[1:, 0, 0] != UNKNOWN
        sources[1:][~known] = 0.0
        return {"sources": sources, "known": known, "address": torch.tensor(address)}

    def batch(self, addresses: Sequence[Address]) -> Batch:
        """Stack mixtures as a loader would, in this process."""
        return default_collate([self[address] for address in addresses])


class MixtureSampler(Sampler[Address]):
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


def make_loader(
    mixtures: MixtureDataset,
    sampler: Sampler[Address] | list[Address],
    *,
    batch_size: int,
    n_workers: int,
    pin_memory: bool,
    seed: int,
) -> DataLoader[Batch]:
    """Return a loader of batches; its workers live as long as it does, and prepare a few batches ahead."""
    return DataLoader(
        mixtures,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
        prefetch_factor=4 if n_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker if n_workers else None,
        # A forked worker ends when its parent is killed. Under a fork server, the default of later Pythons, its parent
        # would be that server, and it would never end.
        multiprocessing_context="fork" if n_workers and sys.platform.startswith("linux") else None,
        # A loader draws a number whenever its workers start, which must not change the network's random numbers.
        generator=torch.Generator().manual_seed(seed),
    )


def _start_worker(_: int) -> None:
    signals.signal(signals.SIGINT, signals.SIG_IGN)  # Ctrl-C is for the main process
    torch.set_num_threads(1)
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_SOCKET_FOLDER:
        # torch hands batches over through sockets there; where their names are too long, the batches are lost.
        tempfile.tempdir = "/tmp"  # noqa: S108 - in a folder of its own


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Turn errors of loaders' workers into one sentence, wherever torch's handler of ended children raises them."""
    # The workers of two loaders may end at the same time; the second error then interrupts the handling of the first.
    with _worker_errors(), _worker_errors():
        yield


@contextlib.contextmanager
def _worker_errors() -> Iterator[None]:
    try:
        yield
    except VocalExtractionError as error:
        if "in DataLoader worker process" not in str(error):
            raise
        # torch's message is the worker's whole traceback, whose last line is the error's own message.
        *_, last_line = str(error).strip().splitlines()
        sentence = last_line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
        raise type(error)(sentence) from error
    except (RuntimeError, ConnectionError) as error:  # ConnectionError: as it was handing over a batch
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        # torch's handler raises the same error again whenever any child ends. Without it, loaders check their workers
        # every few seconds.
        signals.signal(signals.SIGCHLD, signals.SIG_DFL)
        raise TrainingError(
            f"A process that mixes was killed ({' '.join(str(error).split())[:160]}); perhaps memory ran out. "
            "Train with --resume, and fewer --workers if it happens again."
        ) from error
