"""How the channels of a song meet a network, and how its masks come back to them.

A network for one channel hears every channel of a song by itself ('each'). Voices stand in the middle of most songs
and the band around them, so masks are better where channels know of each other: the channels may share the mean of
their masks ('shared'), or the network hears mid and side at once ('mid-side') and gives a mask for either. What stands
beside the middle is then seen as such, and a mask on the side alone takes it out.

Axes: spectra are ``(n_items, n_channels, n_frames, n_bins)``. Views are what is masked: the channels, or mid and side.
"""

import torch
from torch import Tensor, nn


def n_channels_together(stereo: str, *, n_network_channels: int, n_song_channels: int) -> int:
    """Return how many channels of a song make up one item.

    >>> n_channels_together("shared", n_network_channels=1, n_song_channels=6)
    6
    """
    return n_song_channels if stereo == "shared" else n_network_channels


def in_groups(samples: Tensor, n_together: int) -> Tensor:
    """Group channels into items; the last channel is repeated where one is missing.

    Shape: (n, n_channels, n_samples) to (n_items, n_together, n_samples), the groups of one signal after the other.
    """
    missing = -samples.shape[1] % n_together
    if missing:
        samples = torch.cat([samples, samples[:, -1:].expand(-1, missing, -1)], dim=1)
    return samples.reshape(-1, n_together, samples.shape[-1])


def views_of(spectrum: Tensor, stereo: str) -> Tensor:
    """Return what the network hears of the channels: themselves, or mid and side, half of sum and difference.

    Shape: (..., n_channels, n_frames, n_bins), before and after.
    """
    if stereo != "mid-side":
        return spectrum
    left, right = spectrum.unbind(dim=-3)
    return torch.stack([left + right, left - right], dim=-3) / 2


def channels_of(views: Tensor, stereo: str) -> Tensor:
    """Return the channels of views: the way back from `views_of`.

    >>> channels = torch.rand(2, 10, 257)
    >>> torch.allclose(channels_of(views_of(channels, "mid-side"), "mid-side"), channels)
    True
    """
    if stereo != "mid-side":
        return views
    mid, side = views.unbind(dim=-3)
    return torch.stack([mid + side, mid - side], dim=-3)


def masked(spectrum: Tensor, mask: Tensor, stereo: str) -> Tensor:
    """Apply masks of the views to a spectrum of the channels; the shape of both is (..., n_channels, n_frames, n_bins)."""
    return channels_of(views_of(spectrum, stereo) * mask, stereo)


def infer_masks(network: nn.Module, magnitudes: Tensor, stereo: str) -> Tensor:
    """Let a network listen.

    Parameters
    ----------
    network
        Takes ``{'mix_magnitude': (n_items, n_frames, n_bins, n_channels)}`` and gives ``{'mask': ...}``.
    magnitudes
        Of the views. Shape: (n_items, n_channels, n_frames, n_bins).
    stereo
        'each', 'shared' or 'mid-side', as `settings.SignalSettings` has it.

    Returns
    -------
    Tensor
        Masks. Shape: (n_items, n_channels, n_frames, n_bins, n_sources).
    """
    if stereo != "shared":
        mask: Tensor = network({"mix_magnitude": magnitudes.permute(0, 2, 3, 1)})["mask"]
        return mask.permute(0, 3, 1, 2, 4)
    apart = magnitudes.flatten(0, 1).unsqueeze(-1)  # (n_items * n_channels, n_frames, n_bins, 1)
    mask = network({"mix_magnitude": apart})["mask"].squeeze(3).unflatten(0, magnitudes.shape[:2])
    return mask.mean(dim=1, keepdim=True).expand_as(mask)
