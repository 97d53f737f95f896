"""A trained network into a file: weights, architecture, and all that nussl and this project want to know of them."""

import io
from pathlib import Path
from typing import Any

from torch import nn

from vocal_extraction.atomic_files import write_bytes
from vocal_extraction.checkpointing.metadata import CheckpointMetadata
from vocal_extraction.checkpointing.rebuilding import MaskNetwork
from vocal_extraction.presets import Preset


def save_checkpoint(path: str | Path, network: nn.Module, *, preset: Preset, **facts: Any) -> Path:
    """Save what `networks.create_model` returned, in nussl's format; a file that is there is replaced atomically.

    `preset` and `facts` (seed, history and the like) are the arguments of `CheckpointMetadata.of_preset`.
    """
    return save_network(path, network, CheckpointMetadata.of_preset(preset, **facts))


def save_network(path: str | Path, network: nn.Module, metadata: CheckpointMetadata) -> Path:
    """Save a network, nussl's or a `MaskNetwork`, with metadata that is complete; otherwise as `save_checkpoint`."""
    # Not to the path itself: torch would put that name into the file, and report a full disk as an error of its own.
    buffer = io.BytesIO()
    network.save(buffer, metadata=metadata.stored(for_nussl=not isinstance(network, MaskNetwork)))  # type: ignore[operator]
    write_bytes(path, buffer.getbuffer())
    return Path(path)
