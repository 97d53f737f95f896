"""From a checkpoint to a network that is ready for use, by the loader for its kind of file."""

import ctypes
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from vocal_extraction.checkpointing import shipped
from vocal_extraction.checkpointing.archive import CheckpointError, contents_of, reason_of
from vocal_extraction.checkpointing.metadata import CheckpointMetadata
from vocal_extraction.checkpointing.reading import parse_checkpoint
from vocal_extraction.device import known_device
from vocal_extraction.errors import SettingsError
from vocal_extraction.settings import SignalSettings

if TYPE_CHECKING:
    from torch import nn

    from vocal_extraction.checkpointing.onnx_network import OnnxNetwork

Loaded = tuple[Union["nn.Module", "OnnxNetwork"], CheckpointMetadata, str]
"""A network of torch, which takes ``{'mix_magnitude': ...}`` or ``{'mix_audio': ...}``, or one that runs itself on ONNX
Runtime; its metadata, with the names of all its sources; and what it gives, 'mask' or 'audio'."""

_MOST_MEMBERS = 16  # models in a list


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network that is ready for use, and how it is fed."""

    network: Any  # as in `Loaded`, in ``eval()`` and on its device; of the mean of several models, a tuple of these
    signal: SignalSettings  # sample rate and STFT of its input
    n_channels: int  # channels that go in together; 1 means that each channel is an item of the batch
    sources: tuple[str, ...]  # names along the last axis of the output
    output: str  # 'mask', 'audio', or 'mean': the mean of the estimates of several models
    metadata: CheckpointMetadata  # all that the checkpoint says of itself
    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """The name of a model that ships or was imported; preset and folder of a trained one."""
        name = shipped.model_name(self.path)
        if name not in ("best", "latest"):
            return name
        preset = re.sub(r"[^\w.+-]", "_", self.metadata.preset or "model")
        return f"{preset}-{self.path.resolve().parent.name}"

    @property
    def members(self) -> tuple["LoadedModel", ...]:
        """The models of which this is the mean; else this alone."""
        return self.network if self.output == "mean" else (self,)

    @property
    def is_onnx(self) -> bool:
        return all(not hasattr(each.network, "parameters") for each in self.members)

    @property
    def device(self) -> Any:
        return next(self.members[0].network.parameters()).device

    @property
    def is_on_cpu(self) -> bool:
        return self.is_onnx or self.device.type == "cpu"

    def only(self, sources: Sequence[str]) -> "LoadedModel":
        """Return the model of some of its sources, where each has a network of its own; else this."""
        network: Any = self.network
        if not getattr(network, "has_one_for_each_source", False):
            return self
        parts = network.only([self.sources.index(name) for name in sources])
        return dataclasses.replace(self, network=parts, sources=tuple(sources))


@dataclasses.dataclass(frozen=True)
class Loader:
    recognizes: Callable[[bytes], bool]  # whether a file's contents are of this kind
    load: Callable[[bytes, str], Loaded]
    """From a file's contents, and its path for messages; raises `CheckpointError` on a file that cannot be loaded."""


def load_nussl_checkpoint(contents: bytes, name: str) -> Loaded:
    """Load what ``nussl.ml.SeparationModel.save`` wrote, here or elsewhere."""
    try:
        from vocal_extraction.checkpointing.rebuilding import rebuild
    except ModuleNotFoundError as error:
        remedy = "Install it (pip install 'vocal-extraction[torch]'), or export the model to ONNX where it is"
        raise CheckpointError(f"{name} runs on PyTorch, which is missing. {remedy}.") from error
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


def _load_onnx(contents: bytes, name: str, *, weights: bytes | None = None) -> Loaded:
    from vocal_extraction.checkpointing.onnx_network import load_onnx

    return load_onnx(contents, name, weights=weights)


LOADERS = [  # the loaders, asked from the last to the first: one that is appended is asked before those that are here
    Loader(recognizes=lambda contents: True, load=load_nussl_checkpoint),
    # The first field of a serialized model is the version of its format.
    Loader(recognizes=lambda contents: contents.startswith(b"\x08"), load=_load_onnx),
]


def mean_of(members: Sequence[LoadedModel], path: Path) -> LoadedModel:
    """Return the mean of several models' estimates as a model called by `path`, with the sources of the first."""
    if not 2 <= len(members) <= _MOST_MEMBERS:
        raise CheckpointError(f"The mean of {len(members)} models was asked for, expected 2 to {_MOST_MEMBERS}.")
    first = members[0]
    for member in members:
        if not {*member.sources} & {*first.sources}:
            raise CheckpointError(f"{member.path} has {', '.join(member.sources)}, and none of {first.path}'s sources.")
    licence = "; ".join(sorted({shipped.licence_of(member.path, member.metadata.licence) for member in members}))
    origins = tuple({"sha256": member.sha256, **member.metadata.origin} for member in members)
    facts: dict[str, Any] = {"settings": None, "licence": licence, "members": origins}
    metadata = dataclasses.replace(first.metadata, preset=shipped.model_name(path), **facts)
    sha256 = hashlib.sha256("\n".join(member.sha256 for member in members).encode()).hexdigest()
    return dataclasses.replace(
        first, network=tuple(members), output="mean", metadata=metadata, path=path, sha256=sha256
    )


def load_checkpoint(path: str | os.PathLike[str], *, device: Any = "cpu", runtime: str = "auto") -> LoadedModel:
    """Load a checkpoint of this project or of nussl's, an ONNX file, or another that one of `LOADERS` recognizes.

    Parameters
    ----------
    path
        Of the file, the name of a model that ships or was imported, or a list of such (`shipped.LIST_ENDING`).
    device
        'cpu', 'auto', or a name that torch knows.
    runtime
        'torch', 'onnxruntime', or 'auto': on the CPU, a model that ships runs on ONNX Runtime, which is quicker
        (docs/measurements.md); other checkpoints and other devices take torch.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or not what it should be, holds anything that could run code, or is a shipped
        model whose SHA-256 is not the published one; or that runtime cannot run it.
    DeviceError
        If the device is not there.
    """
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"Expected the path of a checkpoint or the name of a model, got {path!r}.")
    path = shipped.checkpoint_path(os.fspath(path))
    contents = contents_of(path)
    sha256 = hashlib.sha256(contents).hexdigest()
    shipped.check_shipped(path, sha256)
    if path.suffix == shipped.LIST_ENDING:
        members = [load_checkpoint(each, device=device, runtime=runtime) for each in shipped.member_paths(path)]
        return mean_of(members, path)
    device, graph = known_device(device), shipped.graph_beside(path)
    found: Any
    if graph is not None and runtime != "torch" and str(device) == "cpu":
        found, metadata, output = _load_onnx(contents_of(graph), str(path), weights=contents)
    else:
        loader = next(loader for loader in reversed(LOADERS) if loader.recognizes(contents))
        found, metadata, output = loader.load(contents, str(path))
        found = found.eval().to(device) if hasattr(found, "parameters") else found
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what was freed after reading and trying large weights
    model = LoadedModel(found, metadata.signal, metadata.n_channels, metadata.sources, output, metadata, path, sha256)
    if runtime not in ("auto", "onnxruntime" if model.is_onnx else "torch"):
        remedy = "name its checkpoint instead" if model.is_onnx else "export it first (vocal-extraction export)"
        raise CheckpointError(f"{path} does not run on {runtime}; {remedy}.")
    return model
