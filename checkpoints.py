"""From a checkpoint to a network that is ready to listen, and the models that ship.

A checkpoint rebuilds the model and its input without the code that trained it. The source-separation tutorial's issue
46 tells how nussl's own loading fails; the specification's workaround (network built by hand, weights put in, metadata
handed over) is what happens here. Shapes are compared before memory is taken.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoint_format import LARGEST_BYTES, CheckpointError, read_checkpoint, save_checkpoint, source_names
from files import sha256_of
from model import NETWORKS
from settings import PRETRAINED_FOLDER, SettingsError, SignalSettings

__all__ = [
    "CheckpointError",
    "LoadedModel",
    "default_checkpoint",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "shipped_checkpoint",
    "shipped_checkpoints",
    "source_names",
]

_SHIPPED = {"classic": "best.model.pth", "studio": "studio.model.pth"}
_CHECKSUMS = PRETRAINED_FOLDER / "SHA256SUMS"


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


class _MaskNetwork(nn.Module):
    """One of this project's networks under the calling convention of nussl's SeparationModel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"model": model})

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take ``{'mix_magnitude'}``, give ``{'mask', 'estimates'}``."""
        output: dict[str, Tensor] = self.layers["model"](data["mix_magnitude"])
        return output


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
    content = read_checkpoint(path)
    sha256 = sha256_of(path)
    _check_shipped(path, sha256)
    metadata = content["metadata"]
    config, state = _config_of(content), content["state_dict"]
    try:
        network = _build(config, state)
        signal = _signal_of(metadata)
        names = tuple(map(str, metadata.get("source_names") or source_names(_n_sources(config))))
    except (SettingsError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path} holds a model of another kind: {reason}. Expected a mask-inference model."
        ) from error
    if "vocals" not in names:
        raise CheckpointError(f"{path} separates {', '.join(names)}, but no vocals.")
    return LoadedModel(
        network=network.to(device).eval(),
        signal=signal,
        n_channels=int(metadata.get("num_channels") or 1),
        source_names=names,
        output="audio" if "audio" in config["output"] else "mask",
        metadata=metadata,
        path=path,
        sha256=sha256,
    )


def _config_of(content: dict[str, Any]) -> dict[str, Any]:
    config = content.get("config") or content["metadata"].get("config")
    try:
        config = json.loads(config) if isinstance(config, str) else config
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"The checkpoint's config is no JSON ({error}).") from error
    if not isinstance(config, dict) or not isinstance(config.get("modules"), dict):
        raise CheckpointError("The checkpoint has no config that says what its network is.")
    return config


def _build(config: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """Rebuild the network: first without memory, to compare shapes, then in earnest."""
    ours = {key: module for key, module in config["modules"].items() if module and module.get("class") in NETWORKS}
    rest = {module.get("class") for key, module in config["modules"].items() if module and key not in ours}
    if len(ours) == 1 and rest <= {"Alias", None}:
        ((key, module),) = ours.items()
        state = {name.replace(f"layers.{key}.", "layers.model.", 1): value for name, value in state.items()}

        def construct() -> nn.Module:
            return _MaskNetwork(NETWORKS[module["class"]](**module["args"]))

    else:

        def construct() -> nn.Module:
            return _separation_model(config)

    with torch.device("meta"):
        blueprint = construct().state_dict()
    _compare(blueprint, state)
    network = construct()
    network.load_state_dict(state, strict=True)
    return network


def _separation_model(config: dict[str, Any]) -> nn.Module:
    """Build any network that is made of nussl's own modules and this project's."""
    from compatibility import nussl

    known = nussl.ml.networks.modules
    for network in NETWORKS.values():
        nussl.ml.register_module(network)
    for name, module in config["modules"].items():
        kind = (module or {}).get("class")
        if kind is not None and not isinstance(getattr(known, str(kind), None), type):
            raise ValueError(f"module {name!r} is a {kind!r}, which neither nussl nor this project knows")
    model: nn.Module = nussl.ml.SeparationModel({**config})
    return model


def _compare(blueprint: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    if blueprint.keys() != state.keys():
        odd = sorted(blueprint.keys() ^ state.keys())
        raise ValueError(f"its weights and its architecture differ ({', '.join(odd[:3])})")
    for name, expected in blueprint.items():
        if expected.shape != state[name].shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(expected.shape)}")
    n_bytes = sum(value.numel() * value.element_size() for value in state.values())
    if n_bytes > LARGEST_BYTES:
        raise ValueError(f"its weights would take {n_bytes} bytes, at most {LARGEST_BYTES} are accepted")
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise ValueError("its weights hold NaN or infinity")


def _n_sources(config: dict[str, Any]) -> int:
    for module in config["modules"].values():
        arguments = (module or {}).get("args") or {}
        for name in ("num_sources", "embedding_size"):
            if name in arguments:
                return int(arguments[name])
    return 1


def _signal_of(metadata: dict[str, Any]) -> SignalSettings:
    stft = metadata.get("stft_params") or metadata["train_dataset"]["stft_params"]
    rate = metadata.get("sample_rate") or metadata["train_dataset"]["sample_rate"]
    return SignalSettings(int(rate), int(stft.window_length), int(stft.hop_length), str(stft.window_type))


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
    if path.resolve().parent != PRETRAINED_FOLDER or path.name not in _SHIPPED.values():
        return
    published = _published_checksums()
    if published.get(path.name) != sha256:
        raise CheckpointError(
            f"{path} is not the file that was published: its SHA-256 is {sha256}. Restore it: git checkout {path.name}."
        )


def _published_checksums() -> dict[str, str]:
    """Read ``SHA256SUMS``, in the format of ``sha256sum``: checksum and name on each line."""
    if not _CHECKSUMS.is_file():
        return {}
    lines = (line.split() for line in _CHECKSUMS.read_text(encoding="utf-8").splitlines())
    return {name: checksum for checksum, name in lines}
