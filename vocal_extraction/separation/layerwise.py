"""A recurrent network over a whole song, one layer at a time, on arrays that may be on disk.

Trained LSTMs remember for half a minute and more, so that a context of a few seconds is not enough. A recurrent layer
needs nothing of the past but its state, though: one direction goes through the chunks of a song from the first to the
last, the other from the last to the first, each handing its state on. A layer needs the outputs of the one before over
the whole song, which wait in arrays. What lies between the layers concerns each frame alone, so several chunks are
computed at a time. Nothing is computed twice, and the result is that of the whole song at once, to rounding.

`LayerwiseSong` knows nothing of torch: a `Runtime` computes, with NumPy arrays in and out.

Axes: features are ``(n_frames, n_sequences, n_features)``.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vocal_extraction.networks.layers import OverTime
from vocal_extraction.separation.disk_array import Array, Scratch
from vocal_extraction.separation.workers import for_each

Floats = NDArray[np.float32]
State = Any
"""What a direction of a layer hands on to its next chunk; None before the first."""


class Layer(Protocol):
    """A layer over time."""

    n_directions: int
    """1, or 2 where the second goes from the last frame to the first."""
    n_outputs: int
    """Features of each direction's output."""

    def step(self, direction: int, features: Floats, state: State) -> tuple[Floats, State]:
        """Take one direction through the next chunk: return its output (n_frames, n_sequences, n_outputs) and state."""

    def combine(self, features: Floats, outputs: Sequence[Floats]) -> Floats:
        """Return the features for the next layer from those that came in and the outputs of all directions."""


class Runtime(Protocol):
    """What computes the parts of a network."""

    @property
    def layers(self) -> Sequence[Layer]:
        """In turn."""

    def encode(self, magnitudes: Floats) -> Floats:
        """Return the features before the first layer of (n_batch, n_frames, n_bins, n_channels) magnitudes."""

    def decode(self, features: Floats) -> Floats:
        """Return the masks (n_batch, n_frames, n_bins, n_channels, n_sources) of features behind the last layer."""


class TorchLayer:
    """A `Layer` that torch computes."""

    def __init__(self, over_time: OverTime, device: torch.device) -> None:
        self._before, self._after, self._device = over_time.before, over_time.after, device
        self.n_directions = 2 if over_time.lstm.bidirectional else 1
        self.n_outputs = over_time.lstm.hidden_size
        self._lstms = [_one_direction(over_time, direction) for direction in range(self.n_directions)]

    @torch.inference_mode()
    def step(self, direction: int, features: Floats, state: State) -> tuple[Floats, State]:
        """See `Layer.step`."""
        inputs = torch.from_numpy(features).to(self._device)
        if self._before is not None:
            inputs = self._before(inputs)
        output, state = self._lstms[direction](inputs.flip(0) if direction else inputs, state)
        return (output.flip(0) if direction else output).cpu().numpy(), state

    @torch.inference_mode()
    def combine(self, features: Floats, outputs: Sequence[Floats]) -> Floats:
        """See `Layer.combine`."""
        output = torch.cat([_to_network(each, self._device) for each in outputs], dim=-1)
        combined = output if self._after is None else self._after(_to_network(features, self._device), output)
        return _from_network(combined)


class TorchRuntime:
    """A `Runtime` on a network's own methods ``encode``, ``layers_over_time`` and ``decode``."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self._network = network
        self._device = device
        self.layers: Sequence[Layer] = [TorchLayer(over_time, device) for over_time in network.layers_over_time()]

    @torch.inference_mode()
    def encode(self, magnitudes: Floats) -> Floats:
        """See `Runtime.encode`."""
        return _from_network(self._network.encode(torch.from_numpy(magnitudes).to(self._device)))

    @torch.inference_mode()
    def decode(self, features: Floats) -> Floats:
        """See `Runtime.decode`."""
        masks: Floats = self._network.decode(_to_network(features, self._device)).cpu().numpy()
        return masks


def _to_network(features: Floats, device: torch.device) -> Tensor:
    """Put the sequences first, as a network has them."""
    return torch.from_numpy(features).to(device).transpose(0, 1)


def _from_network(features: Tensor) -> Floats:
    """Put the frames first, as arrays have them."""
    rows: Floats = features.transpose(0, 1).cpu().numpy()
    return rows


def _one_direction(over_time: OverTime, direction: int) -> nn.LSTM:
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

    Parameters
    ----------
    runtime
        The network.
    scratch
        Where arrays come from.
    n_frames
        Of the song.
    example
        Magnitudes of any frame, from which the size of the features follows.
    """

    def __init__(self, runtime: Runtime, scratch: Scratch, *, n_frames: int, example: Floats) -> None:
        self._runtime, self._scratch = runtime, scratch
        self._features = scratch.new((n_frames, *runtime.encode(example).shape[1:]))
        self._outputs: list[Array] = []
        self._layer = runtime.layers[0]

    def encode(self, frames: slice, magnitudes: Floats) -> None:
        """Compute the features of some frames from their magnitudes; any thread may do so, in any order."""
        self._features[frames] = self._runtime.encode(magnitudes)

    def run(self, chunks: Sequence[slice], pool: ThreadPoolExecutor, progress: Callable[[float], None]) -> None:
        """Take the song through all layers; `progress` is called with the share that is done."""
        for number, layer in enumerate(self._runtime.layers):
            shape = (*self._features.shape[:-1], layer.n_outputs)
            outputs = [self._scratch.new(shape) for _ in range(layer.n_directions)]
            states: list[State] = [None] * layer.n_directions

            def step(
                job: tuple[int, slice],
                layer: Layer = layer,
                outputs: list[Array] = outputs,
                states: list[State] = states,
            ) -> None:
                direction, frames = job
                outputs[direction][frames], states[direction] = layer.step(
                    direction, self._features[frames], states[direction]
                )

            for n_done, pair in enumerate(zip(chunks, reversed(chunks), strict=True), start=1):
                for_each(pool, step, list(enumerate(pair))[: layer.n_directions])
                progress((number + n_done / len(chunks)) / len(self._runtime.layers))
            self._layer, self._outputs = layer, outputs
            if layer is not self._runtime.layers[-1]:
                self._advance(chunks, pool)

    def _advance(self, chunks: Sequence[slice], pool: ThreadPoolExecutor) -> None:
        """Turn a layer's outputs into the next one's features: in place of its own, if they are as large."""
        features = following = self._features
        row_shape = self._combined(slice(0, 1)).shape[1:]
        if row_shape != features.shape[1:]:
            following = self._scratch.new((features.shape[0], *row_shape))

        def combine(frames: slice) -> None:
            following[frames] = self._combined(frames)

        for_each(pool, combine, chunks)
        self._scratch.close(*self._outputs, *([] if following is features else [features]))
        self._features = following

    def _combined(self, frames: slice) -> Floats:
        """Return the features behind the layer that was run last."""
        return self._layer.combine(self._features[frames], [output[frames] for output in self._outputs])

    def masks(self, frames: slice) -> Floats:
        """Return the masks of some frames: (n_batch, n_frames, n_bins, n_channels, n_sources)."""
        return self._runtime.decode(self._combined(frames))
