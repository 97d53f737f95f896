"""The building blocks of the networks.

The first four are nussl's, by name and by arithmetic (a test compares them), written on torch alone, since nussl's
import takes longer than the extraction of a song.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vocal_extraction.errors import SettingsError


def draw_weights(weights: Tensor) -> None:
    """Draw weights as nussl does."""
    if not weights.is_meta:  # for which torch would import its whole compiler
        nn.init.xavier_normal_(weights)


class AmplitudeToDB(nn.Module):
    """Decibels of magnitudes, which are clamped to at least 1e-4."""

    def forward(self, data: Tensor) -> Tensor:
        """Keep the shape."""
        # Flat: ONNX Runtime multiplies by a number 17 times slower where the last axis is of one channel.
        return (20.0 * data.flatten().clamp_min(1e-4).log10()).reshape(data.shape)


class BatchNorm(nn.Module):
    """Batch normalization of each frequency bin over batch, frames and channels."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(num_features)

    def forward(self, data: Tensor) -> Tensor:
        """Keep the shape (n_batch, n_frames, n_bins, n_channels)."""
        norm: Any = self.batch_norm
        if norm.training and isinstance(norm, nn.SyncBatchNorm):
            turned = data.transpose(1, 2)  # (n_batch, n_bins, n_frames, n_channels)
            return norm(turned.flatten(2)).reshape(turned.shape).transpose(1, 2)
        if norm.training:
            # Bins in the last axis take a tenth of the time, but torch sums them up with errors unless their mean is 0.
            turned = data.transpose(2, 3)  # (n_batch, n_frames, n_channels, n_bins)
            shift = turned.detach().mean(dim=(0, 1, 2))
            mean, variance = norm.running_mean - shift, norm.running_var.clone()
            rows, numbers = (turned - shift).flatten(0, 2), (norm.momentum, norm.eps)
            rows = nn.functional.batch_norm(rows, mean, variance, norm.weight, norm.bias, True, *numbers)
            norm.num_batches_tracked += 1
            norm.running_mean.copy_(mean + shift)
            norm.running_var.copy_(variance)
            return rows.reshape(turned.shape).transpose(2, 3)
        # Silent bins have almost no variance, where a runtime that subtracts the mean last has errors of -78 dB.
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return (data - norm.running_mean[:, None]) * scale[:, None] + norm.bias[:, None]


class RecurrentStack(nn.Module):
    """LSTM layers with forget gates that start open."""

    def __init__(
        self, num_features: int, hidden_size: int, num_layers: int, bidirectional: bool, dropout: float
    ) -> None:
        super().__init__()
        dropout = dropout if num_layers > 1 else 0.0  # torch warns of dropout where there is no second layer
        self.rnn = nn.LSTM(
            num_features, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, dropout=dropout
        )
        for name, weights in self.rnn.named_parameters():
            if "weight" in name:
                draw_weights(weights)
            else:
                nn.init.zeros_(weights)
                nn.init.ones_(weights.data[hidden_size : 2 * hidden_size])

    def forward(self, data: Tensor) -> Tensor:
        """Map (n_batch, n_frames, ...) to (n_batch, n_frames, n_directions * hidden_size)."""
        return self.rnn(data.flatten(2))[0]


class Embedding(nn.Module):
    """A linear map to one value a bin, channel and source, and its activation."""

    def __init__(
        self, num_features: int, hidden_size: int, num_sources: int, activation: str, num_audio_channels: int
    ) -> None:
        super().__init__()
        self.shape = (num_features, num_audio_channels, num_sources)
        self.activation = known_activation(activation)
        self.linear = nn.Linear(hidden_size, num_features * num_audio_channels * num_sources)
        draw_weights(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, data: Tensor) -> Tensor:
        """Map (n_batch, n_frames, hidden_size) to (n_batch, n_frames, n_bins, n_channels, n_sources)."""
        return activate(self.linear(data).unflatten(-1, self.shape), self.activation)


def known_activation(activation: str | list[str]) -> str:
    """Return the name of an activation if `activate` knows it, else raise SettingsError; nussl has it in a list of one.

    >>> known_activation(["softmax"])
    'softmax'
    """
    if isinstance(activation, list) and len(activation) == 1:
        (activation,) = activation
    if activation not in ("sigmoid", "softmax"):
        raise SettingsError(f"The activation is {activation!r}; expected 'sigmoid' or 'softmax'.")
    return str(activation)


def activate(logits: Tensor, activation: str) -> Tensor:
    """Bound masks by a sigmoid, or by a softmax over the last axis, the sources."""
    return logits.softmax(dim=-1) if activation == "softmax" else logits.sigmoid()


_BAND_PLANS = {  # (lowest, highest, width) in Hz, after the bands that Luo and Yu found best for vocals ("V7")
    "coarse": ((0, 1_000, 125), (1_000, 4_000, 250), (4_000, 8_000, 500), (8_000, 200_000, 2_000)),
    "fine": ((0, 500, 50), (500, 2_000, 100), (2_000, 4_000, 250), (4_000, 8_000, 500), (8_000, 200_000, 2_000)),
}


def band_edges(num_features: int, sample_rate: int, plan: str = "coarse") -> list[int]:
    """Return the first bin of every band and, last, the number of bins.

    The plan is 'coarse' (125 Hz wide up to 1 kHz) or 'fine' (50 Hz wide up to 500 Hz); another is a SettingsError.

    >>> edges = band_edges(1025, 44_100)
    >>> len(edges) - 1, edges[:3], edges[-1]
    (35, [0, 6, 12], 1025)
    """
    if plan not in tuple(_BAND_PLANS):
        raise SettingsError(f"There are no {plan!r} bands; there are {', '.join(_BAND_PLANS)}.")
    hz_per_bin = sample_rate / 2 / (num_features - 1)
    bins = [round(edge / hz_per_bin) for low, high, width in _BAND_PLANS[plan] for edge in range(low, high, width)]
    edges = sorted({edge for edge in bins if edge < num_features})
    # A remnant of a band at the very top joins the one below.
    if len(edges) > 1 and num_features - edges[-1] < (edges[-1] - edges[-2]) // 4:
        edges.pop()
    return [*edges, num_features]


N_ATTENTION_HEADS = 4  # of the attention over bands


class BandLinear(nn.Module):
    """One linear map for every band, all of one size and in one batched product."""

    def __init__(self, n_bands: int, n_in: int, n_out: int) -> None:
        super().__init__()
        weight = torch.empty(n_bands, n_in, n_out)
        self.weight = nn.Parameter(weight if weight.is_meta else weight.uniform_(-1, 1) * n_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(n_bands, 1, n_out))

    def forward(self, data: Tensor) -> Tensor:
        """Map (n_bands, n, n_in) to (n_bands, n, n_out)."""
        return torch.baddbmm(self.bias, data, self.weight)


class ResidualLSTM(nn.Module):
    """Normalization, an LSTM along the second axis, a projection, added to what came in."""

    def __init__(self, n_features: int, hidden_size: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_features)
        self.lstm = nn.LSTM(n_features, hidden_size, batch_first=True, bidirectional=bidirectional)
        self.projection = nn.Linear(hidden_size * (2 if bidirectional else 1), n_features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, data: Tensor) -> Tensor:
        """Keep the shape (n, n_steps, n_features)."""
        return self.added(data, self.lstm(self.norm(data))[0])

    def added(self, data: Tensor, output: Tensor) -> Tensor:
        """Add the projection of the LSTM's output to what came in."""
        projected: Tensor = self.projection(self.dropout(output))
        return data + projected


class BandAttention(nn.Module):
    """Self-attention along the second axis and a feed-forward layer, each normalized and added to what came in."""

    def __init__(self, n_features: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.feed_norm = nn.LayerNorm(n_features), nn.LayerNorm(n_features)
        self.queries_keys_values = nn.Linear(n_features, 3 * n_features)
        self.projection = nn.Linear(n_features, n_features)
        self.feed_forward = nn.Sequential(
            nn.Linear(n_features, 2 * n_features), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * n_features, n_features)
        )

    def forward(self, data: Tensor) -> Tensor:
        """Keep the shape (n, n_steps, n_features)."""
        heads = self.queries_keys_values(self.norm(data)).unflatten(-1, (3, N_ATTENTION_HEADS, -1))
        attended = nn.functional.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))  # (n, n_heads, n_steps, .)
        data = data + self.projection(attended.transpose(1, 2).flatten(2))
        return data + self.feed_forward(self.feed_norm(data))


class OverTime(NamedTuple):
    """One recurrent layer over the frames of a song, and what is computed of each frame before and after it."""

    lstm: nn.LSTM
    layer: int  # which of its layers
    before: Callable[[Tensor], Tensor] | None = None  # from features to the LSTM's input, of the same shape
    after: Callable[[Tensor, Tensor], Tensor] | None = None
    """From features and the LSTM's output of all directions to the next layer's features; None: the output."""
    n_beside: int = 0  # features of each frame that it hands on beside those that the LSTM takes

    @property
    def n_features(self) -> int:
        """Features of each frame that the LSTM takes."""
        return getattr(self.lstm, f"weight_ih_l{self.layer}").shape[1]
