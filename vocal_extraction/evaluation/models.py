"""The model as a system: a song is estimated once, as `extract` does it, and its excerpts are read from that."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vocal_extraction.evaluation.metrics import Audio, EvaluationError
from vocal_extraction.evaluation.systems import Excerpt, Sources
from vocal_extraction.separation import Array, DiskArray, Separator
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.tracks import Track

IN_MEMORY_SAMPLES = 80 * 16_384  # longer songs are on disk while they are estimated


@dataclasses.dataclass(frozen=True)
class ModelSystem:
    """A model and how it estimates, see `evaluate_model`; called with an excerpt, it separates that alone."""

    model: Any  # a `LoadedModel`; None while it is on its way to a worker, which loads its own
    mask: str = "soft"
    separator: str = "extraction"
    normalization: str = "stored"
    pool: ThreadPoolExecutor | None = None  # as of `Separator`

    def __call__(self, excerpt: Excerpt) -> Audio:
        return _stacked(self._separate(excerpt.mixture.T, excerpt.sample_rate, excerpt.sources), slice(None), excerpt)

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

    def _separate(self, mixture: Array, sample_rate: int, sources: Sources) -> Mapping[str, Array]:
        """Return estimates by source; all arrays have the shape (n_samples, n_channels)."""
        if self.separator == "extraction" and self.normalization == "stored":
            separator = Separator(self.model, ExtractionSettings(mask=self.mask), pool=self.pool)
            return separator(mixture, sample_rate, sources=sources.estimated)
        from vocal_extraction.evaluation.deep_mask_reference import separate_with_nussl

        if self.normalization == "song":
            for member in self.model.members:
                normalize_by_song(member.network)
        samples = np.ascontiguousarray(mixture[:].T)
        found = separate_with_nussl(samples, sample_rate, model=self.model, mask=self.mask)
        return {name: estimate.T for name, estimate in found.items()}


def normalize_by_song(network: Any) -> None:
    """Let batch normalization take mean and variance from its input: "The published figures" in docs/evaluation.md."""
    import torch

    found = [each for each in network.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    if not found:
        raise EvaluationError("The network has no batch normalization; leave normalization='stored'.")
    for each in found:
        each.train()


def _mixture_of(track: Track, stack: contextlib.ExitStack) -> Array:
    """Return the mixture (n_samples, n_channels), of a long song on disk."""
    if track.n_samples <= IN_MEMORY_SAMPLES:
        return np.ascontiguousarray(track.read(0, track.n_samples).sum(axis=0).T)
    mixture = stack.enter_context(DiskArray((track.n_channels,)))
    for start in range(0, track.n_samples, 2**17):
        mixture.append(track.read(start, min(start + 2**17, track.n_samples)).sum(axis=0).T)
    return mixture


def _stacked(estimates: Mapping[str, Array], samples: slice, excerpt: Excerpt) -> Audio:
    return excerpt.with_residual(np.stack([estimates[name][samples].T for name in excerpt.sources.estimated]))
