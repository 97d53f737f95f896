"""A recurrent network over a whole song, one layer at a time, on arrays that may be on disk.

Trained LSTMs remember for half a minute and more, so that a context of a few seconds is not enough. A recurrent layer
needs nothing of the past but its state, though: one direction goes through the chunks of a song from the first to the
last, the other from the last to the first, each handing its state on. A layer needs the outputs of the one before over
the whole song, which wait in arrays. What lies between the layers concerns each frame alone, so several chunks are
computed at a time. Nothing is computed twice, and the result is that of the whole song at once, to rounding.

`LayerwiseSong` knows nothing of torch: `TorchRuntime` takes and gives NumPy arrays, and so may another runtime that has
the same methods. Axes: features are ``(n_frames, n_sequences, n_features)``.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vocal_extraction.networks.layers import OverTime
from vocal_extraction.separation.disk_array import Array, Rows, Scratch
from vocal_extraction.separation.workers import for_each


class TorchLayer:
    """One layer over time; the second of its directions, if there is one, goes from the last frame to the first."""

    def __init__(self, over_time: OverTime, device: torch.device) -> None:
        self._before, self._after, self._device = over_time.before, over_time.after, device
        self._directions = [one_direction(over_time, i) for i in range(2 if over_time.lstm.bidirectional else 1)]
        self.n_directions, self.n_outputs = len(self._directions), over_time.lstm.hidden_size

    @torch.inference_mode()
    def step(self, direction: int, features: Rows, state: Any) -> tuple[Rows, Any]:
        """Take a direction through its next chunk: return the output (n_frames, n_sequences, n_outputs) and the state.

        The first chunk has the state None.
        """
        inputs = torch.from_numpy(features).to(self._device)
        if self._before is not None:
            inputs = self._before(inputs)
        output, state = self._directions[direction](inputs.flip(0) if direction else inputs, state)
        return (output.flip(0) if direction else output).cpu().numpy(), state

    @torch.inference_mode()
    def combine(self, features: Rows, outputs: Sequence[Rows]) -> Rows:
        """Return the next layer's features from those that came in and the outputs of all directions."""
        output = torch.cat([_from_rows(each, self._device) for each in outputs], dim=-1)
        return _as_rows(output if self._after is None else self._after(_from_rows(features, self._device), output))


class TorchRuntime:
    """Runs a network that has the methods ``encode``, ``layers_over_time`` and ``decode``."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self._network, self._device, self.lookahead = network, device, network.lookahead
        self.layers = [TorchLayer(over_time, device) for over_time in network.layers_over_time()]

    @torch.inference_mode()
    def encode(self, magnitudes: Rows) -> Rows:
        """Return the first layer's features from magnitudes (n_batch, n_frames, n_bins, n_channels)."""
        return _as_rows(self._network.encode(torch.from_numpy(magnitudes).to(self._device)))

    @torch.inference_mode()
    def decode(self, features: Rows) -> Rows:
        """Return masks (n_batch, n_frames, n_bins, n_channels, n_sources) from the features behind the last layer."""
        masks: Rows = self._network.decode(_from_rows(features, self._device)).cpu().numpy()
        return masks


def _from_rows(rows: Rows, device: torch.device) -> Tensor:
    """Put the sequences first, as a network has them."""
    return torch.from_numpy(rows).to(device).transpose(0, 1)


def _as_rows(features: Tensor) -> Rows:
    """Put the frames first, as arrays have them."""
    rows: Rows = features.transpose(0, 1).cpu().numpy()
    return rows


def one_direction(over_time: OverTime, direction: int) -> nn.LSTM:
    """Return one direction of one layer by itself, on the same weights."""
    lstm, suffix = over_time.lstm, "_reverse" if direction else ""
    names = [name for name, _ in lstm.named_parameters() if name.endswith("_l0")]
    weights = {name: getattr(lstm, f"{name[:-1]}{over_time.layer}{suffix}") for name in names}
    with torch.device("meta"):
        one = nn.LSTM(over_time.n_features, lstm.hidden_size, bias=lstm.bias)
    one.load_state_dict(weights, assign=True)
    if weights["weight_ih_l0"].is_cuda:
        one.flatten_parameters()
    return one.eval()


def layerwise_network(network: nn.Module) -> nn.Module | None:
    """Return the part of a model that can be taken through a song layer by layer, None where there is none."""
    layers = getattr(network, "layers", None)
    parts = list(layers.values()) if isinstance(layers, nn.ModuleDict) else [network]
    return parts[0] if len(parts) == 1 and getattr(parts[0], "is_layerwise", False) else None


class LayerwiseSong:
    """One song on its way through the layers: `encode` all frames, then `run`, then ask for `masks`.

    The size of the features follows from `example`, the magnitudes of any frame.
    """

    def __init__(self, runtime: TorchRuntime, scratch: Scratch, *, n_frames: int, example: Rows) -> None:
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
