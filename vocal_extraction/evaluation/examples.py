"""The best, the median and the worst song, with clips of what went in, what came out and what should have."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vocal_extraction.evaluation.jobs import Job
from vocal_extraction.evaluation.scoring import excerpt_of
from vocal_extraction.reports.page import Example
from vocal_extraction.settings import ACCOMPANIMENT
from vocal_extraction.tracks import Track

CLIP_S = 10.0
"""Longest clip in seconds; of a longer song, where the main source has the most energy."""


def choose_examples(jobs: Sequence[Job], contents: Sequence[Mapping[str, Any]], *, metric: str) -> list[Example]:
    """Return examples of the songs that score best, in the middle and worst; of two songs or one, those."""
    system, source = next(iter(jobs[0].systems)), jobs[0].sources.names[0]
    scored = [(content["rows"][system]["scores"][source][metric]["value"], content["song"]) for content in contents]
    sign = 1 if jobs[0].metrics[metric].more_is_better else -1
    ranked = sorted(((v, song) for v, song in scored if v is not None), key=lambda one: sign * one[0], reverse=True)
    if not ranked:
        return []
    by_song = {job.track.name: job for job in jobs}
    chosen: dict[int, str] = {}
    for rank, i in {"best": 0, "worst": len(ranked) - 1, "median": len(ranked) // 2}.items():
        chosen.setdefault(i, rank)
    return [_example(by_song[ranked[i][1]], chosen[i], metric, ranked[i][0]) for i in sorted(chosen)]


def _example(job: Job, rank: str, metric: str, value: float) -> Example:
    track = job.track
    start, stop = liveliest(track)
    excerpt, kept = excerpt_of(track, job.sources, start, stop)
    system = next(iter(job.systems.values()))
    estimates, references = system.estimate(excerpt)[..., kept], excerpt.references[..., kept]
    first, *others = job.sources.names
    clips = {
        "Mixture": excerpt.mixture[:, kept],
        f"{first.capitalize()} as estimated": estimates[0],
        f"{first.capitalize()} as recorded": references[0],
    }
    for name, estimate in zip(others, estimates[1:], strict=True):
        clips[f"{'The rest' if name in (ACCOMPANIMENT, job.sources.residual) else name.capitalize()} as estimated"] = (
            estimate
        )
    return Example(rank, track.name, metric, value, track.sample_rate, start / track.sample_rate, clips)


def liveliest(track: Track) -> tuple[int, int]:
    """Return the first and the last sample of the `CLIP_S` in which the first source has the most energy."""
    length, second = round(CLIP_S * track.sample_rate), track.sample_rate
    if track.n_samples <= length:
        return 0, track.n_samples
    first_source = track.select([next(iter(track.sources))])
    starts = range(0, track.n_samples - second + 1, second)
    energy = np.array([np.square(first_source.read(start, start + second)).sum(dtype=float) for start in starts])
    n_seconds = min(round(CLIP_S), len(energy))
    first = int(np.convolve(energy, np.ones(n_seconds), "valid").argmax()) * second
    first = min(first, track.n_samples - length)
    return first, first + length
