"""Which stems are written, and of which estimates each is made.

A model estimates sources. A stem is one of them, or what some of them leave of the mixture, a residual.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.errors import ExtractionError
from vocal_extraction.settings import ACCOMPANIMENT

_ACCOMPANIMENT = "accompaniment"


@dataclasses.dataclass(frozen=True)
class Stem:
    name: str
    sources: tuple[str, ...]  # the estimate that it is; for a residual, those that are taken from the mixture
    is_residual: bool = False


@dataclasses.dataclass(frozen=True)
class StemPlan:
    """All stems, in the order in which they are written."""

    stems: tuple[Stem, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(stem.name for stem in self.stems)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(source for stem in self.stems for source in stem.sources))

    def stems_of(
        self, mixture: NDArray[np.float32], estimates: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the samples of all stems, in arrays of the mixture's shape; whole numbers stay whole."""
        stems = {}
        for stem in self.stems:
            samples = sum((estimates[source] for source in stem.sources[1:]), estimates[stem.sources[0]])
            stems[stem.name] = mixture - samples if stem.is_residual else samples
        return stems


def stem_plan(
    sources: Sequence[str], wanted: Sequence[str] | None = None, without: Sequence[str] | None = None
) -> StemPlan:
    """Plan the stems of a model that estimates `sources`.

    `wanted` are names of stems: sources, or 'accompaniment', the mixture without the vocals. One name: that stem alone.
    Several: these and, unless one of them closes the sum already, a stem 'residual', so that all add up to the mixture.
    ['all']: all sources, of which 'other' is what the others leave; without an 'other' there is a further stem for
    that. None: vocals and accompaniment, of a model without vocals all. `without` are sources to take from the mixture;
    what they leave is the only stem: 'no_drums', or 'accompaniment'. An ExtractionError says that the model does not
    have one of the names, or that they do not go together.

    >>> stem_plan(["vocals"]).names
    ('vocals', 'accompaniment')
    >>> stem_plan(["bass", "drums", "other", "vocals"], ["vocals", "drums"]).names
    ('vocals', 'drums', 'residual')
    """
    sources = tuple(sources)
    wanted, without = ([names] if isinstance(names, str) else names for names in (wanted, without))
    if without:
        if wanted:
            raise ExtractionError("Stems are either chosen or left out, not both: give --stems or --without.")
        names = _known(without, sources)
        name = _ACCOMPANIMENT if names == ("vocals",) else f"no_{'_'.join(names)}"
        return StemPlan((Stem(name, names, is_residual=True),))
    if not wanted:
        wanted = ("vocals", _ACCOMPANIMENT) if "vocals" in sources else ("all",)
    if "all" in wanted:
        return _all(sources)
    also = [_ACCOMPANIMENT] if "vocals" in sources else []
    names = _known(wanted, (*sources, *also))
    if len(names) == 1:
        return StemPlan((_stem(names[0], sources),))
    if "vocals" in sources and _ACCOMPANIMENT in names:
        if set(names) != {"vocals", _ACCOMPANIMENT}:
            raise ExtractionError(
                "The accompaniment holds everything but the vocals; choose it alone or with the vocals, or take 'all'."
            )
        return StemPlan(tuple(_stem(name, sources) for name in names))
    if set(names) == set(sources):
        return _all(names)
    return StemPlan((*(Stem(name, (name,)) for name in names), Stem("residual", names, is_residual=True)))


def _known(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ExtractionError(f"The model has no {' or '.join(map(repr, unknown))}; it has {', '.join(known)}.")
    return tuple(dict.fromkeys(names))


def _stem(name: str, sources: Sequence[str]) -> Stem:
    is_residual = name == _ACCOMPANIMENT and "vocals" in sources
    return Stem(name, ("vocals",) if is_residual else (name,), is_residual)


def _all(sources: tuple[str, ...]) -> StemPlan:
    """Return all sources; the one that stands for the rest, or a further stem, is what the others leave."""
    rest = next((name for name in ("other", _ACCOMPANIMENT, ACCOMPANIMENT) if name in sources and sources[1:]), None)
    estimated = tuple(name for name in sources if name != rest)
    names = {None: _ACCOMPANIMENT if sources == ("vocals",) else "residual", ACCOMPANIMENT: _ACCOMPANIMENT}
    stems = [Stem(name, (name,)) for name in estimated]
    residual = Stem(names.get(rest, str(rest)), estimated, is_residual=True)
    stems.insert(len(stems) if rest is None else sources.index(rest), residual)
    return StemPlan(tuple(stems))
