"""The model as a system: a song is estimated once, as `extract` does it, and its excerpts are read from that."""

import contextlib
import copy
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vocal_extraction.evaluation.metrics import Audio, EvaluationError
from vocal_extraction.evaluation.sources import Sources
from vocal_extraction.evaluation.systems import Excerpt
from vocal_extraction.tracks import Track

if TYPE_CHECKING:
    from vocal_extraction.checkpointing import LoadedModel
    from vocal_extraction.separation.disk_array import Array

IN_MEMORY_SAMPLES = 80 * 16_384
"""Longer songs are on disk while they are estimated."""


@dataclasses.dataclass(frozen=True)
class ModelSystem:
    """Which checkpoint estimates, and how (see `evaluate_model`); called with an excerpt, it separates that."""

    path: Path
    sha256: str
    mask: str = "soft"
    separator: str = "extraction"
    normalization: str = "stored"
    device: str = "cpu"

    def __call__(self, excerpt: Excerpt) -> Audio:
        estimates = self._separate(excerpt.mixture.T, excerpt.sample_rate, excerpt.sources)
        return _stacked(estimates, slice(None), excerpt)

    @contextlib.contextmanager
    def of_song(self, track: Track, sources: Sources) -> Iterator[Callable[[Excerpt], Audio]]:
        """Yield a system for the excerpts of one song, which is estimated as a whole where the separator can."""
        if self.separator == "nussl" and self.normalization == "stored" and track.n_samples > IN_MEMORY_SAMPLES:
            yield self  # excerpt by excerpt: nussl's memory grows with the length
            return
        with contextlib.ExitStack() as stack:
            try:
                mixture = _mixture_of(track, stack)
                estimates = self._separate(mixture, track.sample_rate, sources)
            except OSError as error:
                raise EvaluationError(
                    f"{track.name!r} cannot be scored: {tempfile.gettempdir()} cannot take its estimates "
                    f"({error.strerror}). Free some space there, or let TMPDIR name another folder."
                ) from error
            for array in estimates.values():
                if hasattr(array, "close"):
                    stack.callback(array.close)
            yield lambda excerpt: _stacked(estimates, slice(excerpt.start, excerpt.stop), excerpt)

    def _separate(self, mixture: "Array", sample_rate: int, sources: Sources) -> "Mapping[str, Array]":
        """Return estimates by source; all arrays have the shape (n_samples, n_channels)."""
        from vocal_extraction.evaluation.deep_mask_reference import separate_with_nussl
        from vocal_extraction.separation.separator import Separator

        model = _load(self.path, self.sha256, self.device)
        if self.normalization == "song":
            model = dataclasses.replace(model, network=by_own_statistics(model.network))
        if self.separator == "extraction" and self.normalization == "stored":
            return Separator(model, mask=self.mask)(mixture, sample_rate, sources=sources.estimated)
        found = separate_with_nussl(np.ascontiguousarray(mixture[:].T), sample_rate, model=model, mask=self.mask)
        return {name: estimate.T for name, estimate in found.items()}


def by_own_statistics(network: Any) -> Any:
    """Return a copy of a network whose batch normalization takes mean and variance from its input, as in training.

    Dropout stays off; see "The published figures" in docs/evaluation.md.
    """
    import torch

    network = copy.deepcopy(network)
    found = [each for each in network.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    if not found:
        raise EvaluationError("The network has no batch normalization; leave normalization='stored'.")
    for each in found:
        each.train()
    return network


@functools.lru_cache(maxsize=2)
def _load(path: Path, sha256: str, device: str) -> "LoadedModel":
    from vocal_extraction.checkpointing import load_checkpoint
    from vocal_extraction.device import choose_device

    model = load_checkpoint(path, device=choose_device(device))
    if model.sha256 != sha256:
        raise EvaluationError(f"{path} changed while it was being evaluated. Run the same command again.")
    return model


def _mixture_of(track: Track, stack: contextlib.ExitStack) -> "Array":
    """Return the mixture (n_samples, n_channels), of a long song on disk."""
    from vocal_extraction.separation.disk_array import DiskArray

    if track.n_samples <= IN_MEMORY_SAMPLES:
        return np.ascontiguousarray(track.read(0, track.n_samples).sum(axis=0).T)
    mixture = stack.enter_context(DiskArray((track.n_channels,)))
    for start in range(0, track.n_samples, 2**17):
        mixture.append(track.read(start, min(start + 2**17, track.n_samples)).sum(axis=0).T)
    return mixture


def _stacked(estimates: "Mapping[str, Array]", samples: slice, excerpt: Excerpt) -> Audio:
    return excerpt.with_residual(np.stack([estimates[name][samples].T for name in excerpt.sources.estimated]))
