"""One song at work: chunks of it through the network, and what the masks leave of them back into samples.

A network of layers over time goes through the whole song layer by layer first (`layerwise`), after which no chunk needs
context. Any other is run on chunks with context on both sides, whose estimates are dropped. Networks and filters that
take blocks of so many frames and no others are given just these, and the samples of neighbouring blocks are added.

Axes: songs are ``(n_samples, n_channels)``, items (groups of channels of a chunk) ``(n_items, n_channels, ...)``.
"""

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.separation import input_conditioning as conditioning
from vocal_extraction.separation import masking
from vocal_extraction.separation.disk_array import Array, Rows, Scratch
from vocal_extraction.separation.layerwise import LayerwiseSong, Runtime
from vocal_extraction.separation.resampling import Resampler
from vocal_extraction.separation.workers import Item, for_each
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.spectrogram import Samples, analyze, griffin_lim, magnitude, n_frames_of, namespace

Tick = Callable[[float], None]  # called with the share of the work that is done; may raise to stop it
_BINS_TOGETHER = 600  # bins of all items that go through a network at once: two items of 257, one of 1025
_ON_AN_ACCELERATOR = 16  # how many times as much an accelerator takes at once
_LAYERWISE_CHUNK_S = 2.0  # longest chunk on a CPU where no context makes short ones costly; memory grows with it
_STEP_FRAMES = 32  # networks that halve time up to five times see a chunk as they do the song if it begins at these
WIENER_FRAMES = 300  # a stretch in which a Wiener filter takes sources to stay where they are, as open-unmix
_ENCODING, _LAYERS = 0.2, 0.4  # shares of the time before a layerwise network gives masks


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Frames (of an audio model: samples) to estimate, and those that are computed, context included."""

    kept: slice
    computed: slice


def chunks_of(n: int, *, size: int, context: int, step: int = 1) -> list[Chunk]:
    """Divide a song into chunks of nearly equal size, which begin at multiples of `step`, as their contexts do.

    >>> [(chunk.kept, chunk.computed) for chunk in chunks_of(10, size=6, context=1)]
    [(slice(0, 5, None), slice(0, 6, None)), (slice(5, 10, None), slice(4, 10, None))]
    """
    size, context = (-(-least // step) * step for least in (-(-n // -(-n // size)), context))
    return [
        Chunk(slice(start, min(start + size, n)), slice(max(start - context, 0), min(start + size + context, n)))
        for start in range(0, n, size)
    ]


class SongSeparation:
    """One song on its way through a model, whose network `runtime` runs on the threads of `pool`.

    All its arrays are made by `scratch`.
    """

    def __init__(
        self,
        mixture: Array,
        sample_rate: int,
        model: LoadedModel,
        runtime: Runtime,
        settings: ExtractionSettings,
        *,
        sources: Sequence[str],
        scratch: Scratch,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._model, self._signal, self._runtime = model, model.signal, runtime
        self._settings, self._scratch, self._pool = settings, scratch, pool
        rate = model.signal.sample_rate
        covariances = conditioning.covariances_of(mixture, sample_rate, mapped=pool.map)
        self._incoming = Resampler(mixture, (sample_rate, rate), scratch)
        self._song = self._incoming.target
        self._n_samples, self._n_channels = len(self._song), self._song.shape[1]
        self._estimates = {name: scratch.new(*self._song.shape) for name in sources}
        self._outgoing = {
            name: Resampler(estimate, (rate, sample_rate), scratch, n_samples=len(mixture))
            for name, estimate in self._estimates.items()
        }
        level_db = model.signal.input_level_db
        self._gain = conditioning.input_gain(covariances, level_db)
        self._margin = 0 if level_db is None else round(conditioning.MARGIN_S * rate)
        self._reach = model.signal.window_length + self._margin  # samples beyond those of its frames that a chunk needs
        factor = 1 if model.is_on_cpu else _ON_AN_ACCELERATOR
        self._items_together = max(1, factor * _BINS_TOGETHER // (model.signal.n_bins * model.n_channels))
        self._stereo = "each" if model.output == "audio" else model.signal.stereo
        self._channels_of_items = conditioning.channel_groups(covariances, model.signal.stereo, model.n_channels)
        self._beside = -(-model.signal.window_length // 2 // model.signal.hop_length)
        self._n_before = self._beside if model.signal.padding == "whole" else 0
        self._n_frames = n_frames_of(self._n_samples, model.signal) + 2 * self._n_before
        if model.signal.padding == "reflect":
            self._n_frames = self._n_samples // model.signal.hop_length + 1
        blocks = getattr(model.network, "block_frames", None) or (WIENER_FRAMES if settings.wiener else None)
        self._block_frames = blocks if settings.phase == "mixture" else None
        self._adding = threading.Lock()
        self._layers: LayerwiseSong | None = None

    def _groups(self) -> list[list[Chunk]]:
        """Return the chunks of the song, in groups that go through the network together."""
        if self._block_frames is not None:
            starts = range(0, self._n_frames, self._block_frames)
            blocks = [slice(start, min(start + self._block_frames, self._n_frames)) for start in starts]
            return [[Chunk(block, block)] for block in blocks]
        signal, chunk_s, context_s = self._signal, self._settings.chunk_s, self._settings.context_s
        if self._runtime.layers:
            context_s = context_s if self._settings.phase == "griffin-lim" else 0.0
            if self._model.is_on_cpu:
                chunk_s = min(chunk_s, _LAYERWISE_CHUNK_S + 2 * context_s)
        size, context = (round(seconds * signal.sample_rate / signal.hop_length) for seconds in (chunk_s, context_s))
        step = 1 if self._runtime.layers else _STEP_FRAMES
        if self._model.output == "audio":
            hop = signal.hop_length
            chunks = chunks_of(self._n_samples, size=size * hop, context=context * hop, step=step * hop)
        else:
            chunks = chunks_of(self._n_frames, size=max(size, 1), context=max(context, self._beside), step=step)
        n_together = max(1, self._items_together // len(self._channels_of_items)) if not self._runtime.layers else 1
        by_length = itertools.groupby(chunks, lambda chunk: chunk.computed.stop - chunk.computed.start)
        alike = [list(group) for _, group in by_length]
        return [group[i : i + n_together] for group in alike for i in range(0, len(group), n_together)]

    def estimate(self, tick: Tick) -> dict[str, Array]:
        """Estimate all sources; return arrays of the mixture's shape and rate."""
        groups = self._groups() if self._n_samples else []
        share_before = 0.0
        if self._runtime.layers and groups:
            share_before = _ENCODING + _LAYERS
            self._layers = self._through_layers([chunk.kept for (chunk,) in groups], tick)
        work = self._estimate_audio if self._model.output == "audio" else self._estimate_masked

        def after_each(n_done: int) -> None:
            stop = self._samples_of(groups[n_done - 1][-1].kept).stop
            if self._block_frames is not None and n_done < len(groups):
                stop -= self._signal.window_length // 2  # as far back as the next block's first frame reaches
            for outgoing in self._outgoing.values():
                outgoing.read_to(stop)
            tick(1.0 - (1.0 - share_before) * (1.0 - n_done / len(groups)))

        for_each(self._pool, work, self._arriving(groups, lambda group: group[-1].computed), after_each)
        return {name: outgoing.target for name, outgoing in self._outgoing.items()}

    def _through_layers(self, chunks: list[slice], tick: Tick) -> LayerwiseSong:
        self._incoming.write_to(self._reach)
        example = self._network_input(self._items(self._reached_by(slice(0, 1))))
        layers = LayerwiseSong(self._runtime, self._scratch, n_frames=self._n_frames, example=example)

        def encode(frames: slice) -> None:
            layers.encode(frames, self._network_input(self._items(self._reached_by(frames))))

        arriving = self._arriving(chunks, lambda frames: frames)
        for_each(self._pool, encode, arriving, lambda n_done: tick(_ENCODING * n_done / len(chunks)))
        layers.run(chunks, self._pool, lambda share: tick(_ENCODING + _LAYERS * share))
        return layers

    def _arriving(self, items: Sequence[Item], frames_of: Callable[[Item], slice]) -> Iterator[Item]:
        """Yield items as soon as the samples of their frames are there."""
        for item in items:
            self._incoming.write_to(self._samples_of(frames_of(item)).stop + self._reach)
            yield item

    def _samples_of(self, frames: slice) -> slice:
        """Return the samples that belong to frames: as many hops, from the middle of the first on."""
        if self._model.output == "audio":
            return frames
        start, stop = (max(self._middle_of(frame), 0) for frame in (frames.start, frames.stop))
        return slice(start, min(stop, self._n_samples))

    def _middle_of(self, frame: int) -> int:
        return (frame - self._n_before) * self._signal.hop_length

    def _network_input(self, items: Samples) -> Rows:
        """Return magnitudes (n_batch, n_frames, n_bins, n_channels) of what `_items` gave, for the runtime."""
        magnitudes = self._gain * magnitude(analyze(items, signal=self._signal))
        return self._runtime.rows(masking.as_batch(magnitudes, n_network_channels=self._model.n_channels))

    def _reached_by(self, frames: slice) -> slice:
        """Return the samples that the windows of frames reach."""
        first = self._middle_of(frames.start) - self._signal.window_length // 2
        n_hops = frames.stop - frames.start - 1
        return slice(first, first + n_hops * self._signal.hop_length + self._signal.window_length)

    def _items(self, samples: slice) -> Samples:
        """Return the views of some samples in groups, zeros or a mirror beyond: (n_items, n_channels, n_samples)."""
        start, stop = max(samples.start, 0), min(samples.stop, self._n_samples)
        if self._signal.padding == "reflect":
            period = max(2 * (self._n_samples - 1), 1)
            mirrored = np.arange(samples.start, samples.stop) % period
            mirrored = np.minimum(mirrored, period - mirrored)
            first = int(mirrored.min())
            return self._views_of(self._song[first : int(mirrored.max()) + 1].T[:, mirrored - first])
        rows = np.zeros((self._n_channels, samples.stop - samples.start), np.float32)
        first, last = max(start - self._margin, 0), min(stop + self._margin, self._n_samples)
        read = self._song[first:last].T
        if self._margin:
            beside = (start - first, last - stop)
            read = conditioning.without_slow_waves(read, self._signal.sample_rate, beside=beside)
        rows[:, start - samples.start : stop - samples.start] = read
        return self._views_of(rows)

    def _views_of(self, channels: Rows) -> Samples:
        views = masking.views_of(channels[self._channels_of_items][..., None], self._stereo)[..., 0]
        return self._runtime.samples(views)

    def _estimate_masked(self, group: Sequence[Chunk]) -> None:
        spectra = [analyze(self._items(self._reached_by(chunk.computed)), signal=self._signal) for chunk in group]
        n_items = len(spectra[0])
        if self._layers is not None:
            masks = [masking.as_masks(self._runtime.samples(self._layers.masks(group[0].computed)), n_items=n_items)]
        else:
            joined = namespace(spectra[0]).concatenate(spectra)
            magnitudes = self._gain * magnitude(joined)
            masks = _parts(self._together(self._infer_masks, magnitudes), n_items)
        for chunk, spectrum, chunk_masks in zip(group, spectra, masks, strict=True):
            filtered = self._filtered(spectrum, chunk_masks) if self._settings.wiener else None
            for name in self._estimates:
                index = self._model.sources.index(name)
                mask = masking.source_mask(chunk_masks, index, kind=self._settings.mask)
                if self._block_frames is None:
                    self._write(name, chunk, self._waveform(spectrum, mask, chunk))
                elif filtered is None:
                    self._add(name, chunk.kept, spectrum * mask)
                else:
                    self._add(name, chunk.kept, filtered[index])

    def _filtered(self, spectrum: Samples, masks: Samples) -> list[Samples]:
        """Return the spectrum of each source behind the Wiener filter: (n_items, n_channels, n_frames, n_bins)."""
        kinds, rows = range(masks.shape[-1]), self._runtime.rows
        estimates = [rows(spectrum * masks[..., i]) for i in kinds]
        found = masking.wiener_filtered(rows(spectrum), np.stack(estimates, axis=-1), n_rounds=self._settings.wiener)
        return [self._runtime.samples(found[..., i]) for i in kinds]

    def _add(self, name: str, frames: slice, spectrum: Samples) -> None:
        """Add what frames hold of the samples that they reach; those beside them, of other blocks, add the rest."""
        signal, n_reached = self._signal, self._signal.window_length // self._signal.hop_length - 1
        before, after = min(frames.start, n_reached), min(self._n_frames - frames.stop, n_reached)
        beside = [0 * spectrum[..., :1, :]] * max(before, after)
        spectrum = namespace(spectrum).concatenate([*beside[:before], spectrum, *beside[:after]], axis=-2)
        first = self._middle_of(frames.start - before) - signal.window_length // 2
        last = first + (spectrum.shape[-2] - 1) * signal.hop_length + signal.window_length
        start, stop = max(first, 0), min(last, self._n_samples)
        rows = self._rows_of(masking.synthesize_part(spectrum, slice(start - first, stop - first), signal=signal))
        with self._adding:
            self._estimates[name][start:stop] += rows

    def _infer_masks(self, magnitudes: Samples) -> Samples:
        """Infer masks (n_items, n_channels, n_frames, n_bins, n_sources) from the magnitudes of the views."""
        batch = masking.as_batch(magnitudes, n_network_channels=self._model.n_channels)
        return masking.as_masks(self._runtime.masks(batch), n_items=len(magnitudes))

    def _waveform(self, spectrum: Samples, mask: Samples, chunk: Chunk) -> Samples:
        """Mask a spectrum of a chunk's computed frames; return the samples of those that are kept."""
        signal, samples = self._signal, self._samples_of(chunk.kept)
        first, n_samples = chunk.computed.start, max(samples.stop - samples.start, 0)
        if self._settings.phase == "griffin-lim":
            spectrum = spectrum * mask
            n_computed, start = (spectrum.shape[-2] - 1) * signal.hop_length, samples.start - self._middle_of(first)
            waveform = griffin_lim(abs(spectrum), phase_of=spectrum, n_samples=n_computed, signal=signal)
            return waveform[..., start : start + n_samples]
        # Frames beside those that are kept reach into their samples.
        frames = slice(max(chunk.kept.start - self._beside - first, 0), chunk.kept.stop + self._beside - first)
        start = samples.start - self._middle_of(first + frames.start) + signal.window_length // 2
        part = spectrum[..., frames, :] * mask[..., frames, :]
        return masking.synthesize_part(part, slice(start, start + n_samples), signal=signal)

    def _estimate_audio(self, group: Sequence[Chunk]) -> None:
        of_chunks = [self._items(chunk.computed) for chunk in group]
        audio = self._together(self._runtime.audio, namespace(of_chunks[0]).concatenate(of_chunks))
        for chunk, estimates in zip(group, _parts(audio, len(of_chunks[0])), strict=True):
            kept = slice(chunk.kept.start - chunk.computed.start, chunk.kept.stop - chunk.computed.start)
            for name in self._estimates:
                self._write(name, chunk, estimates[..., kept, self._model.sources.index(name)])

    def _together(self, function: Callable[[Samples], Samples], items: Samples) -> Samples:
        """Call a function of the network on as many items at a time as go through it together."""
        found = [function(part) for part in _parts(items, self._items_together)]
        return namespace(found[0]).concatenate(found)

    def _write(self, name: str, chunk: Chunk, waveform: Samples) -> None:
        """Write the samples (n_items, n_channels, n_samples) that a chunk keeps."""
        rows = self._rows_of(waveform)
        start = self._samples_of(chunk.kept).start
        self._estimates[name][start : start + len(rows)] = rows

    def _rows_of(self, waveform: Samples) -> Rows:
        """Return the views (n_items, n_channels, n_samples) of items as rows of the song."""
        _, first = np.unique(self._channels_of_items, return_index=True)
        waveform = masking.channels_of(waveform[..., None], self._stereo)[..., 0]
        channels = waveform.reshape(waveform.shape[0] * waveform.shape[1], waveform.shape[2])
        return self._runtime.rows(channels[first].T)


def _parts(items: Samples, n: int) -> list[Samples]:
    return [items[start : start + n] for start in range(0, len(items), n)]
