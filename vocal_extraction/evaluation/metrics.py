"""Every metric, a row of `METRICS` each, as docs/evaluation.md defines them; what is computed together is a family.

Axes: references (n_sources, n_channels, n_samples), estimates (n_systems, n_sources, n_channels, n_samples).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.evaluation.bsseval_v4 import BssEvalV4
from vocal_extraction.evaluation.scale_metrics import LIMIT_DB, ScaleMetrics

Audio = NDArray[np.float32]
Values = dict[str, NDArray[np.float64]]  # by metric, (n_systems, n_sources, n_parts), NaN without a value


class EvaluationError(VocalExtractionError):
    """An evaluation cannot be done or continued; the text says what to do."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is computed and reported.

    A `function` ``(reference, estimate, *, mixture, sample_rate)`` gets arrays of a whole song, (n_channels,
    n_samples), and gives a value, or one for each channel.
    """

    definition: str  # in a few words, for the report
    family: str | None = None  # key of `FAMILIES` that computes it; None for a metric with a function of its own
    unit: str = "dB"
    more_is_better: bool = True
    statistic: str = "mean"  # over songs: 'mean' (with the standard deviation) or 'median'
    parts: str = "channels"  # what a song's value is the median of: 'channels', or 'frames' of a second
    without_value: str = "it has no value here"  # why there may be none although the reference sounds
    needs_others: bool = False  # whether it has no meaning where no other source sounds
    ranks: bool = False  # whether systems are ranked by it: one metric of a family
    function: Callable[..., ArrayLike] | None = None


_scale = functools.partial(Metric, family="scale")
_improvement = functools.partial(_scale, without_value="the mixture is already perfect")
_bsseval = functools.partial(
    Metric,
    family="bsseval_v4",
    statistic="median",
    parts="frames",
    without_value="there is no frame in which all references and estimates sound",
)

METRICS: dict[str, Metric] = {  # by name, in the order of the tables
    "SI-SDR": _scale("target over everything else, after the best rescaling of the reference", ranks=True),
    "SI-SIR": _scale("target over what the other sources explain of the error", needs_others=True),
    "SI-SAR": _scale("target over what no source explains of the error"),
    "SD-SDR": _scale("as SI-SDR, but a wrong level costs"),
    "SNR": _scale("reference over the error, as it is"),
    "SRR": _scale("source to rescaled source: how much of the level is right (not a reverberation ratio)"),
    "SI-SDRi": _improvement("SI-SDR less that of the mixture"),
    "SD-SDRi": _improvement("SD-SDR less that of the mixture"),
    "SNRi": _improvement("SNR less that of the mixture"),
    "SDR": _bsseval("BSSEval v4: reference over all distortion", ranks=True),
    "ISR": _bsseval("BSSEval v4: reference over filtering distortion"),
    "SIR": _bsseval("BSSEval v4: target over interference", needs_others=True),
    "SAR": _bsseval("BSSEval v4: all that sources explain over artefacts"),
    "Leak": Metric(
        "estimate over mixture, where the source is silent: less is better",
        "leakage",
        more_is_better=False,
        statistic="median",
        without_value="the source is never silent while others sound",
    ),
}


class Leakage:
    """The energy of estimates while their references are silent, relative to the mixture's in the same frames."""

    FRAME_S = 0.1
    SILENT_FRAME_DB = -40.0  # relative to the mixture's mean power over the song

    def __init__(self, sample_rate: int) -> None:
        self._length = round(self.FRAME_S * sample_rate)
        self._rest: Audio | None = None  # (n_signals, n_channels, n_samples) of an unfinished frame
        self._energies: list[NDArray[np.float64]] = []  # (n_frames, n_signals): references, mixture, estimates
        self._shape = (0, 0)

    def add(self, references: Audio, estimates: Audio) -> None:
        self._shape = estimates.shape[:2]
        signals = np.concatenate([references, references.sum(axis=0, keepdims=True), *estimates])
        if self._rest is not None:
            signals = np.concatenate([self._rest, signals], axis=-1)
        stop = signals.shape[-1] // self._length * self._length
        self._add_frames(signals[..., :stop], self._length)
        self._rest = signals[..., stop:].copy()

    def _add_frames(self, signals: Audio, length: int) -> None:
        frames = signals.reshape(*signals.shape[:2], -1, length)
        self._energies.append(np.einsum("scft,scft->fs", frames, frames, dtype=np.float64))

    def values(self) -> Values:
        if self._rest is not None and self._rest.shape[-1]:
            self._add_frames(self._rest, self._rest.shape[-1])
        n_systems, n_sources = self._shape
        energies = np.concatenate(self._energies)
        references, mixture = energies[:, :n_sources], energies[:, n_sources]
        estimates = energies[:, n_sources + 1 :].reshape(-1, n_systems, n_sources)
        silent = references <= 10 ** (self.SILENT_FRAME_DB / 10) * mixture.mean()
        leaked = np.einsum("fks,fs->ks", estimates, silent)
        beside = (mixture[:, None] * silent).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = 10 * np.log10(leaked / np.where(beside > 0, beside, np.nan))
        return {"Leak": values.clip(-LIMIT_DB, LIMIT_DB)[..., None]}

    def silent(self) -> NDArray[np.bool_]:
        return np.zeros(self._shape[1], bool)


class WholeSongs:
    """Metrics that are functions of whole signals; all of a song's are kept in memory."""

    def __init__(self, functions: Mapping[str, Callable[..., ArrayLike]], sample_rate: int) -> None:
        self._functions, self._sample_rate = functions, sample_rate
        self._blocks: list[tuple[Audio, Audio]] = []

    def add(self, references: Audio, estimates: Audio) -> None:
        self._blocks.append((references.copy(), estimates.copy()))

    def values(self) -> Values:
        references, estimates = (np.concatenate(blocks, axis=-1) for blocks in zip(*self._blocks, strict=True))
        more = {"mixture": references.sum(axis=0), "sample_rate": self._sample_rate}

        def table(function: Callable[..., ArrayLike]) -> NDArray[np.float64]:
            found = [[function(*pair, **more) for pair in zip(references, one, strict=True)] for one in estimates]
            return np.asarray(found, float).reshape(*estimates.shape[:2], -1)

        return {name: table(function) for name, function in self._functions.items()}

    def silent(self) -> NDArray[np.bool_]:
        return ~np.any([references.any(axis=(1, 2)) for references, _ in self._blocks], axis=0)


FAMILIES: dict[str, Callable[[int], Any]] = {"scale": ScaleMetrics, "bsseval_v4": BssEvalV4, "leakage": Leakage}
"""What computes a family, made for a sample rate: ``add(references, estimates)`` is called for each block, at the end
``silent()``, which references are silent and have no values, (n_sources,), and ``values()``, as `Values`."""


def choose_metrics(names: str | Sequence[str] | None) -> dict[str, Metric]:
    """Return the metrics of some families or names, or of all for None, in the order of `METRICS`."""
    known = list(dict.fromkeys(metric.family or name for name, metric in METRICS.items()))
    wanted = known if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise EvaluationError(f"Unknown metrics: {name!r}. Expected one of {', '.join(known)}.")
    if not wanted:
        raise EvaluationError(f"No metrics were asked for. Choose of {', '.join(known)}.")
    return {name: metric for name, metric in METRICS.items() if (metric.family or name) in wanted}


def accumulators(metrics: Mapping[str, Metric], sample_rate: int) -> list[Any]:
    families = dict.fromkeys(metric.family for metric in metrics.values() if metric.family)
    found = [FAMILIES[family](sample_rate) for family in families]
    functions = {name: metric.function for name, metric in metrics.items() if metric.function}
    return [*found, WholeSongs(functions, sample_rate)] if functions else found


def entry(
    name: str, metrics: Mapping[str, Metric], values: Values, at: tuple[int, int], silent: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return what a song's file holds of one metric, for the system and source `at`: a value, or why there is none."""
    metric, parts = metrics[name], values[name][at]
    finite = parts[np.isfinite(parts)]
    found: dict[str, Any] = {
        # Six decimals: the rest depends on how many threads added up.
        "value": round(float(np.median(finite)), 6) if finite.size else None,
        metric.parts: [round(float(x), 6) if np.isfinite(x) else None for x in parts],
    }
    if not finite.size:
        alone = "no other source sounds" if metric.needs_others and np.sum(~silent) < 2 else metric.without_value
        found["left_out"] = "the reference is silent" if silent[at[1]] else alone
    elif metric.unit == "dB":
        base = values.get(name.removesuffix("i"), values[name])[at]  # that of which it may be an improvement
        clipped = metric.parts == "channels" and (np.abs(base) >= LIMIT_DB).any()
        if clipped or abs(found["value"]) >= LIMIT_DB:
            found["at_limit"] = True
    return found
