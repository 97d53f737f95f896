"""How the channels of a song meet a network, and how its masks come back to them.

A network for one channel hears every channel of a song by itself ('each'). Voices stand in the middle of most songs
and the band around them, so masks are better where channels know of each other: the channels may share the mean of
their masks ('shared'), or the network hears left, right, mid and side at once ('views') and gives a mask for each.
What the four masked views say of left and right is averaged: half of the channel's own view, half of what mid and
side add up to. So bins where the voice is alone pass whole, and what differs between the channels can be taken out of
mid and side where no mask on left and right alone could tell it from the voice.

Axes: spectra are ``(n_items, n_channels, n_frames, n_bins)``; masks have the views in place of the channels.
"""

import torch
from torch import Tensor, nn

N_VIEWS = 4
"""Left, right, mid and side."""


def n_channels_together(stereo: str, *, n_network_channels: int, n_song_channels: int) -> int:
    """Return how many channels of a song make up one item.

    >>> n_channels_together("views", n_network_channels=4, n_song_channels=6)
    2
    """
    return {"each": n_network_channels, "shared": n_song_channels, "views": 2}[stereo]


def in_groups(samples: Tensor, n_together: int) -> Tensor:
    """Group channels into items; the last channel is repeated where one is missing.

    Shape: (n, n_channels, n_samples) to (n_items, n_together, n_samples), the groups of one signal after the other.
    """
    missing = -samples.shape[1] % n_together
    if missing:
        samples = torch.cat([samples, samples[:, -1:].expand(-1, missing, -1)], dim=1)
    return samples.reshape(-1, n_together, samples.shape[-1])


def views_of(spectrum: Tensor, stereo: str) -> Tensor:
    """Return what the network hears of the channels: themselves, or left, right, mid and side.

    Shape: (..., n_channels, n_frames, n_bins) to (..., n_views, n_frames, n_bins).
    """
    if stereo != "views":
        return spectrum
    left, right = spectrum.unbind(dim=-3)
    return torch.stack([left, right, (left + right) / 2, (left - right) / 2], dim=-3)


def channels_of(views: Tensor, stereo: str) -> Tensor:
    """Return what masked views say of the channels: the way back from `views_of`.

    >>> channels = torch.rand(2, 10, 257)
    >>> torch.allclose(channels_of(views_of(channels, "views"), "views"), channels)
    True
    """
    if stereo != "views":
        return views
    left, right, mid, side = views.unbind(dim=-3)
    return torch.stack([left + mid + side, right + mid - side], dim=-3) / 2


def masked(spectrum: Tensor, mask: Tensor, stereo: str) -> Tensor:
    """Apply masks of the views (..., n_views, n_frames, n_bins) to a spectrum (..., n_channels, n_frames, n_bins)."""
    return channels_of(views_of(spectrum, stereo) * mask, stereo)


def infer_masks(network: nn.Module, magnitudes: Tensor, stereo: str) -> Tensor:
    """Let a network listen.

    Parameters
    ----------
    network
        Takes ``{'mix_magnitude': (n_items, n_frames, n_bins, n_channels)}`` and gives ``{'mask': ...}``.
    magnitudes
        Of the views. Shape: (n_items, n_views, n_frames, n_bins).
    stereo
        'each', 'shared' or 'views', as `settings.SignalSettings` has it.

    Returns
    -------
    Tensor
        Masks. Shape: (n_items, n_views, n_frames, n_bins, n_sources).
    """
    if stereo != "shared":
        mask: Tensor = network({"mix_magnitude": magnitudes.permute(0, 2, 3, 1)})["mask"]
        return mask.permute(0, 3, 1, 2, 4)
    apart = magnitudes.flatten(0, 1).unsqueeze(-1)  # (n_items * n_channels, n_frames, n_bins, 1)
    mask = network({"mix_magnitude": apart})["mask"].squeeze(3).unflatten(0, magnitudes.shape[:2])
    return mask.mean(dim=1, keepdim=True).expand_as(mask)
