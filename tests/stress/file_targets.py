"""Files that come back: checkpoints and what is in them, training states, scores, records of sources."""

import contextlib
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from stress import inputs
from stress.inputs import Target, refusing


@functools.cache
def _checkpoint() -> bytes:
    """The bytes of a small checkpoint of this project's."""
    from vocal_extraction.checkpointing import save_checkpoint
    from vocal_extraction.networks import create_model

    preset = _small_preset()
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder) / "a.pth", create_model(preset), preset=preset, seed=0)
        return path.read_bytes()


def _small_preset() -> Any:
    from vocal_extraction.presets import Preset
    from vocal_extraction.settings import NetworkSettings, SignalSettings

    return Preset("small", signal=SignalSettings(44_100, 32, 16), network=NetworkSettings(hidden_size=2, num_layers=1))


def _take_checkpoint(data: bytes, folder: Path) -> None:
    from vocal_extraction.checkpointing import load_checkpoint

    path = folder / "a.pth"
    path.write_bytes(data)
    with refusing():
        assert load_checkpoint(path).n_channels >= 1


@functools.cache
def _records() -> dict[str, bytes]:
    from vocal_extraction.checkpointing.archive import records_of

    return records_of(_checkpoint(), name="a.pth")


def _take_pickle(data: bytes, folder: Path) -> None:
    from vocal_extraction.checkpointing.archive import packed

    _take_checkpoint(packed({**_records(), "data.pkl": data}).getvalue(), folder)


@functools.cache
def _content() -> dict[str, Any]:
    from vocal_extraction.checkpointing import parse_checkpoint

    return parse_checkpoint(_checkpoint(), name="a.pth")


_METADATA = {
    "sample_rate": 44_100,
    "num_channels": 1,
    "source_names": ["vocals"],
    "stft_params": {"window_length": 32, "hop_length": 16, "window_type": "sqrt_hann"},
    "train_dataset": {"sample_rate": 44_100, "num_channels": 1},
    "config": None,
}


def _take_metadata(metadata: Any, folder: Path) -> None:
    """Give a network's weights other metadata; what stands for the STFT is made one where its parts are named."""
    import torch

    from vocal_extraction.checkpointing import CheckpointError, CheckpointMetadata, STFTParams, rebuild
    from vocal_extraction.errors import SettingsError

    if not isinstance(metadata, dict):
        return
    parameters = metadata.get("stft_params")
    if isinstance(parameters, dict) and parameters.keys() <= set(STFTParams._fields):
        metadata = {**metadata, "stft_params": STFTParams(**parameters)}
    with contextlib.suppress(CheckpointError, SettingsError), torch.random.fork_rng(devices=[]):
        parsed = CheckpointMetadata.parse(metadata).with_sources(1)
        assert len(parsed.sources) == 1
        rebuild({**_content(), "metadata": metadata}, signal=parsed.signal, n_channels=parsed.n_channels)


def _take_config(data: bytes, folder: Path) -> None:
    from vocal_extraction.checkpointing import CheckpointError, rebuild
    from vocal_extraction.errors import SettingsError

    content = {**_content(), "config": data.decode(errors="replace")}
    with contextlib.suppress(CheckpointError, SettingsError):
        rebuild(content, signal=_small_preset().signal, n_channels=1)


@functools.cache
def _state() -> bytes:
    run = _run()
    with tempfile.TemporaryDirectory() as folder:
        run.save(Path(folder))
        (path,) = Path(folder).iterdir()
        return path.read_bytes()


@functools.cache
def _run() -> Any:
    import torch

    from vocal_extraction.training.state import TrainingState

    with torch.random.fork_rng(devices=[]):
        return TrainingState(_small_preset(), seed=0, device=torch.device("cpu"))


def _take_state(data: bytes, folder: Path) -> None:
    import torch

    from vocal_extraction.training.state import STATE_NAME

    (folder / STATE_NAME).write_bytes(data)
    with torch.random.fork_rng(devices=[]), refusing():
        _run().load(folder)


def _song_scores() -> dict[str, Any]:
    from vocal_extraction.evaluation.results import SONG_SCHEMA, SONG_SCHEMA_VERSION

    value = {"value": 1.0, "channels": [1.0]}
    scores = {source: {"SI-SDR": value} for source in ("vocals", "bass+drums+other")}
    return {
        "schema": SONG_SCHEMA,
        "schema_version": SONG_SCHEMA_VERSION,
        "song": "A - B",
        "evaluated": {"kind": "model", "name": "a", "path": "a.pth", "sha256": "0" * 64, "settings": {"mask": "soft"}},
        "data": {
            "folder": "dataset",
            "subset": "test",
            "sha256": "0" * 64,
            "sample_rate": 44_100,
            "n_channels": 2,
            "n_samples": 10,
        },
        "rows": {"model": {"settings": {}, "scores": scores}},
    }


def _take_scores(data: bytes, folder: Path) -> None:
    from vocal_extraction.evaluation.results import claim_folder, read_song, write_song

    content = _song_scores()
    (folder / "A - B.json").write_bytes(data)
    # Neither record nests deeply, so that one that does may well end in Python's own error.
    with refusing(), contextlib.suppress(RecursionError):
        read_song(folder / "A - B.json")
        claim_folder(folder, evaluated=content["evaluated"], data=content["data"], overwrite=False)
        write_song(folder, content)
        assert read_song(folder / "A - B.json") == content


def _take_sources(data: bytes, folder: Path) -> None:
    from vocal_extraction import musdb_preparation

    (folder / musdb_preparation._RECORD).write_bytes(data)
    with refusing(), contextlib.suppress(RecursionError):
        assert isinstance(musdb_preparation._read_record(folder), dict)


FILE_TARGETS = (
    Target("checkpoint files", lambda: inputs.mutated(_checkpoint()), _take_checkpoint, 3_000),
    Target("checkpoint pickles", lambda: inputs.mutated(_records()["data.pkl"]), _take_pickle, 10_000),
    Target("checkpoint metadata", lambda: inputs.changed(_METADATA), _take_metadata, 3_000),
    Target("checkpoint configs", lambda: inputs.json_bytes(json.loads(_content()["config"])), _take_config, 3_000),
    Target("training states", lambda: inputs.mutated(_state()), _take_state, 4_000),
    Target("song scores", lambda: inputs.json_bytes(_song_scores()), _take_scores, 10_000),
    Target("records of sources", lambda: inputs.json_bytes({"train/A - B": 123}), _take_sources, 10_000),
)
