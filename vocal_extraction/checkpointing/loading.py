"""From a checkpoint to a network that is ready to listen, and the models that ship.

A checkpoint rebuilds the model and its input without the code that trained it. The source-separation tutorial's issue
46 tells how nussl's own loading fails; the specification's workaround (network built by hand, weights put in, metadata
handed over) is what happens here, on contents that were read as data.
"""

import dataclasses
import hashlib
from pathlib import Path

import torch
from torch import nn

from vocal_extraction.checkpointing.archive import CheckpointError, contents_of, reason_of
from vocal_extraction.checkpointing.metadata import CheckpointMetadata
from vocal_extraction.checkpointing.reading import parse_checkpoint
from vocal_extraction.checkpointing.rebuilding import rebuild
from vocal_extraction.settings import PRETRAINED_FOLDER, SignalSettings

_SHIPPED = {"classic": "best.model.pth", "studio": "studio.model.pth"}

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
    sources: tuple[str, ...]
    """Names along the last axis of the output."""
    output: str
    """'mask' or 'audio'."""
    metadata: CheckpointMetadata
    """All that the checkpoint says of itself."""
    path: Path
    sha256: str

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
    try:
        metadata = CheckpointMetadata.parse(content["metadata"])
        signal, n_channels = metadata.signal, metadata.n_channels
        if signal.stereo == "mid-side" and n_channels > 2:
            raise CheckpointError(f"it takes {n_channels} channels together, but of mid and side there are two")
        network, output, n_sources = rebuild(content, signal=signal, n_channels=n_channels)
        metadata = metadata.with_sources(n_sources)
    except (CheckpointError, *_MISFITS) as error:
        raise CheckpointError(
            f"{path} holds a model of another kind: {reason_of(error)}. Expected one that separates sources."
        ) from error
    return LoadedModel(
        network=network.to(device),
        signal=signal,
        n_channels=n_channels,
        sources=metadata.sources,
        output=output,
        metadata=metadata,
        path=path,
        sha256=sha256,
    )


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
