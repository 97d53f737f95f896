"""Checkpoints: what ``nussl.ml.SeparationModel.save`` writes, read as data.

Data comes out of a file, or a `CheckpointError`; no code runs. docs/checkpoints.md lists the contents and the steps.
"""

from vocal_extraction.checkpointing.archive import CheckpointError
from vocal_extraction.checkpointing.loading import LOADERS, LoadedModel, Loader, load_checkpoint
from vocal_extraction.checkpointing.metadata import CheckpointMetadata, STFTParams, source_names
from vocal_extraction.checkpointing.reading import parse_checkpoint, read_checkpoint
from vocal_extraction.checkpointing.rebuilding import MaskNetwork, rebuild
from vocal_extraction.checkpointing.saving import save_checkpoint, save_network
from vocal_extraction.checkpointing.shipped import (
    default_checkpoint,
    model_name,
    shipped_checkpoint,
    shipped_checkpoints,
)

__all__ = [
    "LOADERS",
    "CheckpointError",
    "CheckpointMetadata",
    "LoadedModel",
    "Loader",
    "MaskNetwork",
    "STFTParams",
    "default_checkpoint",
    "load_checkpoint",
    "model_name",
    "parse_checkpoint",
    "read_checkpoint",
    "rebuild",
    "save_checkpoint",
    "save_network",
    "shipped_checkpoint",
    "shipped_checkpoints",
    "source_names",
]
