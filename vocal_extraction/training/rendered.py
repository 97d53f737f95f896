"""Mixtures that are needed again and again, kept on disk as they were rendered.

A set lies in a folder named after everything that its content depends on, so that other settings, other songs or
another rendering never find it. At most one set of a subset is kept: when a run begins, those of others are removed.
A disk that cannot take them costs time, not the run.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocal_extraction.atomic_files import StorageError, remove_leftovers, whole_file
from vocal_extraction.data_augmentation import MixClosure
from vocal_extraction.settings import STEMS

Address = tuple[int, int]
"""(epoch, index)."""

_RENDERING = 3
"""To be raised with every change that gives the same settings other samples."""

_HEADER_BYTES = 128
"""What NumPy's format puts before the samples."""


def render_sources(closure: MixClosure, address: Address, n_sources: int) -> Tensor:
    """Make the sources of a mixture: accompaniment and vocals, or all stems where four are asked for.

    Shape: (n_sources, n_channels, n_samples).
    """
    epoch, index = address
    _, _, _, stems = closure.mixture(index, epoch)
    audio = np.stack([stem.T for stem in stems])  # (n_stems, n_channels, n_samples)
    if n_sources < len(STEMS):
        vocals = audio[STEMS.index("vocals")]
        audio = np.stack([audio.sum(axis=0) - vocals, vocals])
    return torch.from_numpy(audio)


class RenderedSet:
    """The mixtures of one closure, made on demand and kept as far as a bound allows.

    Parameters
    ----------
    closure
        Makes the mixtures. Only those of epoch 0 are kept: others never come again.
    n_sources
        2 for accompaniment and vocals, 4 for all stems.
    parent
        Folder of the sets.
    largest_bytes
        Most bytes to keep. The first mixtures by index are kept, whoever asks for them and in whatever order.
    half_precision
        Whether to keep, and to give, 16-bit floats: 72 dB below every sample, at half the bytes. The mixture is made
        from what is given, so it stays the sum of its sources.
    """

    def __init__(
        self, closure: MixClosure, *, n_sources: int, parent: Path, largest_bytes: float, half_precision: bool = False
    ) -> None:
        self.closure, self.n_sources, self.largest_bytes = closure, n_sources, largest_bytes
        self.kept_type = np.float16 if half_precision else np.float32
        self.folder = parent / _fingerprint(closure, n_sources, half_precision)

    def fetch(self, address: Address) -> Tensor:
        """Return the sources of a mixture from the disk, or make them and keep them."""
        epoch, index = address
        path = self.folder / f"{index}.npy"
        if epoch == 0:
            # Missing, or damaged while nobody looked: either way it is made anew.
            with contextlib.suppress(OSError, ValueError, EOFError):
                return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        sources = render_sources(self.closure, address, self.n_sources).numpy().astype(self.kept_type)
        if epoch == 0 and (index + 1) * (sources.nbytes + _HEADER_BYTES) <= self.largest_bytes:
            with contextlib.suppress(StorageError), whole_file(path) as aside:
                np.save(aside, sources, allow_pickle=False)
        return torch.from_numpy(sources).float()

    def holds(self, addresses: Iterable[Address]) -> bool:
        """Whether all of these are kept already."""
        return all(epoch == 0 and (self.folder / f"{index}.npy").is_file() for epoch, index in addresses)

    def remove_others(self) -> None:
        """Remove sets of other settings, and what a crash left half-written."""
        for folder in self.folder.parent.glob("*/"):
            if folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)
        remove_leftovers(self.folder.parent)


def _fingerprint(closure: MixClosure, n_sources: int, half_precision: bool) -> str:
    """Hash the settings of a closure and the names, sizes and times of its songs."""
    songs = sorted((closure.path / closure.subset / "foreground").rglob("*.wav"))
    settings = (closure.subset, closure.mixing, closure.sample_rate, closure.seed, n_sources, half_precision)
    facts = [repr((_RENDERING, *settings))]
    for song in songs:
        status = song.stat()
        facts.append(f"{song.parent.name}/{song.name}:{status.st_size}:{status.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
