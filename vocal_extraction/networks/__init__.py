"""The networks, a row of `NETWORKS` each; only `Network.build` imports nussl."""

import dataclasses
import inspect

from torch import nn

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks.band_split import BandSplitMaskInference
from vocal_extraction.networks.base import Network
from vocal_extraction.networks.ensemble import EnsembleMaskInference, SourceNetworks
from vocal_extraction.networks.mask_inference import MaskInference
from vocal_extraction.networks.open_unmix import OpenUnmix
from vocal_extraction.networks.spleeter import Spleeter
from vocal_extraction.networks.unet import UNetMaskInference
from vocal_extraction.presets import SPECIFIED, Preset, find_preset

NETWORKS: dict[str, type[Network]] = {
    network.__name__: network
    for network in (
        MaskInference,
        BandSplitMaskInference,
        EnsembleMaskInference,
        SourceNetworks,
        OpenUnmix,
        Spleeter,
        UNetMaskInference,
    )
}
"""By the name that presets and checkpoints use. Rows may be added, see docs/extending.md."""


def create_model(preset: Preset | str = SPECIFIED) -> nn.Module:
    """Build the untrained network of a preset.

    Parameters
    ----------
    preset
        Whose network, sources and number of bins, or its name; by default the specification's 210,871 weights. Of the
        settings, a network is given those that its constructor has arguments for.

    Returns
    -------
    nussl.ml.SeparationModel
        What `Network.build` returns, so that its state dictionary and a checkpoint's agree.

    Raises
    ------
    SettingsError
        If there is no such network, or it cannot be built with these settings.

    Examples
    --------
    >>> sum(weights.numel() for weights in create_model().parameters())
    210871
    """
    preset = find_preset(preset)
    settings = {
        "num_features": preset.signal.n_bins,
        **dataclasses.asdict(preset.network),
        "num_sources": len(preset.sources),
        "sample_rate": preset.signal.sample_rate,
    }
    kind = settings.pop("kind")
    if kind not in NETWORKS:
        raise SettingsError(f"There is no network {kind!r}; NETWORKS has {', '.join(NETWORKS)}.")
    network = NETWORKS[kind]
    taken = inspect.signature(network).parameters
    return network.build(**{name: value for name, value in settings.items() if name in taken})
