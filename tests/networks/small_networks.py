"""Networks of a few weights, and magnitudes to try them on."""

import inspect

import numpy as np
import torch

from vocal_extraction.networks import BandSplitMaskInference, MaskInference, UNetMaskInference

SMALL = {"num_features": 33, "num_audio_channels": 1, "hidden_size": 6, "num_layers": 2, "bidirectional": True}
KINDS = [MaskInference, BandSplitMaskInference]


def small(kind=MaskInference, **changes):
    torch.manual_seed(0)
    arguments = {**SMALL, "dropout": 0.0, "num_sources": 1, "activation": "sigmoid"}
    if kind is UNetMaskInference:
        taken = inspect.signature(kind).parameters
        arguments = {name: value for name, value in arguments.items() if name in taken} | {"num_input_features": 32}
    return kind(**{**arguments, **changes})


def magnitudes(*shape, seed=0):
    """Magnitudes from 0 to 1, a tenth of them exactly 0."""
    drawn = np.random.default_rng(seed).uniform(-0.1, 1, shape)
    return torch.from_numpy(drawn.clip(0)).float()
