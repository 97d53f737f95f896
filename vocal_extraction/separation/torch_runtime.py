"""Runs a model's network on torch; see `layerwise.Runtime`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vocal_extraction.networks.layers import OverTime
from vocal_extraction.separation.disk_array import Rows


class TorchLayer:
    """See `layerwise.Layer`."""

    def __init__(self, over_time: OverTime, device: torch.device) -> None:
        self._before, self._after, self._device = over_time.before, over_time.after, device
        self._directions = [one_direction(over_time, i) for i in range(2 if over_time.lstm.bidirectional else 1)]
        self.n_directions, self.n_outputs = len(self._directions), over_time.lstm.hidden_size

    @torch.inference_mode()
    def step(self, direction: int, features: Rows, state: Any) -> tuple[Rows, Any]:
        inputs = torch.from_numpy(features).to(self._device)
        if self._before is not None:
            inputs = self._before(inputs)
        output, state = self._directions[direction](inputs.flip(0) if direction else inputs, state)
        return (output.flip(0) if direction else output).cpu().numpy(), state

    @torch.inference_mode()
    def combine(self, features: Rows, outputs: Sequence[Rows]) -> Rows:
        output = torch.cat([_from_rows(each, self._device) for each in outputs], dim=-1)
        return _as_rows(output if self._after is None else self._after(_from_rows(features, self._device), output))


class TorchRuntime:
    """Runs a network, layer by layer if it has ``encode``, ``layers_over_time`` and ``decode``."""

    def __init__(self, network: nn.Module) -> None:
        self._device = next(network.parameters()).device
        self.name = f"torch {torch.__version__} on {self._device}"
        inner: Any = layerwise_network(network)
        self._network: Any = network if inner is None else inner
        self.lookahead = 0 if inner is None else inner.lookahead
        layers = [] if inner is None else inner.layers_over_time()
        self.layers = [TorchLayer(over_time, self._device) for over_time in layers]

    def samples(self, rows: Rows) -> Tensor:
        return torch.from_numpy(rows).to(self._device)

    def rows(self, samples: Tensor) -> Rows:
        return samples.detach().cpu().numpy()

    @torch.inference_mode()
    def masks(self, magnitudes: Tensor) -> Tensor:
        return self._network({"mix_magnitude": magnitudes})["mask"]

    @torch.inference_mode()
    def audio(self, samples: Tensor) -> Tensor:
        return self._network({"mix_audio": samples})["audio"]

    @torch.inference_mode()
    def encode(self, magnitudes: Rows) -> Rows:
        return _as_rows(self._network.encode(torch.from_numpy(magnitudes).to(self._device)))

    @torch.inference_mode()
    def decode(self, features: Rows) -> Rows:
        return self._network.decode(_from_rows(features, self._device)).cpu().numpy()


def _from_rows(rows: Rows, device: torch.device) -> Tensor:
    """Put the sequences first, as a network has them."""
    return torch.from_numpy(rows).to(device).transpose(0, 1)


def _as_rows(features: Tensor) -> Rows:
    """Put the frames first, as arrays have them."""
    return features.transpose(0, 1).cpu().numpy()


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
