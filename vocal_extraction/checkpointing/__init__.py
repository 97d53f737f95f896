"""Checkpoints as ``nussl.ml.SeparationModel.save`` writes them, read as data and never as code: docs/checkpoints.md."""

import importlib
from typing import TYPE_CHECKING, Any

from vocal_extraction.checkpointing.archive import CheckpointError
from vocal_extraction.checkpointing.loading import LOADERS, LoadedModel, Loader, load_checkpoint
from vocal_extraction.checkpointing.metadata import CheckpointMetadata, STFTParams, source_names
from vocal_extraction.checkpointing.reading import parse_checkpoint, read_checkpoint, read_metadata
from vocal_extraction.checkpointing.shipped import (
    default_checkpoint,
    licence_of,
    model_name,
    named_checkpoint,
    named_checkpoints,
    shipped_checkpoints,
)

if TYPE_CHECKING:
    from vocal_extraction.checkpointing.rebuilding import MaskNetwork, rebuild, save_checkpoint, save_network


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for."""
    if name not in ("MaskNetwork", "rebuild", "save_checkpoint", "save_network"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.rebuilding"), name)
