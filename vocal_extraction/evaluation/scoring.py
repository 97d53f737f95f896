"""One song, all rows, one pass: the song is read in blocks, every separator estimates each block, and inner products
and correlations are added up; the metrics come from those at the end.

A row of scores is, as plain values: ``{source: {metric: {"value", "channels" or "frames", "left_out", "at_limit"}}}``.
``value`` is the median over channels (scale metrics) or over frames (BSSEval v4), in decibels; None with a reason under
``left_out`` where the metric has no meaning.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.evaluation.bsseval_v4 import BSSEVAL_METRICS, BssEvalV4
from vocal_extraction.evaluation.scale_metrics import LIMIT_DB, SCALE_METRICS, GramMatrix, at_limit, scale_metrics
from vocal_extraction.evaluation.separators import (
    BASELINES,
    BLOCK_SAMPLES,
    CONTEXT_SAMPLES,
    GRID_SAMPLES,
    Audio,
    Excerpt,
    ModelSeparator,
    Separator,
)
from vocal_extraction.evaluation.songs import SOURCES, EvaluationError, Recording

FAMILIES = {"scale": SCALE_METRICS, "bsseval_v4": BSSEVAL_METRICS}
"""What ``metrics`` may name, and the metrics of each."""

SILENT_REFERENCE = "the reference is silent"
ALONE = "no other source sounds"
PERFECT_MIXTURE = "the mixture is already perfect"
NO_FRAME = "there is no frame in which all references and estimates sound"
"""Why a value is left out; a separator that fails adds its own words."""

Scores = dict[str, dict[str, dict[str, Any]]]


def excerpts(song: Recording) -> Iterator[tuple[Excerpt, slice]]:
    """Cut a song into blocks; see `excerpt_of`."""
    for start in range(0, song.n_samples, BLOCK_SAMPLES):
        yield excerpt_of(song, start, min(start + BLOCK_SAMPLES, song.n_samples))


def excerpt_of(song: Recording, start: int, stop: int) -> tuple[Excerpt, slice]:
    """Return samples `start` to `stop` of a song with context on both sides, and which of them are not context."""
    first = max(start - CONTEXT_SAMPLES, 0) // GRID_SAMPLES * GRID_SAMPLES
    last = min(stop + CONTEXT_SAMPLES, song.n_samples)
    return Excerpt(song.name, first, song.sample_rate, song.read(first, last)), slice(start - first, stop - first)


def score_song(
    song: Recording,
    separators: Mapping[str, Separator],
    *,
    families: Sequence[str],
    save_first_to: Path | None = None,
) -> dict[str, Scores]:
    """Score every separator on one song.

    Parameters
    ----------
    song
        Its stems.
    separators
        By row.
    families
        Keys of `FAMILIES`.
    save_first_to
        Folder for the first row's estimates, as float wavs under the song's name; None saves nothing.

    Returns
    -------
    dict[str, Scores]
        By row; see the head of this file.

    Raises
    ------
    EvaluationError
        If a file of the song is damaged, or the first row's separator gives NaN or infinity.
    """
    gram, bsseval, failures = GramMatrix(), BssEvalV4(song.sample_rate), dict[str, str]()
    with contextlib.ExitStack() as stack:
        if song.n_samples > BLOCK_SAMPLES:
            separators = {
                row: stack.enter_context(separator.hearing(song))
                if isinstance(separator, ModelSeparator)
                else separator
                for row, separator in separators.items()
            }
        write = _writer(stack, song, save_first_to)
        for excerpt, kept in excerpts(song):
            references = excerpt.references[..., kept]
            estimates = _estimate_all(excerpt, separators, failures)[..., kept]
            write(estimates[0])
            if "scale" in families:
                mixture = references.sum(axis=0, keepdims=True)
                gram.add(np.concatenate([references, mixture, *estimates]))
            if "bsseval_v4" in families:
                bsseval.add(references, estimates)
    tables: list[list[Scores]] = []
    if "scale" in families:
        tables.append(_scale_scores(gram.centred(), n_sets=len(separators)))
    if "bsseval_v4" in families:
        tables.append(_bsseval_scores(bsseval.ratios(), bsseval.sounding()))
    merged = [_merge(scores) for scores in zip(*tables, strict=True)]
    return {
        row: _failed(failures[row], families) if row in failures else scores
        for row, scores in zip(separators, merged, strict=True)
    }


def _estimate_all(excerpt: Excerpt, separators: Mapping[str, Separator], failures: dict[str, str]) -> Audio:
    """Return the estimates of all rows: (n_rows, n_sources, n_channels, n_samples), zeros for rows that failed."""
    estimates = np.zeros((len(separators), *excerpt.references.shape), np.float32)
    for estimate, (row, separator) in zip(estimates, separators.items(), strict=True):
        if row in failures:
            continue
        try:
            estimate[:] = separator(excerpt)
            if not np.isfinite(estimate).all():
                raise EvaluationError(f"The {row} gave NaN or infinite samples for {excerpt.song!r}.")
        # nussl's separators are not made for every signal; one that gives up is named and the others are scored.
        except (EvaluationError, ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
            if row not in BASELINES:
                raise
            failures[row] = " ".join(str(error).split())
            estimate[:] = 0
    return estimates


def _writer(stack: contextlib.ExitStack, song: Recording, folder: Path | None) -> Any:
    """Return a function that appends a block of estimates to the song's wavs, which appear when `stack` closes."""
    if folder is None:
        return lambda estimates: None
    names = ("vocals.wav", "accompaniment.wav")
    asides = [stack.enter_context(whole_file(folder / song.name / name)) for name in names]
    files = [
        stack.enter_context(soundfile.SoundFile(aside, "w", song.sample_rate, song.n_channels, "FLOAT"))
        for aside in asides
    ]

    def write(estimates: Audio) -> None:
        for file, samples in zip(files, estimates, strict=True):
            try:
                file.write(samples.T)
            except soundfile.LibsndfileError as error:
                raise EvaluationError(
                    f"Cannot write the estimates of {song.name!r} to {folder} ({error}). Free some space on the disk."
                ) from error

    return write


def _scale_scores(gram: NDArray[np.float64], *, n_sets: int) -> list[Scores]:
    """Turn one Gram matrix of references, mixture and all sets of estimates into scores, a set each."""
    n_sources = len(SOURCES)
    every = []
    for k in range(n_sets):
        first = n_sources + 1 + k * n_sources
        values = scale_metrics(
            gram, n_sources=n_sources, mixture=n_sources, estimates=list(range(first, first + n_sources))
        )
        scores: Scores = {}
        for i, source in enumerate(SOURCES):
            silent = bool(np.isnan(values["SNR"][:, i]).all())
            scores[source] = {
                name: _entry(
                    values[name][:, i],
                    parts="channels",
                    reason=SILENT_REFERENCE if silent else ALONE if name == "SI-SIR" else PERFECT_MIXTURE,
                    limited=bool(at_limit(values, name)[:, i].any()),
                )
                for name in SCALE_METRICS
            }
        every.append(scores)
    return every


def _bsseval_scores(ratios: dict[str, NDArray[np.float64]], sounding: NDArray[np.bool_]) -> list[Scores]:
    """Turn frames (n_sets, n_sources, n_frames) of each metric into scores, a set each."""
    n_sets = len(ratios["SDR"])
    every = []
    for k in range(n_sets):
        scores: Scores = {}
        for i, source in enumerate(SOURCES):
            scores[source] = {
                name: _entry(
                    np.clip(ratios[name][k, i], -LIMIT_DB, LIMIT_DB),
                    parts="frames",
                    reason=SILENT_REFERENCE if not sounding[i] else ALONE if sounding.sum() < 2 else NO_FRAME,
                )
                for name in BSSEVAL_METRICS
            }
        every.append(scores)
    return every


def _entry(parts_db: NDArray[np.float64], *, parts: str, reason: str, limited: bool = False) -> dict[str, Any]:
    finite = parts_db[np.isfinite(parts_db)]
    entry: dict[str, Any] = {
        "value": _rounded(float(np.median(finite))) if finite.size else None,
        parts: [_rounded(float(x)) for x in parts_db],
    }
    if not finite.size:
        entry["left_out"] = reason
    elif limited or abs(entry["value"]) >= LIMIT_DB:
        entry["at_limit"] = True
    return entry


def _rounded(decibels: float) -> float | None:
    """Six decimals: the rest depends on how many threads added up."""
    return round(decibels, 6) if math.isfinite(decibels) else None


def _merge(scores: Sequence[Scores]) -> Scores:
    return {source: {name: e for one in scores for name, e in one[source].items()} for source in SOURCES}


def _failed(reason: str, families: Sequence[str]) -> Scores:
    names = [name for family in families for name in FAMILIES[family]]
    return {source: {name: {"value": None, "left_out": reason} for name in names} for source in SOURCES}
