"""Checkpoints as strangers make them: by nussl 1.1.9 under torch 1.11 and NumPy 1, or to do harm."""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vocal_extraction.checkpointing import CheckpointError, load_checkpoint, read_checkpoint

N_BINS = 33
STFT = (64, 16, "sqrt_hann")
ARGUMENTS = {
    "num_features": N_BINS,
    "num_audio_channels": 1,
    "hidden_size": 5,
    "num_layers": 2,
    "bidirectional": True,
    "dropout": 0.3,
    "num_sources": 1,
    "activation": "sigmoid",
}


class Call:
    """What a pickle of it does: call `function` with `arguments` while it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def tutorial_config(**changes: Any) -> dict[str, Any]:
    """Return the config that the tutorial's `MaskInference.build` makes; it keeps the source code of the class."""
    return {
        "name": "MaskInference",
        "modules": {
            "mix_magnitude": {},
            "model": {
                "class": "MaskInference",
                "args": {**ARGUMENTS, **changes},
                "module_snapshot": "class MaskInference(nn.Module):\n    raise SystemExit('nobody runs this')\n",
            },
            "mask": {"class": "Alias", "args": {}, "module_snapshot": "class Alias(nn.Module): ..."},
            "estimates": {"class": "Alias", "args": {}, "module_snapshot": "class Alias(nn.Module): ..."},
        },
        "connections": [["model", ["mix_magnitude"]], ["mask", ["model:mask"]], ["estimates", ["model:estimates"]]],
        "output": ["estimates", "mask"],
    }


def weights(seed: int = 0, **changes: Any) -> dict[str, torch.Tensor]:
    """Return a state dictionary as the tutorial's network of `ARGUMENTS` has it."""
    from vocal_extraction.networks import MaskInference

    torch.manual_seed(seed)
    network = MaskInference(**{**ARGUMENTS, **changes})  # type: ignore[arg-type]
    state = network.state_dict()
    for name in list(state):
        state[f"layers.model.{name}"] = state.pop(name)
    statistics = "layers.model.input_normalization.batch_norm.running"
    state[f"{statistics}_mean"].uniform_(-60, -20)
    state[f"{statistics}_var"].uniform_(100, 400)
    return state


def old_metadata(**changes: Any) -> dict[str, Any]:
    """Return the metadata of nussl 1.1.9's own training, with the NumPy floats that its history holds."""
    from vocal_extraction.compatibility import nussl

    tfm = nussl.datasets.transforms
    transforms = tfm.Compose(
        [
            tfm.SumSources([["bass", "drums", "other"]]),
            tfm.PhaseSensitiveSpectrumApproximation(range_min=-np.inf),
            tfm.MagnitudeSpectrumApproximation(),
            tfm.IndexSources("source_magnitudes", 1),
            tfm.ToSeparationModel(),
        ]
    )
    data = {"stft_params": nussl.STFTParams(*STFT), "sample_rate": 44_100, "num_channels": 1}
    dataset = {**data, "name": "OnTheFly", "folder": "~/.nussl/tutorial", "transforms": transforms}
    history = {"train/loss": [np.float64(0.5), np.float64(0.25)], "validation/loss": [np.float32(0.75), 0.5]}
    return {
        **data,
        "train_dataset": dataset,
        "val_dataset": dict(dataset),
        "trainer.state_dict": {
            "epoch": 2,
            "epoch_length": np.int64(10),
            "max_epochs": 25,
            "seed": None,
            "metrics": {},
            "output": {"loss": np.float64(0.25), "is_best": np.bool_(True)},
        },
        "trainer.state.epoch_history": history,
        "loss_dictionary": {"L1Loss": {"weight": 1.0}},
        "config": tutorial_config(),
        "nussl_version": "1.1.9",
        **changes,
    }


def content(**changes: Any) -> dict[str, Any]:
    """Return the contents of a checkpoint that loads, but for `changes`."""
    return {"state_dict": weights(), "config": json.dumps(tutorial_config()), "metadata": old_metadata(), **changes}


def old_checkpoint(path: Path, contents: Any = None) -> Path:
    """Write what torch 1.11 with NumPy 1 would have: NumPy's former names, and neither byte order nor new records."""
    records = records_of(content() if contents is None else contents)
    renamed = records["data.pkl"].replace(b"cnumpy._core.multiarray\nscalar", b"cnumpy.core.multiarray\nscalar")
    old = {"data.pkl": renamed, **{name: data for name, data in records.items() if name.startswith("data/")}}
    return write_archive(path, {**old, "version": b"3\n"})


def records_of(content: Any) -> dict[str, bytes]:
    """Return the records of the archive that torch makes of `content`."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, records: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write records as an archive of torch's."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(f"{path.stem}/{name}", data)
    return path


def with_pickle(path: Path, pickled: bytes, **records: bytes) -> Path:
    """Write an archive around a pickle that was put together by hand."""
    return write_archive(path, {"data.pkl": pickled, "version": b"3\n", **records})


def global_(name: str) -> bytes:
    """Return the opcode that refers to a dotted name."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def refused(
    path: Path,
    match: str = "was refused: it holds more than weights and plain values",
    *,
    by: Sequence[Callable[[Path], Any]] = (load_checkpoint, read_checkpoint),
) -> None:
    """Assert that these ways of reading refuse a file, in one printable sentence that names it."""
    for read in by:
        _assert_one_sentence(read, path, match)


def not_loaded(path: Path, match: str) -> None:
    """Assert that a file that reads as data is not taken for a model."""
    read_checkpoint(path)
    _assert_one_sentence(load_checkpoint, path, match)


def _assert_one_sentence(read: Callable[[Path], Any], path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
