"""Several trained networks as one: a network whose masks are the mean of theirs, or a list of models of any kinds."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vocal_extraction.atomic_files import StorageError, write_text
from vocal_extraction.checkpointing import (
    CheckpointError,
    CheckpointMetadata,
    LoadedModel,
    MaskNetwork,
    load_checkpoint,
    save_network,
)
from vocal_extraction.checkpointing.loading import mean_of
from vocal_extraction.checkpointing.shipped import LIST_ENDING
from vocal_extraction.networks import NETWORKS, EnsembleMaskInference

_PREFIX = "layers.model."


def join_checkpoints(paths: Sequence[str | Path], output_path: str | Path, *, overwrite: bool = False) -> Path:
    """Join two or more checkpoints of one network and signal to one, which is used like any other.

    With the ending .toml, the output lists models of any kinds, the mean of whose estimates is the model. Else
    the new file's metadata has, under ``members``, the SHA-256 of each member's file and what is known of its training.
    """
    output_path = Path(output_path)
    if len(paths) < 2:
        raise CheckpointError(f"An ensemble takes two checkpoints or more, got {len(paths)}.")
    if output_path.exists() and not overwrite:
        raise StorageError(f"{output_path} is there already. Name another file, or say --overwrite.")
    models = [load_checkpoint(path, runtime="torch") for path in paths]
    if output_path.suffix == LIST_ENDING:
        mean_of(models, output_path)
        folder = output_path.resolve().parent
        names = [os.path.relpath(path, folder) if Path(path).exists() else str(path) for path in paths]
        write_text(output_path, f"members = {json.dumps(names)}\n")
        return output_path
    kind, arguments = _common_kind(models)
    network = EnsembleMaskInference.build(member=kind, n_members=len(models), **arguments)
    network.load_state_dict(
        {
            f"{_PREFIX}members.{number}.{name.removeprefix(_PREFIX)}": values
            for number, model in enumerate(models)
            for name, values in model.network.state_dict().items()
        }
    )
    first = models[0].metadata
    shared = ("signal", "n_channels", "sources", "preset", "settings", "licence", "train_dataset")
    members = tuple({"sha256": model.sha256, **model.metadata.origin} for model in models)
    metadata = CheckpointMetadata(**{name: getattr(first, name) for name in shared}, members=members)
    return save_network(output_path, network, metadata)


def _common_kind(models: Sequence[LoadedModel]) -> tuple[str, dict[str, Any]]:
    """Return class and arguments of this project's networks; raise CheckpointError if one differs from the first."""
    kinds = []
    for model in models:
        network = model.network
        if not isinstance(network, MaskNetwork) or network.kind == EnsembleMaskInference.__name__:
            members = [name for name in NETWORKS if name != EnsembleMaskInference.__name__]
            raise CheckpointError(f"{model.path} cannot be a member: expected one network of {' or '.join(members)}.")
        kinds.append((network.kind, network.arguments, model.signal, model.n_channels, model.sources))
        if kinds[-1] != kinds[0]:
            raise CheckpointError(
                f"{models[0].path} and {model.path} are of two kinds. Join networks of one architecture that were "
                "trained for the same signal and sources."
            )
    return kinds[0][:2]
