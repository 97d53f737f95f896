"""The sources that are scored, and what a model is compared with: baselines, which have learnt nothing, and oracles,
which know the references. Formulas of the ideal masks are in docs/evaluation.md.
"""

import dataclasses
import functools
import importlib.metadata
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vocal_extraction.evaluation.metrics import Audio, EvaluationError
from vocal_extraction.settings import ACCOMPANIMENT, SignalSettings
from vocal_extraction.tracks import Track, stems_of

VOCALS = "vocals"
_LONE = ("accompaniment", ACCOMPANIMENT, VOCALS)  # a song of one of these alone has nothing else


@dataclasses.dataclass(frozen=True)
class Sources:
    """The sources that are scored, in the order of arrays and files."""

    estimated: tuple[str, ...]  # what systems estimate, the vocals first
    residual: str | None = None  # what the estimates leave of the mixture; None where they add up to it

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.estimated, self.residual) if self.residual else self.estimated

    @classmethod
    def shared(cls, model_sources: Sequence[str], tracks: Sequence[Track]) -> "Sources":
        """Return what a model and some songs share; an `EvaluationError` says if that is nothing."""
        wanted = [name for name in model_sources if not (VOCALS in model_sources and name in _LONE[:2])]
        shared = [name for name in wanted if all(_has(track, name) for track in tracks)]
        if not shared:
            raise EvaluationError(
                f"{', '.join(model_sources)} can be estimated, but {tracks[0].name!r} has the stems "
                f"{', '.join(tracks[0].sources)}. Name songs that have one of those."
            )
        estimated = tuple(sorted(shared, key=lambda name: (name != VOCALS, name)))
        rests = {_rest(track, estimated) for track in tracks}
        if rests == {()}:
            return cls(estimated)
        if estimated == (VOCALS,):
            return cls(estimated, ACCOMPANIMENT)
        return cls(estimated, "+".join(sorted(rests.pop())) if len(rests) == 1 else "residual")

    def of(self, track: Track) -> Track:
        """Return a song with these sources, each the sum of some of its stems; what it does not have is silent."""
        files = {name: stems_of(name, track.sources) for name in self.estimated}
        if self.residual:
            files[self.residual] = _rest(track, self.estimated)
        return dataclasses.replace(
            track,
            sources={name: tuple(p for stem in stems for p in track.sources[stem]) for name, stems in files.items()},
        )


def _has(track: Track, source: str) -> bool:
    is_alone = len(track.sources) == 1 and next(iter(track.sources)) in _LONE
    return is_alone or bool(stems_of(source, track.sources))


def _rest(track: Track, sources: Sequence[str]) -> tuple[str, ...]:
    taken = {stem for source in sources for stem in stems_of(source, track.sources)}
    return tuple(stem for stem in track.sources if stem not in taken)


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A part of a song; `references` have the shape (n_sources, n_channels, n_samples)."""

    song: str
    start: int
    sample_rate: int
    references: Audio
    sources: Sources

    @property
    def stop(self) -> int:
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


def mixture_as_estimate(excerpt: Excerpt, signal: SignalSettings) -> Audio:
    return np.broadcast_to(excerpt.mixture, excerpt.references.shape)


def mask_system(excerpt: Excerpt, signal: SignalSettings, *, kind: str) -> Audio:
    """Apply a mask for each source to the mixture: 'random', or ideal ones, 'ratio', 'binary' or 'phase-sensitive'."""
    import torch

    from vocal_extraction.spectrogram import istft, stft

    spectra, mixed = (stft(torch.from_numpy(each), signal=signal) for each in (excerpt.references, excerpt.mixture))
    sources = spectra[: len(excerpt.sources.estimated)]
    if kind == "ratio":
        total = spectra.abs().sum(dim=0)
        masks = sources.abs() / total.where(total > 0, 1.0)
    elif kind == "binary":
        others = [torch.cat([spectra[:i], spectra[i + 1 :]]).abs().amax(dim=0) for i in range(len(sources))]
        masks = (sources.abs() > torch.stack(others)).float()
    elif kind == "phase-sensitive":
        power = mixed.abs() ** 2
        masks = ((sources * mixed.conj()).real / power.where(power > 0, 1.0)).clamp(0.0, 1.0)
    else:  # the same in every run
        draw = np.random.default_rng([zlib.crc32(excerpt.song.encode(errors="surrogateescape")), excerpt.start])
        masks = torch.from_numpy(draw.random(sources.shape, dtype=np.float32))
    estimates = istft(masks * mixed, n_samples=excerpt.references.shape[-1], signal=signal)
    return excerpt.with_residual(estimates.numpy())


def nussl_primitive(excerpt: Excerpt, signal: SignalSettings, *, kind: str) -> Audio:
    """Run one of nussl's separators that learn nothing; all sources but the vocals are estimated as the background."""
    from vocal_extraction.compatibility import nussl

    mixture = excerpt.mixture
    if not mixture.any():
        return np.zeros_like(excerpt.references)
    audio = nussl.AudioSignal(audio_data_array=mixture.astype(np.float64), sample_rate=excerpt.sample_rate)
    estimates = getattr(nussl.separation.primitive, kind)(audio)()
    # REPET-SIM and 2DFT give the background first; of HPSS the harmonic part is taken for vocals.
    vocals = estimates[0 if kind == "HPSS" else 1].audio_data[:, : mixture.shape[1]]
    by_source = [vocals if name == VOCALS else mixture - vocals for name in excerpt.sources.names]
    return np.stack(by_source).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class System:
    """Something to be scored.

    `estimate` is called with an excerpt, in `SYSTEMS` also with the model's STFT as ``signal``, and gives estimates of
    all sources, (n_sources, n_channels, n_samples).
    """

    title: str
    role: str  # 'evaluated', 'baseline' or 'oracle'
    estimate: Callable[..., Audio]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # if others, it is scored anew
    depends_on: str | None = None  # 'stft' or 'nussl', whose settings are added to its own
    may_fail: bool = False  # whether it is not made for every signal, so that a song may do without it


def _nussl(title: str, kind: str) -> System:
    return System(title, "baseline", functools.partial(nussl_primitive, kind=kind), depends_on="nussl", may_fail=True)


def _mask(title: str, role: str, kind: str) -> System:
    return System(title, role, functools.partial(mask_system, kind=kind), depends_on="stft")


SYSTEMS: dict[str, System] = {  # baselines and oracles by name, in the order in which they are scored
    "mixture": System("mixture as estimate", "baseline", mixture_as_estimate),
    "random_mask": _mask("random mask", "baseline", "random"),
    "repet_sim": _nussl("REPET-SIM", "RepetSim"),
    "ft2d": _nussl("2DFT", "FT2D"),
    "hpss": _nussl("HPSS", "HPSS"),
    "ideal_binary_mask": _mask("ideal binary mask", "oracle", "binary"),
    "ideal_ratio_mask": _mask("ideal ratio mask", "oracle", "ratio"),
    "phase_sensitive_mask": _mask("phase-sensitive mask", "oracle", "phase-sensitive"),
}


def systems_beside(signal: SignalSettings, *, oracles: bool, baselines: bool) -> dict[str, System]:
    """Return the baselines and oracles that are scored beside a model, at its STFT; the mixture always is."""
    stft = {name: getattr(signal, name) for name in ("window_length", "hop_length", "window_type")}
    settings = {None: {}, "stft": stft, "nussl": {"nussl": importlib.metadata.version("nussl")}}
    return {
        name: dataclasses.replace(
            system,
            settings={**system.settings, **settings[system.depends_on]},
            estimate=functools.partial(system.estimate, signal=signal),
        )
        for name, system in SYSTEMS.items()
        if name == "mixture" or (oracles if system.role == "oracle" else baselines)
    }
