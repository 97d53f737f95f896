"""A trained network into a file: weights, architecture, and all that nussl and this project want to know of them."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from torch import nn

from vocal_extraction.atomic_files import write_bytes
from vocal_extraction.checkpointing.archive import CheckpointError
from vocal_extraction.settings import ACCOMPANIMENT, STEMS, Preset

FORMAT_VERSION = 1
"""Version of what this project adds to nussl's metadata."""


def save_checkpoint(
    path: str | Path, network: nn.Module, *, preset: Preset, metadata: dict[str, Any], dataset_folder: str = "dataset"
) -> Path:
    """Save a network in nussl's format, whole or not at all.

    Parameters
    ----------
    path
        Where to.
    network
        What `networks.create_model` returned.
    preset
        Its settings, which go into the metadata.
    metadata
        Plain values to be stored besides: seed, history, scores and the like.
    dataset_folder
        Folder of the training data, by name only.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    files.StorageError
        If it cannot be written; an older file at `path` is untouched then.
    """
    return save_network(path, network, metadata={**_nussl_metadata(preset, dataset_folder), **metadata})


def save_network(path: str | Path, network: nn.Module, *, metadata: dict[str, Any]) -> Path:
    """Save a network with metadata that is complete already; otherwise as `save_checkpoint`."""
    # Not to the path itself: torch would put that name into the file, and report a full disk as an error of its own.
    buffer = io.BytesIO()
    network.save(buffer, metadata=metadata)  # type: ignore[operator]
    write_bytes(path, buffer.getbuffer())
    return Path(path)


def _nussl_metadata(preset: Preset, dataset_folder: str) -> dict[str, Any]:
    """Return what nussl's separators read from a checkpoint, and the settings as plain values."""
    from vocal_extraction.compatibility import nussl

    transforms = nussl.datasets.transforms
    steps, left = [], list(STEMS)
    if not set(preset.sources) <= set(STEMS) or preset.sources == ("vocals",):
        steps.append(transforms.SumSources([[stem for stem in STEMS if stem != "vocals"]], [ACCOMPANIMENT]))
        left = [ACCOMPANIMENT, "vocals"]
    steps.append(transforms.MagnitudeSpectrumApproximation())
    if len(preset.sources) == 1 and preset.sources[0] in left:
        steps.append(transforms.IndexSources("source_magnitudes", left.index(preset.sources[0])))
    steps.append(transforms.ToSeparationModel())
    data = {
        "stft_params": nussl.STFTParams(
            preset.signal.window_length, preset.signal.hop_length, preset.signal.window_type
        ),
        "sample_rate": preset.signal.sample_rate,
        "num_channels": preset.network.num_audio_channels,
    }
    dataset = {**data, "name": "OnTheFly", "folder": dataset_folder, "transforms": transforms.Compose(steps)}
    return {
        **data,
        "train_dataset": dataset,
        "val_dataset": dict(dataset),
        "source_names": list(preset.sources),
        "stereo": preset.signal.stereo,
        "format_version": FORMAT_VERSION,
        "preset": preset.name,
        "settings": json.dumps(dataclasses.asdict(preset)),
    }


def source_names(n_sources: int) -> tuple[str, ...]:
    """Return the names of a network's sources, in nussl's alphabetical order.

    >>> source_names(2)
    ('bass+drums+other', 'vocals')
    """
    known = {1: ("vocals",), 2: (ACCOMPANIMENT, "vocals"), 4: STEMS}
    if n_sources not in known:
        raise CheckpointError(f"A network with {n_sources} sources has no names for them; expected 1, 2 or 4.")
    return known[n_sources]
