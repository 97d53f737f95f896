"""The losses of a batch of waveforms, one an item.

``magnitude_l1`` is the specification's: the mean absolute difference between estimated and true magnitudes.
``waveform`` is the error's energy over the mixture's, in decibels, with a floor: it includes errors of phase, and does
not improve what is right already. ``waveform_batch`` takes the mean over the batch before the logarithm, so that
trivial items, such as those with silent vocals, do not dominate; ``spectrum_batch`` does so on spectra.
"""

import numpy as np
import torch
from torch import Tensor, nn

from vocal_extraction.presets import Preset
from vocal_extraction.separation.input_conditioning import (
    channel_groups,
    covariances_of,
    input_gain,
    without_slow_waves,
)
from vocal_extraction.separation.masking import infer_masks, masked, views_of
from vocal_extraction.settings import SignalSettings
from vocal_extraction.spectrogram import istft, magnitude, stft

_FLOOR = 1e-3  # share of the mixture's energy (-30 dB) below which less error hardly counts
_LONGEST_CHUNK_S = 60.0  # of a validation song that goes through the network at once, which bounds memory


def item_losses(network: nn.Module, sources: Tensor, *, preset: Preset, known: Tensor | None = None) -> Tensor:
    """Compute the loss of every item: (n_batch,); 0 where no target is known; for losses of a batch all are the same.

    `network` is nussl's SeparationModel, perhaps inside a wrapper. `sources`, (n_batch, 1 + n_sources, n_channels,
    n_samples), are the residual and the targets in the order of ``preset.sources``; the mixture is their sum. `known`,
    (n_batch, n_sources), is which targets the songs have; others are left out of the loss. None: all.
    """
    signal, stereo = preset.signal, preset.signal.stereo
    mixture, targets = sources.sum(dim=1), sources[:, 1:]  # (n_batch, [n_sources,] n_channels, n_samples)
    spectrum = stft(mixture, signal=signal)  # (n_batch, n_channels, n_frames, n_bins)
    magnitudes = magnitude(views_of(spectrum, stereo))  # (n_batch, n_channels, n_frames, n_bins)
    mask = infer_masks(network, magnitudes, n_network_channels=preset.network.num_audio_channels)
    mask = mask.float().movedim(-1, 1)  # (n_batch, n_sources, n_channels, n_frames, n_bins)
    if preset.training.loss == "magnitude_l1":
        wanted = magnitude(views_of(stft(targets, signal=signal), stereo))
        losses = (mask * magnitudes.unsqueeze(1) - wanted).abs().mean(dim=(2, 3, 4))  # (n_batch, n_sources)
    elif preset.training.loss == "spectrum_batch":
        views = views_of(targets.unsqueeze(-2), stereo).squeeze(-2)  # of samples, a quarter of their spectra's size
        losses = _spectral_errors(views_of(spectrum, stereo), stft(views, signal=signal), mask)
    else:
        spectra = masked(spectrum.unsqueeze(1), mask, stereo)
        error = istft(spectra, n_samples=mixture.shape[-1], signal=signal) - targets
        energy = mixture.square().sum(dim=(-2, -1)).unsqueeze(-1).clamp_min(1e-8)
        losses = error.square().sum(dim=(-2, -1)) / energy
        if preset.training.loss == "waveform":
            losses = 10 * (losses + _FLOOR).log10()
    known = torch.ones_like(losses, dtype=torch.bool) if known is None else known
    weights = losses.new_tensor(preset.training.source_weights or (1.0,) * losses.shape[1]) * known
    if preset.training.loss in ("waveform_batch", "spectrum_batch"):
        of_sources = 10 * ((losses * known).sum(dim=0) / known.sum(dim=0).clamp_min(1) + _FLOOR).log10()
        losses = of_sources.expand_as(losses)
        weights = weights.sum(dim=0).expand_as(losses) / len(losses)
    return (losses * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-8)


def _spectral_errors(mixture: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Compute the energy of the masked mixture's error as a share of the mixture's energy: (n_batch, n_sources).

    Shape: (n_batch, n_channels, n_frames, n_bins), (n_batch, n_sources, n_channels, n_frames, n_bins) twice. It differs
    from that of the waveforms only where overlapping masked frames disagree, and takes a third of the time.
    """
    power = mixture.real.square() + mixture.imag.square()
    mixture = mixture.unsqueeze(1)
    # |m X - T|^2 is quadratic in m, and only m has a gradient.
    linear = 2 * (mixture.real * targets.real + mixture.imag * targets.imag)
    constant = targets.real.square().sum(dim=(2, 3, 4)) + targets.imag.square().sum(dim=(2, 3, 4))
    error = ((mask * power.unsqueeze(1) - linear) * mask).sum(dim=(2, 3, 4)) + constant
    return error.clamp_min(0) / power.sum(dim=(1, 2, 3)).clamp_min(1e-8).unsqueeze(-1)


def si_sdr_db(estimates: Tensor, targets: Tensor) -> Tensor:
    """Compute the scale-invariant SDR of each source in decibels, the median over its channels.

    Shape: twice (n_sources, n_channels, n_samples) to (n_sources,). At most 120; the targets must not be silent.
    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, equation 3.
    """
    scale = (estimates * targets).sum(-1, keepdim=True) / targets.square().sum(-1, keepdim=True)
    scaled = scale * targets
    ratio = scaled.square().sum(-1) / (estimates - scaled).square().sum(-1).clamp_min(1e-12)
    return (10 * ratio.clamp_min(1e-12).log10()).quantile(0.5, dim=-1)


def estimate_sources(network: nn.Module, mixture: Tensor, *, signal: SignalSettings, n_network_channels: int) -> Tensor:
    """Estimate the sources of a song, a minute at once; `Separator` does it layer by layer.

    Shape: (n_channels, n_samples) to (n_sources, n_channels, n_samples).
    """
    song = mixture.cpu().numpy()
    covariances = covariances_of(song.T, signal.sample_rate)
    if signal.input_level_db is not None:
        mixture = torch.from_numpy(without_slow_waves(song, signal.sample_rate)).to(mixture.device)
    gain = input_gain(covariances, signal.input_level_db)
    groups = channel_groups(covariances, signal.stereo, n_network_channels)
    _, first = np.unique(groups, return_index=True)
    estimates = []
    for chunk in mixture.split(int(_LONGEST_CHUNK_S * signal.sample_rate), dim=-1):
        spectrum = stft(chunk[torch.from_numpy(groups)], signal=signal)  # (n_items, n_together, n_frames, n_bins)
        magnitudes = gain * magnitude(views_of(spectrum, signal.stereo))
        masks = infer_masks(network, magnitudes, n_network_channels=n_network_channels).float().movedim(-1, 0)
        waveforms = istft(masked(spectrum, masks, signal.stereo), n_samples=chunk.shape[-1], signal=signal)
        estimates.append(waveforms.flatten(1, 2)[:, first])
    return torch.cat(estimates, dim=-1)
