"""From a checkpoint to a network that is ready to listen, and the models that ship.

A checkpoint rebuilds the model and its input without the code that trained it. The source-separation tutorial's issue
46 tells how nussl's own loading fails; the specification's workaround (network built by hand, weights put in, metadata
handed over) is what happens here, on contents that were read as data.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vocal_extraction.checkpointing.archive import CheckpointError, contents_of, reason_of
from vocal_extraction.checkpointing.reading import parse_checkpoint
from vocal_extraction.checkpointing.rebuilding import rebuild
from vocal_extraction.checkpointing.saving import source_names
from vocal_extraction.settings import PRETRAINED_FOLDER, STEMS, SignalSettings

_SHIPPED = {"classic": "best.model.pth", "studio": "studio.model.pth"}
_MOST_CHANNELS = 8
_LONGEST_NAME = 64

_MISFITS = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError),
    MemoryError,
)
"""What a config, weights or metadata that do not fit raise (a `SettingsError` is a ValueError)."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network that is ready to listen, and all that says how to feed it."""

    network: nn.Module
    """In ``eval()``, on its device. Called with ``{'mix_magnitude': ...}`` or ``{'mix_audio': ...}``."""
    signal: SignalSettings
    """Sample rate and STFT of its input."""
    n_channels: int
    """Channels that go in together; 1 means that each channel is an item of the batch."""
    source_names: tuple[str, ...]
    """Names along the last axis of what comes out."""
    output: str
    """'mask' or 'audio'."""
    metadata: dict[str, Any]
    """Everything else that the checkpoint tells of itself."""
    path: Path
    sha256: str

    @property
    def vocals_index(self) -> int:
        """Position of the vocals along the last axis."""
        return self.source_names.index("vocals")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device


def load_checkpoint(path: str | Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a checkpoint of this project or of nussl's.

    Parameters
    ----------
    path
        The file.
    device
        Where the network shall be.

    Returns
    -------
    LoadedModel
        With the network in ``eval()``.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or not what it should be, holds anything that could run code, or is a shipped
        model whose SHA-256 is not the published one.
    """
    path = Path(path)
    contents = contents_of(path)
    sha256 = hashlib.sha256(contents).hexdigest()
    _check_shipped(path, sha256)
    content = parse_checkpoint(contents, name=str(path))
    metadata = content["metadata"]
    try:
        signal, n_channels = _signal_of(metadata), _n_channels_of(metadata)
        if signal.stereo == "mid-side" and n_channels > 2:
            raise ValueError(f"it hears {n_channels} channels together, but of mid and side there are two")
        network, output, n_sources = rebuild(content, signal=signal, n_channels=n_channels)
        names = _names_of(metadata, n_sources)
    except (CheckpointError, *_MISFITS) as error:
        raise CheckpointError(
            f"{path} holds a model of another kind: {reason_of(error)}. Expected one that separates vocals."
        ) from error
    return LoadedModel(
        network=network.to(device),
        signal=signal,
        n_channels=n_channels,
        source_names=names,
        output=output,
        metadata=metadata,
        path=path,
        sha256=sha256,
    )


def _told(metadata: dict[str, Any], key: str) -> Any:
    """Return what the metadata says, or what it says of the training data: older files have it only there."""
    value = metadata.get(key)
    if value is None:
        value = (metadata.get("train_dataset") or {}).get(key)
    return value


def _signal_of(metadata: dict[str, Any]) -> SignalSettings:
    stft, sample_rate = _told(metadata, "stft_params"), _told(metadata, "sample_rate")
    if stft is None or sample_rate is None:
        raise ValueError("its metadata lacks 'stft_params' or 'sample_rate'")
    stereo = metadata.get("stereo", SignalSettings.stereo)
    return SignalSettings(
        int(sample_rate), int(stft.window_length), int(stft.hop_length), str(stft.window_type), str(stereo)
    )


def _n_channels_of(metadata: dict[str, Any]) -> int:
    n_channels = _told(metadata, "num_channels")
    if n_channels is None:
        return 1
    if type(n_channels) is not int or not 1 <= n_channels <= _MOST_CHANNELS:
        raise ValueError(f"num_channels is {str(n_channels)[:40]!a}, expected 1 to {_MOST_CHANNELS}")
    return n_channels


def _names_of(metadata: dict[str, Any], n_sources: int) -> tuple[str, ...]:
    """Return the names of the sources: as told, else as the transforms of the training data imply, else by number."""
    names = metadata.get("source_names")
    if names is None:
        names = _names_by_transforms(metadata)
        names = names if len(names) == n_sources else source_names(n_sources)
    if not isinstance(names, list | tuple) or len(names) != n_sources or len(set(names)) != n_sources:
        raise ValueError(f"it makes {n_sources} sources, but does not give them {n_sources} names")
    if not all(isinstance(name, str) and name.isprintable() and len(name) <= _LONGEST_NAME for name in names):
        raise ValueError("the name of one of its sources is no name")
    if "vocals" not in names:
        raise ValueError(f"it separates {', '.join(names)}, but no vocals")
    return tuple(names)


def _names_by_transforms(metadata: dict[str, Any]) -> list[str]:
    """Follow nussl's transforms from the four stems: some are summed under a new name, one may be picked."""
    names = list(STEMS)
    for step in getattr(_told(metadata, "transforms"), "transforms", ()):
        if type(step).__name__ == "SumSources":
            for summed, name in zip(step.groupings, step.group_names, strict=True):
                names = sorted([*(stem for stem in names if stem not in summed), name])
        elif type(step).__name__ == "IndexSources" and step.target_key == "source_magnitudes":
            names = [names[step.index]]
    return names


def shipped_checkpoints() -> dict[str, Path]:
    """Return the shipped models that are there, by preset."""
    paths = {preset: PRETRAINED_FOLDER / name for preset, name in _SHIPPED.items()}
    return {preset: path for preset, path in paths.items() if path.is_file()}


def shipped_checkpoint(preset_name: str) -> Path:
    """Return the shipped model of a preset.

    Raises
    ------
    CheckpointError
        If no model ships under that name.
    """
    shipped = shipped_checkpoints()
    if preset_name not in shipped:
        names = ", ".join(sorted(shipped)) or "none"
        raise CheckpointError(f"No shipped model is called {preset_name!r}. Those that ship: {names}.")
    return shipped[preset_name]


def default_checkpoint() -> Path:
    """Return the best model that ships: 'studio', else 'classic'."""
    return shipped_checkpoint("studio" if "studio" in shipped_checkpoints() else "classic")


def _check_shipped(path: Path, sha256: str) -> None:
    """Compare a shipped model with its published checksum."""
    path = path.resolve()
    if path.parent != PRETRAINED_FOLDER.resolve() or path.name not in _SHIPPED.values():
        return
    if _published_checksums().get(path.name) != sha256:
        raise CheckpointError(
            f"{path} is not the file that was published: its SHA-256 is {sha256}. "
            f"Restore it: git checkout -- {path.parent.name}."
        )


def _published_checksums() -> dict[str, str]:
    """Read ``SHA256SUMS``, in the format of ``sha256sum``: checksum and name on each line."""
    try:
        lines = (PRETRAINED_FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    words = [line.split() for line in lines]
    return {name.removeprefix("*"): checksum for checksum, name in (pair for pair in words if len(pair) == 2)}
