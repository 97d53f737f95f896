"""Which sources are scored: those that a model and all songs share, and what they leave of the mixture."""

import dataclasses
from collections.abc import Sequence

from vocal_extraction.evaluation.metrics import EvaluationError
from vocal_extraction.settings import ACCOMPANIMENT
from vocal_extraction.tracks import Track, stems_of

VOCALS = "vocals"
_LONE = ("accompaniment", ACCOMPANIMENT, VOCALS)
"""A song that has but one of these has nothing else: its other sources are silent."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """The sources that are scored, in the order of arrays and files."""

    estimated: tuple[str, ...]
    """What systems estimate, the vocals first."""
    residual: str | None = None
    """What the estimates leave of the mixture; None where they add up to it."""

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
