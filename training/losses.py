"""From a batch of waveforms to one loss an item.

``magnitude_l1`` is the specification's: the mean absolute difference between estimated and true magnitudes.
``waveform`` is the error's energy over the mixture's, in decibels, with a floor: unlike a loss on magnitudes it knows
that phases differ, and unlike the plain ratio it does not chase items that are right already.
"""

import torch
from torch import Tensor, nn

from settings import Preset
from spectrogram import istft, magnitude, stft

_FLOOR = 1e-3
"""Share of the mixture's energy (-30 dB) below which less error hardly counts."""

_LONGEST_PIECE_S = 60.0
"""Validation songs go through the network in pieces of this length, so that memory does not grow with the song."""


def sources_of_network(sources: Tensor, n_sources: int) -> Tensor:
    """Pick what the network is to give: the vocals alone, or all sources.

    Shape: (n_batch, n, n_samples) to (n_batch, n_sources, n_samples).
    """
    return sources[:, -1:] if n_sources == 1 else sources


def item_losses(network: nn.Module, sources: Tensor, *, preset: Preset) -> Tensor:
    """Compute the loss of every item.

    Parameters
    ----------
    network
        nussl's SeparationModel, perhaps inside a wrapper.
    sources
        All sources of the mixtures, vocals last. Shape: (n_batch, n, n_samples).
    preset
        Says which loss, and the STFT.

    Returns
    -------
    Tensor
        Shape: (n_batch,).
    """
    mixture = sources.sum(dim=1)
    targets = sources_of_network(sources, preset.network.num_sources)  # (n_batch, n_sources, n_samples)
    spectrum = stft(mixture, signal=preset.signal)  # (n_batch, n_frames, n_bins)
    output = network({"mix_magnitude": magnitude(spectrum).unsqueeze(-1)})
    if preset.training.loss == "magnitude_l1":
        wanted = magnitude(stft(targets, signal=preset.signal))
        return (_sources_first(output["estimates"]) - wanted).abs().mean(dim=(1, 2, 3))
    masked = _sources_first(output["mask"]) * spectrum.unsqueeze(1)
    estimates = istft(masked, n_samples=mixture.shape[-1], signal=preset.signal)
    error = (estimates - targets).square().sum(dim=-1)  # (n_batch, n_sources)
    energy = mixture.square().sum(dim=-1, keepdim=True).clamp_min(1e-8)
    return 10 * (error / energy + _FLOOR).log10().mean(dim=1)


def _sources_first(output: Tensor) -> Tensor:
    """Turn (n_batch, n_frames, n_bins, 1, n_sources) into (n_batch, n_sources, n_frames, n_bins) of float32."""
    return output.float().squeeze(3).permute(0, 3, 1, 2)


def negative_si_sdr(network: nn.Module, mixture: Tensor, vocals: Tensor, *, preset: Preset) -> Tensor:
    """Return minus the SI-SDR of a song's vocals in decibels, the median over its channels.

    Parameters
    ----------
    network, preset
        As for `item_losses`.
    mixture, vocals
        The vocals sound in every channel. Shape: (n_channels, n_samples).

    Returns
    -------
    Tensor
        One number, at most 120.

    Notes
    -----
    Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, equation 3.
    """
    pieces = mixture.split(int(_LONGEST_PIECE_S * preset.signal.sample_rate), dim=-1)
    estimate = torch.cat([_estimated_vocals(network, piece, preset) for piece in pieces], dim=-1)
    scale = (estimate * vocals).sum(-1, keepdim=True) / vocals.square().sum(-1, keepdim=True)
    target = scale * vocals
    ratio = target.square().sum(-1) / (estimate - target).square().sum(-1).clamp_min(1e-12)
    return -(10 * ratio.clamp_min(1e-12).log10()).quantile(0.5)


def _estimated_vocals(network: nn.Module, mixture: Tensor, preset: Preset) -> Tensor:
    spectrum = stft(mixture, signal=preset.signal)
    mask = network({"mix_magnitude": magnitude(spectrum).unsqueeze(-1)})["mask"].float()[..., 0, -1]
    return istft(mask * spectrum, n_samples=mixture.shape[-1], signal=preset.signal)
