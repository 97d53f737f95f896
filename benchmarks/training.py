"""The published schedule against nussl and scaper as they come: 25 epochs of 32 batches of 10, 1,000 validated in each.

The reference is the tutorial's training: nussl's `OnTheFly` dataset around scaper's mixtures, one worker that mixes,
nussl's network, and engines of ignite. It would take most of a day, so some of its batches are timed and multiplied; of
this project's, whole epochs. The notes under the table have every factor.
Both take turns on the same songs and are timed by the clock: measure on an idle machine.
"""

import dataclasses
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks import Row
from benchmarks.mixing import plain_scaper
from vocal_extraction.compatibility import nussl
from vocal_extraction.data_augmentation import event_template
from vocal_extraction.demo_songs import write_demo_songs
from vocal_extraction.musdb_preparation import song_names
from vocal_extraction.presets import SPECIFIED
from vocal_extraction.settings import DATASET_FOLDER, STEMS, MixingSettings
from vocal_extraction.training.data_module import DataModule, find_training_tracks
from vocal_extraction.training.processes import Processes
from vocal_extraction.training.resources import resources
from vocal_extraction.training.run_folder import write_epoch
from vocal_extraction.training.state import TrainingState
from vocal_extraction.training.trainer import Trainer

N_ROUNDS = 3
N_REFERENCE_BATCHES = 3
N_REFERENCE_VALIDATION_BATCHES = 2

_SCHEDULE = SPECIFIED.training
_CPU = torch.device("cpu")


@dataclasses.dataclass
class Seconds:
    """What the parts of a run took, extrapolated to the whole run's, one entry a round."""

    start: list[float] = dataclasses.field(default_factory=list)  # everything before the first epoch
    rendering: list[float] = dataclasses.field(default_factory=list)  # mixtures of the first validation
    training: list[float] = dataclasses.field(default_factory=list)  # one epoch's batches
    validation: list[float] = dataclasses.field(default_factory=list)  # one epoch's
    writing: list[float] = dataclasses.field(default_factory=list)  # checkpoints, history and plots of one epoch

    def whole_run(self) -> float:
        """Put a run together from the medians of its parts."""
        start, rendering, *epoch = (
            statistics.median(each) if each else 0.0
            for each in (self.start, self.rendering, self.training, self.validation, self.writing)
        )
        return start + rendering + _SCHEDULE.n_epochs * sum(epoch)


def rows() -> list[Row]:
    """Time parts of both, in turns, and put the whole schedule together."""
    warnings.simplefilter("ignore")
    ours, reference, waited = Seconds(), Seconds(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = _dataset(folder)
        for n in range(1, N_ROUNDS + 1):
            waited.append(_our_round(ours, dataset, folder / "run", epoch=n))
            _reference_round(reference, dataset, first_seed=1_000 * n)
    return [
        Row(
            f"{_SCHEDULE.n_epochs} epochs of the published schedule",
            ours.whole_run(),
            reference.whole_run(),
            notes=_notes(ours, reference, statistics.median(waited)),
        ),
        Row(
            f"{_SCHEDULE.batches_per_epoch} training batches of {_SCHEDULE.batch_size}",
            statistics.median(ours.training),
            statistics.median(reference.training),
        ),
        Row(
            f"{_SCHEDULE.n_validation_mixtures:,} validation mixtures, made already",
            statistics.median(ours.validation),
            statistics.median(reference.validation),
        ),
    ]


def _notes(ours: Seconds, reference: Seconds, waited: float) -> tuple[str, ...]:
    training, validation = _reference_factors()
    return (
        f"medians of {N_ROUNDS} rounds in turns; an epoch's time is multiplied by {_SCHEDULE.n_epochs} on both sides",
        f"this: start {statistics.median(ours.start):.1f} s once, making the validation mixtures "
        f"{ours.rendering[0]:.1f} s once, an epoch {statistics.median(ours.training):.1f} s of training, "
        f"{statistics.median(ours.validation):.1f} s of validation, {statistics.median(ours.writing):.2f} s of writing",
        f"this: {waited:.0%} of the training's time went into waiting for mixtures",
        f"reference, an epoch: {statistics.median(reference.training):.0f} s of training, from "
        f"{N_REFERENCE_BATCHES} batches multiplied by {training:.3g}; {statistics.median(reference.validation):.0f} s "
        f"of validation, from {N_REFERENCE_VALIDATION_BATCHES} batches multiplied by {validation:g}",
    )


def _reference_factors() -> tuple[float, float]:
    n_batches = (_SCHEDULE.n_validation_mixtures or 0) / _SCHEDULE.batch_size
    return _SCHEDULE.batches_per_epoch / N_REFERENCE_BATCHES, n_batches / N_REFERENCE_VALIDATION_BATCHES


def _dataset(folder: Path) -> Path:
    """Return the prepared songs in a folder of one's own, where rendered mixtures may be kept; else synthesise some."""
    dataset = folder / "dataset"
    if not (song_names("train", DATASET_FOLDER) and song_names("valid", DATASET_FOLDER)):
        write_demo_songs(dataset, n_train=6, n_valid=3, n_test=0, duration_s=6.8)
        return dataset
    for subset in ("train", "valid"):
        (dataset / subset).mkdir(parents=True)
        for part in ("foreground", "background"):
            (dataset / subset / part).symlink_to((DATASET_FOLDER / subset / part).resolve())
    return dataset


def _our_round(seconds: Seconds, dataset: Path, folder: Path, *, epoch: int) -> float:
    """Train an epoch, as `train_model` does; return the share of it that was waited for mixtures."""
    with resources(_CPU, None) as n_workers:

        def start() -> Trainer:
            state, tracks = TrainingState(SPECIFIED, seed=0, device=_CPU), find_training_tracks([dataset], SPECIFIED)
            data = DataModule(SPECIFIED, 0, tracks, Processes(), device=_CPU, n_workers=n_workers, cache_folder=dataset)
            trainer = Trainer(state, data, folder, Processes(), progress=False)
            trainer.sanity_check()
            return trainer

        start_s, trainer = _timed(start)
        state = trainer.state
        trainer.data.sampler.epoch = epoch
        training_s, row = _timed(lambda: trainer.train_epoch(trainer.data.training_loader))
        first_s, scores = _timed(lambda: trainer.validate(state.result))
        if not seconds.rendering:
            again_s, scores = _timed(lambda: trainer.validate(state.result))
            seconds.rendering.append(first_s - again_s)
            first_s = again_s
        losses = {"validation_loss": scores.loss, "validation_si_sdr_db": scores.si_sdr_db}
        state.history.append({"epoch": epoch, **row, **losses, "is_best": True, "duration_s": training_s})
        writing_s, _ = _timed(lambda: write_epoch(state, folder))
    seconds.start.append(start_s)
    seconds.training.append(training_s)
    seconds.validation.append(first_s)
    seconds.writing.append(writing_s)
    return row["data_wait_share"]


def _reference_round(seconds: Seconds, dataset: Path, *, first_seed: int) -> None:
    """Train and validate some batches as the tutorial does."""
    specified, n_bins, n_sources = SPECIFIED.network, SPECIFIED.signal.n_bins, len(SPECIFIED.sources)
    config = nussl.ml.networks.builders.build_recurrent_mask_inference(
        n_bins, specified.hidden_size, specified.num_layers, specified.bidirectional, specified.dropout, n_sources,
        [specified.activation],
    )  # fmt: skip
    network = nussl.ml.SeparationModel(config)
    optimizer = torch.optim.Adam(network.parameters(), lr=_SCHEDULE.learning_rate)
    loss_of = nussl.ml.train.loss.L1Loss()

    def train_step(_: Any, batch: dict[str, Any]) -> dict[str, float]:
        network.train()
        optimizer.zero_grad()
        loss = loss_of(network(batch)["estimates"], batch["source_magnitudes"])
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    def validation_step(_: Any, batch: dict[str, Any]) -> dict[str, float]:
        network.eval()
        with torch.no_grad():
            return {"loss": loss_of(network(batch)["estimates"], batch["source_magnitudes"]).item()}

    trainer, validator = nussl.ml.train.create_train_and_validation_engines(train_step, validation_step)
    training, validation = _reference_factors()
    batches = _loader(dataset / "train", N_REFERENCE_BATCHES, first_seed)
    seconds.training.append(_timed(lambda: trainer.run(batches, max_epochs=1))[0] * training)
    batches = _loader(dataset / "valid", N_REFERENCE_VALIDATION_BATCHES, first_seed)
    seconds.validation.append(_timed(lambda: validator.run(batches, max_epochs=1))[0] * validation)


def _loader(folder: Path, n_batches: int, first_seed: int) -> DataLoader[Any]:
    """Return nussl's dataset of so many batches, mixed by one worker as published."""
    transforms, stft = nussl.datasets.transforms, SPECIFIED.signal
    mixtures = nussl.datasets.OnTheFly(
        lambda asking, index: _plain_mixture(asking, folder, first_seed + index),
        num_mixtures=n_batches * _SCHEDULE.batch_size,
        stft_params=nussl.STFTParams(stft.window_length, stft.hop_length, stft.window_type),
        sample_rate=stft.sample_rate,
        transform=transforms.Compose(
            [
                transforms.SumSources([list(STEMS[:-1])]),
                transforms.MagnitudeSpectrumApproximation(),
                transforms.IndexSources("source_magnitudes", 1),
                transforms.ToSeparationModel(),
            ]
        ),
    )
    return DataLoader(mixtures, batch_size=_SCHEDULE.batch_size, num_workers=1)


def _plain_mixture(asking: Any, folder: Path, seed: int) -> dict[str, Any]:
    """Mix as the tutorial does; every second mixture is coherent."""
    mixer, template = plain_scaper(folder, seed), event_template(MixingSettings())
    if seed % 2:
        mixer.add_event(**{**template, "label": ("const", "vocals")})
        drawn = mixer._instantiate_event(mixer.fg_spec[0])
        mixer.reset_fg_event_spec()
        same = ("source_time", "pitch_shift", "time_stretch")
        template |= {name: ("const", getattr(drawn, name)) for name in same}
        source = Path(drawn.source_file)
    for stem in STEMS:
        if seed % 2:
            template["source_file"] = ("const", str(source.parent.parent / stem / source.name))
        mixer.add_event(**{**template, "label": ("const", stem)})
    mixture, jam, _, stems = mixer.generate(fix_clipping=True)
    load = asking._load_audio_from_array
    return {
        "mix": load(audio_data=mixture.T, sample_rate=mixer.sr),
        "sources": {
            stem: load(audio_data=audio.T, sample_rate=mixer.sr) for stem, audio in zip(STEMS, stems, strict=True)
        },
        "metadata": {"jam": jam, "labels": list(STEMS)},
    }


def _timed(task: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = task()
    return time.perf_counter() - start, answer
