"""From waveforms to what a network takes, and from its masks back to waveforms: the one place where this is done.

A network takes each channel of a song as it is ('each'), or, with 'mid-side', half of the sum and of the difference of
two channels, out of which a voice in the middle stands more clearly. Views are what is masked: channels, or mid and
side, for which a network for one channel infers masks in turn, one for two channels together.

Axes: an item is a group of channels that belong together; spectra are ``(n_items, n_channels, n_frames, n_bins)``.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.settings import SignalSettings
from vocal_extraction.spectrogram import Samples, namespace, synthesis_weight, synthesize

Spectrum = NDArray[Any]


def views_of(spectrum: Samples, stereo: str) -> Samples:
    """Return the channels, or mid and side, of (..., n_channels, n_frames, n_bins); a channel alone is its own mid."""
    if stereo != "mid-side" or spectrum.shape[-3] == 1:
        return spectrum
    left, right = spectrum[..., 0, :, :], spectrum[..., 1, :, :]
    views = namespace(spectrum).stack([left + right, left - right], axis=-3)
    views *= 0.5  # complex numbers are divided by 2 in thrice the time
    return views


def channels_of(views: Samples, stereo: str) -> Samples:
    """Return the channels of views: the way back from `views_of`.

    >>> import numpy as np
    >>> channels = np.random.default_rng(0).random((2, 10, 257))
    >>> np.allclose(channels_of(views_of(channels, "mid-side"), "mid-side"), channels)
    True
    """
    if stereo != "mid-side" or views.shape[-3] == 1:
        return views
    mid, side = views[..., 0, :, :], views[..., 1, :, :]
    return namespace(views).stack([mid + side, mid - side], axis=-3)


def masked(spectrum: Samples, mask: Samples, stereo: str) -> Samples:
    """Apply masks of the views to a spectrum of the channels; both have (..., n_channels, n_frames, n_bins)."""
    return channels_of(views_of(spectrum, stereo) * mask, stereo)


def as_batch(magnitudes: Samples, *, n_network_channels: int) -> Samples:
    """Return magnitudes (n_items, n_channels, n_frames, n_bins) as (n, n_frames, n_bins, n_network_channels)."""
    return namespace(magnitudes).moveaxis(magnitudes.reshape(-1, n_network_channels, *magnitudes.shape[2:]), 1, -1)


def as_masks(masks: Samples, *, n_items: int) -> Samples:
    """Return the masks of the views that a network gave for what `as_batch` made of `n_items` items.

    Shape: (n, n_frames, n_bins, n_network_channels, n_sources) to (n_items, n_channels, n_frames, n_bins, n_sources).
    """
    turned = namespace(masks).moveaxis(masks, 3, 1)
    return turned.reshape(n_items, -1, *turned.shape[2:])


def infer_masks(network: Any, magnitudes: Samples, *, n_network_channels: int) -> Samples:
    """Infer masks (n_items, n_channels, n_frames, n_bins, n_sources) from (n_items, n_channels, n_frames, n_bins)."""
    mask: Samples = network({"mix_magnitude": as_batch(magnitudes, n_network_channels=n_network_channels)})["mask"]
    return as_masks(mask, n_items=len(magnitudes))


def source_mask(masks: Samples, index: int, *, kind: str) -> Samples:
    """Choose the mask of one source from (..., n_sources).

    `kind` is 'soft' or 'binary': 1 where this source's mask is the largest; with one source, where it exceeds a half.

    >>> import numpy as np
    >>> source_mask(np.array([[0.2, 0.4], [0.7, 0.6]]), 1, kind="binary")
    array([1., 0.])
    """
    mask = masks[..., index]
    if kind == "soft":
        return mask
    is_largest = mask > 0.5 if masks.shape[-1] == 1 else masks.argmax(axis=-1) == index
    return namespace(masks).asarray(is_largest, dtype=masks.dtype)


def wiener_filtered(spectrum: Spectrum, estimates: Spectrum, *, n_rounds: int) -> Spectrum:
    """Refine the estimates of all sources by what stands where in the stereo picture: norbert's multichannel filter.

    Shape: spectrum (n_items, n_channels, n_frames, n_bins), estimates and result (..., n_sources).
    Source: Uhlich et al., "Improving music source separation based on deep neural networks through data augmentation
    and network blending", ICASSP 2017.
    """
    import norbert

    # Before an STFT's window is divided by its sum, spectra have the scale that the filter's constants are made for.
    filtered = []
    for item, initial in zip(np.moveaxis(spectrum, 1, -1), np.moveaxis(estimates, 1, -2), strict=True):
        scale = item.shape[1] - 1.0
        scale /= max(1.0, scale * abs(item).max() / 10)
        parts = ((scale * part).astype(np.complex128) for part in (initial, item))
        filtered.append(norbert.expectation_maximization(*parts, n_rounds, eps=1e-10)[0] / scale)
    return np.moveaxis(np.stack(filtered), -2, 1).astype(spectrum.dtype)


@functools.lru_cache(maxsize=16)
def _weight(n_frames: int, signal: SignalSettings, library: Any, device: Any) -> Samples:
    return synthesis_weight(n_frames, signal=signal, like=library.zeros(1, device=device))


def synthesize_part(spectrum: Samples, samples: slice, *, signal: SignalSettings) -> Samples:
    """Transform frames (..., n_frames, n_bins) of a longer signal back to `samples` of which they hold all frames."""
    weight = _weight(spectrum.shape[-2], signal, namespace(spectrum), spectrum.device)
    return synthesize(spectrum, signal=signal)[..., samples] / weight[samples]
