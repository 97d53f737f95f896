"""The best, the median and the worst song, with clips of what went in, what came out and what should have."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vocal_extraction.evaluation.jobs import Job
from vocal_extraction.evaluation.scoring import excerpt_of
from vocal_extraction.evaluation.songs import SOURCES, Recording
from vocal_extraction.reports.page import Exhibit
from vocal_extraction.reports.tables import HEADLINES

CLIP_S = 10.0
"""Longest clip in seconds; of a longer song, the stretch with the most vocals."""


def choose_exhibits(jobs: Sequence[Job], contents: Sequence[Mapping[str, Any]]) -> list[Exhibit]:
    """Return exhibits of the songs that score best, in the middle and worst; of two songs or one, those.

    Parameters
    ----------
    jobs
        Those that were run.
    contents
        What they found.
    """
    row = jobs[0].rows[0].name
    scored: list[tuple[float, str, str]] = []
    for content in contents:
        entries = content["rows"][row]["scores"]["vocals"]
        metric = next(name for name in HEADLINES if name in entries)
        if entries[metric]["value"] is not None:
            scored.append((entries[metric]["value"], content["song"], metric))
    scored.sort(reverse=True)
    if not scored:
        return []
    ranks = {"best": 0, "worst": len(scored) - 1, "median": len(scored) // 2}
    by_song = {job.song.name: job for job in jobs}
    chosen: dict[int, str] = {}
    for rank, i in ranks.items():
        chosen.setdefault(i, rank)
    return [_exhibit(by_song[scored[i][1]], chosen[i], *scored[i]) for i in sorted(chosen)]


def _exhibit(job: Job, rank: str, value: float, song: str, metric: str) -> Exhibit:
    start, stop = _liveliest(job.song)
    excerpt, kept = excerpt_of(job.song, start, stop)
    estimates = job.rows[0].separator(excerpt)[..., kept]
    references = excerpt.references[..., kept]
    clips = {
        "Mixture": excerpt.mixture[:, kept],
        "Vocals as estimated": estimates[0],
        "Vocals as recorded": references[0],
        "The rest as estimated": estimates[1],
    }
    return Exhibit(rank, song, metric, value, job.song.sample_rate, start / job.song.sample_rate, clips)


def _liveliest(song: Recording) -> tuple[int, int]:
    """Return the first and the last sample of the stretch of `CLIP_S` in which the vocals have the most energy."""
    length = round(CLIP_S * song.sample_rate)
    if song.n_samples <= length:
        return 0, song.n_samples
    starts = range(0, song.n_samples - song.sample_rate + 1, song.sample_rate)
    vocals = Recording(
        song.name, {SOURCES[0]: song.files[SOURCES[0]]}, song.sample_rate, song.n_channels, song.n_samples
    )
    energy = np.array([np.square(vocals.read(start, start + song.sample_rate)).sum(dtype=float) for start in starts])
    n_seconds = min(round(CLIP_S), len(energy))
    first = int(np.convolve(energy, np.ones(n_seconds), "valid").argmax()) * song.sample_rate
    first = min(first, song.n_samples - length)
    return first, first + length
