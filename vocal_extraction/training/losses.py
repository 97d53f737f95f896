"""From a batch of waveforms to one loss an item.

``magnitude_l1`` is the specification's: the mean absolute difference between estimated and true magnitudes.
``waveform`` is the error's energy over the mixture's, in decibels, with a floor: unlike a loss on magnitudes it knows
that phases differ, and unlike the plain ratio it does not chase items that are right already.
"""

import torch
from torch import Tensor, nn

from vocal_extraction.separation.masking import in_groups, infer_masks, masked, n_channels_together, views_of
from vocal_extraction.settings import Preset
from vocal_extraction.spectrogram import istft, magnitude, stft

_FLOOR = 1e-3
"""Share of the mixture's energy (-30 dB) below which less error hardly counts."""

_LONGEST_PIECE_S = 60.0
"""Validation songs go through the network in pieces of this length, so that memory does not grow with the song."""


def sources_of_network(sources: Tensor, n_sources: int) -> Tensor:
    """Pick what the network is to give: the vocals alone, or all sources.

    Shape: (n_batch, n, n_channels, n_samples) to (n_batch, n_sources, n_channels, n_samples).
    """
    return sources[:, -1:] if n_sources == 1 else sources


def item_losses(network: nn.Module, sources: Tensor, *, preset: Preset) -> Tensor:
    """Compute the loss of every item.

    Parameters
    ----------
    network
        nussl's SeparationModel, perhaps inside a wrapper.
    sources
        All sources of the mixtures, vocals last. Shape: (n_batch, n, n_channels, n_samples).
    preset
        Says which loss, and the STFT.

    Returns
    -------
    Tensor
        Shape: (n_batch,).
    """
    signal, stereo = preset.signal, preset.signal.stereo
    mixture = sources.sum(dim=1)
    targets = sources_of_network(sources, len(preset.sources))  # (n_batch, n_sources, n_channels, n_samples)
    spectrum = stft(mixture, signal=signal)  # (n_batch, n_channels, n_frames, n_bins)
    heard = magnitude(views_of(spectrum, stereo))  # (n_batch, n_channels, n_frames, n_bins)
    mask = infer_masks(network, heard, n_network_channels=preset.network.num_audio_channels)
    mask = mask.float().movedim(-1, 1)  # (n_batch, n_sources, n_channels, ...)
    if preset.training.loss == "magnitude_l1":
        wanted = magnitude(views_of(stft(targets, signal=signal), stereo))
        return (mask * heard.unsqueeze(1) - wanted).abs().mean(dim=(1, 2, 3, 4))
    spectra = masked(spectrum.unsqueeze(1), mask, stereo)
    estimates = istft(spectra, n_samples=mixture.shape[-1], signal=signal)
    error = (estimates - targets).square().sum(dim=(-2, -1))  # (n_batch, n_sources)
    energy = mixture.square().sum(dim=(-2, -1)).unsqueeze(-1).clamp_min(1e-8)
    return 10 * (error / energy + _FLOOR).log10().mean(dim=1)


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
    signal, stereo = preset.signal, preset.signal.stereo
    n_together = n_channels_together(
        stereo, n_network_channels=preset.network.num_audio_channels, n_song_channels=len(mixture)
    )
    spectrum = stft(in_groups(mixture.unsqueeze(0), n_together), signal=signal)
    heard = magnitude(views_of(spectrum, stereo))
    mask = infer_masks(network, heard, n_network_channels=preset.network.num_audio_channels)[..., -1]
    estimate = istft(masked(spectrum, mask.float(), stereo), n_samples=mixture.shape[-1], signal=signal)
    return estimate.flatten(0, 1)[: len(mixture)]
