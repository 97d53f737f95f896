"""What a model is compared with: baselines, which have learnt nothing, and oracles, which know the references.

A system takes an `Excerpt` and returns estimates of all its sources. Formulas of the ideal masks are in
docs/evaluation.md; with V the vocals, B the rest and X the mixture, they are |V|/(|V|+|B|), |V|>|B| and Re(V/X) clipped
to 0 and 1 (Erdogan et al., ICASSP 2015), applied to X.
"""

import dataclasses
import functools
import importlib.metadata
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vocal_extraction.evaluation.metrics import Audio
from vocal_extraction.evaluation.sources import VOCALS, Sources
from vocal_extraction.settings import SignalSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A part of a song."""

    song: str
    start: int
    """First sample."""
    sample_rate: int
    references: Audio
    """Shape: (n_sources, n_channels, n_samples)."""
    sources: Sources

    @property
    def stop(self) -> int:
        """The sample after the last."""
        return self.start + self.references.shape[-1]

    @property
    def mixture(self) -> Audio:
        """The sum of the references. Shape: (n_channels, n_samples)."""
        return self.references.sum(axis=0)

    def with_residual(self, estimates: Audio) -> Audio:
        """Return estimates of all sources: those given and, if there is one, the residual."""
        if self.sources.residual:
            estimates = np.concatenate([estimates, (self.mixture - estimates.sum(axis=0))[None]])
        return estimates.astype(np.float32, copy=False)


Estimate = Callable[[Excerpt], Audio]
"""Returns estimates. Shape: (n_sources, n_channels, n_samples)."""


def mixture_as_estimate(excerpt: Excerpt, signal: SignalSettings) -> Audio:
    """Take the mixture for every source."""
    return np.broadcast_to(excerpt.mixture, excerpt.references.shape)


def ideal_mask(excerpt: Excerpt, signal: SignalSettings, *, kind: str) -> Audio:
    """Apply ideal masks, a 'ratio', 'binary' or 'phase-sensitive' one for each source, to the mixture."""
    import torch

    from vocal_extraction.spectrogram import stft

    spectra = stft(torch.from_numpy(excerpt.references), signal=signal)
    sources = spectra[: len(excerpt.sources.estimated)]
    if kind == "ratio":
        total = spectra.abs().sum(dim=0)
        masks = sources.abs() / total.where(total > 0, 1.0)
    elif kind == "binary":
        others = [torch.cat([spectra[:i], spectra[i + 1 :]]).abs().amax(dim=0) for i in range(len(sources))]
        masks = (sources.abs() > torch.stack(others)).float()
    else:
        mixed = stft(torch.from_numpy(excerpt.mixture), signal=signal)
        power = mixed.abs() ** 2
        masks = ((sources * mixed.conj()).real / power.where(power > 0, 1.0)).clamp(0.0, 1.0)
    return _masked(excerpt, masks, signal)


def random_mask(excerpt: Excerpt, signal: SignalSettings) -> Audio:
    """Apply masks of numbers drawn evenly from 0 to 1, the same in every run, to the mixture."""
    import torch

    from vocal_extraction.spectrogram import n_frames_of

    draw = np.random.default_rng([zlib.crc32(excerpt.song.encode()), excerpt.start])
    n_frames = n_frames_of(excerpt.references.shape[-1], signal)
    shape = (len(excerpt.sources.estimated), excerpt.references.shape[1], n_frames, signal.n_bins)
    return _masked(excerpt, torch.from_numpy(draw.random(shape, dtype=np.float32)), signal)


def _masked(excerpt: Excerpt, masks: "Tensor", signal: SignalSettings) -> Audio:
    import torch

    from vocal_extraction.separation.masking import mask_waveform

    estimates = mask_waveform(torch.from_numpy(excerpt.mixture), masks, signal=signal)
    return excerpt.with_residual(estimates.numpy())


def nussl_primitive(excerpt: Excerpt, signal: SignalSettings, *, kind: str) -> Audio:
    """Run one of nussl's separators that learn nothing, with nussl's defaults.

    REPET-SIM and 2DFT give the background first and the vocals second; of HPSS the harmonic part is taken for vocals.
    All sources but the vocals are estimated as the background.
    """
    from vocal_extraction.compatibility import nussl

    mixture = excerpt.mixture
    if not mixture.any():
        return np.zeros_like(excerpt.references)
    classes = nussl.separation.primitive
    run, vocals_index = {"repet_sim": (classes.RepetSim, 1), "ft2d": (classes.FT2D, 1), "hpss": (classes.HPSS, 0)}[kind]
    audio = nussl.AudioSignal(audio_data_array=mixture.astype(np.float64), sample_rate=excerpt.sample_rate)
    vocals = run(audio)()[vocals_index].audio_data[:, : mixture.shape[1]]
    estimates = [vocals if name == VOCALS else mixture - vocals for name in excerpt.sources.names]
    return np.stack(estimates).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class SystemKind:
    """A baseline or an oracle."""

    title: str
    """What it is called in tables."""
    role: str
    """'baseline' or 'oracle'."""
    estimate: Callable[..., Audio]
    """Called as ``estimate(excerpt, signal=...)`` with the model's STFT."""
    depends_on: str | None = None
    """What its estimates depend on beside the data: 'stft', 'nussl' or nothing."""
    may_fail: bool = False
    """Whether it is not made for every signal, so that a song may do without it."""

    def settings(self, signal: SignalSettings) -> dict[str, Any]:
        """Return what is written into songs' files, so that other settings are scored anew."""
        if self.depends_on == "nussl":
            return {"nussl": importlib.metadata.version("nussl")}
        stft = {key: value for key, value in dataclasses.asdict(signal).items() if key != "sample_rate"}
        return stft if self.depends_on == "stft" else {}


def _primitive(title: str, kind: str) -> SystemKind:
    estimate = functools.partial(nussl_primitive, kind=kind)
    return SystemKind(title, "baseline", estimate, depends_on="nussl", may_fail=True)


def _ideal(kind: str) -> SystemKind:
    title = "phase-sensitive mask" if kind == "phase-sensitive" else f"ideal {kind} mask"
    return SystemKind(title, "oracle", functools.partial(ideal_mask, kind=kind), depends_on="stft")


SYSTEMS: dict[str, SystemKind] = {
    "mixture": SystemKind("mixture as estimate", "baseline", mixture_as_estimate),
    "random_mask": SystemKind("random mask", "baseline", random_mask, depends_on="stft"),
    "repet_sim": _primitive("REPET-SIM", "repet_sim"),
    "ft2d": _primitive("2DFT", "ft2d"),
    "hpss": _primitive("HPSS", "hpss"),
    "ideal_binary_mask": _ideal("binary"),
    "ideal_ratio_mask": _ideal("ratio"),
    "phase_sensitive_mask": _ideal("phase-sensitive"),
}
"""Baselines and oracles by name, in the order in which they are scored."""


@dataclasses.dataclass(frozen=True)
class System:
    """Something to be scored."""

    name: str
    title: str
    role: str
    """'evaluated', 'baseline' or 'oracle'."""
    settings: Mapping[str, Any]
    """What its estimates depend on beside the data."""
    estimate: Estimate
    may_fail: bool = False
    holds_python: bool = False
    """Whether it keeps Python itself busy, so that songs gain nothing from threads and go to processes of their own."""


def systems_beside(signal: SignalSettings, *, oracles: bool, baselines: bool) -> list[System]:
    """Return the baselines and oracles that are scored beside a model, at its STFT; the mixture always is."""

    def wanted(name: str, kind: SystemKind) -> bool:
        return name == "mixture" or (oracles if kind.role == "oracle" else baselines)

    return [
        System(
            name,
            kind.title,
            kind.role,
            kind.settings(signal),
            functools.partial(kind.estimate, signal=signal),
            may_fail=kind.may_fail,
            holds_python=kind.depends_on == "nussl",
        )
        for name, kind in SYSTEMS.items()
        if wanted(name, kind)
    ]
