"""A cache of rendered mixtures on disk.

A set of mixtures lies in a folder named by a hash of all that its content depends on. One set of a subset is kept.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vocal_extraction.atomic_files import StorageError, remove_leftovers, whole_file
from vocal_extraction.data_augmentation import MixClosure
from vocal_extraction.tracks import stems_of

Address = tuple[int, int]  # (epoch, index)
UNKNOWN = float("inf")  # fills a target that the songs of a mixture do not have
_RENDERING = 4  # to be raised with every change that gives the same settings other samples
_HEADER_BYTES = 128  # what NumPy's format puts before the samples


def render_mixture(closure: MixClosure, address: Address, sources: tuple[str, ...]) -> NDArray[np.float32]:
    """Make a mixture: its residual and the targets `sources`, (1 + n_sources, n_channels, n_samples).

    A target that the songs do not have is `UNKNOWN`, and part of the residual.
    """
    epoch, index = address
    _, _, annotation_list, stems = closure.mixture(index, epoch)
    audio = {label: stem.T for (_, _, label), stem in zip(annotation_list, stems, strict=True)}
    mixture = np.stack(list(audio.values())).sum(axis=0)
    parts = [stems_of(source, audio) for source in sources]
    targets = [sum(audio[stem] for stem in names) if names else np.full_like(mixture, UNKNOWN) for names in parts]
    known = [target for target, names in zip(targets, parts, strict=True) if names]
    return np.stack([mixture - sum(known) if known else mixture, *targets])


class MixtureCache:
    """The mixtures of one closure, made on demand and kept in `parent` as far as a bound allows.

    Only mixtures of epoch 0 are used again; the first of them by index are kept, up to `largest_bytes`. With
    `half_precision` they are 16-bit floats, with errors of -72 dB; the mixture stays the sum of its sources.
    """

    def __init__(
        self,
        closure: MixClosure,
        sources: tuple[str, ...],
        *,
        parent: Path,
        largest_bytes: float,
        half_precision: bool = False,
    ) -> None:
        self.closure, self.sources, self.largest_bytes = closure, sources, largest_bytes
        self.kept_type = np.float16 if half_precision else np.float32
        self.folder = parent / _fingerprint(closure, sources, half_precision)

    def fetch(self, address: Address) -> Tensor:
        """Return a mixture, as `render_mixture` does, from the disk, or make it and keep it."""
        epoch, index = address
        path = self.folder / f"{index}.npy"
        if epoch == 0:
            with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged: it is made anew
                return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        mixture = render_mixture(self.closure, address, self.sources).astype(self.kept_type)
        if epoch == 0 and (index + 1) * (mixture.nbytes + _HEADER_BYTES) <= self.largest_bytes:
            with contextlib.suppress(StorageError), whole_file(path) as temporary:
                np.save(temporary, mixture, allow_pickle=False)
        return torch.from_numpy(mixture).float()

    def holds(self, addresses: Iterable[Address]) -> bool:
        return all(epoch == 0 and (self.folder / f"{index}.npy").is_file() for epoch, index in addresses)

    def remove_others(self) -> None:
        """Remove sets of other settings, and what a crash left half-written."""
        for folder in self.folder.parent.glob("*/"):
            if folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)
        remove_leftovers(self.folder.parent)


def _fingerprint(closure: MixClosure, sources: tuple[str, ...], half_precision: bool) -> str:
    """Hash the settings of a closure and the names, sizes and times of its songs."""
    facts = [repr((_RENDERING, closure.mixing, closure.sample_rate, closure.seed, sources, half_precision))]
    for track in closure.tracks:
        for stem, (path, *_) in sorted(track.sources.items()):
            status = path.stat()
            facts.append(f"{stem}/{path.name}:{status.st_size}:{status.st_mtime_ns}:{track.weight}")
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()[:16]
