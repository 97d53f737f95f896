"""The schema of a checkpoint's metadata: nussl's keys and this project's, which docs/checkpoints.md lists.

Files of nussl's from before its version 1.1.3 keep STFT and sample rate with the training data only.
"""

import dataclasses
import json
from typing import Any, NamedTuple

from vocal_extraction.checkpointing.archive import CheckpointError
from vocal_extraction.presets import Preset
from vocal_extraction.settings import ACCOMPANIMENT, STEMS, SignalSettings, TrainingSettings

FORMAT_VERSION = 1  # version of what this project adds to nussl's metadata
_MOST_CHANNELS = 8
_LONGEST_NAME = 64
_FACTS: dict[str, type | tuple[type, ...]] = {  # keys that are fields of the same name, and their types
    **dict.fromkeys(("preset", "settings", "licence", "git_commit", "machine", "nussl_version"), str),
    **dict.fromkeys(("seed", "n_steps"), int),
    "training_s": (int, float),
}
_TRAINER = ("optimizer", "loss_dictionary", "trainer.state_dict", "trainer.state.epoch_history")
_VIEW = ("stereo", "input_level_db", "padding")  # fields of `SignalSettings` that nussl does not have
_ORIGIN = ("seed", "git_commit", "training_s", "n_steps", "machine")


class STFTParams(NamedTuple):
    """Stands in for ``nussl.STFTParams`` where nussl itself need not be imported."""

    window_length: int | None = None
    hop_length: int | None = None
    window_type: str | None = None


@dataclasses.dataclass(frozen=True)
class CheckpointMetadata:
    """All that a checkpoint says besides its weights and its network's architecture."""

    signal: SignalSettings  # sample rate and STFT of the network's input, and which views of a stereo song it takes
    n_channels: int = 1  # channels that go in together; 1 means that each channel is an item of the batch
    sources: tuple[str, ...] = ()  # names along the last axis of the output; empty where a file of nussl's does not say
    preset: str | None = None  # name of the settings it was trained with
    settings: str | None = None  # all of them, as JSON
    licence: str | None = None  # under which the weights may be used, as an SPDX name
    seed: int | None = None
    n_steps: int | None = None  # optimizer steps
    training_s: float | None = None
    git_commit: str | None = None
    machine: str | None = None
    nussl_version: str | None = None
    trainer: dict[str, Any] = dataclasses.field(default_factory=dict)  # what nussl's trainer stores, by its keys
    train_dataset: dict[str, Any] = dataclasses.field(default_factory=dict)  # nussl's, with its transforms
    members: tuple[dict[str, Any], ...] = ()  # of an ensemble: SHA-256 and `origin` of each
    imported: dict[str, Any] = dataclasses.field(default_factory=dict)  # ``source`` and ``files`` of others' weights

    @property
    def origin(self) -> dict[str, Any]:
        """Where the weights come from, as far as it is known: plain values by name."""
        return {name: value for name in _ORIGIN if (value := getattr(self, name)) is not None}

    def with_sources(self, n_sources: int) -> "CheckpointMetadata":
        """Return this with the names of all sources: as stored, else as the transforms imply, else by their number."""
        names = self.sources
        if not names:
            names = _names_by_transforms(self.train_dataset.get("transforms"))
            names = names if len(names) == n_sources else source_names(n_sources)
        if len(names) != n_sources:
            raise CheckpointError(f"it makes {n_sources} sources, but does not give them {n_sources} names")
        return dataclasses.replace(self, sources=names)

    @classmethod
    def of_preset(
        cls, preset: Preset, *, history: list[tuple[float, float]] | None = None, **facts: Any
    ) -> "CheckpointMetadata":
        """Return the metadata of a network that was trained with a preset.

        `history` has (training loss, validation loss) of each epoch; `facts` are further fields, as seed and n_steps.
        """
        return cls(
            signal=preset.signal,
            n_channels=preset.network.num_audio_channels,
            sources=preset.sources,
            preset=preset.name,
            settings=json.dumps(dataclasses.asdict(preset)),
            trainer=_trainer(preset.training, history) if history else {},
            **facts,
        )

    def stored(self, *, for_nussl: bool = True) -> dict[str, Any]:
        """Return what goes into the file: plain values and, `for_nussl`, its own objects for its separators."""
        signal, data = self.signal, {"sample_rate": self.signal.sample_rate, "num_channels": self.n_channels}
        stft: Any = [signal.window_length, signal.hop_length, signal.window_type]
        datasets: dict[str, Any] = {}
        if for_nussl:
            from vocal_extraction.compatibility import nussl

            stft = nussl.STFTParams(*stft)
            transforms = nussl.datasets.transforms.Compose(_transforms(nussl.datasets.transforms, self.sources))
            named = {"name": "OnTheFly", "folder": self.train_dataset.get("folder", "dataset")}
            for name in ("train_dataset", "val_dataset"):
                datasets[name] = {"stft_params": stft, **data, **named, "transforms": transforms}
        return {
            "stft_params": stft,
            **data,
            **datasets,
            "source_names": list(self.sources),
            **{name: value for name in _VIEW if (value := getattr(signal, name)) is not None},
            "format_version": FORMAT_VERSION,
            **{name: value for name in _FACTS if (value := getattr(self, name)) is not None},
            **self.trainer,
            **({"members": list(self.members)} if self.members else {}),
            **({"imported": self.imported} if self.imported else {}),
        }

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> "CheckpointMetadata":
        """Check what `read_checkpoint` found; an error says what is missing, or why this project cannot feed it."""
        dataset = stored.get("train_dataset")
        dataset = dataset if isinstance(dataset, dict) else {}
        given = {key: value for part in (dataset, stored) for key, value in part.items() if value is not None}
        signal, n_channels = _signal(given), given.get("num_channels", 1)
        if type(n_channels) is not int or not 1 <= n_channels <= _MOST_CHANNELS:
            raise CheckpointError(f"num_channels is {str(n_channels)[:40]!a}, expected 1 to {_MOST_CHANNELS}")
        if signal.stereo == "mid-side" and n_channels > 2:
            raise CheckpointError(f"it takes {n_channels} channels together, but of mid and side there are two")
        members, imported = stored.get("members"), stored.get("imported")
        return cls(
            signal=signal,
            n_channels=n_channels,
            sources=_names(stored.get("source_names")),
            trainer={key: stored[key] for key in _TRAINER if key in stored},
            train_dataset=dataset,
            members=tuple(each for each in members if isinstance(each, dict)) if isinstance(members, list) else (),
            imported=imported if isinstance(imported, dict) else {},
            **{name: stored[name] for name, kind in _FACTS.items() if isinstance(stored.get(name), kind)},
        )


def _trainer(training: TrainingSettings, history: list[tuple[float, float]]) -> dict[str, Any]:
    """Return what nussl's own trainer would store."""
    train, validation = map(list, zip(*history, strict=True))
    return {
        "optimizer": {"name": "Adam", "params": {"lr": training.learning_rate}},
        "loss_dictionary": {training.loss: {"weight": 1.0}},
        "trainer.state_dict": {
            "epoch": len(history),
            "epoch_length": training.batches_per_epoch,
            "max_epochs": training.n_epochs,
            "output": {"loss": train[-1]},
            "metrics": {"validation/loss": validation[-1]},
            "seed": None,  # nussl's loader accepts nothing else
        },
        "trainer.state.epoch_history": {"train/loss": train, "validation/loss": validation},
    }


def _signal(stored: dict[str, Any]) -> SignalSettings:
    stft, sample_rate = stored.get("stft_params"), stored.get("sample_rate")
    if isinstance(stft, list) and len(stft) == len(STFTParams._fields):
        stft = STFTParams(*stft)
    if stft is None or sample_rate is None:
        raise CheckpointError("its metadata lacks 'stft_params' or 'sample_rate'")
    if not isinstance(stft, STFTParams) or not all(type(n) is int for n in (*stft[:2], sample_rate)):
        raise CheckpointError(f"its STFT is {str(stft)[:80]!a} at {str(sample_rate)[:20]!a} samples per second")
    view = {name: stored[name] for name in _VIEW if name in stored}
    if type(view.get("input_level_db", 0.0)) not in (int, float):
        raise CheckpointError(f"its input level is {str(view['input_level_db'])[:40]!a}, expected decibels")
    return SignalSettings(sample_rate, stft[0], stft[1], str(stft.window_type), **view)  # type: ignore[arg-type]


def _names(stored: Any) -> tuple[str, ...]:
    if stored is None:
        return ()
    if not isinstance(stored, list | tuple) or not stored or len({*map(str, stored)}) != len(stored):
        raise CheckpointError(f"it does not give its sources different names, but {str(stored)[:40]!a}")
    if not all(isinstance(name, str) and name.isprintable() and 0 < len(name) <= _LONGEST_NAME for name in stored):
        raise CheckpointError("the name of one of its sources is no name")
    return tuple(stored)


def _names_by_transforms(transforms: Any) -> tuple[str, ...]:
    """Return the sources that nussl's transforms make of the four stems: sums under new names, perhaps one of them."""
    names = list(STEMS)
    steps = getattr(transforms, "transforms", ())
    for step in steps if isinstance(steps, list) else ():
        match type(step).__name__, getattr(step, "__dict__", None):
            case "SumSources", {"groupings": [*groups], "group_names": [*new]} if len(groups) == len(new):
                summed = [stem for group in groups if isinstance(group, list) for stem in group]
                names = sorted([*(stem for stem in names if stem not in summed), *map(str, new)])
            case "IndexSources", {"target_key": "source_magnitudes", "index": int(index)} if index < len(names):
                names = [names[index]]
    return _names(names)


def source_names(n_sources: int) -> tuple[str, ...]:
    """Return the names of 1, 2 or 4 sources that a file does not name, in nussl's alphabetical order.

    >>> source_names(2)
    ('bass+drums+other', 'vocals')
    """
    known = {1: ("vocals",), 2: (ACCOMPANIMENT, "vocals"), 4: STEMS}
    if n_sources not in known:
        raise CheckpointError(f"A network with {n_sources} sources has no names for them; expected 1, 2 or 4.")
    return known[n_sources]


def _transforms(classes: Any, sources: tuple[str, ...]) -> list[Any]:
    """Return nussl's transforms from the four stems to the sources that a network is trained for, as far as they go."""
    parts = {source: _summed(source) for source in sources if source not in STEMS}
    if len(sources) == 1 and not parts:
        rest = [stem for stem in STEMS if stem not in sources]
        parts = {"+".join(rest): rest}
    sums = {source: stems for source, stems in parts.items() if stems}
    steps = [classes.SumSources(list(sums.values()), list(sums))] if sums else []
    steps.append(classes.MagnitudeSpectrumApproximation())
    labels = sorted([*sums, *(stem for stem in STEMS if not any(stem in stems for stems in sums.values()))])
    if len(sources) == 1 and sources[0] in labels:
        steps.append(classes.IndexSources("source_magnitudes", labels.index(sources[0])))
    return [*steps, classes.ToSeparationModel()]


def _summed(source: str) -> list[str]:
    """Return the stems that a source such as 'bass+drums' is the sum of; none where its name is of another kind."""
    stems = (ACCOMPANIMENT if source == "accompaniment" else source).split("+")
    return stems if {*stems} < {*STEMS} else []
