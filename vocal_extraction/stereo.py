"""How the channels of a song meet a network, and how its masks come back to them.

By itself a network hears each channel of a song as it is ('each'). But voices stand in the middle of most songs and the
band around them: where it hears mid and side instead, half of the sum and of the difference of two channels
('mid-side'), the voice stands out of either more clearly. A mask is then found for mid and for side, by a network for
one channel in turn, by one for two channels together.

Axes: spectra are ``(n_items, n_channels, n_frames, n_bins)``. Views are what is masked: the channels, or mid and side.
"""

import torch
from torch import Tensor, nn


def n_channels_together(stereo: str, *, n_network_channels: int, n_song_channels: int) -> int:
    """Return how many channels of a song make up one item: what one call of the network needs, and mid and side both.

    >>> n_channels_together("mid-side", n_network_channels=1, n_song_channels=6)
    2
    """
    return 2 if stereo == "mid-side" and n_song_channels > 1 else n_network_channels


def in_groups(samples: Tensor, n_together: int) -> Tensor:
    """Group channels into items; the last channel is repeated where one is missing.

    Shape: (n, n_channels, n_samples) to (n_items, n_together, n_samples), the groups of one signal after the other.
    """
    missing = -samples.shape[1] % n_together
    if missing:
        samples = torch.cat([samples, samples[:, -1:].expand(-1, missing, -1)], dim=1)
    return samples.reshape(-1, n_together, samples.shape[-1])


def views_of(spectrum: Tensor, stereo: str) -> Tensor:
    """Return what the network hears of the channels: themselves, or mid and side. A channel alone is its own mid.

    Shape: (..., n_channels, n_frames, n_bins), before and after.
    """
    if stereo != "mid-side" or spectrum.shape[-3] == 1:
        return spectrum
    left, right = spectrum.unbind(dim=-3)
    return torch.stack([left + right, left - right], dim=-3) / 2


def channels_of(views: Tensor, stereo: str) -> Tensor:
    """Return the channels of views: the way back from `views_of`.

    >>> channels = torch.rand(2, 10, 257)
    >>> torch.allclose(channels_of(views_of(channels, "mid-side"), "mid-side"), channels)
    True
    """
    if stereo != "mid-side" or views.shape[-3] == 1:
        return views
    mid, side = views.unbind(dim=-3)
    return torch.stack([mid + side, mid - side], dim=-3)


def masked(spectrum: Tensor, mask: Tensor, stereo: str) -> Tensor:
    """Apply masks of the views to a spectrum of the channels; both have (..., n_channels, n_frames, n_bins)."""
    return channels_of(views_of(spectrum, stereo) * mask, stereo)


def as_batch(magnitudes: Tensor, *, n_network_channels: int) -> Tensor:
    """Return what a network takes of the views' magnitudes.

    Shape: (n_items, n_channels, n_frames, n_bins) to (n, n_frames, n_bins, n_network_channels).
    """
    return magnitudes.reshape(-1, n_network_channels, *magnitudes.shape[2:]).permute(0, 2, 3, 1)


def as_masks(masks: Tensor, *, n_items: int) -> Tensor:
    """Return the masks of the views that a network gave for what `as_batch` made of `n_items` items.

    Shape: (n, n_frames, n_bins, n_network_channels, n_sources) to (n_items, n_channels, n_frames, n_bins, n_sources).
    """
    turned = masks.permute(0, 3, 1, 2, 4)
    return turned.reshape(n_items, -1, *turned.shape[2:])


def infer_masks(network: nn.Module, magnitudes: Tensor, *, n_network_channels: int) -> Tensor:
    """Let a network listen.

    Parameters
    ----------
    network
        Takes ``{'mix_magnitude': (n, n_frames, n_bins, n_network_channels)}`` and gives ``{'mask': ...}``.
    magnitudes
        Of the views. Shape: (n_items, n_channels, n_frames, n_bins).
    n_network_channels
        How many of them go in together.

    Returns
    -------
    Tensor
        Masks. Shape: (n_items, n_channels, n_frames, n_bins, n_sources).
    """
    mask: Tensor = network({"mix_magnitude": as_batch(magnitudes, n_network_channels=n_network_channels)})["mask"]
    return as_masks(mask, n_items=len(magnitudes))
