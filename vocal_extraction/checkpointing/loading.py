"""From a checkpoint to a network that is ready for use, by the loader for its kind of file.

The source-separation tutorial's issue 46 describes how nussl's own loading fails; the specification's workaround
(network built by hand, weights put in, metadata handed over) is what happens here, on contents that were read as data.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from vocal_extraction.checkpointing.archive import CheckpointError, contents_of, reason_of
from vocal_extraction.checkpointing.metadata import CheckpointMetadata
from vocal_extraction.checkpointing.reading import parse_checkpoint
from vocal_extraction.checkpointing.rebuilding import rebuild
from vocal_extraction.checkpointing.shipped import check_shipped, checkpoint_path
from vocal_extraction.errors import SettingsError
from vocal_extraction.settings import SignalSettings

Loaded = tuple[nn.Module, CheckpointMetadata, str]
"""A network that takes ``{'mix_magnitude': ...}`` or ``{'mix_audio': ...}``; its metadata, with the names of all its
sources; and what it gives, 'mask' or 'audio'."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network that is ready for use, and how it is fed."""

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


@dataclasses.dataclass(frozen=True)
class Loader:
    """What loads one kind of file."""

    recognizes: Callable[[bytes], bool]
    """Whether a file's contents are of this kind."""
    load: Callable[[bytes, str], Loaded]
    """From a file's contents, and its path for messages; raises `CheckpointError` on a file that cannot be loaded."""


def load_nussl_checkpoint(contents: bytes, name: str) -> Loaded:
    """Load what ``nussl.ml.SeparationModel.save`` wrote, here or elsewhere."""
    content = parse_checkpoint(contents, name=name)
    try:
        metadata = CheckpointMetadata.parse(content["metadata"])
        network, output, n_sources = rebuild(content, signal=metadata.signal, n_channels=metadata.n_channels)
        return network, metadata.with_sources(n_sources), output
    except (CheckpointError, SettingsError) as error:
        reason = reason_of(error).rstrip(".")
        raise CheckpointError(
            f"{name} holds a model of another kind: {reason}. Expected one that separates sources."
        ) from error


LOADERS = [Loader(recognizes=lambda contents: True, load=load_nussl_checkpoint)]
"""The loaders, asked from the last to the first: one that is appended is asked before those that are here."""


def load_checkpoint(path: str | Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a checkpoint of this project or of nussl's, or another file that one of `LOADERS` recognizes.

    `path` may also be the name of a model that ships.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or not what it should be, holds anything that could run code, or is a shipped
        model whose SHA-256 is not the published one.
    """
    path = checkpoint_path(path)
    contents = contents_of(path)
    sha256 = hashlib.sha256(contents).hexdigest()
    check_shipped(path, sha256)
    loader = next(loader for loader in reversed(LOADERS) if loader.recognizes(contents))
    network, metadata, output = loader.load(contents, str(path))
    return LoadedModel(
        network.eval().to(device),
        metadata.signal,
        metadata.n_channels,
        metadata.sources,
        output,
        metadata,
        path,
        sha256,
    )
