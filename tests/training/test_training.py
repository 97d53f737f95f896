"""The training loop: what it writes, that it repeats and resumes to the last bit, and how it stops on mistakes."""

import math

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_presets import assert_same_weights, history_of, tiny_preset, trainer_of, weights_of

from vocal_extraction.atomic_files import StorageError
from vocal_extraction.checkpointing import load_checkpoint
from vocal_extraction.device import DeviceError
from vocal_extraction.errors import SettingsError
from vocal_extraction.presets import SPECIFIED
from vocal_extraction.tracks import TrackError
from vocal_extraction.training import DataError, ResumeError, TrainingError, run_folder, train_model, trainer
from vocal_extraction.training.state import STATE_NAME, TrainingState
from vocal_extraction.training.trainer import Scores, Trainer

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_folder", "one_core", "quick_training")


PICTURES = {name: getattr(run_folder, name) for name in ("write_loss_plot", "_write_tensorboard")}


@pytest.fixture
def pictures(monkeypatch):
    """Plots and TensorBoard's events are written."""
    for name, function in PICTURES.items():
        monkeypatch.setattr(run_folder, name, function)


def train(dataset, folder, *, preset=None, **options):
    return train_model(
        (preset or tiny_preset()).training.n_mixtures,
        preset=preset or tiny_preset(),
        dataset_folder=dataset,
        checkpoint_folder=folder,
        **{"device": "cpu", "n_workers": 0, "progress": False, **options},
    )


def test_specified_is_the_specification_to_the_letter():
    training, mixing, network, stft = SPECIFIED.training, SPECIFIED.mixing, SPECIFIED.network, SPECIFIED.signal
    schedule = (training.n_epochs, training.batches_per_epoch, training.batch_size, training.n_mixtures)
    assert schedule == (25, 32, 10, 1_000)
    assert (training.learning_rate, training.loss) == (1e-3, "magnitude_l1")
    extras = (training.gradient_clip_norm, training.weight_average_decay, training.early_stopping_epochs)
    assert extras == (None, None, None)
    assert training.learning_rate_schedule == "constant"
    assert not training.mixed_precision
    assert not training.compile_network
    assert (mixing.duration_s, mixing.pitch_shift_semitones, mixing.time_stretch) == (5, (-2, 2), (0.8, 1.2))
    assert (mixing.snr_db, mixing.offset_s, mixing.channels) == ((-5, 5), (0, 7), "mid")
    assert (network.hidden_size, network.num_layers, network.bidirectional, network.dropout) == (50, 2, True, 0.3)
    assert (stft.window_length, stft.hop_length, stft.window_type) == (512, 128, "sqrt_hann")
    run = TrainingState(SPECIFIED, seed=0, device=CPU)
    assert type(run.optimizer) is torch.optim.Adam
    assert run.average is None


def test_a_run_leaves_everything_behind(pictures, dataset, tmp_path, monkeypatch):
    plots = []
    monkeypatch.setattr(Trainer, "_report", lambda self, row: plots.append((self.folder / "loss.png").read_bytes()))
    best = train(dataset, tmp_path / "run")
    assert best == tmp_path / "run" / "best.model.pth"
    assert len(set(plots)) == 2, "one after every epoch"
    assert all(plot.startswith(b"\x89PNG") for plot in plots)
    rows = history_of(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "validation_loss", "learning_rate"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in rows]  # TensorBoard's float32
    assert not list((tmp_path / "run").glob(".*")), "the sanity check leaves nothing"
    for name in ("best.model.pth", "latest.model.pth"):
        loaded = load_checkpoint(tmp_path / "run" / name)
        assert loaded.metadata.seed == 0
        assert loaded.metadata.trainer["trainer.state_dict"]["epoch_length"] == 3
    history = load_checkpoint(tmp_path / "run" / "latest.model.pth").metadata.trainer["trainer.state.epoch_history"]
    assert history["validation/loss"] == [row["validation_loss"] for row in history_of(tmp_path / "run")]


def test_best_is_the_epoch_with_the_lowest_validation_loss(dataset, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(Trainer, "validate", lambda self, network: Scores(next(losses), None))
    train(dataset, tmp_path / "run", n_epochs=3)
    assert [row["is_best"] for row in history_of(tmp_path / "run")] == [True, True, False]
    assert load_checkpoint(tmp_path / "run" / "best.model.pth").metadata.trainer["trainer.state_dict"]["epoch"] == 2
    assert load_checkpoint(tmp_path / "run" / "latest.model.pth").metadata.trainer["trainer.state_dict"]["epoch"] == 3


@pytest.mark.parametrize("n_workers", [0, 1])
def test_the_same_seed_gives_the_same_weights(dataset, tmp_path, n_workers):
    """Twice in one process, with mixing here or in a worker: the random numbers do not know the difference."""
    before = torch.get_rng_state()
    train(dataset, tmp_path / "once")
    train(dataset, tmp_path / "again", n_workers=n_workers)
    assert_same_weights(weights_of(tmp_path / "once"), weights_of(tmp_path / "again"))
    assert history_of(tmp_path / "once") == history_of(tmp_path / "again")
    assert torch.equal(before, torch.get_rng_state()), "the caller's random numbers are its own"


def test_another_seed_gives_other_weights(dataset, tmp_path):
    train(dataset, tmp_path / "one", n_epochs=1)
    train(dataset, tmp_path / "other", n_epochs=1, seed=1)
    one, other = weights_of(tmp_path / "one"), weights_of(tmp_path / "other")
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


RICH = {"learning_rate_schedule": "cosine", "gradient_clip_norm": 1.0, "weight_average_decay": 0.9, "n_mixtures": None}


@pytest.mark.parametrize("changes", [{}, RICH], ids=["specified", "all options"])
def test_four_epochs_are_two_and_two_more(dataset, tmp_path, monkeypatch, changes):
    """To the last bit, dropout and all; the first two with a worker, which must not matter either."""
    preset = tiny_preset(n_epochs=4, dropout=0.3, **changes)
    train(dataset, tmp_path / "straight", preset=preset)

    def write_and_stop(run, folder, example):
        run_folder.write_epoch(run, folder)
        if run.n_epochs_done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vocal_extraction.training.trainer.write_epoch", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, tmp_path / "resumed", preset=preset, n_workers=1)
    train(dataset, tmp_path / "resumed", preset=preset, resume=True)
    assert_same_weights(weights_of(tmp_path / "straight"), weights_of(tmp_path / "resumed"))
    assert history_of(tmp_path / "straight") == history_of(tmp_path / "resumed")


def test_an_epoch_whose_state_was_not_written_comes_again(dataset, tmp_path, monkeypatch):
    """Stopped when checkpoints and history tell of the second epoch already, and the state does not yet."""
    train(dataset, tmp_path / "straight")
    save = TrainingState.save

    def stop_before_the_second(run, folder):
        if run.n_epochs_done == 2:
            raise KeyboardInterrupt
        save(run, folder)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "save", stop_before_the_second)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, tmp_path / "resumed")
    assert len(history_of(tmp_path / "resumed")) == 2
    train(dataset, tmp_path / "resumed", resume=True)
    assert_same_weights(weights_of(tmp_path / "straight"), weights_of(tmp_path / "resumed"))
    assert history_of(tmp_path / "straight") == history_of(tmp_path / "resumed")


def test_a_finished_run_can_be_prolonged(dataset, tmp_path):
    train(dataset, tmp_path / "run", n_epochs=1)
    train(dataset, tmp_path / "run", n_epochs=2, resume=True)
    train(dataset, tmp_path / "straight", n_epochs=2)
    assert_same_weights(weights_of(tmp_path / "run"), weights_of(tmp_path / "straight"))


def test_what_cannot_be_resumed_says_why(dataset, tmp_path):
    with pytest.raises(ResumeError, match="Nothing to resume"):
        train(dataset, tmp_path / "run", resume=True)
    train(dataset, tmp_path / "run", n_epochs=1)
    with pytest.raises(ResumeError, match="other settings or another seed"):
        train(dataset, tmp_path / "run", resume=True, seed=1)
    state = tmp_path / "run" / STATE_NAME
    state.write_bytes(state.read_bytes()[:1_000])
    with pytest.raises(ResumeError, match="cannot be resumed from"):
        train(dataset, tmp_path / "run", resume=True)


def test_a_loss_that_is_not_finite_names_the_mixture_and_keeps_the_checkpoint(dataset, tmp_path, monkeypatch):
    train(dataset, tmp_path / "run", n_epochs=1)
    before = weights_of(tmp_path / "run")
    original = trainer.item_losses

    def spoil_mixture_5(network, sources, **options):
        losses = original(network, sources, **options)
        is_mixture_5 = sources[:, 0, 0, 1_000] == sources_of_5[0, 0, 1_000]
        return losses + torch.where(is_mixture_5, math.nan, 0.0)

    sources_of_5 = trainer_of(tiny_preset(), dataset, tmp_path / "run").data.training_mixtures[(0, 5)]["sources"]
    monkeypatch.setattr("vocal_extraction.training.trainer.item_losses", spoil_mixture_5)
    with pytest.raises(TrainingError, match=r"not finite at mixture 5 of epoch 0 \(seed 0\)"):
        train(dataset, tmp_path / "run", n_epochs=9, resume=True)
    assert_same_weights(before, weights_of(tmp_path / "run"))


def copy_with(dataset, subset, stem, change, *, folder="foreground"):
    """Replace the songs of one stem by changed copies."""
    part = dataset / subset / folder
    original = part.resolve()
    part.unlink()
    for wav in original.rglob("*.wav"):
        audio, rate = soundfile.read(wav, dtype="float32")
        copy = part / wav.relative_to(original)
        copy.parent.mkdir(parents=True, exist_ok=True)
        audio, rate = change(audio, rate) if wav.parent.name == stem else (audio, rate)
        soundfile.write(copy, audio, rate, subtype="FLOAT")


def test_stems_with_nan_are_noticed_before_the_first_epoch(dataset, tmp_path):
    copy_with(dataset, "train", "vocals", lambda audio, rate: (audio * np.float32(math.nan), rate))
    with pytest.raises(TrackError, match="holds NaN"):
        train(dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_a_broken_validation_song_is_noticed_before_the_first_epoch(dataset, tmp_path, monkeypatch):
    copy_with(dataset, "valid", "drums", lambda audio, rate: (audio, rate))
    next((dataset / "valid" / "foreground" / "drums").glob("*.wav")).write_bytes(b"no audio")
    monkeypatch.setattr(Trainer, "validate", lambda *_: pytest.fail("the first epoch was trained"))
    with pytest.raises(TrackError, match="is no audio file"):
        train(dataset, tmp_path / "run")


def test_a_checkpoint_folder_that_cannot_be_is_noticed_before_the_first_epoch(dataset, tmp_path, monkeypatch):
    (tmp_path / "run").write_text("a file, no folder")
    monkeypatch.setattr(Trainer, "validate", lambda *_: pytest.fail("the first epoch was trained"))
    with pytest.raises(StorageError, match="run"):
        train(dataset, tmp_path / "run")


def test_early_stopping_stops_after_that_many_epochs_without_a_better_one(dataset, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.1, 1.0])
    monkeypatch.setattr(Trainer, "validate", lambda self, network: Scores(next(losses), None))
    preset = tiny_preset(early_stopping_epochs=2, n_epochs=5, batches_per_epoch=1)
    train(dataset, tmp_path / "run", preset=preset)
    assert [row["epoch"] for row in history_of(tmp_path / "run")] == [1, 2, 3, 4]
    train(dataset, tmp_path / "run", preset=preset, resume=True)
    assert len(history_of(tmp_path / "run")) == 4, "a stopped run stays stopped"


def test_validation_mixtures_that_are_kept_are_read_where_they_are_needed(dataset, tmp_path, monkeypatch):
    """The second validation asks no worker, and has the result of the first to the last bit."""
    training = trainer_of(tiny_preset(n_validation_mixtures=5), dataset, tmp_path)
    first = training.validate(training.state.result)
    monkeypatch.setattr(training.data, "validation_loader", None)
    assert training.validate(training.state.result) == first


def test_validation_on_songs_is_their_si_sdr(dataset, tmp_path):
    preset = tiny_preset(n_validation_mixtures=None, loss="waveform", n_epochs=1)
    train(dataset, tmp_path / "run", preset=preset)
    (row,) = history_of(tmp_path / "run")
    assert 0 < row["validation_loss"] < 60  # a network of one epoch loses more than it gains: SI-SDR below 0 dB


def test_songs_without_vocals_cannot_be_validated_on(dataset, tmp_path):
    copy_with(dataset, "valid", "vocals", lambda audio, rate: (0 * audio, rate))
    with pytest.raises(DataError, match="No validation song has vocals"):
        train(dataset, tmp_path / "run", preset=tiny_preset(n_validation_mixtures=None))


def test_a_song_with_nan_is_named(dataset, tmp_path):
    copy_with(dataset, "valid", "bass", lambda audio, rate: (audio * np.float32(math.nan), rate))
    with pytest.raises(TrackError, match=r"bass.*holds NaN"):
        train(dataset, tmp_path / "run", preset=tiny_preset(n_validation_mixtures=None))


def test_missing_validation_songs_are_named(dataset, tmp_path):
    (dataset / "valid" / "foreground").unlink()
    with pytest.raises(TrackError, match="No songs of the 'valid' subset"):
        train(dataset, tmp_path / "run", preset=tiny_preset(n_validation_mixtures=None))


def test_a_network_of_two_channels_is_refused(dataset, tmp_path):
    with pytest.raises(SettingsError, match="takes 2 channels together, but mixtures have 1"):
        train(dataset, tmp_path / "run", preset=tiny_preset(num_audio_channels=2))


def test_a_run_may_start_from_a_checkpoint(dataset, tmp_path):
    """At a learning rate of almost nothing the weights stay what they were; another network is refused."""
    train(dataset, tmp_path / "first", preset=tiny_preset(n_epochs=1))
    started = {"start_from": tmp_path / "first" / "latest.model.pth"}
    train(dataset, tmp_path / "second", preset=tiny_preset(n_epochs=1, learning_rate=1e-12), seed=1, **started)
    before, after = weights_of(tmp_path / "first"), weights_of(tmp_path / "second")
    learned = [name for name in before if "batch_norm.running" not in name and "batches" not in name]
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in learned)
    with pytest.raises(TrainingError, match="another network"):
        train(dataset, tmp_path / "third", preset=tiny_preset(n_epochs=1, hidden_size=9), **started)


@pytest.mark.parametrize("stereo, n_channels", [("each", 2), ("mid-side", 1), ("mid-side", 2)])
def test_a_network_trains_on_stereo(dataset, tmp_path, stereo, n_channels):
    preset = tiny_preset(
        stereo=stereo, num_audio_channels=n_channels, channels="stereo", n_validation_mixtures=None, n_epochs=1
    )
    train(dataset, tmp_path / "run", preset=preset)
    assert load_checkpoint(tmp_path / "run" / "best.model.pth").signal.stereo == stereo
    (row,) = history_of(tmp_path / "run")
    assert 0 < row["validation_loss"] < 60


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS, so it cannot be missing")
def test_apples_gpu_is_taken_where_there_is_no_cuda(tmp_path, monkeypatch):
    """One is claimed here, so that asking for it fails, by its name."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(DeviceError, match="'mps' cannot be used"):
        train(tmp_path, tmp_path / "run", device="auto")


def test_no_epochs_are_refused(dataset, tmp_path):
    with pytest.raises(SettingsError, match="n epochs must be 1 to a million"):
        train(dataset, tmp_path / "run", n_epochs=0)


def test_fixed_set_has_the_size_asked_for(dataset, tmp_path):
    """The specification's call: `train_model(maximum_number_of_mixtures=...)`."""
    preset = tiny_preset(batches_per_epoch=4)
    train_model(
        maximum_number_of_mixtures=3,
        preset=preset,
        dataset_folder=dataset,
        checkpoint_folder=tmp_path / "run",
        n_epochs=1,
        n_workers=0,
        cache_bytes=10**9,
        progress=False,
    )
    assert len(list((dataset / "train" / "rendered").rglob("*.npy"))) == 3


def test_progress_tells_losses_speed_waiting_and_the_time_left(dataset, tmp_path, capsys):
    train(dataset, tmp_path / "run", progress=True)
    printed = capsys.readouterr().err
    for part in ("epoch 1 of 2", "validation loss", "mixtures/s", "% of the time waiting for data", "min left"):
        assert part in printed


def test_nothing_is_said_without_progress(dataset, tmp_path, capsys):
    train(dataset, tmp_path / "run", n_epochs=1)
    assert capsys.readouterr() == ("", "")
