"""A network taken through a song layer by layer, so that a song of any length is heard as one.

Trained LSTMs remember for half a minute and more, so that no context of a few seconds is enough. A recurrent layer
needs nothing of the past but its state, though: it can go through a song in stretches, from the first to the last, and
its other direction from the last to the first. Each layer needs the one before on all of the song, which waits on
tape. Nothing is computed twice, both directions run side by side, and what is between the layers is each frame's own
affair, so that many stretches are at work at once. The result is that of the whole song to rounding.

Axes: on tape, features are ``(n_frames, n_sequences, n_features)``; in the network, ``(n_sequences, n_frames, ...)``.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from vocal_extraction.networks import MaskInference
from vocal_extraction.networks.layers import OverTime
from vocal_extraction.separation.tapes import Tape, Tapes

Tick = Callable[[float], None]
"""Called now and then from the thread that waits, with the share of a pass that is done; may raise to stop it."""
Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Maps a function over items on several threads, in order."""


def layered(network: nn.Module) -> MaskInference | None:
    """Return the part of a network that can be taken through a song layer by layer, None where there is none."""
    layers = getattr(network, "layers", None)
    parts = list(layers.values()) if isinstance(layers, nn.ModuleDict) else [network]
    return cast(MaskInference, parts[0]) if len(parts) == 1 and getattr(parts[0], "is_layerwise", False) else None


class Direction:
    """One direction of one recurrent layer, on its way through a song."""

    def __init__(self, over_time: OverTime, *, is_backward: bool, features: Tape, told: Tape) -> None:
        self._lstm = _one_direction(over_time.lstm, over_time.layer, is_backward=is_backward)
        self._before, self._is_backward = over_time.before, is_backward
        self._features, self._told = features, told
        self._state: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def hear(self, stretch: slice) -> None:
        """Go through the next stretch of frames, and tape what there is to tell."""
        features = torch.from_numpy(self._features.read(stretch.start, stretch.stop))
        features = features.to(next(self._lstm.parameters()).device)
        if self._before is not None:
            features = self._before(features)
        if self._is_backward:
            features = features.flip(0)
        told, self._state = self._lstm(features, self._state)
        if self._is_backward:
            told = told.flip(0)
        self._told.write(stretch.start, told.cpu().numpy())

    @staticmethod
    def hear_next(turn: tuple["Direction", slice]) -> None:
        """Let one of several directions `hear`."""
        direction, stretch = turn
        direction.hear(stretch)


def _one_direction(lstm: nn.LSTM, layer: int, *, is_backward: bool) -> nn.LSTM:
    """Return one direction of one layer, on the same weights, by itself."""
    names = [name for name, _ in lstm.named_parameters() if name.endswith("_l0")]
    suffix = "_reverse" if is_backward else ""
    weights = {name: getattr(lstm, f"{name[:-1]}{layer}{suffix}") for name in names}
    n_features = weights["weight_ih_l0"].shape[1]
    with torch.device("meta"):
        one = nn.LSTM(n_features, lstm.hidden_size, bias=lstm.bias)
    one.load_state_dict(weights, assign=True)
    if weights["weight_ih_l0"].is_cuda:
        one.flatten_parameters()
    return one.eval()


class Listener:
    """What a network makes of a song; it hears all of it before it gives the first mask.

    Parameters
    ----------
    network
        What `layered` returned.
    tapes
        Where features wait.
    stretch_frames
        Frames that are heard at once.
    """

    def __init__(self, network: MaskInference, tapes: Tapes, *, stretch_frames: int) -> None:
        self._network, self._tapes, self._stretch_frames = network, tapes, stretch_frames
        self._layers = network.layers_over_time()
        self._n_heard = 0
        self._features = tapes.new()
        self._told: list[Tape] = []

    @torch.inference_mode()
    def encode(self, first_frame: int, magnitudes: Tensor) -> None:
        """Take in magnitudes (n_batch, n_frames, n_bins, n_channels) from a frame on, in any order."""
        features = self._network.encode(magnitudes)
        self._features.write(first_frame, features.transpose(0, 1).cpu().numpy())

    def listen(self, mapped: Mapper, tick: Tick) -> None:
        """Go through all layers, once all magnitudes are in."""
        n_frames = self._features.n_rows
        starts = range(0, n_frames, self._stretch_frames)
        stretches = [slice(start, min(start + self._stretch_frames, n_frames)) for start in starts]
        for over_time in self._layers:
            if self._n_heard > 0:
                self._turn(stretches, mapped)
            directions = self._directions(over_time)
            for number, pair in enumerate(zip(stretches, reversed(stretches), strict=True), start=1):
                for _ in mapped(Direction.hear_next, zip(directions, pair, strict=False)):
                    pass
                tick((self._n_heard + number / len(stretches)) / len(self._layers))
            self._n_heard += 1

    def _directions(self, over_time: OverTime) -> list["Direction"]:
        self._told = [self._tapes.new() for _ in range(2 if over_time.lstm.bidirectional else 1)]
        return [
            Direction(over_time, is_backward=is_backward, features=self._features, told=told)
            for is_backward, told in zip((False, True), self._told, strict=False)
        ]

    def _turn(self, stretches: list[slice], mapped: Mapper) -> None:
        """Turn what the last layer told into features for the next: in the place of its own, if they are as large."""
        other = self._tapes.new()

        def turn(stretch: slice) -> None:
            rows = self._after_last_layer(stretch).transpose(0, 1).cpu().numpy()
            tape = self._features if rows.shape[1:] == self._features.row_shape else other
            tape.write(stretch.start, rows)

        for _ in mapped(turn, stretches):
            pass
        following, empty = (other, self._features) if other.n_rows else (self._features, other)
        self._tapes.end(empty, *self._told)
        self._features = following

    @torch.inference_mode()
    def _after_last_layer(self, frames: slice) -> Tensor:
        """Return the features (n_sequences, n_frames, n_features) behind the last layer that heard the song."""
        after = self._layers[self._n_heard - 1].after
        told = torch.cat([self._read(tape, frames) for tape in self._told], dim=-1)
        return told if after is None else after(self._read(self._features, frames), told)

    def _read(self, tape: Tape, frames: slice) -> Tensor:
        device = next(self._network.parameters()).device
        return torch.from_numpy(tape.read(frames.start, frames.stop)).to(device).transpose(0, 1)

    def masks(self, frames: slice) -> Tensor:
        """Return the masks of frames: (n_batch, n_frames, n_bins, n_channels, n_sources)."""
        return self._network.decode(self._after_last_layer(frames))
