"""The network of open-unmix, for one source, so that weights which its makers publish can be used here.

Stöter, Uhlich, Liutkus and Mitsufuji, "Open-Unmix, a reference implementation for music source separation", 2019. Its
parts have the names that they have in its files, whose weights are taken as they are.
"""

import functools

import torch
from torch import Tensor, nn

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks.base import Network
from vocal_extraction.networks.layers import OverTime


class OpenUnmix(Network):
    """Dense layers around BLSTMs, which infer a mask of at least 0 that may exceed 1.

    `hidden_size` is the features of a frame; each direction of the LSTMs has half as many units. The network sees the
    lowest `num_input_features` bins only. The rest is as for `MaskInference`.
    """

    def __init__(
        self, num_features: int, num_audio_channels: int, hidden_size: int, num_layers: int, num_input_features: int
    ) -> None:
        super().__init__()
        if hidden_size % 2:
            raise SettingsError(f"OpenUnmix: hidden_size is {hidden_size}; expected an even number.")
        self.mask_shape = (num_audio_channels, num_features)
        self.input_mean = nn.Parameter(torch.zeros(num_input_features))
        self.input_scale = nn.Parameter(torch.ones(num_input_features))
        self.fc1 = nn.Linear(num_input_features * num_audio_channels, hidden_size, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size // 2, num_layers, batch_first=True, bidirectional=True)
        self.fc2 = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden_size)
        self.fc3 = nn.Linear(hidden_size, num_features * num_audio_channels, bias=False)
        self.bn3 = nn.BatchNorm1d(num_features * num_audio_channels)
        self.output_scale = nn.Parameter(torch.ones(num_features))
        self.output_mean = nn.Parameter(torch.ones(num_features))

    def masks(self, data: Tensor) -> Tensor:
        """Infer masks from magnitudes; shapes as for `Network.forward`."""
        features = self.encode(data)
        return self.decode(_beside(features, self.lstm(features)[0], n_first=features.shape[-1]))

    def encode(self, data: Tensor) -> Tensor:
        """Return the features of each frame before the first recurrent layer: (n_batch, n_frames, hidden_size)."""
        # The original STFT does not divide the window by its sum, which is half of its length.
        levels = data[:, :, : len(self.input_mean)].transpose(2, 3) * (self.mask_shape[1] - 1)
        features = self.fc1(((levels + self.input_mean) * self.input_scale).flatten(2))
        return _normalized(self.bn1, features).tanh()

    def layers_over_time(self) -> list[OverTime]:
        """Return the LSTM's layers, which hand on what the first of them is given, since `decode` takes that too."""
        hidden = self.lstm.input_size
        after = functools.partial(_beside, n_first=hidden)
        first = OverTime(self.lstm, 0, None, after)
        others = [
            OverTime(self.lstm, layer, lambda features: features[..., hidden:], after, n_beside=hidden)
            for layer in range(1, self.lstm.num_layers)
        ]
        return [first, *others]

    def decode(self, features: Tensor) -> Tensor:
        """Infer the mask of each frame from the first layer's input and the last one's output."""
        features = _normalized(self.bn2, self.fc2(features)).relu()
        mask = _normalized(self.bn3, self.fc3(features)).unflatten(-1, self.mask_shape)
        return (mask * self.output_scale + self.output_mean).relu().transpose(2, 3).unsqueeze(-1)


def _normalized(norm: nn.BatchNorm1d, features: Tensor) -> Tensor:
    normalized: Tensor = norm(features.flatten(0, 1))
    return normalized.reshape(features.shape)


def _beside(features: Tensor, output: Tensor, *, n_first: int) -> Tensor:
    return torch.cat([features[..., :n_first], output], dim=-1)
