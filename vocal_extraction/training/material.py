"""Everything that one run listens to, put together from its preset and the prepared dataset."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from vocal_extraction.data_augmentation import create_mix_closure
from vocal_extraction.training.mixtures import (
    Batch,
    Fixed,
    KeptBatch,
    Mixtures,
    Order,
    ValidationSong,
    batches_of,
    loader_of,
    validation_songs,
)
from vocal_extraction.training.processes import Processes
from vocal_extraction.training.rendered import RenderedSet
from vocal_extraction.training.state import Run


@dataclasses.dataclass
class Material:
    """Training mixtures, and either validation mixtures or validation songs: those of one process."""

    device: torch.device
    batch_size: int
    training_mixtures: Mixtures
    order: Order
    training_loader: Iterable[Batch]
    validation_mixtures: Mixtures | None
    validation_order: Fixed
    validation_loader: Iterable[Batch]
    validation_songs: list[ValidationSong]

    @property
    def n_validated(self) -> int:
        """Items of one validation."""
        return len(self.validation_order) + len(self.validation_songs)

    def validation_items(self) -> Iterator[Batch | KeptBatch | ValidationSong]:
        """Yield what is validated on.

        The threads that validate on a CPU read mixtures that are kept by themselves: that takes a third of the time in
        which workers hand them over.
        """
        mixtures, addresses, n = self.validation_mixtures, self.validation_order.addresses, self.batch_size
        if self.device.type == "cpu" and mixtures and mixtures.kept and mixtures.kept.holds(addresses):
            yield from (KeptBatch(mixtures, addresses[i : i + n]) for i in range(0, len(addresses), n))
        else:
            yield from batches_of(self.validation_loader)
        yield from self.validation_songs


def gather_material(
    run: Run, dataset_folder: Path, processes: Processes, *, n_workers: int, cache_bytes: int
) -> Material:
    """Put together what a run listens to.

    Parameters
    ----------
    run
        Its preset and seed say what is mixed.
    dataset_folder
        Where ``train`` and ``valid`` were prepared.
    processes
        Which share of everything falls to this process.
    n_workers
        Processes that mix for each loader.
    cache_bytes
        Most bytes of training mixtures to keep.

    Raises
    ------
    DataError, RenderingError
        If validation songs or stems are missing.
    """
    training = run.preset.training
    rank, n_ranks = processes.rank, processes.n_ranks

    def loader(mixtures: Mixtures, order: Order | Fixed) -> Iterable[Batch]:
        return loader_of(
            mixtures,
            order,
            batch_size=training.batch_size // n_ranks,
            n_workers=n_workers,
            pin_memory=run.device.type == "cuda",
            seed=run.loader_seed,
        )

    # Only a fixed set ever comes again.
    kept_bytes = cache_bytes if training.n_mixtures is not None else 0
    training_mixtures = _mixtures(run, dataset_folder, "train", kept_bytes, cleans=processes.is_first)
    order = Order(run.preset, seed=run.seed, rank=rank, n_ranks=n_ranks)
    validation_order = Fixed(training.n_validation_mixtures or 0, rank=rank, n_ranks=n_ranks)
    validation_mixtures, songs = None, []
    if training.n_validation_mixtures is None:
        songs = validation_songs(dataset_folder, sample_rate=run.preset.signal.sample_rate)
    else:
        validation_mixtures = _mixtures(run, dataset_folder, "valid", math.inf, cleans=processes.is_first)
    return Material(
        device=run.device,
        batch_size=training.batch_size // n_ranks,
        training_mixtures=training_mixtures,
        order=order,
        training_loader=loader(training_mixtures, order),
        validation_mixtures=validation_mixtures,
        validation_order=validation_order,
        validation_loader=loader(validation_mixtures, validation_order) if validation_mixtures else [],
        validation_songs=songs[rank::n_ranks],
    )


def _mixtures(run: Run, dataset_folder: Path, subset: str, kept_bytes: float, *, cleans: bool) -> Mixtures:
    """Return the mixtures of a subset, of which so many bytes are kept on disk."""
    closure = create_mix_closure(
        dataset_folder, subset, mixing=run.preset.mixing, sample_rate=run.preset.signal.sample_rate, seed=run.seed
    )
    n_sources = max(len(run.preset.sources), 2)
    if not kept_bytes:
        return Mixtures(closure, n_sources=n_sources)
    kept = RenderedSet(
        closure,
        n_sources=n_sources,
        parent=dataset_folder / subset / "rendered",
        largest_bytes=kept_bytes,
        # A cache must not change what is trained; the validation set is what it is from its first use on.
        half_precision=subset == "valid",
    )
    if cleans:
        kept.remove_others()
    return Mixtures(closure, n_sources=n_sources, kept=kept)
