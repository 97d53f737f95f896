"""The format of a checkpoint: what ``nussl.ml.SeparationModel.save`` writes, read as data.

It is a dictionary with ``state_dict``, ``config`` (the network's architecture as JSON) and ``metadata`` (STFT, sample
rate, transforms, history). A file may come from anywhere, so it is never unpickled freely: `torch.load` with
``weights_only`` and an allow-list of nussl's own plain classes and NumPy's scalars. Data comes out, or an error; no
code runs.
"""

import contextlib
import dataclasses
import importlib
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from files import whole_file
from settings import ACCOMPANIMENT, STEMS, Preset, VocalExtractionError

FORMAT_VERSION = 1
"""Version of what this project adds to nussl's metadata."""

LARGEST_BYTES = 2**30
"""Most bytes that a checkpoint may unpack to, and its weights may take."""

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


class CheckpointError(VocalExtractionError):
    """A checkpoint is missing, damaged, hostile, or of a kind that is not understood."""


class STFTParams(NamedTuple):
    """Stands in for ``nussl.STFTParams`` where nussl itself need not be imported."""

    window_length: int | None = None
    hop_length: int | None = None
    window_type: str | None = None


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
    if n_bytes > LARGEST_BYTES:
        raise CheckpointError(f"{path} unpacks to {n_bytes} bytes; at most {LARGEST_BYTES} are accepted.")


@contextlib.contextmanager
def _allow_list(*, with_nussl: bool) -> Iterator[None]:
    """Allow NumPy's scalars and nussl's plain metadata classes, or stand-ins of their names."""
    scalar = importlib.import_module("numpy._core.multiarray").scalar
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
