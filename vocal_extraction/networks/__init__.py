"""The networks: magnitudes of the mixture in, masks and masked magnitudes out.

`MaskInference` is the specification's network, layer by layer the one of the source-separation tutorial (Manilow,
Seetharaman and Salamon, 2020), with the tutorial's names for its parts, so that checkpoints of either load here.
`BandSplitMaskInference` follows Luo and Yu, "Music source separation with band-split RNN", 2022, with masks on
magnitudes: the spectrum is cut into bands that are narrow where voices have their harmonics, and a recurrent network
runs over time, then another over the bands. `EnsembleMaskInference` is several of either, trained apart.

Only `build` imports nussl: reading a model and using it need not wait for that.

Axes: magnitudes are ``(n_batch, n_frames, n_bins, n_channels)``, masks ``(..., n_sources)`` behind that.
"""

import dataclasses
import functools
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks.layers import (
    AmplitudeToDB,
    BandLinear,
    BatchNorm,
    Embedding,
    OverTime,
    RecurrentStack,
    ResidualLSTM,
    activate,
    band_edges,
    known_activation,
)
from vocal_extraction.settings import SPECIFIED, Preset

_MOST_MEMBERS = 16


class MaskInference(nn.Module):
    """A stack of (bidirectional) LSTMs that infers one mask a source.

    Parameters
    ----------
    num_features
        Frequency bins, ``window_length // 2 + 1``.
    num_audio_channels
        Channels that go through together; 1 for mono.
    hidden_size
        Units of each LSTM direction.
    num_layers
        LSTM layers.
    bidirectional
        Whether the LSTMs also run backwards.
    dropout
        Dropout between LSTM layers, 0 to 1.
    num_sources
        Masks to infer.
    activation
        'sigmoid' (each mask from 0 to 1) or 'softmax' (the masks of all sources sum to 1).

    Raises
    ------
    SettingsError
        If the activation is another.
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
    ) -> None:
        super().__init__()
        self.amplitude_to_db = AmplitudeToDB()
        self.input_normalization = BatchNorm(num_features)
        self.recurrent_stack = RecurrentStack(
            num_features * num_audio_channels, hidden_size, num_layers, bool(bidirectional), dropout
        )
        n_directions = 2 if bidirectional else 1
        self.embedding = Embedding(
            num_features, hidden_size * n_directions, num_sources, activation, num_audio_channels
        )

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        """Infer masks from magnitudes.

        Parameters
        ----------
        data
            Magnitudes, at least 0. Shape: (n_batch, n_frames, n_bins, n_channels).

        Returns
        -------
        dict
            ``mask``, 0 to 1, and ``estimates``, the mask times the magnitudes.
            Shape of both: (n_batch, n_frames, n_bins, n_channels, n_sources).
        """
        features = self.recurrent_stack(self.encode(data))  # (n_batch, n_frames, n_directions * hidden_size)
        mask = self.decode(features)
        return {"mask": mask, "estimates": data.unsqueeze(-1) * mask}

    def encode(self, data: Tensor) -> Tensor:
        """Tell of each frame what needs no other: (n_sequences, n_frames, n_features)."""
        features: Tensor = self.input_normalization(self.amplitude_to_db(data)).flatten(2)
        return features

    def layers_over_time(self) -> list[OverTime]:
        """Return the layers by which frames hear each other, in turn.

        Between `encode` and `decode` they do what `forward` does, but one at a time, so that a song of any length may
        be taken through each in stretches.
        """
        lstm = self.recurrent_stack.rnn
        return [OverTime(lstm, layer) for layer in range(lstm.num_layers)]

    def decode(self, features: Tensor) -> Tensor:
        """Infer the masks of each frame from what the last layer over time tells of it."""
        mask: Tensor = self.embedding(features)
        return mask

    @classmethod
    def build(cls, **kwargs: Any) -> nn.Module:
        """Register this class with nussl and return nussl's `SeparationModel` around a new network.

        Parameters
        ----------
        **kwargs
            The arguments of the constructor.

        Returns
        -------
        nussl.ml.SeparationModel
            Takes ``{'mix_magnitude': ...}`` and returns ``{'mask', 'estimates'}``.

        Examples
        --------
        >>> network = MaskInference.build(
        ...     num_features=257, num_audio_channels=1, hidden_size=100, num_layers=3,
        ...     bidirectional=True, dropout=0.2, num_sources=1, activation='sigmoid')
        >>> network(mix_magnitude=torch.rand(2, 10, 257, 1))['mask'].shape
        torch.Size([2, 10, 257, 1, 1])
        """
        from vocal_extraction.compatibility import nussl

        nussl.ml.register_module(cls)
        outputs = ("mask", "estimates")
        config = {
            "name": cls.__name__,
            "modules": {
                "mix_magnitude": {},
                "model": {"class": cls.__name__, "args": kwargs},
                **{name: {"class": "Alias"} for name in outputs},
            },
            "connections": [["model", ["mix_magnitude"]], *([name, [f"model:{name}"]] for name in outputs)],
            "output": list(outputs),
        }
        return nussl.ml.SeparationModel(config)


class BandSplitMaskInference(MaskInference):
    """A band-split recurrent network that infers one mask a source.

    Parameters
    ----------
    num_features, num_audio_channels, dropout, num_sources, activation
        As for `MaskInference`.
    hidden_size
        Features of a band, and units of each LSTM direction.
    num_layers
        Rounds of one LSTM over time and one over the bands.
    bidirectional
        Whether the LSTMs over time also run backwards (those over bands always do).
    sample_rate
        Samples per second, which places the bands.
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
        sample_rate: int = 44_100,
    ) -> None:
        nn.Module.__init__(self)
        edges = band_edges(num_features, sample_rate)
        widths = [high - low for low, high in pairwise(edges)]
        self.bands = [slice(low, high) for low, high in pairwise(edges)]
        self.mask_shape = (num_audio_channels, num_sources)
        self.activation = known_activation(activation)
        self.input_normalization = BatchNorm(num_features)
        self.split = nn.ModuleList(nn.Linear(width * num_audio_channels, hidden_size) for width in widths)
        self.rounds = nn.ModuleList(
            nn.ModuleList(
                ResidualLSTM(hidden_size, hidden_size, both_ways, dropout) for both_ways in (bidirectional, True)
            )
            for _ in range(num_layers)
        )
        self.output_normalization = nn.LayerNorm(hidden_size)
        self.hidden = BandLinear(len(widths), hidden_size, 2 * hidden_size)
        n_masks = num_audio_channels * num_sources
        self.join = nn.ModuleList(nn.Linear(2 * hidden_size, width * n_masks) for width in widths)

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        """Infer masks from magnitudes; shapes as for `MaskInference.forward`."""
        features = self.encode(data)
        for over_time, over_bands in cast(Iterable[tuple[Any, Any]], self.rounds):
            features = self._over_bands(over_bands, over_time(features))
        mask = self.decode(features)
        return {"mask": mask, "estimates": data.unsqueeze(-1) * mask}

    def encode(self, data: Tensor) -> Tensor:
        """Tell of each band of each frame what needs no other: (n_bands * n_batch, n_frames, hidden_size)."""
        levels = self.input_normalization(data.clamp_min(1e-5).log10())
        bands = [split(levels[:, :, band].flatten(2)) for split, band in zip(self.split, self.bands, strict=True)]
        return torch.cat(bands)

    def layers_over_time(self) -> list[OverTime]:
        """Return the LSTMs over time; what is behind each ends with the LSTM over the bands."""
        return [
            OverTime(over_time.lstm, 0, over_time.norm, functools.partial(self._end_of_round, over_time, over_bands))
            for over_time, over_bands in cast(Iterable[tuple[Any, Any]], self.rounds)
        ]

    def _end_of_round(self, over_time: Any, over_bands: Any, features: Tensor, heard: Tensor) -> Tensor:
        return self._over_bands(over_bands, over_time.added(features, heard))

    def _over_bands(self, over_bands: Any, features: Tensor) -> Tensor:
        """Let the bands of each frame hear each other; the shape stays (n_bands * n_batch, n_frames, hidden_size)."""
        by_frame = features.reshape(len(self.bands), -1, features.shape[-1]).transpose(0, 1)
        joined: Tensor = over_bands(by_frame).transpose(0, 1).reshape(features.shape)
        return joined

    def decode(self, features: Tensor) -> Tensor:
        """Infer the masks of each frame from what the last round tells of its bands."""
        n_batch, n_frames = features.shape[0] // len(self.bands), features.shape[1]
        features = features.reshape(len(self.bands), n_batch * n_frames, -1)
        features = self.hidden(self.output_normalization(features)).tanh()
        logits = torch.cat(
            [join(one).unflatten(-1, (-1, *self.mask_shape)) for join, one in zip(self.join, features, strict=True)],
            dim=1,
        )  # (n_batch * n_frames, n_bins, n_channels, n_sources)
        return activate(logits.unflatten(0, (n_batch, n_frames)), self.activation)


class EnsembleMaskInference(MaskInference):
    """Several networks of one kind, trained apart, whose masks are averaged.

    Where the songs of a training leave a mask open, each training guesses in its own way, and the mean errs less than
    they do one by one (Dietterich, "Ensemble methods in machine learning", MCS 2000). `checkpointing.joining` joins
    their checkpoints.

    Parameters
    ----------
    member
        Name of their class, one of `NETWORKS`.
    n_members
        How many, 1 to 16.
    **arguments
        What each of them is made with.

    Raises
    ------
    SettingsError
        If there is no such class, or another number of them.
    """

    def __init__(self, member: str, n_members: int, **arguments: Any) -> None:
        nn.Module.__init__(self)
        if member not in NETWORKS or not 1 <= n_members <= _MOST_MEMBERS:
            raise SettingsError(f"No ensemble of {n_members} x {member!r}; expected 1 to {_MOST_MEMBERS} networks.")
        self.members = nn.ModuleList(NETWORKS[member](**arguments) for _ in range(n_members))

    @property
    def _each(self) -> list[MaskInference]:
        return cast(list[MaskInference], list(self.members))

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        """Infer masks from magnitudes; shapes as for `MaskInference.forward`."""
        mask = _mean([member(data)["mask"] for member in self._each])
        return {"mask": mask, "estimates": data.unsqueeze(-1) * mask}

    def encode(self, data: Tensor) -> Tensor:
        """Tell of each frame what needs no other: the features of all members, side by side."""
        return torch.cat([member.encode(data) for member in self._each], dim=-1)

    def layers_over_time(self) -> list[OverTime]:
        """Return the layers of one member after the other; the features of the one at work stand in front."""
        return [
            _among_others(layer, is_last=layer is layers[-1])
            for layers in (member.layers_over_time() for member in self._each)
            for layer in layers
        ]

    def decode(self, features: Tensor) -> Tensor:
        """Infer the masks of each frame: each member's turn moved its features to the end, so all are in order."""
        chunks = features.chunk(len(self.members), dim=-1)
        return _mean([member.decode(own) for member, own in zip(self._each, chunks, strict=True)])


def _among_others(layer: OverTime, *, is_last: bool) -> OverTime:
    """Let a layer of one network see the first features only, and keep or, behind its last layer, pass the others."""
    n_own = layer.n_features

    def before(features: Tensor) -> Tensor:
        own = features[..., :n_own]
        return own if layer.before is None else layer.before(own)

    def after(features: Tensor, heard: Tensor) -> Tensor:
        own, others = features[..., :n_own], features[..., n_own:]
        own = heard if layer.after is None else layer.after(own, heard)
        return torch.cat([others, own] if is_last else [own, others], dim=-1)

    return OverTime(layer.lstm, layer.layer, before, after)


def _mean(masks: list[Tensor]) -> Tensor:
    return torch.stack(masks).mean(dim=0)


NETWORKS: dict[str, type[MaskInference]] = {
    network.__name__: network for network in (MaskInference, BandSplitMaskInference)
}
"""The networks that are trained; `NetworkSettings.kind` names one."""

READABLE_NETWORKS = {**NETWORKS, EnsembleMaskInference.__name__: EnsembleMaskInference}
"""The networks that a checkpoint may hold."""


def create_model(preset: Preset = SPECIFIED) -> nn.Module:
    """Build the untrained network of a preset.

    Parameters
    ----------
    preset
        Whose network and number of bins; by default the specification's 210,871 weights.

    Returns
    -------
    nussl.ml.SeparationModel
        What `MaskInference.build` returns, so that its state dictionary and a checkpoint's agree.

    Examples
    --------
    >>> sum(weights.numel() for weights in create_model().parameters())
    210871
    """
    arguments = {**dataclasses.asdict(preset.network), "num_sources": len(preset.sources)}
    kind = arguments.pop("kind")
    if kind not in NETWORKS:
        raise SettingsError(f"There is no network {kind!r}; NETWORKS has {', '.join(NETWORKS)}.")
    if kind == BandSplitMaskInference.__name__:
        arguments["sample_rate"] = preset.signal.sample_rate
    return NETWORKS[kind].build(num_features=preset.signal.n_bins, **arguments)
