"""A recurrent network over a whole song, one layer at a time, on arrays that may be on disk.

Trained LSTMs remember for half a minute and more, so that a context of a few seconds is not enough. But a recurrent
layer needs nothing of the past but its state: one direction goes through the chunks of a song from the first to the
last, the other from the last to the first, each handing its state on. What lies between the layers concerns each frame
alone, so several chunks are computed at a time. The result is that of the whole song at once, to rounding.

A runtime takes and gives NumPy arrays. Axes: features are ``(n_frames, n_sequences, n_features)``.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.separation.disk_array import Array, Rows, Scratch
from vocal_extraction.separation.workers import for_each
from vocal_extraction.spectrogram import Samples


class Layer(Protocol):
    """One layer over time; the second of its directions, if there is one, goes from the last frame to the first."""

    n_directions: int
    n_outputs: int

    def step(self, direction: int, features: Rows, state: Any) -> tuple[Rows, Any]:
        """Take a direction through its next chunk: give output (n_frames, n_sequences, n_outputs) and state."""

    def combine(self, features: Rows, outputs: Sequence[Rows]) -> Rows:
        """Return the next layer's features from those that came in and the outputs of all directions."""


class Runtime(Protocol):
    """Runs a network: `TorchRuntime`, or `checkpointing.onnx_network.OnnxNetwork`."""

    name: str  # library, version and device, in words
    layers: list[Any]  # each a `Layer`; none: the network is run on chunks, through `masks` or `audio`
    lookahead: int  # by how many frames masks follow behind their frames

    def samples(self, rows: Rows) -> Samples:
        """Return an array as what the network takes, on its device."""

    def rows(self, samples: Samples) -> Rows:
        """Return what the network gave as an array."""

    def encode(self, magnitudes: Rows) -> Rows:
        """Return the first layer's features from magnitudes (n_batch, n_frames, n_bins, n_channels)."""

    def decode(self, features: Rows) -> Rows:
        """Return masks (n_batch, n_frames, n_bins, n_channels, n_sources) from the features behind the last layer."""

    def masks(self, magnitudes: Samples) -> Samples:
        """Infer masks with a network that has no layers; shapes as for `encode` and `decode`."""

    def audio(self, samples: Samples) -> Samples:
        """Estimate waveforms (n_batch, n_channels, n_samples, n_sources) with a network of those."""


def runtime_of(model: LoadedModel) -> Runtime:
    if model.is_onnx:
        return model.network
    from vocal_extraction.separation.torch_runtime import TorchRuntime

    return TorchRuntime(model.network)


class LayerwiseSong:
    """One song on its way through the layers: `encode` all frames, then `run`, then ask for `masks`."""

    def __init__(self, runtime: Runtime, scratch: Scratch, *, n_frames: int, example: Rows) -> None:
        self._runtime, self._scratch, self._layer = runtime, scratch, runtime.layers[0]
        lookahead = runtime.lookahead
        self._features = scratch.new(n_frames + lookahead, *runtime.encode(example).shape[1:])
        if lookahead:  # silence behind the song, so that its last frames have their masks as well
            self._features[n_frames:] = np.repeat(runtime.encode(np.zeros_like(example)), lookahead, axis=0)
        self._outputs: list[Array] = []

    def encode(self, frames: slice, magnitudes: Rows) -> None:
        """Compute the features of some frames from their magnitudes; any thread may do so, in any order."""
        self._features[frames] = self._runtime.encode(magnitudes)

    def run(self, chunks: Sequence[slice], pool: ThreadPoolExecutor, progress: Callable[[float], None]) -> None:
        """Take the song through all layers; `progress` is called with the share that is done."""
        layers = self._runtime.layers
        chunks = [*chunks[:-1], slice(chunks[-1].start, len(self._features))]
        for number, layer in enumerate(layers):
            if number > 0:
                self._advance(chunks, pool)
            self._layer, self._states = layer, dict[int, Any]()
            shape = (*self._features.shape[:-1], layer.n_outputs)
            self._outputs = [self._scratch.new(*shape) for _ in range(layer.n_directions)]
            for n_done, pair in enumerate(zip(chunks, reversed(chunks), strict=True), start=1):
                for_each(pool, self._step, list(enumerate(pair))[: layer.n_directions])
                progress((number + n_done / len(chunks)) / len(layers))

    def _step(self, direction_and_frames: tuple[int, slice]) -> None:
        direction, frames = direction_and_frames
        output, state = self._layer.step(direction, self._features[frames], self._states.get(direction))
        self._outputs[direction][frames], self._states[direction] = output, state

    def _advance(self, chunks: Sequence[slice], pool: ThreadPoolExecutor) -> None:
        """Turn a layer's outputs into the next one's features: in place of its own, if they are as large."""
        features = following = self._features
        row_shape = self._combined(slice(0, 1)).shape[1:]
        if row_shape != features.shape[1:]:
            following = self._scratch.new(len(features), *row_shape)

        def combine(frames: slice) -> None:
            following[frames] = self._combined(frames)

        for_each(pool, combine, chunks)
        self._scratch.close(*self._outputs, *([] if following is features else [features]))
        self._features = following

    def _combined(self, frames: slice) -> Rows:
        """Return the features behind the layer that was run last."""
        return self._layer.combine(self._features[frames], [output[frames] for output in self._outputs])

    def masks(self, frames: slice) -> Rows:
        """Return the masks of some frames: (n_batch, n_frames, n_bins, n_channels, n_sources)."""
        later = self._runtime.lookahead
        return self._runtime.decode(self._combined(slice(frames.start + later, frames.stop + later)))
