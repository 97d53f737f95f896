"""Everything that is scored: the model, and beside it what costs nothing (floors) and what knows the answer (ceilings).

A separator takes an `Excerpt` and returns estimates of all sources. A network that can be taken through a whole song
hears a long one as `extract` lets it, and its excerpts are read from that (`ModelSeparator.hearing`).

Ideal masks are those of docs/evaluation.md: with V the vocals, B the rest and X the mixture, the masks |V|/(|V|+|B|),
|V|>|B| and Re(V/X) held within 0 and 1 (Erdogan et al., ICASSP 2015) are applied to X; the accompaniment is the mixture
less the vocals.
"""

import contextlib
import dataclasses
import functools
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.evaluation.songs import EvaluationError, Recording
from vocal_extraction.settings import SignalSettings

if TYPE_CHECKING:
    from vocal_extraction.checkpointing import LoadedModel
    from vocal_extraction.separation.estimation import Estimator
    from vocal_extraction.separation.tapes import Tape

Audio = NDArray[np.float32]

ORACLES = ("ideal_binary_mask", "ideal_ratio_mask", "phase_sensitive_mask")
BASELINES = ("random_mask", "repet_sim", "ft2d", "hpss")

TITLES = {
    "model": "model",
    "estimates": "estimates",
    "mixture": "mixture as estimate",
    "random_mask": "random mask",
    "repet_sim": "REPET-SIM",
    "ft2d": "2DFT",
    "hpss": "HPSS",
    "ideal_ratio_mask": "ideal ratio mask",
    "ideal_binary_mask": "ideal binary mask",
    "phase_sensitive_mask": "phase-sensitive mask",
}
"""What a row of a table is called."""

GRID_SAMPLES = 16_384
"""Excerpts begin at a multiple of this, the longest window: so the frames of all blocks lie on one grid, and an ideal
mask comes out as from the whole song."""

CONTEXT_SAMPLES = 16 * GRID_SAMPLES
"""Samples on either side of a block that are heard and thrown away: about 6 s."""

BLOCK_SAMPLES = 80 * GRID_SAMPLES
"""Samples of a block: about 30 s."""


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A stretch of a song."""

    song: str
    start: int
    """First sample."""
    sample_rate: int
    references: Audio
    """Shape: (n_sources, n_channels, n_samples), the vocals first."""

    @property
    def mixture(self) -> Audio:
        """The sum of the references. Shape: (n_channels, n_samples)."""
        return self.references.sum(axis=0)


Separator = Callable[[Excerpt], Audio]
"""Returns estimates. Shape: (n_sources, n_channels, n_samples)."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which checkpoint separates, and how."""

    path: Path
    sha256: str
    mask: str
    separator: str
    """'extraction' or 'nussl'."""
    device: str


def and_the_rest(vocals: Audio, mixture: Audio) -> Audio:
    """Return the estimates of vocals and accompaniment, the latter being what the vocals leave of the mixture."""
    return np.stack([vocals, mixture - vocals]).astype(np.float32, copy=False)


def mixture_as_estimate(excerpt: Excerpt) -> Audio:
    """Take the mixture for every source."""
    return np.broadcast_to(excerpt.mixture, excerpt.references.shape)


def ideal_mask(excerpt: Excerpt, *, kind: str, signal: SignalSettings) -> Audio:
    """Mask the mixture with the mask that only the references can tell; `kind` is one of `ORACLES`."""
    import torch

    from vocal_extraction.spectrogram import istft, stft

    mixture = excerpt.mixture
    vocals, rest, mixed = (stft(torch.from_numpy(x), signal=signal) for x in (*excerpt.references, mixture))
    if kind == "ideal_ratio_mask":
        total = vocals.abs() + rest.abs()
        mask = vocals.abs() / total.where(total > 0, 1.0)
    elif kind == "ideal_binary_mask":
        mask = (vocals.abs() > rest.abs()).float()
    else:
        power = mixed.abs() ** 2
        mask = ((vocals * mixed.conj()).real / power.where(power > 0, 1.0)).clamp(0.0, 1.0)
    estimate = istft(mask * mixed, n_samples=mixture.shape[1], signal=signal)
    return and_the_rest(estimate.numpy(), mixture)


def random_mask(excerpt: Excerpt, *, signal: SignalSettings) -> Audio:
    """Mask the mixture with numbers drawn evenly from 0 to 1, the same in every run."""
    import torch

    from vocal_extraction.spectrogram import istft, stft

    mixed = stft(torch.from_numpy(excerpt.mixture), signal=signal)
    draw = np.random.default_rng([zlib.crc32(excerpt.song.encode()), excerpt.start])
    mask = torch.from_numpy(draw.random(mixed.shape, dtype=np.float32))
    estimate = istft(mask * mixed, n_samples=excerpt.references.shape[-1], signal=signal)
    return and_the_rest(estimate.numpy(), excerpt.mixture)


def nussl_primitive(excerpt: Excerpt, *, kind: str) -> Audio:
    """Run one of nussl's separators that learn nothing, with nussl's defaults.

    REPET-SIM and 2DFT give the background first and the vocals second; of HPSS the harmonic part is taken for vocals.
    """
    from vocal_extraction.compatibility import nussl

    mixture = excerpt.mixture
    if not mixture.any():
        return np.zeros_like(excerpt.references)
    classes = nussl.separation.primitive
    run, vocals_index = {"repet_sim": (classes.RepetSim, 1), "ft2d": (classes.FT2D, 1), "hpss": (classes.HPSS, 0)}[kind]
    signal = nussl.AudioSignal(audio_data_array=mixture.astype(np.float64), sample_rate=excerpt.sample_rate)
    estimate = run(signal)()[vocals_index].audio_data
    return and_the_rest(estimate[:, : mixture.shape[1]], mixture)


@functools.lru_cache(maxsize=2)
def _load(path: Path, sha256: str, device: str) -> "LoadedModel":
    from vocal_extraction.checkpointing import load_checkpoint
    from vocal_extraction.device import choose_device

    model = load_checkpoint(path, device=choose_device(device))
    if model.sha256 != sha256:
        raise EvaluationError(f"{path} changed while it was being evaluated. Run the same command again.")
    return model


def model_estimate(excerpt: Excerpt, *, settings: ModelSettings) -> Audio:
    """Separate with the checkpoint, through this project's extraction or through nussl."""
    from vocal_extraction.evaluation.deep_mask_reference import separate_with_nussl
    from vocal_extraction.separation import separate

    model = _load(settings.path, settings.sha256, settings.device)
    if settings.separator == "nussl":
        stems = separate_with_nussl(excerpt.mixture, excerpt.sample_rate, model=model, mask=settings.mask)
        return np.stack(stems)
    estimates = separate(excerpt.mixture, excerpt.sample_rate, model=model, mask=settings.mask)
    return np.stack([estimates["vocals"], estimates["accompaniment"]])


@dataclasses.dataclass(frozen=True)
class ModelSeparator:
    """`model_estimate` of any excerpt."""

    settings: ModelSettings

    def __call__(self, excerpt: Excerpt) -> Audio:
        """Separate an excerpt by itself."""
        return model_estimate(excerpt, settings=self.settings)

    @contextlib.contextmanager
    def hearing(self, song: Recording) -> Iterator[Separator]:
        """Give a separator for the excerpts of one song, which the network has heard as a whole if it can.

        Raises
        ------
        EvaluationError
            See `_taped_vocals`.
        """
        from vocal_extraction.separation.estimation import Estimator
        from vocal_extraction.settings import ExtractionSettings

        model = _load(self.settings.path, self.settings.sha256, self.settings.device)
        estimator = Estimator(model, ExtractionSettings(mask=self.settings.mask))
        if self.settings.separator == "nussl" or estimator.layered is None:
            yield self
            return
        with contextlib.closing(_taped_vocals(song, estimator)) as tape:

            def read(excerpt: Excerpt) -> Audio:
                vocals = tape.samples(excerpt.start, excerpt.start + excerpt.references.shape[-1])
                return and_the_rest(vocals, excerpt.mixture)

            yield read


def _taped_vocals(song: Recording, estimator: "Estimator") -> "Tape":
    """Estimate the vocals of a whole song, in constant memory.

    Raises
    ------
    EvaluationError
        If there is no room for them among the temporary files.
    """
    from vocal_extraction.separation.separation import separate_stream
    from vocal_extraction.separation.tapes import Tape

    folder = Path(tempfile.gettempdir())
    try:
        tape = Tape(folder)
        stream = separate_stream(_mixture_of(song), song.sample_rate, estimator=estimator, tape_folder=folder)
        for _ in tape.recording(vocals for _, vocals in stream):
            pass
    except OSError as error:
        raise EvaluationError(
            f"{song.name!r} finds no room in {folder} while it is scored ({error.strerror}). Free some space there, or "
            "let TMPDIR name another folder."
        ) from error
    return tape


def _mixture_of(song: Recording) -> Iterator[Audio]:
    """Read the mixture in turn, in blocks (n_channels, n_samples)."""
    step = 4 * GRID_SAMPLES
    for start in range(0, song.n_samples, step):
        yield song.read(start, min(start + step, song.n_samples)).sum(axis=0)


def read_estimate(excerpt: Excerpt, *, estimates: Recording) -> Audio:
    """Read somebody's estimates; a missing accompaniment is the mixture less the vocals."""
    read = estimates.read(excerpt.start, excerpt.start + excerpt.references.shape[-1])
    return read if len(read) > 1 else and_the_rest(read[0], excerpt.mixture)
