"""Checkpoints: nussl's format, read as data.

A checkpoint is what ``nussl.ml.SeparationModel.save`` writes: a dictionary with ``state_dict``, ``config`` (the
network's architecture as JSON) and ``metadata`` (STFT, sample rate, transforms, history). It rebuilds the model and its
input without the code that trained it. The source-separation tutorial's issue 46 tells how its loading fails; the
specification's workaround (network built by hand, weights put in, metadata handed over) is what happens here.

A checkpoint may come from anywhere, so it is never unpickled freely: `torch.load` with ``weights_only`` and an
allow-list of nussl's own plain classes and NumPy's scalars. Shapes are compared before memory is taken.
"""

import contextlib
import dataclasses
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from files import sha256_of, whole_file
from model import NETWORKS
from settings import (
    ACCOMPANIMENT,
    PRETRAINED_FOLDER,
    STEMS,
    Preset,
    SettingsError,
    SignalSettings,
    VocalExtractionError,
)

FORMAT_VERSION = 1
"""Version of what this project adds to nussl's metadata."""

_LARGEST_BYTES = 2**30
_NUSSL_TRANSFORMS = (
    "Compose",
    "SumSources",
    "MagnitudeSpectrumApproximation",
    "PhaseSensitiveSpectrumApproximation",
    "MagnitudeWeights",
    "IndexSources",
    "GetExcerpt",
    "GetAudio",
    "ToSeparationModel",
    "LabelsToOneHot",
)
_SHIPPED = {"classic": "best.model.pth", "studio": "studio.model.pth"}
_CHECKSUMS = PRETRAINED_FOLDER / "SHA256SUMS"


class CheckpointError(VocalExtractionError):
    """A checkpoint is missing, damaged, hostile, or of a kind that is not understood."""


class STFTParams(NamedTuple):
    """Stands in for ``nussl.STFTParams`` where nussl itself need not be imported."""

    window_length: int | None = None
    hop_length: int | None = None
    window_type: str | None = None


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


def save_checkpoint(
    path: str | Path, network: nn.Module, *, preset: Preset, metadata: dict[str, Any], dataset_folder: str = "dataset"
) -> Path:
    """Save a network in nussl's format, whole or not at all.

    Parameters
    ----------
    path
        Where to.
    network
        What `model.create_model` returned.
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
    with whole_file(path) as aside:
        network.save(str(aside), metadata={**_nussl_metadata(preset, dataset_folder), **metadata})  # type: ignore[operator]
    return Path(path)


def _nussl_metadata(preset: Preset, dataset_folder: str) -> dict[str, Any]:
    """Return what nussl's separators read from a checkpoint, and the settings as plain values."""
    from compatibility import nussl

    transforms = nussl.datasets.transforms
    steps = [transforms.SumSources([[stem for stem in STEMS if stem != "vocals"]], [ACCOMPANIMENT])]
    if preset.network.num_sources == len(STEMS):
        steps = []
    steps.append(transforms.MagnitudeSpectrumApproximation())
    if preset.network.num_sources == 1:
        steps.append(transforms.IndexSources("source_magnitudes", source_names(1).index("vocals")))
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
        "source_names": list(source_names(preset.network.num_sources)),
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


def read_checkpoint(path: str | Path, *, with_nussl: bool = False) -> dict[str, Any]:
    """Read a checkpoint's dictionary without running any code that it may hold.

    Parameters
    ----------
    path
        The file.
    with_nussl
        True: the transforms in the metadata are nussl's own objects, as its separators want them. False: plain
        stand-ins, and nussl is not imported.

    Raises
    ------
    CheckpointError
        As `load_checkpoint`.
    """
    path = Path(path)
    _check_archive(path)
    try:
        with _allow_list(with_nussl=with_nussl):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = str(error).split("Please file")[0]
        reason = " ".join(refused.split("GLOBAL ")[-1].split())[:120] if "GLOBAL " in refused else "damaged contents"
        raise CheckpointError(
            f"{path} was refused: it holds more than weights and plain metadata ({reason})."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is damaged ({reason}). Train or download it again.") from error
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict) or not _is_state(content):
        raise CheckpointError(f"{path} is no checkpoint of nussl's: it lacks 'state_dict' or 'metadata'.")
    return content


def _is_state(content: dict[str, Any]) -> bool:
    state = content.get("state_dict")
    return isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())


def _check_archive(path: Path) -> None:
    """Refuse what is missing, no zip archive, or larger unpacked than any model here can be."""
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}. Train one first (python main.py train) or name another.")
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is no checkpoint, or only a part of one ({error}).") from error
    if n_bytes > _LARGEST_BYTES:
        raise CheckpointError(f"{path} unpacks to {n_bytes} bytes; at most {_LARGEST_BYTES} are accepted.")


@contextlib.contextmanager
def _allow_list(*, with_nussl: bool) -> Iterator[None]:
    """Allow NumPy's scalars and nussl's plain metadata classes, or stand-ins of their names."""
    scalar = np._core.multiarray.scalar
    allowed: list[Any] = [
        np.dtype,
        *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
        # NumPy 1 pickled its scalars under a name that NumPy 2 gave up.
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
    module = "nussl.datasets.transforms"
    if with_nussl:
        from compatibility import nussl

        allowed += [(nussl.STFTParams, "nussl.core.audio_signal.STFTParams")]
        allowed += [(getattr(nussl.datasets.transforms, name), f"{module}.{name}") for name in _NUSSL_TRANSFORMS]
    else:
        allowed += [(STFTParams, "nussl.core.audio_signal.STFTParams")]
        allowed += [(type(name, (), {}), f"{module}.{name}") for name in _NUSSL_TRANSFORMS]
    with torch.serialization.safe_globals(allowed):
        yield


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
    if n_bytes > _LARGEST_BYTES:
        raise ValueError(f"its weights would take {n_bytes} bytes, at most {_LARGEST_BYTES} are accepted")
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
    published = (
        dict(reversed(line.split()) for line in _CHECKSUMS.read_text().splitlines()) if (_CHECKSUMS.is_file()) else {}
    )
    if published.get(path.name) != sha256:
        raise CheckpointError(
            f"{path} is not the file that was published: its SHA-256 is {sha256}. Restore it: git checkout -- {path.name}."
        )
