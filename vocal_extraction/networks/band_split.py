"""A band-split recurrent network, with masks on magnitudes.

After Luo and Yu, "Music source separation with band-split RNN", 2022: the spectrum is split into bands that are narrow
where voices have their harmonics; an LSTM runs over time, then another, or attention, over the bands of each frame.
All sources share these layers; behind them, each has a head of its own.
"""

import functools
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks.base import Network
from vocal_extraction.networks.layers import (
    N_ATTENTION_HEADS,
    BandAttention,
    BandLinear,
    BatchNorm,
    OverTime,
    ResidualLSTM,
    activate,
    band_edges,
    known_activation,
)


class BandSplitMaskInference(Network):
    """A band-split recurrent network that infers one mask a source.

    `hidden_size` is the features of a band, and the units of each LSTM direction; `num_layers` the rounds of one layer
    over time and one over the bands, which is an 'lstm' or 'attention'. `bands` and `sample_rate` place the bands, see
    `layers.band_edges`. Without `bidirectional` the LSTMs over time run forwards only, and `lookahead` frames that
    follow a frame are known when its mask is inferred. The rest is as for `MaskInference`.
    """

    def __init__(
        self,
        num_features: int,
        num_audio_channels: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        num_sources: int,
        activation: str = "sigmoid",
        bands: str = "coarse",
        over_bands: str = "lstm",
        sample_rate: int = 44_100,
        lookahead: int = 0,
    ) -> None:
        super().__init__()
        if over_bands not in ("lstm", "attention"):
            raise SettingsError(f"Over the bands runs an 'lstm' or 'attention', not {over_bands!r}.")
        if over_bands == "attention" and hidden_size % N_ATTENTION_HEADS:
            raise SettingsError(f"Attention takes a hidden size that {N_ATTENTION_HEADS} divides, not {hidden_size}.")
        edges = band_edges(num_features, sample_rate, bands)
        widths = [high - low for low, high in pairwise(edges)]
        self.bands = [slice(low, high) for low, high in pairwise(edges)]
        self.mask_shape = (num_audio_channels, num_sources)
        self.activation, self.lookahead = known_activation(activation), lookahead
        self.input_normalization = BatchNorm(num_features * num_audio_channels)
        self.split = nn.ModuleList(nn.Linear(width * num_audio_channels, hidden_size) for width in widths)
        self.rounds: Any = nn.ModuleList(
            nn.ModuleList(
                [
                    ResidualLSTM(hidden_size, hidden_size, bidirectional, dropout),
                    BandAttention(hidden_size, dropout)
                    if over_bands == "attention"
                    else ResidualLSTM(hidden_size, hidden_size, True, dropout),
                ]
            )
            for _ in range(num_layers)
        )
        self.output_normalization = nn.LayerNorm(hidden_size)
        self.hidden = BandLinear(len(widths), hidden_size, 2 * hidden_size * num_sources)
        self.join = nn.ModuleList(
            nn.Linear(2 * hidden_size, width * num_audio_channels)
            if num_sources == 1
            else BandLinear(num_sources, 2 * hidden_size, width * num_audio_channels)
            for width in widths
        )

    def masks(self, data: Tensor) -> Tensor:
        """Infer masks from magnitudes; shapes as for `Network.forward`."""
        features = self.encode(nn.functional.pad(data, (0, 0, 0, 0, 0, self.lookahead)))
        for over_time, over_bands in self.rounds:
            features = self._over_bands(over_bands, over_time(features))
        return self.decode(features[:, self.lookahead :])

    def encode(self, data: Tensor) -> Tensor:
        """Return the features of each band and frame: (n_bands * n_batch, n_frames, hidden_size)."""
        levels = data.flatten(2).clamp_min(1e-5).log10()
        # Each channel has a normalization of its own: a side is weaker than its mid, or silent.
        normalized = self.input_normalization(levels.unsqueeze(-1))
        by_bin, n_channels = normalized.flatten(2), self.mask_shape[0]
        parts = [by_bin[..., band.start * n_channels : band.stop * n_channels] for band in self.bands]
        return torch.cat([split(part) for split, part in zip(self.split, parts, strict=True)])

    def layers_over_time(self) -> list[OverTime]:
        """Return the LSTMs over time; the LSTM over the bands belongs to what comes after each."""
        return [
            OverTime(over_time.lstm, 0, over_time.norm, functools.partial(self._end_of_round, over_time, over_bands))
            for over_time, over_bands in self.rounds
        ]

    def _end_of_round(self, over_time: Any, over_bands: Any, features: Tensor, output: Tensor) -> Tensor:
        return self._over_bands(over_bands, over_time.added(features, output))

    def _over_bands(self, over_bands: Any, features: Tensor) -> Tensor:
        """Run an LSTM over the bands of each frame; the shape stays (n_bands * n_batch, n_frames, hidden_size)."""
        by_frame = features.reshape(len(self.bands), -1, features.shape[-1]).transpose(0, 1)
        return over_bands(by_frame).transpose(0, 1).reshape(features.shape)

    def decode(self, features: Tensor) -> Tensor:
        """Infer the masks of each frame from the last round's output."""
        n_batch, n_frames = features.shape[0] // len(self.bands), features.shape[1]
        features = features.reshape(len(self.bands), n_batch * n_frames, -1)
        features = self.hidden(self.output_normalization(features)).tanh()
        n_channels, n_sources = self.mask_shape
        by_source = features.unflatten(-1, (n_sources, -1)).transpose(1, 2)  # (n_bands, n_sources, n, 2 * hidden_size)
        logits = torch.cat([join(one) for join, one in zip(self.join, by_source, strict=True)], dim=-1)
        logits = logits.reshape(n_sources, n_batch, n_frames, -1, n_channels)
        return activate(logits.movedim(0, -1), self.activation)
