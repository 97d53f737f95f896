"""Separation of a signal that is still arriving: blocks in, the stems of as many earlier samples out.

Only a network whose layers over time run forwards can do it. The samples of a frame are known when the last frame that
overlaps them and the network's lookahead have arrived: the delay is one window and the lookahead.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionError
from vocal_extraction.separation.disk_array import Rows
from vocal_extraction.separation.input_conditioning import refuse_numbers_out_of_range
from vocal_extraction.separation.layerwise import runtime_of
from vocal_extraction.separation.masking import as_batch, as_masks, channels_of, views_of
from vocal_extraction.separation.stems import stem_plan
from vocal_extraction.spectrogram import (
    Samples,
    analyze,
    magnitude,
    n_frames_of,
    namespace,
    synthesis_weight,
    synthesize,
)

_LOWEST_HZ = 25.0  # bins below belong to no source: live cannot wait for the high-pass of files
_LEVEL_S = 10.0  # time constant of the level by which a live signal is normalized
_SILENCE = 1e-3  # frames with less than this share of the mean power hardly change the level
_FRAMES_TOGETHER = 64  # of a long block; memory grows with it


class StreamingSeparator:
    """A loaded model at work on a signal in blocks, in the manner of `soxr.ResampleStream`.

    Parameters
    ----------
    model
        What `checkpointing.load_checkpoint` returned; its network runs forwards only.
    sample_rate
        Samples per second of the blocks; None is the model's. At another rate the delay is a little longer.
    n_channels
        1 or 2.
    stems
        Which, see `stems.stem_plan`; None is vocals and accompaniment. Several add up to the delayed mixture.

    Raises
    ------
    ExtractionError
        If the network needs the whole song, or the model does not have a stem.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        sample_rate: int | None = None,
        n_channels: int = 2,
        stems: Sequence[str] | None = None,
    ) -> None:
        self._frames = functools.partial(_Frames, model)
        self.plan = stem_plan(model.sources, stems)
        self.sample_rate, self.n_channels = sample_rate or model.signal.sample_rate, n_channels
        self._model_rate = model.signal.sample_rate
        self.hop_length = round(model.signal.hop_length * self.sample_rate / self._model_rate)
        if n_channels not in (1, 2):
            raise ExtractionError(f"Live takes one channel or two, not {n_channels}.")
        self._delay = self._frames(sources=self.plan.sources, n_channels=n_channels).delay
        if self.sample_rate != self._model_rate:
            self._delay = _delay_with_resampling(self.sample_rate, self._model_rate, self._delay)
        self.reset()

    def delay(self) -> int:
        """Return by how many samples what comes out is behind what went in."""
        return self._delay

    def reset(self) -> None:
        """Forget everything that went in."""
        self._separation = self._frames(sources=self.plan.sources, n_channels=self.n_channels)
        self._incoming = _resampler(self.sample_rate, self._model_rate, self.n_channels)
        self._n_arrived, n_together = 0, self.n_channels * len(self.plan.sources)
        self._outgoing = _resampler(self._model_rate, self.sample_rate, n_together)
        self._mixture = np.zeros((self._delay, self.n_channels), np.float32)
        self._estimates = np.zeros((self._delay, n_together), np.float32)

    def process(self, block: NDArray[np.floating], last: bool = False) -> dict[str, NDArray[np.float32]]:
        """Take the next samples, and return the stems of as many, `delay` samples earlier; the first are zeros.

        The last block gives `delay` samples more, and the next one begins another signal. Full scale is 1. Shape of the
        block and of each stem: (n_samples, n_channels). An ExtractionError says that it has another shape, or holds
        NaN, infinity or absurdly large numbers; nothing is changed then.
        """
        block = np.asarray(block, np.float32)
        if block.ndim != 2 or block.shape[1] != self.n_channels:
            raise ExtractionError(f"The block has shape {block.shape}, expected (n_samples, {self.n_channels}).")
        refuse_numbers_out_of_range(block, self._n_arrived, self.sample_rate)
        self._n_arrived += len(block)
        arrived = self._separation.push(self._incoming(block, last), last)
        self._estimates = np.concatenate([self._estimates, self._outgoing(arrived, last)])
        self._mixture = np.concatenate([self._mixture, block])
        n = len(self._mixture) if last else len(block)
        lacking = max(n - len(self._estimates), 0) if last else 0  # what resampling there and back rounded off
        estimates, mixture = np.pad(self._estimates[:n], ((0, lacking), (0, 0))), self._mixture[:n]
        self._estimates, self._mixture = self._estimates[n:], self._mixture[n:]
        if last:
            self.reset()
        by_source = np.split(estimates, len(self.plan.sources), axis=1)
        return self.plan.stems_of(mixture, dict(zip(self.plan.sources, by_source, strict=True)))


class _Frames:
    """A network at work frame by frame, at its own rate: what goes in comes out as soon as it is finished."""

    def __init__(self, model: LoadedModel, *, sources: Sequence[str], n_channels: int) -> None:
        runtime = None if model.output == "mean" else runtime_of(model)
        if runtime is None or not runtime.layers or any(layer.n_directions > 1 for layer in runtime.layers):
            raise ExtractionError(
                f"{model.path.name} needs the whole song: its network also runs from the end to the beginning. "
                "Live takes one that runs forwards only, such as --preset live."
            )
        self._model, self._signal, self._runtime = model, model.signal, runtime
        self._sources = [model.sources.index(name) for name in sources]
        window, hop = self._signal.window_length, self._signal.hop_length
        self.delay = window + runtime.lookahead * hop
        self._n_low = math.ceil(_LOWEST_HZ * window / self._signal.sample_rate)
        self._states: list[Any] = [None] * len(runtime.layers)
        self._samples = np.zeros((window // 2, n_channels), np.float32)  # those of frames to come
        self._views = self._zeros(1, n_channels, 0, self._signal.n_bins)  # those whose masks are to come
        self._overlap = self._zeros(len(sources), n_channels, window - hop)
        self._weight = self._zeros(window - hop)
        self._n_arrived, self._n_finished = 0, -(window // 2)  # what lies before the signal is finished first
        self._n_masks = -runtime.lookahead
        self._power, self._n_powers = 0.0, 0.0

    def _zeros(self, *shape: int) -> Samples:
        return self._runtime.samples(np.zeros(shape, np.float32))

    def push(self, rows: Rows, last: bool) -> Rows:
        """Take samples (n, n_channels), and return those that are finished: (m, n_sources * n_channels)."""
        window, hop = self._signal.window_length, self._signal.hop_length
        self._n_arrived += len(rows)
        if last:
            n_needed = (n_frames_of(self._n_arrived, self._signal) - 1) * hop + window // 2
            rows = np.pad(rows, ((0, n_needed - self._n_arrived), (0, 0)))
        self._samples = np.concatenate([self._samples, rows])
        finished = [self._overlap[..., :0]]
        while (n := min((len(self._samples) - window) // hop + 1, _FRAMES_TOGETHER)) > 0:
            samples, self._samples = self._samples[: (n - 1) * hop + window], self._samples[n * hop :]
            spectra = analyze(self._runtime.samples(samples.T[None]), signal=self._signal)
            views = views_of(spectra, self._signal.stereo)
            self._views = namespace(views).concatenate([self._views, views], axis=-2)
            gains = np.array(self._gains(samples[window - hop :].reshape(n, -1)), np.float32)
            finished.append(self._through_network(magnitude(views) * self._runtime.samples(gains[:, None])))
        if last:
            if self._runtime.lookahead:
                shape = (*self._views.shape[:2], self._runtime.lookahead, self._signal.n_bins)
                finished.append(self._through_network(self._zeros(*shape)))
            finished.append(self._overlap / self._weight)
        joined = namespace(self._overlap).concatenate(finished, axis=-1)
        samples = self._runtime.rows(joined.reshape(joined.shape[0] * joined.shape[1], joined.shape[2]).T)
        n_before, self._n_finished = self._n_finished, self._n_finished + len(samples)
        return samples[max(-n_before, 0) : self._n_arrived - n_before]

    def _through_network(self, magnitudes: Samples) -> Samples:
        """Take frames of views (1, n_channels, n_frames, n_bins); return the samples that they finish."""
        batch = as_batch(magnitudes, n_network_channels=self._model.n_channels)
        features = self._runtime.encode(self._runtime.rows(batch))
        for i, layer in enumerate(self._runtime.layers):
            output, self._states[i] = layer.step(0, features, self._states[i])
            features = layer.combine(features, [output])
        n_early, self._n_masks = max(-self._n_masks, 0), self._n_masks + len(features)
        if n_early >= len(features):
            return self._overlap[..., :0]
        masks = as_masks(self._runtime.samples(self._runtime.decode(features[n_early:])), n_items=1)
        masks[..., : self._n_low, :] = 0.0
        n = masks.shape[2]
        views, self._views = self._views[:, :, :n], self._views[:, :, n:]
        spectra = channels_of(views * namespace(masks).moveaxis(masks, -1, 0)[self._sources][:, 0], self._signal.stereo)
        hop = self._signal.hop_length
        samples = synthesize(spectra, signal=self._signal)
        weight = synthesis_weight(n, signal=self._signal, like=samples)
        n_overlapping = self._overlap.shape[-1]
        samples[..., :n_overlapping] += self._overlap
        weight[:n_overlapping] += self._weight
        self._overlap, self._weight = samples[..., n * hop :], weight[n * hop :]
        return samples[..., : n * hop] / weight[: n * hop]

    def _gains(self, hops: Rows) -> list[float]:
        """Return the factor on each frame's magnitudes from the samples (n_frames, n) that are new in it."""
        level_db = self._signal.input_level_db
        if level_db is None:
            return [1.0] * len(hops)
        most = _LEVEL_S * self._signal.sample_rate / self._signal.hop_length
        gains = []
        for power in np.square(hops, dtype=np.float64).mean(axis=1).tolist():
            if power > 0:
                is_silent = power < _SILENCE * self._power
                self._n_powers = min(self._n_powers + (not is_silent), most)
                self._power += (power - self._power) / (10 * most if is_silent else self._n_powers)
            gains.append(10 ** (level_db / 20) / self._power**0.5 if self._power else 1.0)
        return gains


def _resampler(from_rate: int, to_rate: int, n_channels: int) -> Callable[[Rows, bool], Rows]:
    if from_rate == to_rate:
        return lambda rows, last: rows
    stream = soxr.ResampleStream(from_rate, to_rate, n_channels, dtype="float32")
    return lambda rows, last: stream.resample_chunk(np.ascontiguousarray(rows), last=last)


def _delay_with_resampling(outer_rate: int, model_rate: int, delay: int) -> int:
    """Return the longest delay at the outer rate of a separation with `delay` at the model's, by trial on silence."""
    longest = 0
    for length in (64, 1_000, 4_096):
        there, back = _resampler(outer_rate, model_rate, 1), _resampler(model_rate, outer_rate, 1)
        n_in = n_out = n_there = n_finished = 0
        while n_in < 2 * outer_rate:
            n_in, n_there = n_in + length, n_there + len(there(np.zeros((length, 1), np.float32), False))
            more = max(n_there - delay - n_finished, 0)
            n_out, n_finished = n_out + len(back(np.zeros((more, 1), np.float32), False)), n_finished + more
            longest = max(longest, n_in - n_out)
    return longest + 64
